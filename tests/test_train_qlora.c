/* LoRA on a base that stays quantized: the same run on a base that was set to the dequantized
 * values. */
#define _GNU_SOURCE
#include "tests/fixture.h"
#include "tests/temporary.h"

#include "core/export.h"
#include "data/token_file.h"
#include "train/trainer.h"

#include <sys/stat.h>

enum { STEPS = 10, DOCUMENTS = 5, LENGTH = 40 };

struct site {
    struct temporary folder;
    char tokens[300];
};

static void site_open(struct site *site, const char *model, int64_t vocabulary) {
    struct token_file_info info = {.vocabulary = vocabulary};
    struct token_writer *writer;
    struct tokenizer *tokenizer;
    if (tokenizer_open(&tokenizer, model) == STATUS_OK) {
        info.tokenizer_hash = tokenizer_hash(tokenizer);
        tokenizer_close(tokenizer);
    }
    temporary_open(&site->folder);
    snprintf(site->tokens, sizeof site->tokens, "%s/tokens.h5", site->folder.path);
    assert_ok(token_writer_create(&writer, site->tokens, &info));
    for (int d = 0; d < DOCUMENTS; d++) {
        int32_t ids[LENGTH];
        int64_t count = LENGTH - 7 * d;
        for (int64_t i = 0; i < count; i++)
            ids[i] = (int32_t)((i * i * 13 + 31 * d + 5) % vocabulary);
        assert_ok(token_writer_append(writer, ids, NULL, count));
    }
    assert_ok(token_writer_finish(writer));
}

static void site_close(struct site *site) {
    char command[512];
    snprintf(command, sizeof command, "rm -rf %s", site->folder.path);
    assert_int_equal(system(command), 0);
}

struct run {
    struct run_options options;
    struct config_table tables[RUN_TABLES];
    struct parallel parallel;
    struct trainer trainer;
};

static enum status run_open(struct run *run, struct site *site, const char *model,
                            const char *settings) {
    static char program[] = "test";
    char *argv_storage[] = {program, NULL}, **argv = argv_storage, text[2048];
    int argc = 1;
    memset(run, 0, sizeof *run);
    snprintf(text, sizeof text,
             "model: {path: %s, tokenizer: '', %s}\n"
             "data: {train: [%s], sequence_length: 64, packing: off, shuffle: false}\n"
             "train: {out: %s/run, mode: lora, steps: %d, global_batch: %d, schedule: constant,\n"
             "        lr: 1e-2, clip: 1, threads: 2}\n"
             "lora: {rank: 4, alpha: 16}\n",
             model, settings, site->tokens, site->folder.path, STEPS, DOCUMENTS);
    run_options_tables(&run->options, run->tables);
    assert_ok(config_parse(run->tables, RUN_TABLES, text, strlen(text), "test.yaml", NULL, 0));
    TRY(run_options_check(&run->options));
    assert_ok(parallel_start(&run->parallel, &argc, &argv));
    return trainer_open(&run->trainer, &run->options, &run->parallel);
}

static void run_close(struct run *run) {
    trainer_close(&run->trainer);
    parallel_finish(&run->parallel);
    config_free(run->tables, RUN_TABLES);
}

static void run_steps(struct run *run, double losses[STEPS]) {
    for (int step = 0; step < STEPS; step++) {
        struct step_report report;
        assert_ok(trainer_step(&run->trainer, &report));
        losses[step] = report.loss;
    }
}

/* The weights of an opened run as a directory of F32, which has their exact values. */
static void write_values(struct run *run, const char *path) {
    const struct export_request request = {
        .model = &run->trainer.model, .dtype = DTYPE_F32, .path = path};
    assert_ok(export_model(&request));
}

/* `kept` says how the base is quantized, `plain` what holds its values instead. */
static void check_run(const char *model, int64_t vocabulary, const char *kept, const char *plain) {
    struct site site;
    struct run run;
    double got[STEPS], want[STEPS];
    char values[300];
    site_open(&site, model, vocabulary);
    snprintf(values, sizeof values, "%s/values", site.folder.path);
    assert_ok(run_open(&run, &site, model, kept));
    write_values(&run, values);
    const struct arena *arena = &run.trainer.model.arena;
    void *before = malloc(arena->used);
    memcpy(before, arena->base, arena->used);
    struct trainer_memory planned, held = trainer_memory(&run.trainer);
    assert_ok(trainer_plan(&run.options, 1, &planned));
    assert_memory_equal(&planned, &held, sizeof held);
    run_steps(&run, got);
    assert_memory_equal(before, arena->base, arena->used); /* frozen */
    free(before);
    run_close(&run);
    assert_ok(run_open(&run, &site, values, plain));
    assert_true(held.weights < trainer_memory(&run.trainer).weights);
    run_steps(&run, want);
    run_close(&run);
    assert_true(got[STEPS - 1] < got[0] - 0.05); /* it learns */
    for (int i = 0; i < STEPS; i++)
        if (!(fabs(got[i] - want[i]) <= 1e-6 * want[i]))
            fail_msg("%s %s: step %d has loss %.9g, want %.9g", model, kept, i + 1, got[i],
                     want[i]);
    site_close(&site);
}

