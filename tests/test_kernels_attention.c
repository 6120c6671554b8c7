/* Attention: the plain loops against float64 and its finite differences, the fast tables against
 * the plain loops, and the promise that a query's bits depend on nothing but its own keys. */
#define _GNU_SOURCE
#include "tests/kernels_tables.h"

enum { MAX_SEQUENCES = 6 };

/* A packed batch on random lengths, with everything an op needs. */
struct fixture {
    struct attention_shape shape;
    struct segments segments;
    int32_t start[MAX_SEQUENCES + 1], past[MAX_SEQUENCES];
    size_t queries, q_count, kv_count; /* N * H, N * H * D, N * Hkv * D */
};

static void set_lengths(struct fixture *f, const int *lengths, int count) {
    for (int i = 0; i < count; i++) f->start[i + 1] = f->start[i] + lengths[i];
    f->segments = (struct segments){count, f->start, f->past};
    f->queries = (size_t)f->start[count] * (size_t)f->shape.heads;
    f->q_count = f->queries * (size_t)f->shape.head_dim;
    f->kv_count = (size_t)f->start[count] * (size_t)(f->shape.kv_heads * f->shape.head_dim);
}

static struct attention_shape shape_of(int kv_heads, int group, int head_dim, int window) {
    return (struct attention_shape){kv_heads * group, kv_heads, head_dim, window,
                                    1.0f / sqrtf((float)head_dim)};
}

/* o (N, H, D) in float64 straight from the definition. */
static void forward_f64(double *o, const double *q, const double *k, const double *v,
                        const struct fixture *f) {
    const struct attention_shape *s = &f->shape;
    int dim = s->head_dim, group = s->heads / s->kv_heads;
    for (int i = 0; i < f->segments.count; i++) {
        for (int t = f->start[i]; t < f->start[i + 1]; t++) {
            for (int h = 0; h < s->heads; h++) {
                const double *query = q + (t * s->heads + h) * dim;
                double *out = o + (t * s->heads + h) * dim, sum = 0.0;
                for (int d = 0; d < dim; d++) out[d] = 0.0;
                for (int j = f->start[i]; j <= t; j++) {
                    if (s->window > 0 && t - j >= s->window) continue;
                    double score = 0.0;
                    int at = (j * s->kv_heads + h / group) * dim;
                    for (int d = 0; d < dim; d++) score += query[d] * k[at + d];
                    double p = exp(score * (double)s->scale);
                    sum += p;
                    for (int d = 0; d < dim; d++) out[d] += p * v[at + d];
                }
                for (int d = 0; d < dim; d++) out[d] /= sum;
            }
        }
    }
}

struct tensors {
    void *q, *k, *v, *o, *dout, *dq, *dk, *dv;
    float *lse, *scratch;
};

static struct tensors tensors_new(const struct kernels *kernels, const struct fixture *f,
                                  struct random *random) {
    return (struct tensors){.q = new_normal_act(kernels, random, f->q_count, 1.0f),
                            .k = new_normal_act(kernels, random, f->kv_count, 1.0f),
                            .v = new_normal_act(kernels, random, f->kv_count, 1.0f),
                            .dout = new_normal_act(kernels, random, f->q_count, 1.0f),
                            .o = new_bytes(act_bytes(kernels, f->q_count)),
                            .dq = new_bytes(act_bytes(kernels, f->q_count)),
                            .dk = new_bytes(act_bytes(kernels, f->kv_count)),
                            .dv = new_bytes(act_bytes(kernels, f->kv_count)),
                            .lse = new_bytes(f->queries * sizeof(float)),
                            .scratch = new_bytes(f->queries * sizeof(float))};
}

