/* Attention backward on a GPU against the reference table, whole and in parts, from the same o and
 * lse; and the same bits from every run.
 *
 * Tolerances, for values of about 1: fp32 differs by the order of sums. With bf16 activations the
 * kernel rounds p and ds to bf16 before their products (2^-9 of each), which adds up like a random
 * walk over the heads of a group and the rows that see a key: 2^-6 of the value, and 2^-6 times the
 * root of the group. */
#define _GNU_SOURCE
#include "tests/gpu_attention.h"

struct gradients {
    void *dout, *dq, *dk, *dv;
    float *scratch;
};

static void make_gradients(struct gpu_case *c, const struct packed *p, struct gradients *g) {
    *g = (struct gradients){.dout = gpu_act(c, p->q_count, 1.0f),
                            .dq = gpu_bytes(c, act_bytes(c->cuda, p->q_count)),
                            .dk = gpu_bytes(c, act_bytes(c->cuda, p->kv_count)),
                            .dv = gpu_bytes(c, act_bytes(c->cuda, p->kv_count)),
                            .scratch = gpu_bytes(c, p->queries * sizeof *g->scratch)};
}

/* o and lse of the reference on both sides. */
static void reference_backward(struct gpu_case *c, const struct packed *p,
                               const struct gradients *g) {
    reference_forward(c, p);
    gpu_send(c, p->o);
    gpu_send(c, p->lse);
    c->reference->attention_backward(
        &c->host_stream,
        &(struct attention_backward_args){g->dq, g->dk, g->dv, g->scratch, g->dout, p->q, p->k,
                                          p->v, p->o, p->lse, &p->segments, p->shape});
}

static void run_backward(struct gpu_case *c, const struct packed *p, const struct gradients *g) {
    c->cuda->attention_backward(
        &c->stream, &(struct attention_backward_args){
                        gpu_of(c, g->dq), gpu_of(c, g->dk), gpu_of(c, g->dv), gpu_of(c, g->scratch),
                        gpu_of(c, g->dout), gpu_of(c, p->q), gpu_of(c, p->k), gpu_of(c, p->v),
                        gpu_of(c, p->o), gpu_of(c, p->lse), &p->segments, p->shape});
}

static void expect_gradients(struct gpu_case *c, const struct packed *p,
                             const struct gradients *g) {
    bool narrow = c->cuda->act == DTYPE_BF16;
    double group = p->shape.heads / p->shape.kv_heads;
    double absolute = narrow ? 0x1p-6 * sqrt(group) : 1e-4, relative = narrow ? 0x1p-6 : 2e-5;
    gpu_expect_act(c, g->dq, absolute, relative, "dq");
    gpu_expect_act(c, g->dk, absolute, relative, "dk");
    gpu_expect_act(c, g->dv, absolute, relative, "dv");
}

static void backward_case(struct gpu_case *c, void *context) {
    (void)context;
    struct packed p;
    struct gradients g;
    pack_case(c, &p, 110);
    make_gradients(c, &p, &g);
    reference_backward(c, &p, &g);
    run_backward(c, &p, &g);
    expect_gradients(c, &p, &g);
}

/* Gradients in fp32 by parts, rounded as the table's are. dk and dv of each run of keys are its
 * own. */
static void run_parts(struct gpu_case *c, const struct packed *p, const struct gradients *g,
                      const struct cuts *cuts, float *const sums[3]) {
    size_t width = (size_t)(p->shape.kv_heads * p->shape.head_dim);
    for (int i = 0; i < BLOCKS; i++) {
        int block = block_order[i];
        struct attention_part *parts = gpu_shared_bytes(c, MOST_PARTS * sizeof *parts);
        size_t at = (size_t)cuts->keys[block] * width;
        const struct attention_part_backward_args args = {
            .dq = gpu_of(c, sums[0]),
            .dk = (float *)gpu_of(c, sums[1]) + at,
            .dv = (float *)gpu_of(c, sums[2]) + at,
            .scratch = gpu_of(c, g->scratch),
            .dout = gpu_of(c, g->dout),
            .q = gpu_of(c, p->q),
            .k = (char *)gpu_of(c, p->k) + act_bytes(c->cuda, at),
            .v = (char *)gpu_of(c, p->v) + act_bytes(c->cuda, at),
            .o = gpu_of(c, p->o),
            .lse = gpu_of(c, p->lse),
            .tokens = p->start[p->segments.count],
            .keys = cuts->keys[block + 1] - cuts->keys[block],
            .first = i == 0,
            .count = list_parts(parts, &p->segments, cuts, block),
            .parts = parts,
            .shape = p->shape};
        c->cuda->attention_part_backward(&c->stream, &args);
    }
}

static void round_sums(struct gpu_case *c, const float *sums, const void *to, size_t count) {
    float *values = gpu_fetch(c, sums);
    void *rounded = new_act(c->cuda, values, count);
    stream_copy(&c->stream, gpu_of(c, to), rounded, act_bytes(c->cuda, count));
    assert_ok(stream_check(&c->stream));
    free(values);
    free(rounded);
}

static void parts_case(struct gpu_case *c, void *context) {
    (void)context;
    struct packed p;
    struct gradients g;
    pack_case(c, &p, 80);
    make_gradients(c, &p, &g);
    reference_backward(c, &p, &g);
    const struct cuts cuts = cut_at_random(&c->random, &p.segments);
    float *sums[3];
    for (int i = 0; i < 3; i++)
        sums[i] = gpu_bytes(c, (i ? p.kv_count : p.q_count) * sizeof(float));
    run_parts(c, &p, &g, &cuts, sums);
    round_sums(c, sums[0], g.dq, p.q_count);
    round_sums(c, sums[1], g.dk, p.kv_count);
    round_sums(c, sums[2], g.dv, p.kv_count);
    expect_gradients(c, &p, &g);
}

/* Each run of the same arguments gives the same bits, beside other sequences too. */
static void bits_case(struct gpu_case *c, void *context) {
    (void)context;
    struct packed p;
    struct gradients g;
    pack_case(c, &p, 70);
    make_gradients(c, &p, &g);
    reference_backward(c, &p, &g);
    run_backward(c, &p, &g);
    void *const all[] = {g.dq, g.dk, g.dv};
    for (int i = 0; i < 3; i++) {
        void *got = gpu_fetch(c, all[i]);
        memcpy(all[i], got, act_bytes(c->cuda, i ? p.kv_count : p.q_count));
        free(got);
        stream_fill(&c->stream, gpu_of(c, all[i]), 0xff,
                    act_bytes(c->cuda, i ? p.kv_count : p.q_count));
    }
    run_backward(c, &p, &g);
    for (int i = 0; i < 3; i++) gpu_expect_bytes(c, all[i], "the second run");
}

static void test_backward(void **state) {
    (void)state;
    gpu_each(10, backward_case, NULL);
}

static void test_parts(void **state) {
    (void)state;
    gpu_each(10, parts_case, NULL);
}

static void test_bits(void **state) {
    (void)state;
    gpu_each(2, bits_case, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_backward),
                                       cmocka_unit_test(test_parts), cmocka_unit_test(test_bits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