static void test_nf4_is_lora_on_its_values(void **state) {
    (void)state;
    check_run("models/base", 4096, "weights: nf4", "dtype: fp32");
    check_run("models/base", 4096, "weights: nf4, dtype: bf16", "dtype: bf16");
    check_run("tests/fixtures/qwen2", 128, "weights: nf4", "dtype: fp32");
}

/* Rows of q and k are permuted in a llama's GGUF; what blocks of 32 don't fill is F16. */
static void test_stored_blocks_are_lora_on_their_values(void **state) {
    (void)state;
    struct model model;
    struct model_file file;
    struct temporary folder;
    char path[300];
    temporary_open(&folder);
    snprintf(path, sizeof path, "%s/model.gguf", folder.path);
    assert_ok(model_file_open(&file, "models/base", false));
    assert_ok(model_load(&model, &file, NULL, LAYOUT_PANEL_F32, 0, 2));
    const struct export_request request = {
        .model = &model, .format = EXPORT_GGUF, .dtype = DTYPE_Q8_0, .path = path};
    assert_ok(export_model(&request));
    model_free(&model);
    model_file_close(&file);
    check_run(path, 4096, "weights: stored", "dtype: fp32");
    check_run(path, 4096, "weights: stored, dtype: bf16", "dtype: bf16");
    temporary_close(&folder);
}

static void test_real_files_are_lora_on_their_values(void **state) {
    (void)state;
    static const char *const names[] = {"random256-Q4_K_M", "stories260K-Q4_K_M_fallback",
                                        "stories260K-pad192-Q5_1"};
    for (int i = 0; i < 3; i++) {
        char path[512];
        struct model_file file;
        struct model_config config;
        snprintf(path, sizeof path, "%s/gguf_stories260k_quantised/%s.gguf", test_data_or_skip(),
                 names[i]);
        assert_ok(model_file_open(&file, path, false));
        assert_ok(model_config_read(&config, &file));
        model_file_close(&file);
        check_run(path, config.vocab, "weights: stored", "dtype: fp32");
    }
}

/* A checkpoint of an adapter goes on from the same base, to the bit. */
static void test_resumes_to_the_bit(void **state) {
    (void)state;
    struct site site;
    struct run run;
    double whole[STEPS];
    struct step_report report;
    site_open(&site, "models/base", 4096);
    assert_int_equal(mkdir(temporary_file(&site.folder, "run"), 0777), 0);
    assert_ok(run_open(&run, &site, "models/base", "weights: nf4"));
    run_steps(&run, whole);
    run_close(&run);
    assert_ok(run_open(&run, &site, "models/base", "weights: nf4"));
    for (int step = 0; step < STEPS / 2; step++) assert_ok(trainer_step(&run.trainer, &report));
    assert_ok(trainer_checkpoint(&run.trainer, false));
    run_close(&run);
    assert_ok(run_open(&run, &site, "models/base", "weights: nf4"));
    assert_int_equal(run.trainer.step, STEPS / 2);
    for (int step = STEPS / 2; step < STEPS; step++) {
        assert_ok(trainer_step(&run.trainer, &report));
        assert_true(report.loss == whole[step]);
    }
    run_close(&run);
    site_close(&site);
}

static void test_full_training_needs_plain_weights(void **state) {
    (void)state;
    struct run_options options = {.model = {.weights = WEIGHTS_NF4}};
    char out[] = "x", path[] = "models/base", none[] = "";
    options.train.out = out;
    options.model.path = path;
    options.model.config = none;
    assert_int_equal(run_options_check(&options), STATUS_CONFIG);
    assert_string_equal(status_message(),
                        "model.weights nf4 is for a frozen base: it needs train.mode lora");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nf4_is_lora_on_its_values),
        cmocka_unit_test(test_stored_blocks_are_lora_on_their_values),
        cmocka_unit_test(test_real_files_are_lora_on_their_values),
        cmocka_unit_test(test_resumes_to_the_bit),
        cmocka_unit_test(test_full_training_needs_plain_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
