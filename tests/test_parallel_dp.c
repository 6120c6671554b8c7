/* Gradients summed over ranks equal those of one rank that sees every sample; the layout of buckets
 * is what backward completes. Runs plainly and under mpirun. */
#include "tests/check.h"

#include "core/stage.h"
#include "parallel/data_parallel.h"
#include "parallel/parallel.h"

static struct parallel job;
static struct stream stream;

enum { LAYERS = 3, PARAMS = 9, SAMPLES = 12 };

/* A small model, listed as a weight table lists it: embedding first. Odd shapes leave padding. */
static const struct {
    enum weight_id id;
    int layer;
    enum layout layout;
    int64_t rows, cols;
} shapes[PARAMS] = {
    {WEIGHT_EMBED, -1, LAYOUT_ROWS_F32, 100, 24}, {WEIGHT_ATTN_NORM, 0, LAYOUT_ROWS_F32, 1, 23},
    {WEIGHT_Q, 0, LAYOUT_PANEL_F32, 40, 24},      {WEIGHT_Q, 1, LAYOUT_PANEL_BF16, 40, 24},
    {WEIGHT_UP, 1, LAYOUT_PANEL_F32, 33, 24},     {WEIGHT_Q, 2, LAYOUT_PANEL_F32, 40, 24},
    {WEIGHT_UP, 2, LAYOUT_PANEL_F32, 500, 24},    {WEIGHT_FINAL_NORM, -1, LAYOUT_ROWS_F32, 1, 24},
    {WEIGHT_HEAD, -1, LAYOUT_PANEL_F32, 100, 24},
};

struct model_like {
    struct param params[PARAMS];
    struct param *list[PARAMS];
    struct arena grads;
    struct dp dp;
    float *sums[PARAMS]; /* gathered; owned */
};

static int64_t elements(int param) {
    return weight_elements(layout_of_gradient(shapes[param].layout), shapes[param].rows,
                           shapes[param].cols);
}

/* Measured on a counting arena first, as every layout is. */
static void open_zero(struct model_like *m, size_t bucket_bytes, int zero) {
    const struct dp_options options = {.comm = &job.world,
                                       .stream = &stream,
                                       .layers = LAYERS,
                                       .bucket_bytes = bucket_bytes,
                                       .zero = zero,
                                       .weights_sharded = zero == 3};
    memset(m, 0, sizeof *m);
    for (int i = 0; i < PARAMS; i++) {
        m->params[i] = (struct param){.id = shapes[i].id, .layer = shapes[i].layer};
        m->params[i].w = (struct weight){
            .layout = shapes[i].layout, .rows = shapes[i].rows, .cols = shapes[i].cols};
        m->list[i] = &m->params[i];
    }
    struct arena counting;
    arena_count(&counting, "grads");
    assert_ok(dp_plan(&m->dp, &options, m->list, PARAMS, &counting));
    dp_free(&m->dp);
    assert_ok(arena_create(&m->grads, "grads", counting.peak));
    assert_ok(dp_plan(&m->dp, &options, m->list, PARAMS, &m->grads));
    assert_int_equal(m->grads.used, m->grads.capacity);
    dp_zero(&m->dp);
    for (int i = 0; i < PARAMS; i++) {
        m->sums[i] = calloc((size_t)elements(i), sizeof(float));
        assert_non_null(m->sums[i]);
    }
}

static void open_like(struct model_like *m, size_t bucket_bytes) {
    open_zero(m, bucket_bytes, 0);
}

static void close_like(struct model_like *m) {
    dp_free(&m->dp);
    dp_free(&m->dp);
    arena_free(&m->grads);
    for (int i = 0; i < PARAMS; i++) free(m->sums[i]);
}

static float gradient(int sample, int param, int64_t i) {
    uint64_t x = (uint64_t)((i * PARAMS + param) * SAMPLES + sample + 1) * 0x9e3779b97f4a7c15u;
    return (float)(x >> 40) * 0x1p-24f + 0.5f;
}

