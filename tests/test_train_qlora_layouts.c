/* LoRA on a quantized base under other layouts equals one rank: shards dequantize to the same
 * weights, also where the feed-forward width has an odd number of blocks. */
#define _GNU_SOURCE
#include "tests/layouts.h"

#include "core/export.h"

static struct parallel job; /* cmocka's tests take no arguments */

static const char shape[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 96, "
    "\"hidden_size\": 96, \"intermediate_size\": 320, \"num_hidden_layers\": 2, "
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 32, "
    "\"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, "
    "\"tie_word_embeddings\": false, \"hidden_act\": \"silu\", \"torch_dtype\": \"float32\"}";

/* FOLDER/model and FOLDER/model.gguf in Q8_0, of random weights. */
static void write_models(const struct layout_site *site, const char *directory, const char *gguf) {
    struct model_config config;
    struct model model;
    char path[512];
    snprintf(path, sizeof path, "%s/shape.json", site->folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(shape, file);
    assert_int_equal(fclose(file), 0);
    assert_ok(model_config_read_json(&config, path));
    assert_ok(model_create(&model, &config, NULL, LAYOUT_PANEL_F32));
    model_init_random(&model, 3, 0.05f, 1);
    const struct export_request plain = {.model = &model, .dtype = DTYPE_F32, .path = directory};
    const struct export_request blocks = {
        .model = &model, .format = EXPORT_GGUF, .dtype = DTYPE_Q8_0, .path = gguf};
    assert_ok(export_model(&plain));
    assert_ok(export_model(&blocks));
    model_free(&model);
}

#define LORA "train.mode=lora", "lora.rank=4", "train.global_batch=5"

static void test_ranks_equal_one(void **state) {
    (void)state;
    struct layout_site site;
    char directory[300], gguf[300];
    layout_site_open(&site, &job);
    snprintf(directory, sizeof directory, "%s/model", site.folder);
    snprintf(gguf, sizeof gguf, "%s/model.gguf", site.folder);
    if (job.world.rank == 0) write_models(&site, directory, gguf);
    assert_ok(parallel_agree(&job.world, STATUS_OK));
    const struct layout_case cases[] = {
        {"tp2, nf4", 2, directory, LIMITS_FP32_CUT, {LORA, "model.weights=nf4"}, {"parallel.tp=2"}},
        {"tp2, nf4, dropout, accumulation, recomputed",
         2,
         directory,
         LIMITS_FP32_CUT,
         {LORA, "model.weights=nf4", "lora.dropout=0.2", "train.micro_batch=1",
          "train.recompute=full"},
         {"parallel.tp=2"}},
        {"tp2, stored Q8_0",
         2,
         gguf,
         LIMITS_FP32_CUT,
         {LORA, "model.weights=stored"},
         {"parallel.tp=2"}},
        {"pp2, stored Q8_0",
         2,
         gguf,
         LIMITS_FP32,
         {LORA, "model.weights=stored", "train.micro_batch=1"},
         {"parallel.pp=2"}},
        {"dp2, nf4", 2, directory, LIMITS_FP32, {LORA, "model.weights=nf4"}, {"parallel.dp=2"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (cases[i].ranks == job.world.size) layout_compare(&site, &cases[i]);
    layout_site_close(&site);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ranks_equal_one)};
    if (parallel_start(&job, &argc, &argv) != STATUS_OK) return 1;
    job.threads = 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) parallel_abort(&job, "comparing layouts");
    parallel_finish(&job);
    return failed;
}
