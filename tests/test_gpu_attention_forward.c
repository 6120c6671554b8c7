/* Attention forward on a GPU against the reference table, whole and in parts.
 *
 * Tolerances, for values of about 1: fp32 differs by the order of sums. With bf16 activations the
 * kernel rounds each weight of the softmax to bf16 (2^-9 of it) where the reference doesn't, and
 * both round o once (2^-8): 2^-7 of the value and 2^-8 of the values' size. */
#define _GNU_SOURCE
#include "tests/gpu_attention.h"

static void expect_forward(struct gpu_case *c, const struct packed *p) {
    bool narrow = c->cuda->act == DTYPE_BF16;
    gpu_expect_act(c, p->o, narrow ? 0x1p-8 : 2e-6, narrow ? 0x1p-7 : 2e-5, "o");
    gpu_expect_f32(c, p->lse, 1e-5, 1e-6, "lse");
}

static void forward_case(struct gpu_case *c, void *context) {
    (void)context;
    struct packed p;
    pack_case(c, &p, 200);
    run_forward(c, &p);
    reference_forward(c, &p);
    expect_forward(c, &p);
}

/* o in fp32 and lse of the parts, then o rounded as the table's is. */
static void run_parts(struct gpu_case *c, struct packed *p, const struct cuts *cuts) {
    size_t width = (size_t)(p->shape.kv_heads * p->shape.head_dim);
    float *o = gpu_bytes(c, p->q_count * sizeof *o);
    for (int i = 0; i < BLOCKS; i++) {
        int block = block_order[i];
        struct attention_part *parts = gpu_shared_bytes(c, MOST_PARTS * sizeof *parts);
        size_t at = act_bytes(c->cuda, (size_t)cuts->keys[block] * width);
        const struct attention_part_forward_args args = {
            .o = gpu_of(c, o),
            .lse = gpu_of(c, p->lse),
            .q = gpu_of(c, p->q),
            .k = (char *)gpu_of(c, p->k) + at,
            .v = (char *)gpu_of(c, p->v) + at,
            .tokens = p->start[p->segments.count],
            .first = i == 0,
            .count = list_parts(parts, &p->segments, cuts, block),
            .parts = parts,
            .shape = p->shape};
        c->cuda->attention_part_forward(&c->stream, &args);
    }
    float *sums = gpu_fetch(c, o);
    void *rounded = new_act(c->cuda, sums, p->q_count);
    stream_copy(&c->stream, gpu_of(c, p->o), rounded, act_bytes(c->cuda, p->q_count));
    assert_ok(stream_check(&c->stream));
    free(sums);
    free(rounded);
}

static void parts_case(struct gpu_case *c, void *context) {
    (void)context;
    struct packed p;
    pack_case(c, &p, 150);
    const struct cuts cuts = cut_at_random(&c->random, &p.segments);
    run_parts(c, &p, &cuts);
    reference_forward(c, &p);
    expect_forward(c, &p);
}

/* Queries that see none of the parts' keys: all come later, or lie before the window. */
static void nothing_case(struct gpu_case *c, void *context) {
    (void)context;
    struct packed p;
    struct attention_shape shape = {2, 1, 16, 4, 0.25f};
    pack(c, &p, shape, (const int[]){6}, 1);
    struct attention_part *parts = gpu_shared_bytes(c, 2 * sizeof *parts);
    parts[0] = (struct attention_part){0, 0, 3, 0, 6, -3};
    parts[1] = (struct attention_part){1, 3, 3, 0, 6, 20};
    float *o = gpu_bytes(c, p.q_count * sizeof *o);
    c->cuda->attention_part_forward(&c->stream,
                                    &(struct attention_part_forward_args){
                                        gpu_of(c, o), gpu_of(c, p.lse), gpu_of(c, p.q),
                                        gpu_of(c, p.k), gpu_of(c, p.v), 6, true, 2, parts, shape});
    for (size_t i = 0; i < p.q_count; i++) o[i] = 0.0f;
    for (size_t i = 0; i < p.queries; i++) p.lse[i] = -INFINITY;
    gpu_expect_bytes(c, o, "o");
    gpu_expect_bytes(c, p.lse, "lse");
}

/* A NaN in a key spoils the rows that see it, and no others. */
static void nan_case(struct gpu_case *c, void *context) {
    (void)context;
    struct packed p;
    pack(c, &p, (struct attention_shape){1, 1, 16, 0, 0.25f}, (const int[]){100}, 1);
    if (c->cuda->act == DTYPE_BF16)
        ((uint16_t *)p.k)[70 * 16 + 3] = 0x7fc0;
    else
        ((float *)p.k)[70 * 16 + 3] = NAN;
    gpu_send(c, p.k);
    run_forward(c, &p);
    void *o = gpu_fetch(c, p.o);
    float *lse = gpu_fetch(c, p.lse);
    for (size_t row = 0; row < 100; row++) {
        assert_int_equal(isnan(act_at(c->cuda, o, row * 16)), row >= 70);
        assert_int_equal(isnan(lse[row]), row >= 70);
    }
    free(o);
    free(lse);
}

/* Heads wider than the kernels' are an error of the stream that names the op. */
static void wide_case(struct gpu_case *c, void *context) {
    (void)context;
    struct packed p;
    pack(c, &p, (struct attention_shape){1, 1, 257, 0, 0.1f}, (const int[]){2}, 1);
    run_forward(c, &p);
    assert_int_equal(stream_check(&c->stream), STATUS_UNSUPPORTED);
    assert_non_null(strstr(status_message(), "attention_forward"));
}

static void test_forward(void **state) {
    (void)state;
    gpu_each(14, forward_case, NULL);
}

static void test_parts(void **state) {
    (void)state;
    gpu_each(10, parts_case, NULL);
}

static void test_edges(void **state) {
    (void)state;
    gpu_each(1, nothing_case, NULL);
    gpu_each(1, nan_case, NULL);
    gpu_each(1, wide_case, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forward), cmocka_unit_test(test_parts),
                                       cmocka_unit_test(test_edges)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