static void tensors_free(struct tensors *t) {
    void *all[] = {t->q, t->k, t->v, t->o, t->dout, t->dq, t->dk, t->dv, t->lse, t->scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void run_forward(const struct kernels *kernels, const struct fixture *f, struct tensors *t,
                        int threads) {
    struct stream stream;
    stream_open_cpu(&stream, threads);
    struct kv_source kv = {.k = t->k, .v = t->v, .dtype = kernels->act};
    kernels->attention_forward(
        &stream, &(struct attention_forward_args){t->o, t->lse, t->q, &kv, &f->segments, f->shape});
    assert_ok(stream_check(&stream));
}

static void run_backward(const struct kernels *kernels, const struct fixture *f, struct tensors *t,
                         int threads) {
    struct stream stream;
    stream_open_cpu(&stream, threads);
    kernels->attention_backward(&stream, &(struct attention_backward_args){
                                             t->dq, t->dk, t->dv, t->scratch, t->dout, t->q, t->k,
                                             t->v, t->o, t->lse, &f->segments, f->shape});
    assert_ok(stream_check(&stream));
}

/* The same in parts: keys come in BLOCKS runs of tokens, in an order in which some queries see
 * nothing at first, and the queries of a document are two runs where they are cut. */
enum { BLOCKS = 3, MOST_PARTS = 2 * MAX_SEQUENCES };

struct cuts {
    int32_t keys[BLOCKS + 1], query; /* tokens where they are */
};

static struct cuts cut_at_random(const struct fixture *f, struct random *random) {
    int32_t tokens = f->start[f->segments.count];
    struct cuts cuts = {.keys = {[BLOCKS] = tokens}, .query = random_int(random, 0, tokens)};
    for (int i = 1; i < BLOCKS; i++) cuts.keys[i] = random_int(random, cuts.keys[i - 1], tokens);
    return cuts;
}

static int32_t within(int32_t token, int32_t first, int32_t end) {
    return token < first ? first : token > end ? end : token;
}

static int32_t list_parts(struct attention_part *parts, const struct fixture *f,
                          const struct cuts *cuts, int block) {
    int32_t count = 0, first = cuts->keys[block], end = cuts->keys[block + 1];
    for (int32_t i = 0; i < f->segments.count; i++) {
        int32_t start = f->start[i], stop = f->start[i + 1];
        int32_t key = within(start, first, end), keys = within(stop, first, end) - key;
        int32_t edges[] = {start, within(cuts->query, start, stop), stop};
        for (int run = 0; run < 2; run++)
            if (edges[run + 1] > edges[run] && keys > 0)
                parts[count++] =
                    (struct attention_part){i,           edges[run], edges[run + 1] - edges[run],
                                            key - first, keys,       edges[run] - key};
    }
    return count;
}

static const int block_order[BLOCKS] = {1, 2, 0};

static void run_parts_forward(const struct kernels *kernels, const struct fixture *f,
                              struct tensors *t, const struct cuts *cuts, int threads) {
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
            .count = list_parts(parts, f, cuts, block_order[i]),
            .parts = parts,
            .shape = f->shape};
        kernels->attention_part_forward(&stream, &args);
    }
    kernels->round_f32(&stream, t->o, o, (int64_t)f->q_count);
    assert_ok(stream_check(&stream));
    free(o);
}

