/* The logits that the engine serves are, bit for bit, those of the training forward: what its own
 * batches (chunked prefill mixed with decodes, paged KV, preemption, reused prefixes, adapters)
 * come to at every position, against whole sequences packed for training. */
#include "tests/fake_tokenizer.h"
#include "tests/fixture.h"

#include "kernels/base/rng.h"
#include "serve/engine.h"

#include <time.h>

/* GNU's OpenMP runtime synchronises in ways that ThreadSanitizer doesn't see. */
#ifdef __SANITIZE_THREAD__
enum { TWO_THREADS = 1 };
#else
enum { TWO_THREADS = 2 };
#endif

enum { REQUESTS = 9, CONTEXT = 160 };

struct served {
    struct generation *generation;
    float *logits;      /* (CONTEXT, V): row p is what token p is drawn from or given by */
    bool seen[CONTEXT]; /* which rows there are */
};

struct bench {
    struct model model;
    struct adapter adapter;
    const struct adapter *list[1];
    const struct kernels *kernels;
    struct tokenizer *tokenizer;
    struct served served[REQUESTS];
    int preempted_rows; /* that a preempted prompt gave twice */
    int changed_rows;   /* of these, with other bits the second time */
    int64_t cached;     /* prompt tokens that came from pages of others */
};

/* How the engine cuts its work. */
struct cut {
    int32_t token_budget, page_size, max_batch;
    size_t kv_tokens;
    int threads;
};
static const struct cut cuts[] = {
    {256, 16, REQUESTS, REQUESTS *CONTEXT, TWO_THREADS}, /* whole prompts */
    {5, 32, 3, REQUESTS *CONTEXT, 1},                    /* a token or a few of each a step */
    {37, 16, REQUESTS, CONTEXT + 64, TWO_THREADS}, /* too few pages: sequences are preempted */
};

static void observe(void *context, const struct generation *generation, int32_t position,
                    const float *logits, int64_t vocab) {
    struct bench *bench = context;
    for (int i = 0; i < REQUESTS; i++) {
        struct served *served = &bench->served[i];
        if (served->generation != generation) continue;
        float *row = served->logits + position * vocab;
        if (served->seen[position]) {
            bench->preempted_rows++;
            bench->changed_rows += memcmp(row, logits, (size_t)vocab * sizeof *row) != 0;
        }
        memcpy(row, logits, (size_t)vocab * sizeof *row);
        served->seen[position] = true;
    }
}

static void open_model(struct bench *bench, const char *name, const char *adapter, enum dtype act) {
    char path[256];
    struct model_file file;
    *bench = (struct bench){0};
    snprintf(path, sizeof path, "tests/fixtures/%s", name);
    enum layout layout = act == DTYPE_BF16 ? LAYOUT_PANEL_BF16 : LAYOUT_PANEL_F32;
    assert_ok(model_file_open(&file, path, false));
    assert_ok(model_load(&bench->model, &file, NULL, layout, 0, 1));
    model_file_close(&file);
    assert_ok(kernels_cpu(&bench->kernels, NULL, act));
    bench->tokenizer = fake_tokenizer_create((int32_t)bench->model.config.vocab);
    if (!adapter) return;
    snprintf(path, sizeof path, "tests/fixtures/%s", adapter);
    assert_ok(adapter_load(&bench->adapter, adapter, &bench->model, path));
    bench->list[0] = &bench->adapter;
}

static void close_model(struct bench *bench) {
    if (bench->list[0]) adapter_free(&bench->adapter);
    fake_tokenizer_free(bench->tokenizer);
    model_free(&bench->model);
}

/* Request i: every third only scores its prompt, so that each of its positions is seen; the others
 * share prefixes, and draw greedily or by seed. */
static void make_request(struct bench *bench, int i) {
    struct generation_options *options = generation_options_create();
    bool scores = i % 3 == 2;
    int32_t prompt[CONTEXT], count = scores ? 130 - 11 * i : 1 + i * 23 % 70;
    for (int32_t t = 0; t < count; t++) {
        uint64_t domain = t < 32 ? 0 : (uint64_t)i;
        prompt[t] = (int32_t)(rng_draw(9, RNG_TEST, domain, (uint64_t)t).word[0] %
                              (uint32_t)bench->model.config.vocab);
    }
    options->prompt_logprobs = scores;
    options->max_tokens = scores ? 24 : 20 + 9 * i;
    options->ignore_eos = true;
    options->sample.temperature = i % 2 ? 1.0f : 0.0f;
    options->sample.seed = (uint64_t)i;
    int adapter = bench->list[0] && i % 2 ? 0 : ADAPTER_NONE;
    struct served *served = &bench->served[i];
    *served = (struct served){0};
    served->logits = malloc((size_t)(CONTEXT * bench->model.config.vocab) * sizeof(float));
    assert_ok(generation_create(&served->generation, options, prompt, count, adapter, 0,
                                bench->tokenizer));
    generation_options_release(options);
}