/* What stage_backward does: adds my samples' gradients layer by layer, from the top. */
static void backward(struct model_like *m, stage_layer_done *done, int lowest) {
    for (int layer = LAYERS; layer >= -1; layer--) {
        dp_layer_begins(&m->dp, layer);
        for (int p = 0; p < PARAMS; p++) {
            int at = shapes[p].layer >= 0 ? shapes[p].layer : p == 0 ? -1 : LAYERS;
            float *grad = m->params[p].grad.data;
            for (int s = job.world.rank; s < SAMPLES && at == layer; s += job.world.size)
                for (int64_t i = 0; i < elements(p); i++) grad[i] += gradient(s, p, i);
        }
        if (done && layer >= lowest) done(&m->dp, layer);
    }
}

static void check_sums(const struct model_like *m, int steps) {
    for (int p = 0; p < PARAMS; p++) {
        const float *grad = m->sums[p];
        for (int64_t i = 0; i < elements(p); i++) {
            double want = 0;
            for (int s = 0; s < SAMPLES; s++) want += (double)gradient(s, p, i);
            want *= steps;
            if (fabs((double)grad[i] - want) > 1e-6 * want)
                fail_msg("param %d [%lld]: got %.9g, want %.9g", p, (long long)i, (double)grad[i],
                         want);
        }
    }
}

/* What an optimizer does: copies my sums aside, then has the whole gathered where gradients lie. */
static void gather_sums(struct model_like *m) {
    for (int b = 0; b < m->dp.bucket_count; b++) {
        const struct dp_bucket *bucket = &m->dp.buckets[b];
        for (int p = 0; p < PARAMS; p++) {
            struct dp_piece piece = dp_piece(&m->dp, &m->params[p]);
            if (piece.bucket == b && piece.count > 0)
                memmove(piece.staged, piece.grad, (size_t)piece.count * sizeof(float));
        }
        int64_t share = bucket->count / m->dp.shares;
        if (m->dp.shares > 1)
            comm_all_gather(m->dp.comm, &stream, bucket->data, bucket->data + m->dp.mine * share,
                            share, DTYPE_F32);
        for (int i = bucket->first; i < bucket->last; i++)
            memcpy(m->sums[m->dp.params[i] - m->params], m->dp.params[i]->grad.data,
                   (size_t)elements((int)(m->dp.params[i] - m->params)) * sizeof(float));
    }
    assert_ok(stream_check(&stream));
}

static void check_step(size_t bucket_bytes, int lowest) {
    for (int zero = 0; zero <= 3; zero++) {
        struct model_like m;
        open_zero(&m, bucket_bytes, zero);
        for (int step = 0; step < 2; step++) {
            dp_zero(&m.dp);
            backward(&m, dp_layer_done, lowest);
            dp_finish(&m.dp);
            gather_sums(&m);
            check_sums(&m, 1);
        }
        close_like(&m);
    }
}

static void test_ranks_sum_to_one(void **state) {
    (void)state;
    const size_t sizes[] = {1, 4096, 20000, 1 << 20};
    for (int i = 0; i < 4; i++) check_step(sizes[i], -1);
}

/* A layer that backward never reports is summed in the end all the same. */
static void test_unreported_layers_are_summed(void **state) {
    (void)state;
    struct model_like m;
    for (int lowest = 1; lowest <= LAYERS + 1; lowest += LAYERS)
        for (int zero = 0; zero < 2; zero++) {
            open_zero(&m, 4096, zero);
            backward(&m, dp_layer_done, lowest);
            dp_finish(&m.dp);
            gather_sums(&m);
            check_sums(&m, 1);
            close_like(&m);
        }
}

/* Gradients of several microbatches add up locally; only the last one's layers are reported. */
static void test_accumulation(void **state) {
    (void)state;
    struct model_like m;
    for (int zero = 0; zero <= 3; zero++) {
        open_zero(&m, 4096, zero);
        for (int micro = 0; micro < 3; micro++)
            backward(&m, dp_reports(&m.dp, micro == 2) ? dp_layer_done : NULL, -1);
        dp_finish(&m.dp);
        gather_sums(&m);
        check_sums(&m, 3);
        close_like(&m);
    }
}