static void run_parts_backward(const struct kernels *kernels, const struct fixture *f,
                               struct tensors *t, const struct cuts *cuts, int threads) {
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
            .count = list_parts(parts, f, cuts, block),
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

static double *widen(const float *values, size_t count) {
    double *wide = new_bytes(count * sizeof *wide);
    for (size_t i = 0; i < count; i++) wide[i] = (double)values[i];
    return wide;
}

/* sum of dout * o after moving x[i] by `step`. */
static double loss_at(double *x, size_t i, double step, double *const in[3], const double *dout,
                      double *o, const struct fixture *f) {
    double kept = x[i], loss = 0.0;
    x[i] += step;
    forward_f64(o, in[0], in[1], in[2], f);
    x[i] = kept;
    for (size_t e = 0; e < f->q_count; e++) loss += dout[e] * o[e];
    return loss;
}

/* The plain loops: forward to 1e-5 of float64, each gradient to 2e-4 of central differences of the
 * float64 forward (step 1e-5, error of the difference below 1e-8). */
static void check_against_float64(struct attention_shape shape, const struct cuts *cuts) {
    const struct kernels *kernels;
    assert_ok(kernels_cpu(&kernels, "reference", DTYPE_F32));
    struct fixture f = {.shape = shape};
    set_lengths(&f, (const int[]){5, 0, 1, 7}, 4);
    struct random random = {.seed = 11};
    struct tensors t = tensors_new(kernels, &f, &random);
    if (cuts) {
        run_parts_forward(kernels, &f, &t, cuts, 1);
        run_parts_backward(kernels, &f, &t, cuts, 1);
    } else {
        run_forward(kernels, &f, &t, 1);
        run_backward(kernels, &f, &t, 1);
    }
    double *in[3] = {widen(t.q, f.q_count), widen(t.k, f.kv_count), widen(t.v, f.kv_count)};
    double *dout = widen(t.dout, f.q_count), *o = new_bytes(f.q_count * sizeof *o);
    forward_f64(o, in[0], in[1], in[2], &f);
    for (size_t i = 0; i < f.q_count; i++)
        if (!(fabs(o[i] - (double)((float *)t.o)[i]) <= 1e-5)) fail_msg("o[%zu]", i);
    const float *gradients[3] = {t.dq, t.dk, t.dv};
    for (int tensor = 0; tensor < 3; tensor++) {
        size_t count = tensor == 0 ? f.q_count : f.kv_count;
        for (size_t i = 0; i < count; i++) {
            double above = loss_at(in[tensor], i, 1e-5, in, dout, o, &f);
            double below = loss_at(in[tensor], i, -1e-5, in, dout, o, &f);
            double want = (above - below) / 2e-5, got = (double)gradients[tensor][i];
            if (!(fabs(got - want) <= 2e-4 * (1.0 + fabs(want))))
                fail_msg("gradient %d [%zu]: got %g, want %g", tensor, i, got, want);
        }
    }
    for (int i = 0; i < 3; i++) free(in[i]);
    free(dout);
    free(o);
    tensors_free(&t);
}

static void test_reference_against_float64(void **state) {
    /* documents of 5, 0, 1 and 7 tokens */
    static const struct cuts inside = {{0, 3, 9, 13}, 10}, outside = {{0, 0, 5, 13}, 5};
    const struct cuts *const cuts[] = {NULL, &inside, &outside};
    (void)state;
    for (int i = 0; i < 3; i++) {
        check_against_float64(shape_of(2, 1, 4, 0), cuts[i]);
        check_against_float64(shape_of(1, 3, 6, 0), cuts[i]);
        check_against_float64(shape_of(2, 2, 5, 3), cuts[i]);
    }
}

static void random_fixture(struct fixture *f, struct random *random, int head_dim) {
    static const int groups[] = {1, 2, 3, 4, 7, 8, 16};
    int window = random_int(random, 0, 2) == 0 ? random_int(random, 1, 150) : 0;
    int group = groups[random_int(random, 0, 6)];
    *f = (struct fixture){.shape = shape_of(random_int(random, 1, 3), group, head_dim, window)};
    int lengths[MAX_SEQUENCES], count = random_int(random, 1, MAX_SEQUENCES);
    for (int i = 0; i < count; i++)
        lengths[i] = i == 0 ? random_int(random, 1, 170) : random_int(random, 0, 20);
    set_lengths(f, lengths, count);
}

static void test_tables_match_reference(void **state) {
    (void)state;
    static const int head_dims[] = {4, 16, 20, 33, 64, 80, 96, 128, 256};
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < count; i++) {
        const struct kernels *fast = pairs[i].fast;
        for (size_t d = 0; d < sizeof head_dims / sizeof *head_dims; d++) {
            struct random random = {.seed = 100 + d};
            struct fixture f;
            random_fixture(&f, &random, head_dims[d]);
            struct random same = random;
            struct tensors want = tensors_new(fast, &f, &random),
                           got = tensors_new(fast, &f, &same);
            run_forward(pairs[i].reference, &f, &want, 1);
            run_forward(fast, &f, &got, 2);
            assert_act_close(fast, got.o, want.o, f.q_count, 2e-6, 2e-5, "o");
            assert_all_close(got.lse, want.lse, f.queries, 1e-5, 1e-6, "lse");
            memcpy(got.o, want.o, act_bytes(fast, f.q_count));
            run_backward(pairs[i].reference, &f, &want, 1);
            run_backward(fast, &f, &got, 2);
            assert_act_close(fast, got.dq, want.dq, f.q_count, 3e-5, 1e-5, "dq");
            assert_act_close(fast, got.dk, want.dk, f.kv_count, 1e-4, 1e-5, "dk");
            assert_act_close(fast, got.dv, want.dv, f.kv_count, 1e-4, 1e-5, "dv");
            tensors_free(&want);
            tensors_free(&got);
        }
    }
}

