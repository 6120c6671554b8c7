#define _GNU_SOURCE
/* The engine's promise: a request's tokens and the bits of its logits don't depend on what else
 * runs, on chunks, pages, preemption or reused prefixes. */
#include "tests/check.h"

#include "kernels/base/clock.h"
#include "kernels/base/rng.h"
#include "serve/deadline.h"
#include "serve/engine.h"
#include "serve/logprobs.h"
#include "tests/fake_tokenizer.h"

#include <errno.h>
#include <xxhash.h>

/* GNU's OpenMP runtime synchronises in ways that ThreadSanitizer doesn't see. */
#ifdef __SANITIZE_THREAD__
enum { TWO_THREADS = 1 };
#else
enum { TWO_THREADS = 2 };
#endif

enum { VOCAB = 96, REQUESTS = 16, ADAPTERS = 2 };

struct bench {
    struct model model;
    struct adapter adapters[ADAPTERS];
    const struct adapter *served[ADAPTERS];
    struct tokenizer *tokenizer;
    const struct kernels *kernels;
};

/* Random factors on every module, B too, so that an adapter changes every logit. */
static void make_adapter(struct bench *bench, int index) {
    struct adapter_config config = {.rank = 4 + 4 * index, .alpha = 16.0};
    for (int id = 0; id < WEIGHT_COUNT; id++) config.targets[id] = weight_table[id].lora_target;
    struct adapter *adapter = &bench->adapters[index];
    assert_ok(adapter_create(adapter, index ? "second" : "first", &bench->model, &config,
                             (uint64_t)index));
    for (int i = 0; i < adapter->param_count; i++) {
        const struct weight *w = &adapter->params[i].w;
        if (!w->data) continue;
        float *values = malloc((size_t)(w->rows * w->cols) * sizeof *values);
        for (int64_t j = 0; j < w->rows * w->cols; j++) {
            struct rng_block random = rng_draw(77, RNG_TEST, (uint64_t)i, (uint64_t)j);
            values[j] = 0.1f * rng_normal(random.word[0], random.word[1]);
        }
        weight_pack(w, 0, w->rows, values);
        free(values);
    }
    bench->served[index] = adapter;
}

static void bench_open(struct bench *bench, enum dtype act) {
    *bench = (struct bench){0};
    struct model_config config = {
        .family = FAMILY_LLAMA,
        .vocab = VOCAB,
        .hidden = 32,
        .ffn = 64,
        .layers = 2,
        .heads = 4,
        .kv_heads = 2,
        .head_dim = 16,
        .norm_eps = 1e-5f,
        .max_context = 256,
        .rope = {.theta = 10000.0},
        .bos = -1,
        .temperature = -1.0,
        .top_p = -1.0,
        .top_k = -1,
    };
    assert_ok(kernels_cpu(&bench->kernels, NULL, act));
    assert_ok(model_create(&bench->model, &config, NULL,
                           act == DTYPE_BF16 ? LAYOUT_PANEL_BF16 : LAYOUT_PANEL_F32));
    model_init_random(&bench->model, 5, 0.3f, 1);
    for (int i = 0; i < ADAPTERS; i++) make_adapter(bench, i);
    bench->tokenizer = fake_tokenizer_create(VOCAB);
}

static void bench_close(struct bench *bench) {
    for (int i = 0; i < ADAPTERS; i++) adapter_free(&bench->adapters[i]);
    model_free(&bench->model);
    fake_tokenizer_free(bench->tokenizer);
}

/* What a request drew, and a hash of the logits it drew from. */
struct record {
    const struct generation *generation;
    uint64_t logits;
    int32_t tokens[256];
    int32_t count;
    int32_t reused, preemptions;
    enum finish finish;
};

struct records {
    struct record items[REQUESTS];
    int count;
    atomic_bool held; /* the engine waits at the logits: not all requests are there yet */
};

