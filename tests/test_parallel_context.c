/* Context parallelism: how tokens are cut, who sees whom, and attention round the ring of ranks
 * against attention over all tokens on one. */
#define _GNU_SOURCE
#include "tests/check.h"

#include "parallel/comm_mpi.h"
#include "parallel/context_parallel.h"
#include "parallel/parallel.h"

static struct parallel job; /* cmocka's tests take no arguments */

enum { MOST_TOKENS = 700, MOST_DOCUMENTS = 40 };

/* Documents one after the other in a batch, as a loader makes them. */
struct fixture {
    struct arena arena;
    struct loader_batch batch;
};

static void fill(struct fixture *f, const int *lengths, int count) {
    struct loader_batch *b = &f->batch;
    b->tokens = b->trained = b->segments = 0;
    b->weight_sum = 0.0;
    for (int d = 0; d < count; d++) {
        b->start[b->segments] = (int32_t)b->tokens;
        b->past[b->segments++] = 0;
        for (int i = 0; i < lengths[d]; i++) {
            int64_t t = b->tokens++;
            b->ids[t] = (int32_t)(t * 7 % 101);
            b->positions[t] = i;
            b->targets[t] = t % 3 ? (int32_t)t : -1;
            b->weights[t] = t % 3 ? 0.5f : 0.0f;
            b->row_ids[t] = 1000 + t;
            b->trained += t % 3 != 0;
            b->weight_sum += (double)b->weights[t];
        }
    }
    b->start[b->segments] = (int32_t)b->tokens;
}

static void open_fixture(struct fixture *f) {
    struct arena counted;
    arena_count(&counted, "batch");
    loader_batch_layout(&f->batch, &counted, 1, MOST_TOKENS);
    assert_ok(arena_create(&f->arena, "batch", counted.peak));
    loader_batch_layout(&f->batch, &f->arena, 1, MOST_TOKENS);
}

static void open_cut(struct context_cut *cut, struct arena *arena, int ranks, int rank) {
    struct arena counted;
    arena_count(&counted, "cut");
    context_cut_layout(cut, &counted, ranks, rank, MOST_TOKENS);
    assert_ok(arena_create(arena, "cut", counted.peak));
    context_cut_layout(cut, arena, ranks, rank, MOST_TOKENS);
}