static void check_parts(const struct kernels *kernels, const struct kernels *reference,
                        int head_dim, uint64_t seed) {
    struct random random = {.seed = seed};
    struct fixture f;
    random_fixture(&f, &random, head_dim);
    const struct cuts cuts = cut_at_random(&f, &random);
    struct random same = random;
    struct tensors want = tensors_new(kernels, &f, &random), got = tensors_new(kernels, &f, &same);
    run_forward(reference, &f, &want, 1);
    run_parts_forward(kernels, &f, &got, &cuts, 2);
    assert_act_close(kernels, got.o, want.o, f.q_count, 2e-6, 2e-5, "o");
    assert_all_close(got.lse, want.lse, f.queries, 1e-5, 1e-6, "lse");
    memcpy(got.o, want.o, act_bytes(kernels, f.q_count));
    run_backward(reference, &f, &want, 1);
    run_parts_backward(kernels, &f, &got, &cuts, 2);
    assert_act_close(kernels, got.dq, want.dq, f.q_count, 3e-5, 1e-5, "dq");
    assert_act_close(kernels, got.dk, want.dk, f.kv_count, 1e-4, 1e-5, "dk");
    assert_act_close(kernels, got.dv, want.dv, f.kv_count, 1e-4, 1e-5, "dv");
    tensors_free(&want);
    tensors_free(&got);
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
        struct fixture f = {.shape = shape_of(1, 2, 16, 4)};
        set_lengths(&f, (const int[]){6}, 1);
        struct random random = {.seed = 6};
        struct tensors t = tensors_new(kernels, &f, &random);
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
        tensors_free(&t);
    }
}

static void assert_same_bits(const struct kernels *kernels, const struct fixture *f,
                             const struct tensors *a, const struct tensors *b) {
    size_t q_bytes = act_bytes(kernels, f->q_count), kv_bytes = act_bytes(kernels, f->kv_count);
    assert_memory_equal(a->o, b->o, q_bytes);
    assert_memory_equal(a->lse, b->lse, f->queries * sizeof(float));
    assert_memory_equal(a->dq, b->dq, q_bytes);
    assert_memory_equal(a->dk, b->dk, kv_bytes);
    assert_memory_equal(a->dv, b->dv, kv_bytes);
}

static void test_threads_do_not_change_bits(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < count; i++) {
        const struct kernels *fast = pairs[i].fast;
        struct random random = {.seed = 7};
        struct fixture f = {.shape = shape_of(3, 2, 48, 0)};
        set_lengths(&f, (const int[]){130, 1, 40, 77}, 4);
        struct random same = random;
        struct tensors one = tensors_new(fast, &f, &random), more = tensors_new(fast, &f, &same);
        run_forward(fast, &f, &one, 1);
        run_backward(fast, &f, &one, 1);
        for (int threads = 2; threads <= 4; threads++) {
            run_forward(fast, &f, &more, threads);
            run_backward(fast, &f, &more, threads);
            assert_same_bits(fast, &f, &one, &more);
        }
        const struct cuts cuts = {{0, 90, 150, 248}, 100};
        run_parts_forward(fast, &f, &one, &cuts, 1);
        run_parts_backward(fast, &f, &one, &cuts, 1);
        for (int threads = 2; threads <= 4; threads++) {
            run_parts_forward(fast, &f, &more, &cuts, threads);
            run_parts_backward(fast, &f, &more, &cuts, threads);
            assert_same_bits(fast, &f, &one, &more);
        }
        tensors_free(&one);
        tensors_free(&more);
    }
}

/* Serving as an engine does it: each step every sequence feeds a random number of its next tokens,
 * through pages of a random table, in random order of sequences. Unwritten pages hold NaN. */
struct server {
    const struct kernels *kernels;
    const struct fixture *f; /* the same tokens as one contiguous batch */
    const struct tensors *t;
    struct kv_source kv;
    int32_t done[MAX_SEQUENCES]; /* tokens of each that are written */
};