/* From level 2 on a rank has room for its shares and a few buckets; level 3 keeps vectors apart. */
static void test_shares_take_less(void **state) {
    (void)state;
    struct model_like m;
    size_t bytes;
    for (int zero = 0; zero <= 3; zero++) {
        open_zero(&m, 4096, zero);
        bytes = m.grads.used;
        int64_t largest = 0, all = 0, mine = 0;
        for (int b = 0; b < m.dp.bucket_count; b++) {
            largest = m.dp.buckets[b].count > largest ? m.dp.buckets[b].count : largest;
            all += m.dp.buckets[b].count;
        }
        for (int p = 0; p < PARAMS; p++) mine += dp_piece(&m.dp, &m.params[p]).count;
        assert_true(mine <= all / m.dp.shares);
        if (zero >= 2)
            assert_true(bytes <= ((size_t)(all / m.dp.shares) + 4 * (size_t)largest) * 4);
        if (zero == 3) {
            const struct dp_bucket *last = &m.dp.buckets[m.dp.bucket_count - 1];
            assert_true(last->whole && last->lasting && last->last - last->first == 2);
            assert_false(m.dp.buckets[0].whole);
        }
        close_like(&m);
    }
}

/* The same bits in every run and on every rank. */
static void test_sums_are_deterministic(void **state) {
    (void)state;
    struct model_like m;
    char *first = NULL;
    for (int run = 0; run < 3; run++) {
        open_like(&m, 8192);
        size_t bytes = m.grads.used;
        backward(&m, dp_layer_done, -1);
        dp_finish(&m.dp);
        if (!first) {
            first = malloc(bytes);
            memcpy(first, m.grads.base, bytes);
            comm_broadcast(&job.world, &stream, first, (int64_t)bytes, DTYPE_U8, 0);
        }
        assert_ok(stream_check(&stream));
        assert_memory_equal(first, m.grads.base, bytes);
        close_like(&m);
    }
    free(first);
}

/* A bucket starts with the layer that completes it, not earlier and not at the end. */
static void test_buckets_start_with_their_layer(void **state) {
    (void)state;
    struct model_like m;
    open_like(&m, 1); /* a parameter a bucket */
    assert_int_equal(m.dp.bucket_count, PARAMS);
    int started[LAYERS + 2];
    for (int layer = LAYERS; layer >= -1; layer--) {
        dp_layer_done(&m.dp, layer);
        int n = 0;
        for (int b = 0; b < m.dp.bucket_count; b++) n += m.dp.buckets[b].started;
        started[layer + 1] = n;
    }
    dp_finish(&m.dp);
    assert_ok(stream_check(&stream));
    const int want[LAYERS + 2] = {9, 8, 6, 4, 2}; /* embedding, layers 0, 1, 2, head and norm */
    assert_memory_equal(started, want, sizeof want);
    close_like(&m);
}

/* Every bucket is one run of memory in backward order; parameters don't overlap. */
static void test_buckets_are_contiguous(void **state) {
    (void)state;
    struct model_like m;
    open_like(&m, 20000);
    assert_true(m.dp.bucket_count > 1);
    assert_int_equal(m.dp.params[PARAMS - 1]->id, WEIGHT_EMBED);
    const char *at = m.grads.base;
    for (int b = 0; b < m.dp.bucket_count; b++) {
        const struct dp_bucket *bucket = &m.dp.buckets[b];
        assert_ptr_equal(bucket->data, at);
        for (int i = bucket->first; i < bucket->last; i++) {
            const struct weight *grad = &m.dp.params[i]->grad;
            assert_ptr_equal(grad->data, at);
            assert_int_equal((uintptr_t)at % ARENA_ALIGN, 0);
            size_t bytes = weight_bytes(grad->layout, grad->rows, grad->cols);
            at += (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
        }
        assert_ptr_equal(bucket->data + bucket->count, at);
    }
    assert_ptr_equal(at, m.grads.base + m.grads.used);
    close_like(&m);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buckets_are_contiguous),
        cmocka_unit_test(test_buckets_start_with_their_layer),
        cmocka_unit_test(test_ranks_sum_to_one),
        cmocka_unit_test(test_unreported_layers_are_summed),
        cmocka_unit_test(test_accumulation),
        cmocka_unit_test(test_shares_take_less),
        cmocka_unit_test(test_sums_are_deterministic),
    };
    if (parallel_start(&job, &argc, &argv) != STATUS_OK) {
        fprintf(stderr, "%s\n", status_message());
        return 1;
    }
    stream_open_cpu(&stream, 1);
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    parallel_finish(&job);
    return failures != 0;
}
