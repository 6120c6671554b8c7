/* Shards of a model: together they are the whole, and each rank's values are its rectangle of it,
 * loaded or drawn. */
#define _GNU_SOURCE
#include "tests/check.h"

#include "core/adapter.h"
#include "core/export.h"

#include <unistd.h>

static const char *const models[] = {"tests/fixtures/llama", "tests/fixtures/qwen2",
                                     "tests/fixtures/qwen3", "tests/fixtures/llama_tied_llama3"};
enum { MODELS = sizeof models / sizeof *models, MOST_RANKS = 8 };

static struct shard slice_of(const struct model_config *config, int rank, int size) {
    struct shard shard = shard_whole(config);
    shard.tp_rank = rank;
    shard.tp_size = size;
    return shard;
}

static float *read_all(const struct param *param) {
    float *values = malloc((size_t)(param->w.rows * param->w.cols) * sizeof *values);
    assert_non_null(values);
    param_read(values, param, 0, param->w.rows);
    return values;
}

/* `part` is the rectangle of `whole` that its slice says. */
static void check_rectangle(const struct param *part, const struct param *whole) {
    const struct param_slice *slice = &part->slice;
    assert_int_equal(slice->rows, whole->w.rows);
    assert_int_equal(slice->cols, whole->w.cols);
    assert_in_range(part->w.rows, 1, slice->rows - slice->first_row);
    assert_in_range(part->w.cols, 1, slice->cols - slice->first_col);
    float *mine = read_all(part), *all = read_all(whole);
    for (int64_t r = 0; r < part->w.rows; r++)
        assert_memory_equal(mine + r * part->w.cols,
                            all + (slice->first_row + r) * slice->cols + slice->first_col,
                            (size_t)part->w.cols * sizeof *mine);
    free(mine);
    free(all);
}

static int64_t check_params(const struct param *parts, const struct param *whole, int count) {
    int64_t elements = 0;
    for (int i = 0; i < count; i++) {
        assert_int_equal(parts[i].w.data != NULL, whole[i].w.data != NULL);
        if (!parts[i].w.data) continue;
        check_rectangle(&parts[i], &whole[i]);
        elements += parts[i].w.rows * parts[i].w.cols;
    }
    return elements;
}

static struct model load(const struct model_file *file, const struct shard *shard) {
    struct model model;
    assert_ok(model_load(&model, file, shard, LAYOUT_PANEL_F32, 0, 2));
    return model;
}

static void test_loaded_slices_are_rectangles_of_the_whole(void **state) {
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        struct model_file file;
        assert_ok(model_file_open(&file, models[m], false));
        struct model whole = load(&file, NULL);
        for (int size = 1; size <= MOST_RANKS; size *= 2) {
            if (shard_check(&whole.config, size) != STATUS_OK) continue;
            for (int rank = 0; rank < size; rank++) {
                struct shard shard = slice_of(&whole.config, rank, size);
                struct model part = load(&file, &shard);
                assert_true(check_params(part.params, whole.params, whole.param_count) > 0);
                model_free(&part);
            }
        }
        model_free(&whole);
        model_file_close(&file);
    }
}

/* Shards of a model whose linear layers stay quantized dequantize to the whole's weights; the
 * feed-forward width is cut between blocks. */
static void check_quantized(const char *path, enum layout layout, enum layout of_down,
                            const int64_t ffn[3]) {
    struct model_file file;
    struct model whole, part;
    assert_ok(model_file_open(&file, path, false));
    assert_ok(model_load(&whole, &file, NULL, layout, 0, 2));
    assert_int_equal(model_param(&whole, WEIGHT_DOWN, 0)->w.layout, of_down);
    for (int rank = 0; rank < 3; rank++) {
        struct shard shard = slice_of(&whole.config, rank, 3);
        assert_ok(model_load(&part, &file, &shard, layout, 0, 2));
        assert_int_equal(part.local.ffn, ffn[rank]);
        assert_int_equal(model_param(&part, WEIGHT_DOWN, 0)->w.layout, of_down);
        assert_true(check_params(part.params, whole.params, whole.param_count) > 0);
        model_free(&part);
    }
    model_free(&whole);
    model_file_close(&file);
}

/* A copy of `model` in Q8_0, in a file of its own. */
static void write_q8_0(const char *model_path, char path[]) {
    struct model_file file;
    struct model model;
    int handle = mkstemp(path);
    assert_true(handle >= 0);
    close(handle);
    assert_ok(model_file_open(&file, model_path, false));
    assert_ok(model_load(&model, &file, NULL, LAYOUT_PANEL_F32, 0, 2));
    const struct export_request request = {
        .model = &model, .format = EXPORT_GGUF, .dtype = DTYPE_Q8_0, .path = path};
    assert_ok(export_model(&request));
    model_free(&model);
    model_file_close(&file);
}