/* Batches that cuts meet in every way; the longest are more than a block of keys on each rank. */
static const struct lengths {
    int count, of[MOST_DOCUMENTS];
} batches[] = {
    {1, {640}},
    {1, {1}},
    {1, {5}},
    {2, {3, 2}},
    {3, {300, 1, 290}},
    {7, {64, 64, 1, 127, 9, 200, 33}},
    {12, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
    {1, {0}},
};
enum { BATCHES = sizeof batches / sizeof *batches };

static void test_chunks_are_even(void **state) {
    (void)state;
    for (int ranks = 1; ranks <= 8; ranks++)
        for (int64_t tokens = 0; tokens < 70; tokens++) {
            bool taken[70] = {false};
            for (int rank = 0; rank < ranks; rank++) {
                struct context_run runs[2];
                context_runs(tokens, ranks, rank, runs);
                int64_t count = runs[0].count + runs[1].count;
                assert_int_equal(count, context_tokens(tokens, ranks, rank));
                assert_in_range(count, tokens / ranks, context_room(tokens, ranks));
                assert_true(runs[0].first + runs[0].count <= runs[1].first);
                for (int i = 0; i < 2; i++)
                    for (int64_t t = runs[i].first; t < runs[i].first + runs[i].count; t++) {
                        assert_false(taken[t]);
                        taken[t] = true;
                    }
            }
            for (int64_t t = 0; t < tokens; t++) assert_true(taken[t]);
        }
}

/* The token of the whole batch that a rank packs at `at`. */
static int64_t token_at(int64_t tokens, int ranks, int rank, int64_t at) {
    struct context_run runs[2];
    context_runs(tokens, ranks, rank, runs);
    return at < runs[0].count ? runs[0].first + at : runs[1].first + at - runs[0].count;
}

/* Marks the pairs of a rank's lists in seen (tokens, tokens); returns how many there are. */
static int64_t mark_pairs(const struct context_cut *cut, char *seen) {
    int64_t pairs = 0, tokens = cut->context.tokens;
    for (int step = 0; step < cut->ranks; step++) {
        int other = (cut->rank + cut->ranks - step) % cut->ranks;
        const struct context_step *list = &cut->steps[step];
        for (int32_t i = 0; i < list->count; i++) {
            const struct attention_part *p = &list->parts[i];
            assert_true(i == 0 || p[-1].document <= p->document);
            assert_true(i == 0 || p[-1].query <= p->query);
            for (int32_t q = 0; q < p->queries; q++)
                for (int32_t k = 0; k < p->keys && k <= p->past + q; k++, pairs++) {
                    int64_t query = token_at(tokens, cut->ranks, cut->rank, p->query + q);
                    int64_t key = token_at(tokens, cut->ranks, other, p->key + k);
                    assert_int_equal(query - key, p->past + q - k);
                    assert_int_equal(seen[query * tokens + key]++, 0);
                }
        }
    }
    return pairs;
}

/* Over all ranks every token sees each earlier one of its document once, and no other. */
static void check_pairs(struct fixture *f, const struct lengths *lengths, int ranks) {
    fill(f, lengths->of, lengths->count);
    int64_t tokens = f->batch.tokens, pairs = 0, own = 0;
    char *seen = calloc((size_t)(tokens * tokens) + 1, 1);
    assert_non_null(seen);
    for (int rank = 0; rank < ranks; rank++) {
        struct context_cut cut;
        struct arena arena;
        open_cut(&cut, &arena, ranks, rank);
        fill(f, lengths->of, lengths->count);
        context_cut(&cut, &f->batch);
        own = mark_pairs(&cut, seen);
        pairs += own;
        arena_free(&arena);
        if (lengths->count == 1 && tokens % (2 * ranks) == 0) /* balanced to the pair */
            assert_int_equal(own * ranks, tokens * (tokens + 1) / 2);
    }
    int64_t want = 0;
    for (int d = 0; d < lengths->count; d++) want += lengths->of[d] * (lengths->of[d] + 1) / 2;
    assert_int_equal(pairs, want);
    free(seen);
}

static void test_each_pair_is_seen_once(void **state) {
    struct fixture f;
    (void)state;
    open_fixture(&f);
    for (int i = 0; i < BATCHES; i++)
        for (int ranks = 2; ranks <= 5; ranks++) check_pairs(&f, &batches[i], ranks);
    arena_free(&f.arena);
}

/* What travels with a token, and the sums over ranks. */
static void test_tokens_keep_what_is_theirs(void **state) {
    struct fixture f;
    (void)state;
    open_fixture(&f);
    for (int i = 0; i < BATCHES; i++) {
        int64_t trained = 0, ranks = 3;
        double weight = 0.0;
        fill(&f, batches[i].of, batches[i].count);
        int64_t want = f.batch.trained, tokens = f.batch.tokens;
        double want_weight = f.batch.weight_sum;
        for (int rank = 0; rank < ranks; rank++) {
            struct context_cut cut;
            struct arena arena;
            open_cut(&cut, &arena, (int)ranks, rank);
            fill(&f, batches[i].of, batches[i].count);
            context_cut(&cut, &f.batch);
            assert_int_equal(f.batch.tokens, context_tokens(tokens, (int)ranks, rank));
            for (int64_t at = 0; at < f.batch.tokens; at++) {
                int64_t t = token_at(tokens, (int)ranks, rank, at);
                assert_int_equal(f.batch.ids[at], t * 7 % 101);
                assert_int_equal(f.batch.row_ids[at], 1000 + t);
                assert_int_equal(f.batch.targets[at], t % 3 ? t : -1);
            }
            trained += f.batch.trained;
            weight += f.batch.weight_sum;
            arena_free(&arena);
        }
        assert_int_equal(trained, want);
        assert_true(weight == want_weight); /* halves: exact */
    }
    arena_free(&f.arena);
}

/* q, k, v, dout of all tokens, the same on every rank, and what comes of them. */
enum { Q, K, V, DOUT, O, DQ, DK, DV, TENSORS };
struct tensors {
    const struct kernels *kernels;
    int64_t rows;
    int64_t width[TENSORS];
    void *of[TENSORS];
    float *lse, *scratch;
};

static size_t row_bytes(const struct tensors *t, int which) {
    return dtype_bytes(t->kernels->act, (size_t)t->width[which]);
}

static void open_tensors(struct tensors *t, const struct kernels *kernels,
                         const struct attention_shape *shape, int64_t rows) {
    int64_t q = (int64_t)shape->heads * shape->head_dim;
    int64_t kv = (int64_t)shape->kv_heads * shape->head_dim;
    *t = (struct tensors){kernels, rows, {q, kv, kv, q, q, q, kv, kv}, {NULL}, NULL, NULL};
    for (int i = 0; i < TENSORS; i++) {
        t->of[i] = calloc((size_t)rows + 1, row_bytes(t, i));
        assert_non_null(t->of[i]);
    }
    t->lse = calloc((size_t)(rows * shape->heads) + 1, sizeof(float));
    t->scratch = calloc((size_t)(rows * shape->heads) + 1, sizeof(float));
    assert_non_null(t->lse);
    assert_non_null(t->scratch);
}

static void free_tensors(struct tensors *t) {
    for (int i = 0; i < TENSORS; i++) free(t->of[i]);
    free(t->lse);
    free(t->scratch);
}

static void randomize(struct tensors *t, struct stream *stream) {
    uint32_t random = 99;
    for (int i = Q; i <= DOUT; i++) {
        int64_t count = t->rows * t->width[i];
        float *values = calloc((size_t)count + 1, sizeof *values);
        assert_non_null(values);
        for (int64_t e = 0; e < count; e++) {
            random = random * 1664525u + 1013904223u;
            values[e] = (float)(random >> 8) * 0x1p-22f - 2.0f;
        }
        t->kernels->round_f32(stream, t->of[i], values, count);
        free(values);
    }
}

/* Runs attention of one rank's tensors, forward and backward; scratch may be counting. */
static void run(const struct exec *exec, const struct batch *batch, struct tensors *t,
                const struct attention_shape *shape) {
    struct kv_source kv = {.k = t->of[K], .v = t->of[V], .dtype = exec->k->act};
    context_attention_forward(exec, batch,
                              &(struct attention_forward_args){t->of[O], t->lse, t->of[Q], &kv,
                                                               &batch->segments, *shape});
    context_attention_backward(exec, batch,
                               &(struct attention_backward_args){t->of[DQ], t->of[DK], t->of[DV],
                                                                 t->scratch, t->of[DOUT], t->of[Q],
                                                                 t->of[K], t->of[V], t->of[O],
                                                                 t->lse, &batch->segments, *shape});
}

static double element(const struct tensors *t, int which, int64_t row, int64_t i) {
    int64_t at = row * t->width[which] + i;
    if (t->kernels->act == DTYPE_F32) return (double)((float *)t->of[which])[at];
    return (double)bf16_to_f32(((uint16_t *)t->of[which])[at]);
}

/* My rows are near those of the whole: o to 2e-6 + 2e-5 |o|, gradients to 1e-4 + 1e-5 |d|; in bf16
 * two roundings more, and for gradients those of o in rowsum(do * o). */
static void compare(const struct tensors *mine, const struct tensors *whole) {
    static const char *const names[TENSORS] = {[O] = "o", [DQ] = "dq", [DK] = "dk", [DV] = "dv"};
    bool rounded = mine->kernels->act == DTYPE_BF16;
    for (int i = O; i < TENSORS; i++) {
        double absolute = i == O ? 2e-6 : rounded ? 3e-2 : 1e-4;
        double relative = (i == O ? 2e-5 : 1e-5) + (rounded ? 0x1p-6 : 0.0);
        for (int64_t row = 0; row < mine->rows; row++) {
            int64_t token = token_at(whole->rows, job.world.size, job.world.rank, row);
            for (int64_t e = 0; e < mine->width[i]; e++) {
                double got = element(mine, i, row, e), want = element(whole, i, token, e);
                if (!(fabs(got - want) <= absolute + relative * fabs(want)))
                    fail_msg("%s, token %lld of %lld: %s is %g, want %g", mine->kernels->name,
                             (long long)token, (long long)whole->rows, names[i], got, want);
            }
        }
    }
}

/* exec's scratch for my part, as counting says. */
static void open_scratch(struct arena *scratch, struct exec exec, const struct batch *batch,
                         struct tensors *mine, const struct attention_shape *shape) {
    struct comm nothing;
    struct arena counted;
    const struct context whole = {.tokens = batch->context->tokens};
    struct batch same = *batch;
    comm_open_nothing(&nothing, "cp", exec.cp->rank, exec.cp->size);
    arena_count(&counted, "scratch");
    exec.k = kernels_nothing(exec.k->act);
    exec.cp = &nothing;
    exec.scratch = &counted;
    same.context = &whole;
    run(&exec, &same, mine, shape);
    assert_ok(arena_create(scratch, "scratch", counted.peak));
}

static void check_ring(struct fixture *f, struct context_cut *cut, const struct lengths *lengths,
                       const struct kernels *kernels, const struct attention_shape *shape) {
    struct stream stream;
    struct arena scratch;
    struct tensors whole, mine;
    stream_open_cpu(&stream, 1);
    fill(f, lengths->of, lengths->count);
    open_tensors(&whole, kernels, shape, f->batch.tokens);
    randomize(&whole, &stream);
    struct exec exec = {.stream = &stream, .k = kernels, .cp = &job.world};
    struct batch batch = loader_batch_view(&f->batch);
    run(&exec, &batch, &whole, shape);

    context_cut(cut, &f->batch);
    batch = loader_batch_view(&f->batch);
    batch.context = context_cut_view(cut);
    open_tensors(&mine, kernels, shape, batch.tokens);
    for (int i = Q; i <= DOUT; i++)
        for (int64_t row = 0; row < mine.rows; row++)
            memcpy((char *)mine.of[i] + (size_t)row * row_bytes(&mine, i),
                   (char *)whole.of[i] + (size_t)token_at(whole.rows, cut->ranks, cut->rank, row) *
                                             row_bytes(&mine, i),
                   row_bytes(&mine, i));
    open_scratch(&scratch, exec, &batch, &mine, shape);
    exec.scratch = &scratch;
    uint8_t *first[TENSORS];
    for (int again = 0; again < 2; again++) {
        if (scratch.capacity > 0) /* nothing of it may matter */
            memset(scratch.base, again ? 0xff : 0, scratch.capacity);
        run(&exec, &batch, &mine, shape);
        assert_ok(stream_check(&stream));
        if (!again) compare(&mine, &whole);
        for (int i = O; i < TENSORS; i++) {
            size_t bytes = (size_t)mine.rows * row_bytes(&mine, i);
            if (again) {
                assert_memory_equal(first[i], mine.of[i], bytes);
                free(first[i]);
            } else {
                first[i] = malloc(bytes + 1);
                assert_non_null(first[i]);
                memcpy(first[i], mine.of[i], bytes);
            }
        }
    }
    arena_free(&scratch);
    free_tensors(&mine);
    free_tensors(&whole);
}

/* Both dtypes, grouped heads and one, with and without a window; the same bits twice. */
static void test_the_ring_equals_one_rank(void **state) {
    static const struct attention_shape shapes[] = {
        {4, 2, 16, 0, 0.25f}, {2, 2, 20, 37, 0.25f}, {3, 1, 64, 150, 0.125f}};
    static const char *const names[] = {"auto", "reference"};
    struct fixture f;
    struct context_cut cut;
    struct arena arena;
    (void)state;
    if (job.world.size == 1) return;
    open_fixture(&f);
    open_cut(&cut, &arena, job.world.size, job.world.rank);
    for (int i = 0; i < BATCHES; i++)
        for (int table = 0; table < 4; table++) {
            const struct kernels *kernels;
            enum dtype act = table % 2 ? DTYPE_BF16 : DTYPE_F32;
            assert_ok(parallel_kernels(&job.world, &kernels, names[table / 2], act));
            for (int shape = 0; shape < 3; shape++)
                if (table < 2 || shape == i % 3) /* the plain loops take longer */
                    check_ring(&f, &cut, &batches[i], kernels, &shapes[shape]);
        }
    arena_free(&arena);
    arena_free(&f.arena);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunks_are_even),
        cmocka_unit_test(test_each_pair_is_seen_once),
        cmocka_unit_test(test_tokens_keep_what_is_theirs),
        cmocka_unit_test(test_the_ring_equals_one_rank),
    };
    if (parallel_start(&job, &argc, &argv) != STATUS_OK) return 1;
    if (job.mpi) setenv("CMOCKA_TEST_ABORT", "1", 1); /* the others would wait for a failed rank */
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) parallel_abort(&job, "attention round a ring");
    parallel_finish(&job);
    return failed;
}
