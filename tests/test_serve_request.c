#define _GNU_SOURCE
/* From the JSON of a request, and the defaults of the model's own files, to the options that the
 * engine draws by. */
#include "tests/check.h"

#include "serve/api_request.h"

#include <unistd.h>

enum { VOCAB = 100, ROOM = 500 };

static const struct model_config silent = {.temperature = -1.0, .top_p = -1.0, .top_k = -1};

static struct generation_options *options_of(enum api_kind kind, const char *text,
                                             const struct model_config *config) {
    struct api_request request;
    struct api_problem problem = {0};
    struct generation_options *options = generation_options_create();
    assert_non_null(options);
    if (!api_request_parse(&request, kind, text, strlen(text), &problem))
        fail_msg("%s", problem.message);
    api_fill_defaults(&request, config, ROOM);
    if (!api_fill_options(options, &request, VOCAB, &problem)) fail_msg("%s", problem.message);
    api_request_free(&request);
    return options;
}

static void check_number(float got, double want) {
    if (got != (float)want) fail_msg("%g, not %g", (double)got, want);
}

static void check_sampling(const struct sample_params *got, const struct sample_params *want) {
    check_number(got->temperature, (double)want->temperature);
    check_number(got->top_p, (double)want->top_p);
    check_number(got->min_p, (double)want->min_p);
    check_number(got->repetition_penalty, (double)want->repetition_penalty);
    check_number(got->presence_penalty, (double)want->presence_penalty);
    check_number(got->frequency_penalty, (double)want->frequency_penalty);
    assert_int_equal(got->top_k, want->top_k);
    assert_true(got->seed == want->seed);
}

static void check_stop(const struct generation_options *options, int i, const char *want) {
    assert_true(i < options->stop_count);
    assert_int_equal(options->stops[i].bytes, strlen(want));
    assert_memory_equal(options->stops[i].text, want, strlen(want));
}

#define SAMPLING                                                                                   \
    "\"temperature\": 0.75, \"top_p\": 0.625, \"min_p\": 0.125, \"top_k\": 37, "                   \
    "\"repetition_penalty\": 1.25, \"presence_penalty\": 0.5, \"frequency_penalty\": -1.5, "       \
    "\"seed\": 123456789012345"

static const struct sample_params asked = {.temperature = 0.75f,
                                           .top_p = 0.625f,
                                           .min_p = 0.125f,
                                           .top_k = 37,
                                           .repetition_penalty = 1.25f,
                                           .presence_penalty = 0.5f,
                                           .frequency_penalty = -1.5f,
                                           .seed = 123456789012345u};

static void test_every_field_arrives_text(void **state) {
    (void)state;
    struct generation_options *options =
        options_of(API_TEXT,
                   "{\"prompt\": \"x\", " SAMPLING ", \"max_tokens\": 41, \"min_tokens\": 6, "
                   "\"stop\": [\"one\", \"three3\"], \"stop_token_ids\": [11, 99], "
                   "\"logit_bias\": {\"7\": -2.5}, \"logprobs\": 4, \"echo\": true, "
                   "\"ignore_eos\": true, \"include_stop_str_in_output\": true, "
                   "\"skip_special_tokens\": false}",
                   &silent);
    check_sampling(&options->sample, &asked);
    assert_int_equal(options->max_tokens, 41);
    assert_int_equal(options->min_tokens, 6);
    assert_int_equal(options->stop_count, 2);
    check_stop(options, 0, "one");
    check_stop(options, 1, "three3");
    assert_int_equal(options->stop_token_count, 2);
    assert_int_equal(options->stop_tokens[0], 11);
    assert_int_equal(options->stop_tokens[1], 99);
    assert_int_equal(options->bias_count, 1);
    assert_int_equal(options->biases[0].token, 7);
    check_number(options->biases[0].bias, -2.5);
    assert_int_equal(options->top_logprobs, 4);
    assert_true(options->logprobs && options->prompt_logprobs && options->continues);
    assert_true(options->ignore_eos && options->include_stop && options->show_special);
    generation_options_release(options);
}