static void test_quantized_slices_have_the_values_of_the_whole(void **state) {
    (void)state;
    char path[] = "/tmp/strata-shard-XXXXXX";
    write_q8_0("models/base", path);
    check_quantized("models/base", LAYOUT_NF4, layout_nf4(512), (int64_t[]){128, 192, 192});
    check_quantized(path, LAYOUT_STORED, layout_stored(DTYPE_Q8_0), (int64_t[]){160, 160, 192});
    check_quantized("models/base", LAYOUT_STORED, LAYOUT_PANEL_BF16, (int64_t[]){170, 171, 171});
    unlink(path);
}

static void test_stored_blocks_that_would_be_cut_are_named(void **state) {
    (void)state;
    char path[] = "/tmp/strata-shard-XXXXXX";
    struct model_file file;
    struct model model;
    struct model_config config;
    write_q8_0("tests/fixtures/llama", path);
    assert_ok(model_file_open(&file, path, false));
    assert_ok(model_config_read(&config, &file));
    struct shard shard = slice_of(&config, 1, 4);
    assert_int_equal(model_load(&model, &file, &shard, LAYOUT_STORED, 0, 1), STATUS_CONFIG);
    assert_non_null(strstr(status_message(),
                           "o_proj.weight at column 16, inside a block of 32 that "
                           "stays quantized (Q8_0)"));
    model_file_close(&file);
    unlink(path);
}

static void test_blocks_that_would_be_cut_are_named(void **state) {
    (void)state;
    struct model_config config;
    struct model model;
    struct arena arena;
    arena_count(&arena, "weights");
    assert_ok(model_config_read_hf(&config, "tests/fixtures/llama"));
    struct shard shard = slice_of(&config, 0, 2);
    assert_int_equal(model_describe(&model, &config, &shard, LAYOUT_NF4, &arena), STATUS_CONFIG);
    assert_string_equal(status_message(),
                        "tp 2 cuts model.layers.0.self_attn.o_proj.weight at column 32, inside a "
                        "block of 64 that stays quantized (nf4): choose another parallel.tp, or "
                        "fp32 or bf16 weights");
    config.head_dim = 64;
    assert_int_equal(model_describe(&model, &config, &shard, LAYOUT_NF4, &arena), STATUS_CONFIG);
    assert_non_null(
        strstr(status_message(), "leaves a rank nothing of model.layers.0.mlp.gate_proj"));
    assert_null(model.params);
}

static void test_random_values_belong_to_the_element(void **state) {
    (void)state;
    struct model_config config;
    struct model whole, part;
    struct adapter factors, part_factors;
    struct adapter_config lora = {.rank = 4, .alpha = 8};
    for (int id = 0; id < WEIGHT_COUNT; id++) lora.targets[id] = weight_table[id].lora_target;
    assert_ok(model_config_read_hf(&config, "tests/fixtures/qwen2"));
    assert_ok(model_create(&whole, &config, NULL, LAYOUT_PANEL_F32));
    model_init_random(&whole, 5, 0.02f, 2);
    assert_ok(adapter_create(&factors, "whole", &whole, &lora, 9));
    for (int rank = 0; rank < 2; rank++) {
        struct shard shard = slice_of(&config, rank, 2);
        assert_ok(model_create(&part, &config, &shard, LAYOUT_PANEL_F32));
        model_init_random(&part, 5, 0.02f, 2);
        check_params(part.params, whole.params, whole.param_count);
        assert_ok(adapter_create(&part_factors, "part", &part, &lora, 9));
        check_params(part_factors.params, factors.params, factors.param_count);
        adapter_free(&part_factors);
        model_free(&part);
    }
    adapter_free(&factors);
    model_free(&whole);
}

/* Every element of every weight lies on as many tensor-parallel ranks as shard_copies says. */
static void check_cover(const struct model_config *config, int size, enum weight_id id) {
    const struct weight_row *row = &weight_table[id];
    enum weight_dim dim = row->shard == SHARD_COLS ? row->cols : row->rows;
    int64_t total = weight_dim_size(config, dim);
    int *holders = calloc((size_t)total, sizeof *holders);
    assert_non_null(holders);
    int copies = 0;
    for (int rank = 0; rank < size; rank++) {
        struct shard shard = slice_of(config, rank, size);
        struct shard_range range = shard_range(&shard, config, dim);
        copies = shard_copies(&shard, config, id);
        for (int64_t i = 0; i < range.count; i++) holders[range.first + i]++;
    }
    for (int64_t i = 0; i < total; i++) assert_int_equal(holders[i], copies);
    free(holders);
}