static void observe(void *context, const struct generation *generation, int32_t position,
                    const float *logits, int64_t vocab) {
    struct records *records = context;
    while (atomic_load(&records->held)) nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    for (int i = 0; i < records->count; i++) {
        struct record *record = &records->items[i];
        if (record->generation != generation) continue;
        record->logits = XXH3_64bits_withSeed(logits, (size_t)vocab * sizeof *logits,
                                              record->logits + (uint64_t)position);
    }
}

static struct engine_options engine_defaults(const struct bench *bench, struct records *records) {
    return (struct engine_options){
        .model = &bench->model,
        .tokenizer = bench->tokenizer,
        .adapters = bench->served,
        .adapter_count = ADAPTERS,
        .kernels = bench->kernels,
        .threads = 1,
        .context = 256,
        .page_size = 16,
        .max_batch = REQUESTS,
        .token_budget = 64,
        .kv_dtype = DTYPE_COUNT,
        .observe = observe,
        .observer = records,
    };
}

/* Request i of a mix: lengths, adapters, greedy and seeded, penalties, shared prefixes. */
static struct generation *make_request(const struct bench *bench, int i) {
    struct generation_options *options = generation_options_create();
    int32_t prompt[128], count = 1 + i * 37 % 100;
    for (int32_t t = 0; t < count; t++) prompt[t] = (t * 7 + (t >= 48 ? i : i % 2)) % (VOCAB - 2);
    options->max_tokens = 8 + i * 29 % 90;
    options->ignore_eos = i % 4 != 0;
    options->sample.temperature = i % 2 ? 1.0f : 0.0f;
    options->sample.seed = (uint64_t)i;
    if (i % 3 == 1) options->sample.top_k = 20;
    if (i % 5 == 2) options->sample.top_p = 0.8f;
    if (i % 4 == 3) options->sample.repetition_penalty = 1.2f;
    if (i % 7 == 3) options->sample.frequency_penalty = 0.3f;
    if (i % 6 == 5) options->min_tokens = 6;
    struct generation *generation;
    assert_ok(generation_create(&generation, options, prompt, count,
                                i % 3 == 0 ? ADAPTER_NONE : i % 3 - 1, i % 2, bench->tokenizer));
    generation_options_release(options);
    return generation;
}

/* Until the engine has let go of it: its last token is told before it is committed. */
static void wait_for(struct generation *generation) {
    for (;;) {
        if (atomic_load(&generation->references) == 1) return;
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    }
}

static void keep_record(struct record *record, const struct generation *generation) {
    record->count = generation->sequence.count - generation->sequence.prompt;
    memcpy(record->tokens, generation->sequence.tokens + generation->sequence.prompt,
           (size_t)record->count * sizeof(int32_t));
    record->reused = generation->cached;
    record->preemptions = generation->sequence.preemptions;
    record->finish = generation->finish;
}

/* Runs requests [first, first + count) at once: nothing is drawn before all of them are there. */
static void run_requests(struct engine *engine, const struct bench *bench, struct records *records,
                         int first, int count) {
    struct generation *generations[REQUESTS];
    memset(records, 0, sizeof *records);
    for (int i = 0; i < count; i++) {
        generations[i] = make_request(bench, first + i);
        records->items[i].generation = generations[i];
    }
    records->count = count;
    atomic_store(&records->held, true);
    for (int i = 0; i < count; i++) assert_ok(engine_submit(engine, generations[i]));
    atomic_store(&records->held, false);
    for (int i = 0; i < count; i++) wait_for(generations[i]);
    while (!engine_drain(engine, 10.0)) fail_msg("the engine doesn't come to rest");
    for (int i = 0; i < count; i++) {
        keep_record(&records->items[i], generations[i]);
        generation_release(generations[i]);
    }
}

static void run_alone(const struct bench *bench, struct records *alone) {
    struct records one = {0};
    for (int i = 0; i < REQUESTS; i++) {
        struct engine *engine;
        const struct engine_options options = engine_defaults(bench, &one);
        assert_ok(engine_open(&engine, &options));
        run_requests(engine, bench, &one, i, 1);
        alone->items[i] = one.items[0];
        engine_close(engine);
    }
}

