/* The loss where the logits of a batch are made in several chunks: figures, gradients, memory. */
#include "tests/check.h"

#include "core/head.h"
#include "core/packed_batch.h"
#include "core/workspace.h"
#include "kernels/base/rng.h"

/* 64 rows make a chunk of this vocabulary: all tokens are four chunks, the last one shorter, and a
 * piece fits in one. No piece but the first starts where a chunk does. */
enum { VOCAB = 65537, HIDDEN = 16, TOKENS = 200, PIECE = 50 };

struct site {
    struct model model;
    struct workspace ws;
    struct packed_batch packed;
    struct arena gradients;
    struct param *head, *norm;
    void *hidden; /* (TOKENS, HIDDEN) act */
};

static float normal(uint64_t series, int64_t i) {
    struct rng_block random = rng_draw(3, RNG_TEST, series, (uint64_t)i);
    return rng_normal(random.word[0], random.word[1]);
}

static void to_act(void *out, enum dtype act, const float *values, int count) {
    for (int i = 0; i < count; i++)
        if (act == DTYPE_BF16)
            ((uint16_t *)out)[i] = f32_to_bf16(values[i]);
        else
            ((float *)out)[i] = values[i];
}

static void from_act(float *out, const void *values, enum dtype act, int count) {
    for (int i = 0; i < count; i++)
        out[i] = act == DTYPE_BF16 ? bf16_to_f32(((const uint16_t *)values)[i])
                                   : ((const float *)values)[i];
}

static void give_gradient(struct site *site, struct param *param) {
    enum layout layout = layout_of_gradient(param->w.layout);
    size_t bytes = weight_bytes(layout, param->w.rows, param->w.cols);
    param->grad =
        (struct weight){layout, param->w.rows, param->w.cols, arena_push(&site->gradients, bytes)};
}

static struct workspace_plan plan_of(int64_t tokens) {
    return (struct workspace_plan){
        .tokens = tokens, .logit_rows = 1, .keep = ACTS_ALL, .backward = true};
}

/* Sequences of different lengths, so that tokens without a target stand anywhere; every weight is
 * another. */
static void fill_batch(struct site *site) {
    static const int lengths[] = {3, 61, 64, 1, 71};
    int32_t ids[TOKENS];
    assert_ok(packed_batch_create(&site->packed, TOKENS, 5));
    for (int i = 0; i < 5; i++) {
        for (int t = 0; t < lengths[i]; t++) ids[t] = (int32_t)((t * 7919 + i * 104729) % VOCAB);
        packed_batch_add(&site->packed, ids, lengths[i], 1.0f);
    }
    assert_int_equal(site->packed.batch.tokens, TOKENS);
    for (int t = 0; t < TOKENS; t++) site->packed.loss_weights[t] = 0.002f + 0.0001f * (float)t;
}

static void site_open(struct site *site, enum dtype act) {
    *site = (struct site){0};
    const struct model_config config = {.family = FAMILY_LLAMA,
                                        .vocab = VOCAB,
                                        .hidden = HIDDEN,
                                        .ffn = 16,
                                        .layers = 1,
                                        .heads = 1,
                                        .kv_heads = 1,
                                        .head_dim = 16,
                                        .norm_eps = 1e-5f,
                                        .max_context = TOKENS,
                                        .rope = {.theta = 10000.0}};
    const struct workspace_plan plan = plan_of(TOKENS);
    const struct kernels *kernels;
    assert_ok(kernels_cpu(&kernels, NULL, act));
    assert_ok(model_create(&site->model, &config, NULL,
                           act == DTYPE_BF16 ? LAYOUT_PANEL_BF16 : LAYOUT_PANEL_F32));
    model_init_random(&site->model, 5, 0.5f, 1);
    assert_ok(workspace_open(&site->ws, &site->model, kernels, 1, NULL, &plan));
    fill_batch(site);
    site->head = model_head(&site->model);
    site->norm = model_param(&site->model, WEIGHT_FINAL_NORM, -1);
    assert_ok(arena_create(&site->gradients, "gradients", (VOCAB + 64) * HIDDEN * sizeof(float)));
    give_gradient(site, site->head);
    give_gradient(site, site->norm);
    float values[TOKENS * HIDDEN];
    for (int i = 0; i < TOKENS * HIDDEN; i++) values[i] = normal(1, i);
    site->hidden = malloc(sizeof values);
    to_act(site->hidden, act, values, TOKENS * HIDDEN);
}

static void site_close(struct site *site) {
    free(site->hidden);
    arena_free(&site->gradients);
    packed_batch_free(&site->packed);
    workspace_close(&site->ws);
    model_free(&site->model);
}

struct result {
    double loss;
    float token_loss[TOKENS], d_hidden[TOKENS * HIDDEN], d_norm[HIDDEN];
    float d_head[VOCAB * HIDDEN];
};