static void test_slices_cover_each_weight(void **state) {
    (void)state;
    struct model_config config = {.vocab = 1000,
                                  .hidden = 64,
                                  .ffn = 172,
                                  .layers = 2,
                                  .heads = 8,
                                  .kv_heads = 2,
                                  .head_dim = 16};
    for (config.kv_heads = 1; config.kv_heads <= 8; config.kv_heads *= 2)
        for (int size = 1; size <= 8; size *= 2) {
            assert_ok(shard_check(&config, size));
            for (int id = 0; id < WEIGHT_COUNT; id++)
                check_cover(&config, size, (enum weight_id)id);
        }
}

static void test_a_stage_holds_its_layers_and_ends(void **state) {
    (void)state;
    struct model_config config;
    struct model model;
    assert_ok(model_config_read_hf(&config, "tests/fixtures/llama_tied_llama3"));
    assert_true(config.tied && config.layers >= 2);
    struct shard last = shard_whole(&config);
    last.first_layer = 1;
    last.embedding = false;
    assert_ok(model_create(&model, &config, &last, LAYOUT_PANEL_F32));
    assert_null(model_param(&model, WEIGHT_Q, 0));
    assert_non_null(model_param(&model, WEIGHT_Q, 1));
    assert_non_null(model_param(&model, WEIGHT_FINAL_NORM, -1));
    assert_non_null(model_head(&model)); /* the tied embedding, a second copy */
    model_free(&model);
    struct shard first = shard_whole(&config);
    first.end_layer = 1;
    first.head = false;
    assert_ok(model_create(&model, &config, &first, LAYOUT_PANEL_F32));
    assert_non_null(model_param(&model, WEIGHT_EMBED, -1));
    assert_null(model_param(&model, WEIGHT_FINAL_NORM, -1));
    assert_null(model_param(&model, WEIGHT_Q, 1));
    model_free(&model);
}

static void test_what_can_not_be_shared_is_named(void **state) {
    (void)state;
    struct model_config config = {.vocab = 1000,
                                  .hidden = 64,
                                  .ffn = 172,
                                  .layers = 2,
                                  .heads = 12,
                                  .kv_heads = 4,
                                  .head_dim = 16};
    assert_int_equal(shard_check(&config, 5), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "12 attention heads"));
    assert_int_equal(shard_check(&config, 6), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "4 key/value heads"));
    config.ffn = 2;
    assert_int_equal(shard_check(&config, 4), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "feed-forward width of 2"));
}

/* Two layers by hand: 4 heads of 8 (16 wide, so q and o are 16 x 32), 2 key/value heads, ffn 48. */
static void test_training_flops(void **state) {
    (void)state;
    struct model_config config = {.family = FAMILY_LLAMA,
                                  .vocab = 100,
                                  .hidden = 16,
                                  .ffn = 48,
                                  .layers = 2,
                                  .heads = 4,
                                  .kv_heads = 2,
                                  .head_dim = 8};
    const double layer = 2 * (16 * 32) + 2 * (16 * 16) + 3 * (16 * 48) + 2 * 16;
    const double used = 2 * layer + 16 + 100 * 16; /* the head's 100 x 16, not the look-up's */
    const double attention = 2 * 6 * 4 * 8 * 64;   /* 12 L H D of 64 / 2 positions */
    assert_true(model_config_parameters(&config) == (int64_t)used + 100 * 16);
    assert_true(model_config_training_flops(&config, 64, false) == 6 * used + attention);
    assert_true(model_config_training_flops(&config, 64, true) == 4 * used + attention);
    config.tied = true; /* one matrix less, which did the same work */
    assert_true(model_config_parameters(&config) == (int64_t)used);
    assert_true(model_config_training_flops(&config, 64, false) == 6 * used + attention);
    assert_true(model_config_training_flops(&config, 64, true) == 4 * used + attention);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_training_flops),
        cmocka_unit_test(test_loaded_slices_are_rectangles_of_the_whole),
        cmocka_unit_test(test_quantized_slices_have_the_values_of_the_whole),
        cmocka_unit_test(test_blocks_that_would_be_cut_are_named),
        cmocka_unit_test(test_stored_blocks_that_would_be_cut_are_named),
        cmocka_unit_test(test_random_values_belong_to_the_element),
        cmocka_unit_test(test_slices_cover_each_weight),
        cmocka_unit_test(test_a_stage_holds_its_layers_and_ends),
        cmocka_unit_test(test_what_can_not_be_shared_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