static void assert_same(const struct records *got, const struct records *want) {
    for (int i = 0; i < REQUESTS; i++) {
        const struct record *g = &got->items[i], *w = &want->items[i];
        assert_int_equal(g->finish, w->finish);
        assert_int_equal(g->count, w->count);
        assert_memory_equal(g->tokens, w->tokens, (size_t)w->count * sizeof(int32_t));
        if (g->logits != w->logits) fail_msg("request %d: other logits", i);
    }
}

/* How 16 requests meet: more than `above` of them in a step, and none, or some, preempted. */
struct mix {
    int32_t budget, page_size;
    size_t kv_tokens;
    int threads;
    int64_t above;
    bool preempts;
};

static void check_mix(const struct bench *bench, const struct records *alone,
                      const struct mix *mix) {
    struct records together = {0};
    struct engine_options options = engine_defaults(bench, &together);
    options.token_budget = mix->budget;
    options.page_size = mix->page_size;
    options.threads = mix->threads;
    options.kv_bytes =
        mix->kv_tokens * engine_kv_token_bytes(&bench->model.config, bench->kernels->act);
    struct engine *engine;
    assert_ok(engine_open(&engine, &options));
    run_requests(engine, bench, &together, 0, REQUESTS);
    struct engine_stats stats;
    engine_read_stats(engine, &stats);
    if (stats.largest_batch <= mix->above)
        fail_msg("at most %lld requests ran together", (long long)stats.largest_batch);
    assert_int_equal(stats.preemptions > 0, mix->preempts);
    assert_int_equal(stats.pages_used, 0);
    assert_same(&together, alone);
    engine_close(engine);
}

/* The last mix has pages for a few sequences alone, which give them up often. */
static void check_promise(enum dtype act) {
    static const struct mix mixes[] = {{64, 16, 16 * 256, TWO_THREADS, 8, false},
                                       {16, 64, 16 * 256, 1, 8, false},
                                       {31, 16, 768, TWO_THREADS, 8, true},
                                       {31, 16, 256, TWO_THREADS, 2, true}};
    struct bench bench;
    struct records alone = {0};
    bench_open(&bench, act);
    run_alone(&bench, &alone);
    bool adapters_differ = alone.items[0].logits != alone.items[1].logits;
    assert_true(adapters_differ);
    for (size_t i = 0; i < sizeof mixes / sizeof *mixes; i++) check_mix(&bench, &alone, &mixes[i]);
    bench_close(&bench);
}

static void test_batch_changes_nothing_f32(void **state) {
    (void)state;
    check_promise(DTYPE_F32);
}

static void test_batch_changes_nothing_bf16(void **state) {
    (void)state;
    check_promise(DTYPE_BF16);
}

/* The tokens of a greedy answer of at most LENGTH; the model names its ends. */
enum { LENGTH = 40 };

static struct record run_greedy(const struct bench *bench) {
    struct records records = {0};
    struct engine_options options = engine_defaults(bench, &records);
    struct engine *engine;
    assert_ok(engine_open(&engine, &options));
    struct generation_options *ask = generation_options_create();
    ask->max_tokens = LENGTH;
    const int32_t prompt[3] = {4, 8, 15};
    struct generation *generation;
    assert_ok(generation_create(&generation, ask, prompt, 3, ADAPTER_NONE, 0, bench->tokenizer));
    generation_options_release(ask);
    assert_ok(engine_submit(engine, generation));
    wait_for(generation);
    keep_record(&records.items[0], generation);
    generation_release(generation);
    engine_close(engine);
    return records.items[0];
}

/* Where `token` stands first in `tokens`, or `count`. */
static int32_t first_place(const int32_t *tokens, int32_t count, int32_t token) {
    int32_t i = 0;
    while (i < count && tokens[i] != token) i++;
    return i;
}