static void server_open(struct server *server, int page_size, enum dtype dtype,
                        struct random *random) {
    const struct fixture *f = server->f;
    int32_t count = f->segments.count, max_pages = 0;
    for (int i = 0; i < count; i++) {
        int pages = (f->start[i + 1] - f->start[i] + page_size - 1) / page_size;
        if (pages > max_pages) max_pages = pages;
    }
    int32_t pages = count * max_pages;
    int32_t *table = new_bytes((size_t)pages * sizeof *table);
    for (int i = 0; i < pages; i++) table[i] = i;
    for (int i = pages - 1; i > 0; i--) {
        int other = random_int(random, 0, i), swap = table[i];
        table[i] = table[other];
        table[other] = swap;
    }
    size_t row = (size_t)f->shape.kv_heads * (size_t)f->shape.head_dim;
    size_t bytes = dtype_bytes(dtype, (size_t)pages * (size_t)page_size * row);
    server->kv =
        (struct kv_source){new_bytes(bytes), new_bytes(bytes), dtype, table, page_size, max_pages};
    memset(server->kv.k, 0xff, bytes);
    memset(server->kv.v, 0xff, bytes);
}

/* Copies token rows of `from` (N, width) act, one row of the step after the other. */
static void gather(char *to, const char *from, size_t row_bytes, const int32_t *tokens, int count) {
    for (int i = 0; i < count; i++)
        memcpy(to + (size_t)i * row_bytes, from + (size_t)tokens[i] * row_bytes, row_bytes);
}

/* One step: attention of `take[i]` next tokens of each sequence must have the bits of t->o. */
static void server_step(struct server *server, const int32_t *order, const int32_t *take,
                        int threads) {
    const struct fixture *f = server->f;
    const struct kernels *kernels = server->kernels;
    int32_t start[MAX_SEQUENCES + 1] = {0}, past[MAX_SEQUENCES], tokens[2048];
    int32_t count = f->segments.count, n = 0;
    int32_t *table = new_bytes((size_t)(count * server->kv.max_pages) * sizeof *table);
    for (int i = 0; i < count; i++) {
        int sequence = order[i];
        past[i] = server->done[sequence];
        for (int j = 0; j < take[sequence]; j++) tokens[n++] = f->start[sequence] + past[i] + j;
        start[i + 1] = n;
        server->done[sequence] += take[sequence];
        memcpy(table + i * server->kv.max_pages,
               server->kv.page_table + sequence * server->kv.max_pages,
               (size_t)server->kv.max_pages * sizeof *table);
    }
    struct segments segments = {count, start, past};
    struct kv_source kv = server->kv;
    kv.page_table = table;
    size_t q_row = act_bytes(kernels, (size_t)(f->shape.heads * f->shape.head_dim));
    size_t kv_row = act_bytes(kernels, (size_t)(f->shape.kv_heads * f->shape.head_dim));
    char *q = new_bytes((size_t)n * q_row), *o = new_bytes((size_t)n * q_row);
    char *k = new_bytes((size_t)n * kv_row), *v = new_bytes((size_t)n * kv_row);
    char *want = new_bytes((size_t)n * q_row);
    gather(q, server->t->q, q_row, tokens, n);
    gather(k, server->t->k, kv_row, tokens, n);
    gather(v, server->t->v, kv_row, tokens, n);
    gather(want, server->t->o, q_row, tokens, n);
    struct stream stream;
    stream_open_cpu(&stream, threads);
    kernels->kv_write(&stream, &kv, k, v, &segments, f->shape.kv_heads, f->shape.head_dim);
    kernels->attention_forward(
        &stream, &(struct attention_forward_args){o, NULL, q, &kv, &segments, f->shape});
    assert_ok(stream_check(&stream));
    assert_memory_equal(o, want, (size_t)n * q_row);
    void *all[] = {table, q, o, k, v, want};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void serve_in_chunks(const struct kernels *kernels, const struct fixture *f,
                            const struct tensors *t, int page_size, struct random *random) {
    struct server server = {.kernels = kernels, .f = f, .t = t};
    server_open(&server, page_size, kernels->act, random);
    int32_t count = f->segments.count, left = f->start[count];
    while (left > 0) {
        int32_t order[MAX_SEQUENCES], take[MAX_SEQUENCES];
        int rotate = random_int(random, 0, count - 1);
        for (int i = 0; i < count; i++) {
            order[i] = (i + rotate) % count;
            int rest = f->start[i + 1] - f->start[i] - server.done[i];
            int most = random_int(random, 0, 1) ? 1 : 90; /* a decode or a prefill chunk */
            take[i] = random_int(random, 0, most < rest ? most : rest);
            left -= take[i];
        }
        server_step(&server, order, take, random_int(random, 1, 4));
    }
    free(server.kv.k);
    free(server.kv.v);
    free((void *)(uintptr_t)server.kv.page_table);
}

static void test_serving_has_the_bits_of_training(void **state) {
    (void)state;
    static const int head_dims[] = {64, 20, 128, 80}, page_sizes[] = {16, 32, 64, 128, 48};
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < 2 * count; i++) {
        const struct kernels *kernels = i % 2 ? pairs[i / 2].fast : pairs[i / 2].reference;
        for (int c = 0; c < 10; c++) {
            if (i % 2 == 0 && c >= 2) break; /* the plain loops take longer */
            struct random random = {.seed = (uint64_t)(500 + c)};
            struct fixture f;
            random_fixture(&f, &random, head_dims[c % 4]);
            struct tensors t = tensors_new(kernels, &f, &random);
            run_forward(kernels, &f, &t, 1);
            serve_in_chunks(kernels, &f, &t, page_sizes[c % 5], &random);
            tensors_free(&t);
        }
    }
}

