/* Attention in parts, for keys that come one block after the other: float64, the whole, threads. */
#define _GNU_SOURCE
#include "tests/attention_fixture.h"
#include "tests/attention_parts.h"

enum { MOST_PARTS = 2 * MAX_SEQUENCES };

static void run_parts_forward(const struct kernels *kernels, const struct attention_fixture *f,
                              struct attention_tensors *t, const struct cuts *cuts, int threads) {
    struct stream stream;
    struct attention_part parts[MOST_PARTS];
    stream_open_cpu(&stream, threads);
    size_t row = act_bytes(kernels, (size_t)(f->shape.kv_heads * f->shape.head_dim));
    float *o = new_bytes(f->q_count * sizeof *o);
    for (int i = 0; i < BLOCKS; i++) {
        size_t at = (size_t)cuts->keys[block_order[i]] * row;
        const struct attention_part_forward_args args = {
            .o = o,
            .lse = t->lse,
            .q = t->q,
            .k = (char *)t->k + at,
            .v = (char *)t->v + at,
            .tokens = f->start[f->segments.count],
            .first = i == 0,
            .count = list_parts(parts, &f->segments, cuts, block_order[i]),
            .parts = parts,
            .shape = f->shape};
        kernels->attention_part_forward(&stream, &args);
    }
    kernels->round_f32(&stream, t->o, o, (int64_t)f->q_count);
    assert_ok(stream_check(&stream));
    free(o);
}

static void run_parts_backward(const struct kernels *kernels, const struct attention_fixture *f,
                               struct attention_tensors *t, const struct cuts *cuts, int threads) {
    struct stream stream;
    struct attention_part parts[MOST_PARTS];
    stream_open_cpu(&stream, threads);
    size_t width = (size_t)(f->shape.kv_heads * f->shape.head_dim);
    float *dq = new_bytes(f->q_count * sizeof *dq), *dk = new_bytes(f->kv_count * sizeof *dk);
    float *dv = new_bytes(f->kv_count * sizeof *dv);
    for (int i = 0; i < BLOCKS; i++) {
        int block = block_order[i];
        size_t at = (size_t)cuts->keys[block] * width;
        const struct attention_part_backward_args args = {
            .dq = dq,
            .dk = dk + at,
            .dv = dv + at,
            .scratch = t->scratch,
            .dout = t->dout,
            .q = t->q,
            .k = (char *)t->k + act_bytes(kernels, at),
            .v = (char *)t->v + act_bytes(kernels, at),
            .o = t->o,
            .lse = t->lse,
            .tokens = f->start[f->segments.count],
            .keys = cuts->keys[block + 1] - cuts->keys[block],
            .first = i == 0,
            .count = list_parts(parts, &f->segments, cuts, block),
            .parts = parts,
            .shape = f->shape};
        kernels->attention_part_backward(&stream, &args);
    }
    kernels->round_f32(&stream, t->dq, dq, (int64_t)f->q_count);
    kernels->round_f32(&stream, t->dk, dk, (int64_t)f->kv_count);
    kernels->round_f32(&stream, t->dv, dv, (int64_t)f->kv_count);
    assert_ok(stream_check(&stream));
    free(dq);
    free(dk);
    free(dv);
}

static void run_parts(const struct kernels *kernels, const struct attention_fixture *f,
                      struct attention_tensors *t, const void *how) {
    run_parts_forward(kernels, f, t, how, 1);
    run_parts_backward(kernels, f, t, how, 1);
}

static void test_reference_against_float64(void **state) {
    /* documents of 5, 0, 1 and 7 tokens */
    static const struct cuts inside = {{0, 3, 9, 13}, 10}, outside = {{0, 0, 5, 13}, 5};
    const struct cuts *const cuts[] = {&inside, &outside};
    (void)state;
    for (int i = 0; i < 2; i++) {
        attention_check_float64(attention_shape_of(2, 1, 4, 0), run_parts, cuts[i]);
        attention_check_float64(attention_shape_of(1, 3, 6, 0), run_parts, cuts[i]);
        attention_check_float64(attention_shape_of(2, 2, 5, 3), run_parts, cuts[i]);
    }
}