static void serve_all(struct bench *bench, const struct cut *cut) {
    struct engine_options options = {
        .model = &bench->model,
        .tokenizer = bench->tokenizer,
        .adapters = bench->list,
        .adapter_count = bench->list[0] != NULL,
        .kernels = bench->kernels,
        .threads = cut->threads,
        .context = CONTEXT,
        .page_size = cut->page_size,
        .max_batch = cut->max_batch,
        .token_budget = cut->token_budget,
        .kv_bytes =
            cut->kv_tokens * engine_kv_token_bytes(&bench->model.config, bench->kernels->act),
        .kv_dtype = DTYPE_COUNT,
        .observe = observe,
        .observer = bench,
    };
    struct engine *engine;
    for (int i = 0; i < REQUESTS; i++) make_request(bench, i);
    assert_ok(engine_open(&engine, &options));
    for (int i = 0; i < REQUESTS; i++)
        assert_ok(engine_submit(engine, bench->served[i].generation));
    while (!engine_drain(engine, 60.0)) fail_msg("the engine doesn't come to rest");
    struct engine_stats stats;
    engine_read_stats(engine, &stats);
    bench->cached += stats.cached_tokens;
    if (cut->kv_tokens < REQUESTS * CONTEXT) assert_true(stats.preemptions > 0);
    engine_close(engine);
    for (int i = 0; i < REQUESTS; i++)
        assert_int_equal(bench->served[i].generation->finish, FINISH_LENGTH);
}

/* Every sequence whole, as training packs them; logits (tokens, V). */
static float *train_all(struct bench *bench, struct packed_batch *packed) {
    struct adapter_span spans[REQUESTS];
    int32_t *rows;
    struct workspace ws;
    assert_ok(packed_batch_create(packed, (int64_t)REQUESTS * CONTEXT, REQUESTS));
    for (int i = 0; i < REQUESTS; i++) {
        const struct generation *generation = bench->served[i].generation;
        const struct sequence *sequence = &generation->sequence;
        int64_t first = packed->batch.tokens;
        packed_batch_add(packed, sequence->tokens, sequence->count, 1.0f);
        if (generation->adapter != ADAPTER_NONE)
            spans[packed->batch.span_count++] =
                (struct adapter_span){first, sequence->count, &bench->adapter};
    }
    packed->batch.spans = spans;
    int64_t tokens = packed->batch.tokens;
    const struct workspace_plan plan = {.tokens = tokens,
                                        .logit_rows = tokens,
                                        .keep = ACTS_ALL,
                                        .backward = true,
                                        .adapter = bench->list[0]};
    float *logits = malloc((size_t)(tokens * bench->model.config.vocab) * sizeof *logits);
    rows = malloc((size_t)tokens * sizeof *rows);
    for (int64_t t = 0; t < tokens; t++) rows[t] = (int32_t)t;
    assert_ok(workspace_open(&ws, &bench->model, bench->kernels, TWO_THREADS, NULL, &plan));
    stage_forward(&ws.exec, &bench->model, &packed->batch, &ws.acts);
    head_logits(&ws.exec, &bench->model, logits, ws.acts.hidden, rows, tokens);
    assert_ok(stream_check(&ws.stream));
    workspace_close(&ws);
    free(rows);
    return logits;
}

static void check_request(const struct bench *bench, int i, const float *trained,
                          const char *what) {
    const struct served *served = &bench->served[i];
    const struct sequence *sequence = &served->generation->sequence;
    int64_t vocab = bench->model.config.vocab;
    bool scores = served->generation->options->prompt_logprobs;
    for (int32_t p = scores ? 1 : sequence->prompt; p < sequence->count; p++) {
        if (!served->seen[p]) fail_msg("%s: request %d: no logits of token %d", what, i, p);
        if (memcmp(served->logits + p * vocab, trained + (p - 1) * vocab,
                   (size_t)vocab * sizeof *trained) != 0)
            fail_msg("%s: request %d: the logits of token %d (prompt %d) differ", what, i, p,
                     sequence->prompt);
    }
}

static void check_model(const char *name, const char *adapter, enum dtype act) {
    struct bench bench;
    open_model(&bench, name, adapter, act);
    for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
        struct packed_batch packed;
        char what[128];
        snprintf(what, sizeof what, "%s %s, %d tokens a step", name, dtype_info(act)->name,
                 cuts[c].token_budget);
        serve_all(&bench, &cuts[c]);
        float *trained = train_all(&bench, &packed);
        for (int i = 0; i < REQUESTS; i++) {
            check_request(&bench, i,
                          trained + packed.batch.segments.start[i] * bench.model.config.vocab,
                          what);
            generation_release(bench.served[i].generation);
            free(bench.served[i].logits);
        }
        free(trained);
        packed_batch_free(&packed);
    }
    print_message("%s: %d rows given twice, %lld prompt tokens reused\n", name,
                  bench.preempted_rows, (long long)bench.cached);
    assert_true(bench.preempted_rows > 0 && bench.cached > 0);
    assert_int_equal(bench.changed_rows, 0);
    close_model(&bench);
}

static void check_dtype(enum dtype act) {
    check_model("llama", "lora_llama_all", act);
    check_model("mistral", NULL, act);
    check_model("qwen2", "lora_qwen2_qv_rslora", act);
    check_model("qwen3", NULL, act);
}

static void test_engine_serves_trained_bits_f32(void **state) {
    (void)state;
    check_dtype(DTYPE_F32);
}

static void test_engine_serves_trained_bits_bf16(void **state) {
    (void)state;
    check_dtype(DTYPE_BF16);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine_serves_trained_bits_f32),
        cmocka_unit_test(test_engine_serves_trained_bits_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