/* Of the flags none is set, and the newer of the two names of a length wins. */
static void test_every_field_arrives_chat(void **state) {
    (void)state;
    struct generation_options *options =
        options_of(API_CHAT,
                   "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], " SAMPLING
                   ", \"max_completion_tokens\": 43, \"max_tokens\": 42, \"stop\": \"end\", "
                   "\"logprobs\": true, \"top_logprobs\": 3}",
                   &silent);
    check_sampling(&options->sample, &asked);
    assert_int_equal(options->max_tokens, 43);
    assert_int_equal(options->min_tokens, 0);
    assert_int_equal(options->stop_count, 1);
    check_stop(options, 0, "end");
    assert_int_equal(options->stop_token_count, 0);
    assert_int_equal(options->bias_count, 0);
    assert_int_equal(options->top_logprobs, 3);
    assert_true(options->logprobs);
    assert_false(options->prompt_logprobs || options->continues || options->ignore_eos);
    assert_false(options->include_stop || options->show_special);
    generation_options_release(options);
}

#define TEXT "{\"prompt\": \"x\", \"seed\": 5"
#define CHAT "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"seed\": 5"

/* Without a word of request or model: temperature 1, and everything else is off. */
static void test_what_nobody_says(void **state) {
    (void)state;
    const struct sample_params neutral = {
        .temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f, .seed = 5};
    struct generation_options *text = options_of(API_TEXT, TEXT "}", &silent);
    struct generation_options *chat = options_of(API_CHAT, CHAT "}", &silent);
    check_sampling(&text->sample, &neutral);
    check_sampling(&chat->sample, &neutral);
    assert_int_equal(text->max_tokens, 16);
    assert_int_equal(chat->max_tokens, ROOM);
    assert_int_equal(text->stop_count + chat->stop_count, 0);
    generation_options_release(text);
    generation_options_release(chat);
    text = options_of(API_TEXT, TEXT ", \"max_tokens\": 100000}", &silent);
    assert_int_equal(text->max_tokens, ROOM);
    generation_options_release(text);
}

static void write_file(const char *folder, const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

/* The configuration of a folder whose generation_config.json says `generation`. */
static struct model_config config_with(const char *generation) {
    char folder[] = "/tmp/strata-request-XXXXXX", path[256];
    static const char *const names[] = {"config.json", "generation_config.json"};
    struct model_config config;
    assert_non_null(mkdtemp(folder));
    write_file(folder, names[0],
               "{\"model_type\": \"llama\", \"vocab_size\": 100, \"hidden_size\": 8, "
               "\"intermediate_size\": 8, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, "
               "\"bos_token_id\": 1, \"eos_token_id\": 2}");
    write_file(folder, names[1], generation);
    enum status status = model_config_read_hf(&config, folder);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
    assert_ok(status);
    return config;
}

#define MODELS_OWN "\"temperature\": 0.375, \"top_p\": 0.8125, \"top_k\": 23"

static void test_the_models_own_defaults(void **state) {
    (void)state;
    const struct model_config config =
        config_with("{\"do_sample\": true, \"eos_token_id\": [88, 91], " MODELS_OWN "}");
    assert_int_equal(config.eos_count, 2);
    assert_int_equal(config.eos[0], 88);
    assert_int_equal(config.eos[1], 91);
    struct sample_params want = {.temperature = 0.375f,
                                 .top_p = 0.8125f,
                                 .top_k = 23,
                                 .repetition_penalty = 1.0f,
                                 .seed = 5};
    struct generation_options *text = options_of(API_TEXT, TEXT "}", &config);
    struct generation_options *chat = options_of(API_CHAT, CHAT "}", &config);
    check_sampling(&text->sample, &want);
    check_sampling(&chat->sample, &want);
    generation_options_release(text);
    generation_options_release(chat);
    /* a request's own word counts, zero and one among them; top_k 0 is all tokens */
    text = options_of(API_TEXT, TEXT ", \"temperature\": 0, \"top_p\": 1, \"top_k\": 0}", &config);
    want.temperature = 0.0f;
    want.top_p = 1.0f;
    want.top_k = 0;
    check_sampling(&text->sample, &want);
    generation_options_release(text);
}

/* Figures of a model that isn't sampled by default say nothing; its ends do. */
static void test_figures_without_sampling_are_no_defaults(void **state) {
    (void)state;
    const struct model_config config =
        config_with("{\"do_sample\": false, \"eos_token_id\": 88, " MODELS_OWN "}");
    assert_int_equal(config.eos_count, 1);
    assert_int_equal(config.eos[0], 88);
    assert_true(config.temperature < 0.0 && config.top_p < 0.0 && config.top_k < 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_field_arrives_text),
        cmocka_unit_test(test_every_field_arrives_chat),
        cmocka_unit_test(test_what_nobody_says),
        cmocka_unit_test(test_the_models_own_defaults),
        cmocka_unit_test(test_figures_without_sampling_are_no_defaults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