/* Loss and gradients of all tokens, `piece` of them a call. */
static struct result *run(struct site *site, int64_t piece) {
    struct result *result = calloc(1, sizeof *result);
    const struct batch *whole = &site->packed.batch;
    enum dtype act = site->ws.exec.k->act;
    char *d_hidden = calloc(TOKENS * HIDDEN, sizeof(float));
    memset(site->gradients.base, 0, site->gradients.used);
    for (int64_t first = 0; first < TOKENS; first += piece) {
        struct batch batch = *whole;
        size_t at = dtype_bytes(act, (size_t)first * HIDDEN);
        batch.tokens = piece;
        batch.targets += first;
        batch.loss_weights += first;
        head_loss(&site->ws.exec, &site->model, &batch, (const char *)site->hidden + at,
                  d_hidden + at, &result->loss, result->token_loss + first);
    }
    assert_ok(stream_check(&site->ws.stream));
    from_act(result->d_hidden, d_hidden, act, TOKENS * HIDDEN);
    weight_unpack(result->d_head, &site->head->grad, 0, VOCAB);
    weight_unpack(result->d_norm, &site->norm->grad, 0, 1);
    free(d_hidden);
    return result;
}

/* Every element, relative to the largest of them. */
static void check_close(const float *got, const float *want, size_t count, double tolerance,
                        const char *what) {
    double largest = 0.0;
    for (size_t i = 0; i < count; i++) largest = fmax(largest, fabs((double)want[i]));
    assert_true(largest > 0.0);
    assert_all_close(got, want, count, tolerance * largest, 0.0, what);
}

/* -log p of each target, from the logits that are served. */
static void check_against_logits(struct site *site, const struct result *got) {
    static float logits[VOCAB];
    const struct batch *batch = &site->packed.batch;
    double loss = 0.0;
    for (int32_t t = 0; t < TOKENS; t++) {
        double sum = 0.0, value = 0.0;
        head_logits(&site->ws.exec, &site->model, logits, site->hidden, &t, 1);
        for (int v = 0; v < VOCAB; v++) sum += exp((double)logits[v]);
        if (batch->targets[t] >= 0) value = log(sum) - (double)logits[batch->targets[t]];
        if (fabs((double)got->token_loss[t] - value) > 1e-5 * (1.0 + value))
            fail_msg("token %d: loss %g, not %g", t, (double)got->token_loss[t], value);
        loss += (double)batch->loss_weights[t] * value;
    }
    assert_ok(stream_check(&site->ws.stream));
    assert_true(fabs(got->loss - loss) <= 1e-6 * loss);
}

static void check_chunks(enum dtype act) {
    struct site site;
    site_open(&site, act);
    int64_t chunk = head_chunk(HIDDEN, VOCAB);
    assert_true(PIECE <= chunk && TOKENS > 3 * chunk && TOKENS % chunk > 0);
    struct result *chunks = run(&site, TOKENS), *pieces = run(&site, PIECE);
    assert_true(chunks->loss > 0.0);
    assert_true(fabs(chunks->loss - pieces->loss) <= 1e-6 * pieces->loss);
    check_close(chunks->token_loss, pieces->token_loss, TOKENS, 1e-6, "loss of token");
    check_close(chunks->d_hidden, pieces->d_hidden, TOKENS * HIDDEN, 1e-6, "hidden gradient");
    check_close(chunks->d_norm, pieces->d_norm, HIDDEN, 1e-6, "gradient of the norm");
    check_close(chunks->d_head, pieces->d_head, VOCAB * HIDDEN, 1e-6, "gradient of the head");
    check_against_logits(&site, chunks);
    free(chunks);
    free(pieces);
    site_close(&site);
}

static void test_chunks_change_no_figure_f32(void **state) {
    (void)state;
    check_chunks(DTYPE_F32);
}

static void test_chunks_change_no_figure_bf16(void **state) {
    (void)state;
    check_chunks(DTYPE_BF16);
}

/* What is laid out holds a chunk of logits, not all: in fp32, and their gradients in bf16 where
 * activations are bf16. */
static void test_logits_of_all_tokens_never_exist(void **state) {
    (void)state;
    static const enum dtype acts[] = {DTYPE_F32, DTYPE_BF16};
    for (int i = 0; i < 2; i++) {
        struct site site;
        size_t bytes, scratch, logits = (size_t)TOKENS * VOCAB * sizeof(float);
        const struct workspace_plan plan = plan_of(TOKENS);
        site_open(&site, acts[i]);
        assert_ok(workspace_count(&site.model, acts[i], &plan, &bytes, &scratch));
        free(run(&site, TOKENS));
        assert_true(site.ws.scratch.peak <= scratch);
        assert_true(scratch >= (size_t)head_chunk(HIDDEN, VOCAB) * VOCAB * sizeof(float));
        assert_true(scratch < (acts[i] == DTYPE_F32 ? logits / 2 : logits));
        site_close(&site);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunks_change_no_figure_f32),
        cmocka_unit_test(test_chunks_change_no_figure_bf16),
        cmocka_unit_test(test_logits_of_all_tokens_never_exist),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