/* An answer ends at whichever of the model's ends comes first, wherever that stands in the list. */
static void test_each_end_of_the_model_ends(void **state) {
    (void)state;
    struct bench bench;
    bench_open(&bench, DTYPE_F32);
    const struct record whole = run_greedy(&bench);
    assert_int_equal(whole.finish, FINISH_LENGTH);
    int32_t end = whole.tokens[2], at = first_place(whole.tokens, whole.count, end), never = 0;
    while (first_place(whole.tokens, whole.count, never) < whole.count) never++;
    struct model_config *config = &bench.model.config;
    config->eos_count = 2;
    for (int i = 0; i < 2; i++) {
        config->eos[i] = end;
        config->eos[1 - i] = never;
        const struct record ended = run_greedy(&bench);
        assert_int_equal(ended.finish, FINISH_STOP);
        assert_true(ended.count <= at + 1 && ended.count < LENGTH);
        assert_memory_equal(ended.tokens, whole.tokens, (size_t)ended.count * sizeof(int32_t));
    }
    bench_close(&bench);
}

static void test_reused_prefix_changes_nothing(void **state) {
    (void)state;
    struct bench bench;
    bench_open(&bench, DTYPE_F32);
    struct records records = {0};
    struct engine_options options = engine_defaults(&bench, &records);
    struct engine *engine;
    assert_ok(engine_open(&engine, &options));
    struct record runs[2];
    for (int run = 0; run < 2; run++) {
        struct generation *generation = make_request(&bench, 5);
        records = (struct records){.items = {{.generation = generation}}, .count = 1};
        assert_ok(engine_submit(engine, generation));
        wait_for(generation);
        keep_record(&records.items[0], generation);
        runs[run] = records.items[0];
        generation_release(generation);
    }
    assert_int_equal(runs[0].reused, 0);
    assert_true(runs[1].reused >= 64);
    assert_int_equal(runs[0].logits, runs[1].logits);
    assert_memory_equal(runs[0].tokens, runs[1].tokens, sizeof(int32_t) * (size_t)runs[0].count);
    engine_close(engine);
    bench_close(&bench);
}

static void test_prompt_scores_equal_drawn_ones(void **state) {
    (void)state;
    struct bench bench;
    bench_open(&bench, DTYPE_F32);
    struct records records = {0};
    struct engine_options options = engine_defaults(&bench, &records);
    struct engine *engine;
    assert_ok(engine_open(&engine, &options));
    struct generation_options *ask = generation_options_create();
    ask->max_tokens = 20;
    ask->sample.temperature = 0.0f;
    ask->ignore_eos = ask->logprobs = true;
    ask->top_logprobs = 3;
    int32_t prompt[3] = {4, 8, 15};
    struct generation *drawn, *scored;
    assert_ok(generation_create(&drawn, ask, prompt, 3, 1, 0, bench.tokenizer));
    assert_ok(engine_submit(engine, drawn));
    wait_for(drawn);
    generation_options_release(ask);
    ask = generation_options_create();
    ask->prompt_logprobs = true;
    ask->top_logprobs = 3;
    assert_ok(generation_create(&scored, ask, drawn->sequence.tokens, 23, 1, 0, bench.tokenizer));
    assert_ok(engine_submit(engine, scored));
    wait_for(scored);
    assert_int_equal(scored->finish, FINISH_LENGTH);
    assert_int_equal(scored->scored, 23);
    assert_int_equal(scored->drawn, 0);
    for (int32_t i = 0; i < 20; i++) {
        const struct transcript_token *token = &drawn->transcript.tokens[i];
        struct token_chance chance = scored->prompt_chances[3 + i];
        assert_int_equal(chance.id, token->chosen.id);
        assert_true(chance.logprob == token->chosen.logprob);
        /* greedy: the best alternative is the token itself, with the very same figure */
        assert_int_equal(scored->prompt_tops[(3 + i) * 3].id, chance.id);
        assert_true(scored->prompt_tops[(3 + i) * 3].logprob == chance.logprob);
    }
    generation_options_release(ask);
    generation_release(drawn);
    generation_release(scored);
    engine_close(engine);
    bench_close(&bench);
}