/* A cache in bf16 under fp32 activations is the attention over the rounded keys and values. */
static void test_bf16_cache_under_f32(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < count; i++) {
        const struct kernels *kernels = pairs[i].fast;
        if (kernels->act != DTYPE_F32) continue;
        struct random random = {.seed = 3};
        struct fixture f;
        random_fixture(&f, &random, 64);
        struct tensors t = tensors_new(kernels, &f, &random);
        struct server server = {.kernels = kernels, .f = &f, .t = &t};
        for (size_t e = 0; e < f.kv_count; e++) {
            ((float *)t.k)[e] = bf16_to_f32(f32_to_bf16(((float *)t.k)[e]));
            ((float *)t.v)[e] = bf16_to_f32(f32_to_bf16(((float *)t.v)[e]));
        }
        run_forward(kernels, &f, &t, 1);
        server_open(&server, 32, DTYPE_BF16, &random);
        int32_t order[MAX_SEQUENCES], take[MAX_SEQUENCES];
        for (int s = 0; s < f.segments.count; s++) {
            order[s] = s;
            take[s] = f.start[s + 1] - f.start[s];
        }
        server_step(&server, order, take, 2);
        free(server.kv.k);
        free(server.kv.v);
        free((void *)(uintptr_t)server.kv.page_table);
        tensors_free(&t);
    }
}

/* A NaN in a key spoils the rows that see it, and no others. */
static void test_nan_spreads_to_its_readers_only(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < count; i++) {
        const struct kernels *kernels = pairs[i].fast;
        if (kernels->act != DTYPE_F32) continue;
        struct fixture f = {.shape = shape_of(1, 1, 16, 0)};
        set_lengths(&f, (const int[]){100}, 1);
        struct random random = {.seed = 5};
        struct tensors t = tensors_new(kernels, &f, &random);
        ((float *)t.k)[70 * 16 + 3] = NAN;
        run_forward(kernels, &f, &t, 1);
        for (int row = 0; row < 100; row++) {
            assert_int_equal(isnan(((float *)t.o)[row * 16]), row >= 70);
            assert_int_equal(isnan(t.lse[row]), row >= 70);
        }
        tensors_free(&t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_against_float64),
        cmocka_unit_test(test_tables_match_reference),
        cmocka_unit_test(test_parts_match_the_whole),
        cmocka_unit_test(test_parts_that_see_nothing),
        cmocka_unit_test(test_threads_do_not_change_bits),
        cmocka_unit_test(test_serving_has_the_bits_of_training),
        cmocka_unit_test(test_bf16_cache_under_f32),
        cmocka_unit_test(test_nan_spreads_to_its_readers_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