static void check_parts(const struct kernels *kernels, const struct kernels *reference,
                        int head_dim, uint64_t seed) {
    struct random random = {.seed = seed};
    struct attention_fixture f;
    attention_random_fixture(&f, &random, head_dim);
    const struct cuts cuts = cut_at_random(&random, &f.segments);
    struct random same = random;
    struct attention_tensors want = attention_tensors_new(kernels, &f, &random),
                             got = attention_tensors_new(kernels, &f, &same);
    attention_run_forward(reference, &f, &want, 1);
    run_parts_forward(kernels, &f, &got, &cuts, 2);
    assert_act_close(kernels, got.o, want.o, f.q_count, 2e-6, 2e-5, "o");
    assert_all_close(got.lse, want.lse, f.queries, 1e-5, 1e-6, "lse");
    memcpy(got.o, want.o, act_bytes(kernels, f.q_count));
    attention_run_backward(reference, &f, &want, 1);
    run_parts_backward(kernels, &f, &got, &cuts, 2);
    assert_act_close(kernels, got.dq, want.dq, f.q_count, 3e-5, 1e-5, "dq");
    assert_act_close(kernels, got.dk, want.dk, f.kv_count, 1e-4, 1e-5, "dk");
    assert_act_close(kernels, got.dv, want.dv, f.kv_count, 1e-4, 1e-5, "dv");
    attention_tensors_free(&want);
    attention_tensors_free(&got);
}

/* Plain loops, and the fast tables, in parts against the plain loops over all keys at once. */
static void test_parts_match_the_whole(void **state) {
    (void)state;
    static const int head_dims[] = {4, 16, 20, 33, 64, 80, 96, 128, 256};
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < count; i++)
        for (size_t d = 0; d < sizeof head_dims / sizeof *head_dims; d++)
            for (int fast = 0; fast < 2; fast++)
                check_parts(fast ? pairs[i].fast : pairs[i].reference, pairs[i].reference,
                            head_dims[d], 900 + d);
}

/* A block's gradients are those of its readers, who may be none: no NaN, no leftovers. */
static void test_parts_that_see_nothing(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < 2 * count; i++) {
        const struct kernels *kernels = i % 2 ? pairs[i / 2].fast : pairs[i / 2].reference;
        struct stream stream;
        stream_open_cpu(&stream, 1);
        struct attention_fixture f = {.shape = attention_shape_of(1, 2, 16, 4)};
        attention_set_lengths(&f, (const int[]){6}, 1);
        struct random random = {.seed = 6};
        struct attention_tensors t = attention_tensors_new(kernels, &f, &random);
        float *o = new_bytes(f.q_count * sizeof *o), *dk = new_bytes(f.kv_count * sizeof *dk);
        float *dq = new_bytes(f.q_count * sizeof *dq), *dv = new_bytes(f.kv_count * sizeof *dv);
        for (size_t e = 0; e < f.kv_count; e++) dk[e] = dv[e] = NAN;
        /* all keys come later; all keys are before the window */
        const struct attention_part parts[] = {{0, 0, 3, 0, 6, -3}, {1, 3, 3, 0, 6, 20}};
        kernels->attention_part_forward(
            &stream, &(struct attention_part_forward_args){o, t.lse, t.q, t.k, t.v, 6, true, 2,
                                                           parts, f.shape});
        for (size_t e = 0; e < f.q_count; e++) assert_true(o[e] == 0.0f);
        for (size_t e = 0; e < f.queries; e++) assert_true(t.lse[e] == -INFINITY);
        for (size_t e = 0; e < f.queries; e++) t.lse[e] = 0.0f;
        kernels->attention_part_backward(&stream, &(struct attention_part_backward_args){
                                                      dq, dk, dv, t.scratch, t.dout, t.q, t.k, t.v,
                                                      t.o, t.lse, 6, 6, true, 2, parts, f.shape});
        for (size_t e = 0; e < f.q_count; e++) assert_true(dq[e] == 0.0f);
        for (size_t e = 0; e < f.kv_count; e++) assert_true(dk[e] == 0.0f && dv[e] == 0.0f);
        float *all[] = {o, dq, dk, dv};
        for (int a = 0; a < 4; a++) free(all[a]);
        attention_tensors_free(&t);
    }
}

static void test_threads_do_not_change_bits(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < count; i++) {
        const struct kernels *fast = pairs[i].fast;
        struct random random = {.seed = 7};
        struct attention_fixture f = {.shape = attention_shape_of(3, 2, 48, 0)};
        attention_set_lengths(&f, (const int[]){130, 1, 40, 77}, 4);
        struct random same = random;
        struct attention_tensors one = attention_tensors_new(fast, &f, &random),
                                 more = attention_tensors_new(fast, &f, &same);
        const struct cuts cuts = {{0, 90, 150, 248}, 100};
        run_parts_forward(fast, &f, &one, &cuts, 1);
        run_parts_backward(fast, &f, &one, &cuts, 1);
        for (int threads = 2; threads <= 4; threads++) {
            run_parts_forward(fast, &f, &more, &cuts, threads);
            run_parts_backward(fast, &f, &more, &cuts, threads);
            attention_assert_same_bits(fast, &f, &one, &more);
        }
        attention_tensors_free(&one);
        attention_tensors_free(&more);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_against_float64),
        cmocka_unit_test(test_parts_match_the_whole),
        cmocka_unit_test(test_parts_that_see_nothing),
        cmocka_unit_test(test_threads_do_not_change_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