static void test_cancelled_generations_end_and_free_their_pages(void **state) {
    (void)state;
    struct bench bench;
    bench_open(&bench, DTYPE_F32);
    struct records records = {0};
    struct engine_options options = engine_defaults(&bench, &records);
    options.max_batch = 2;
    struct engine *engine;
    assert_ok(engine_open(&engine, &options));
    struct generation *generations[REQUESTS];
    for (int i = 0; i < REQUESTS; i++) {
        generations[i] = make_request(&bench, i);
        assert_ok(engine_submit(engine, generations[i]));
    }
    for (int i = 1; i < REQUESTS; i += 2) engine_cancel(engine, generations[i]);
    for (int i = 0; i < REQUESTS; i++) {
        wait_for(generations[i]);
        if (i % 2 == 0) assert_true(generations[i]->finish <= FINISH_LENGTH);
        generation_release(generations[i]);
    }
    assert_true(engine_drain(engine, 10.0));
    struct engine_stats stats;
    engine_read_stats(engine, &stats);
    assert_int_equal(stats.pages_used, 0);
    struct generation *late = make_request(&bench, 0);
    assert_int_equal(engine_submit(engine, late), STATUS_CANCELLED);
    generation_release(late);
    engine_close(engine);
    bench_close(&bench);
}

/* A wait for a quarter of a second takes at least that, whatever the seconds' fractions add up to;
 * by the clock of the day it would be over at once. */
static void test_deadlines_are_of_the_monotonic_clock(void **state) {
    (void)state;
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t never;
    deadline_init(&never);
    double began = clock_seconds();
    struct timespec until = deadline_after(0.25);
    pthread_mutex_lock(&lock);
    int result = 0;
    while (result == 0) result = pthread_cond_timedwait(&never, &lock, &until);
    pthread_mutex_unlock(&lock);
    assert_int_equal(result, ETIMEDOUT);
    assert_true(clock_seconds() - began >= 0.25);
    pthread_cond_destroy(&never);
    for (int i = 0; i < 100; i++) {
        until = deadline_after(2.0 + 0.01 * i);
        assert_true(until.tv_nsec >= 0 && until.tv_nsec < 1000000000);
        double ahead = (double)until.tv_sec + 1e-9 * (double)until.tv_nsec - clock_seconds();
        assert_true(ahead <= 2.0 + 0.01 * i + 1e-6);
    }
}

static void test_what_cannot_fit_is_refused(void **state) {
    (void)state;
    struct bench bench;
    bench_open(&bench, DTYPE_F32);
    struct engine_options options = engine_defaults(&bench, NULL);
    options.observe = NULL;
    options.kv_bytes = 100;
    struct engine *engine;
    assert_int_equal(engine_open(&engine, &options), STATUS_MEMORY);
    assert_non_null(strstr(status_message(), "256"));
    options.kv_bytes = 0;
    options.page_size = 20;
    assert_int_equal(engine_open(&engine, &options), STATUS_CONFIG);
    options.page_size = 16;
    options.context = 50;
    assert_ok(engine_open(&engine, &options));
    struct generation *generation = make_request(&bench, 2); /* 75 tokens */
    assert_int_equal(engine_submit(engine, generation), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "75"));
    assert_non_null(strstr(status_message(), "50"));
    generation_release(generation);
    engine_close(engine);
    bench_close(&bench);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch_changes_nothing_f32),
        cmocka_unit_test(test_batch_changes_nothing_bf16),
        cmocka_unit_test(test_each_end_of_the_model_ends),
        cmocka_unit_test(test_reused_prefix_changes_nothing),
        cmocka_unit_test(test_prompt_scores_equal_drawn_ones),
        cmocka_unit_test(test_cancelled_generations_end_and_free_their_pages),
        cmocka_unit_test(test_deadlines_are_of_the_monotonic_clock),
        cmocka_unit_test(test_what_cannot_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
