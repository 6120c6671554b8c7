#define _GNU_SOURCE
/* What model_load refuses, each with one sentence that names file and tensor. */
#include "tests/temporary.h"

#include "core/model.h"
#include "core/safetensors_write.h"

/* The smallest model: one layer of one head. */
static const char config_json[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 4,"
    " \"hidden_size\": 4, \"intermediate_size\": 8, \"num_hidden_layers\": 1,"
    " \"num_attention_heads\": 1, \"num_key_value_heads\": 1, \"tie_word_embeddings\": true,"
    " \"max_position_embeddings\": 16}";
enum { MAX_SPECS = 16, MAX_ELEMENTS = 64 };

struct files {
    struct temporary folder;
    struct tensor_spec specs[MAX_SPECS];
    int count;
    const char *poisoned; /* this tensor's element 5 (or 1) is `poison` */
    float poison;
};

static void open_files(struct files *files) {
    *files = (struct files){
        .specs = {{"model.embed_tokens.weight", DTYPE_F32, 2, {4, 4}},
                  {"model.layers.0.input_layernorm.weight", DTYPE_F32, 1, {4}},
                  {"model.layers.0.self_attn.q_proj.weight", DTYPE_F32, 2, {4, 4}},
                  {"model.layers.0.self_attn.k_proj.weight", DTYPE_F32, 2, {4, 4}},
                  {"model.layers.0.self_attn.v_proj.weight", DTYPE_F32, 2, {4, 4}},
                  {"model.layers.0.self_attn.o_proj.weight", DTYPE_F32, 2, {4, 4}},
                  {"model.layers.0.post_attention_layernorm.weight", DTYPE_F32, 1, {4}},
                  {"model.layers.0.mlp.gate_proj.weight", DTYPE_F32, 2, {8, 4}},
                  {"model.layers.0.mlp.up_proj.weight", DTYPE_F32, 2, {8, 4}},
                  {"model.layers.0.mlp.down_proj.weight", DTYPE_F32, 2, {4, 8}},
                  {"model.norm.weight", DTYPE_F32, 1, {4}}},
        .count = 11};
    temporary_open(&files->folder);
    temporary_write(&files->folder, "config.json", config_json, strlen(config_json));
}

static int find(const struct files *files, const char *name) {
    int i = 0;
    while (i < files->count && !strstr(files->specs[i].name, name)) i++;
    assert_true(i < files->count);
    return i;
}

static void write_tensors(struct files *files) {
    struct tensor_sink sink;
    assert_ok(safetensors_create(&sink, temporary_file(&files->folder, "model.safetensors"),
                                 files->specs, files->count, NULL, 0));
    for (int i = 0; i < files->count; i++) {
        float values[MAX_ELEMENTS];
        struct file_tensor measured;
        assert_ok(tensor_spec_measure(&files->specs[i], &measured));
        assert_true(measured.elements <= MAX_ELEMENTS);
        for (int e = 0; e < MAX_ELEMENTS; e++) values[e] = 0.25f * (float)(e % 7 - 3);
        if (files->poisoned && strstr(files->specs[i].name, files->poisoned))
            values[measured.elements > 5 ? 5 : 1] = files->poison;
        unsigned char bytes[MAX_ELEMENTS * 4];
        memset(bytes, 0, sizeof bytes);
        if (files->specs[i].dtype == DTYPE_F32)
            assert_ok(tensor_sink_append_f32(&sink, values, (size_t)measured.elements));
        else
            assert_ok(tensor_sink_append(&sink, bytes, measured.bytes));
    }
    assert_ok(tensor_sink_finish(&sink));
    tensor_sink_close(&sink);
}

static void check_message(const char *word) {
    const char *message = status_message();
    if (!strstr(message, word)) fail_msg("'%s' doesn't name %s", message, word);
    assert_null(strchr(message, '\n'));
    assert_non_null(strstr(message, "strata-test-")); /* the file */
}

static enum status load(struct files *files, bool header_only, struct model *model) {
    struct model_file file;
    assert_ok(model_file_open(&file, files->folder.path, header_only));
    enum status status = model_load(model, &file, NULL, LAYOUT_COUNT, 0, 2);
    model_file_close(&file);
    return status;
}

/* The files as they are now are refused with `status`, naming `word`. */
static void refuse(struct files *files, enum status status, const char *word) {
    struct model model = {0};
    write_tensors(files);
    assert_int_equal(load(files, false, &model), status);
    check_message(word);
    assert_null(model.params);
    temporary_close(&files->folder);
}

static void test_whole_file_loads(void **state) {
    (void)state;
    struct files files;
    struct model model;
    open_files(&files);
    write_tensors(&files);
    assert_ok(load(&files, false, &model));
    float row[8];
    param_read(row, model_param(&model, WEIGHT_DOWN, 0), 3, 1); /* elements 24 .. 31 */
    for (int i = 0; i < 8; i++) assert_true(row[i] == 0.25f * (float)((24 + i) % 7 - 3));
    model_free(&model);
    temporary_close(&files.folder);
}

static void test_missing_tensor(void **state) {
    (void)state;
    struct files files;
    for (int i = 0; i < 11; i++) {
        char name[WEIGHT_NAME_BYTES];
        open_files(&files);
        snprintf(name, sizeof name, "%s", files.specs[i].name);
        files.specs[i] = files.specs[--files.count];
        refuse(&files, STATUS_FORMAT, name);
    }
}

static void test_wrong_shapes(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int dims;
        int64_t shape[3];
    } cases[] = {
        {"embed_tokens", 2, {5, 4}}, {"q_proj", 2, {4, 2}},          {"q_proj", 1, {16}},
        {"q_proj", 3, {1, 4, 4}},    {"gate_proj", 2, {4, 8}},       {"gate_proj", 2, {0, 4}},
        {"input_layernorm", 1, {5}}, {"input_layernorm", 2, {1, 4}}, {"norm", 0, {0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct files files;
        open_files(&files);
        struct tensor_spec *spec = &files.specs[find(&files, cases[i].name)];
        spec->dims = cases[i].dims;
        memcpy(spec->shape, cases[i].shape, sizeof cases[i].shape);
        refuse(&files, STATUS_SHAPE, spec->name);
    }
}

static void test_values_that_are_no_numbers(void **state) {
    (void)state;
    static const char *const names[] = {"embed_tokens", "down_proj", "layers.0.input_layernorm",
                                        "model.norm"};
    static const float poisons[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < 3; j++) {
            struct files files;
            open_files(&files);
            files.poisoned = names[i];
            files.poison = poisons[j];
            refuse(&files, STATUS_NUMERIC, names[i]);
        }
}

static void test_dtypes_that_are_no_weights(void **state) {
    (void)state;
    struct files files;
    open_files(&files);
    files.specs[find(&files, "k_proj")].dtype = DTYPE_I32;
    refuse(&files, STATUS_UNSUPPORTED, "k_proj");
}

static void test_header_without_data(void **state) {
    (void)state;
    struct files files;
    struct model model = {0};
    struct model_file file;
    open_files(&files);
    write_tensors(&files);
    uint64_t header;
    const char *path = temporary_file(&files.folder, "model.safetensors");
    FILE *in = fopen(path, "rb");
    assert_int_equal(fread(&header, sizeof header, 1, in), 1);
    fclose(in);
    assert_int_equal(truncate(path, (off_t)(header + sizeof header)), 0);
    assert_int_not_equal(model_file_open(&file, files.folder.path, false), STATUS_OK);
    check_message("model.safetensors");
    assert_int_not_equal(load(&files, true, &model), STATUS_OK); /* opened to be inspected */
    check_message("model.embed_tokens.weight");
    assert_null(model.params);
    temporary_close(&files.folder);
}

static void test_config_is_needed(void **state) {
    (void)state;
    struct files files;
    open_files(&files);
    unlink(temporary_file(&files.folder, "config.json"));
    refuse(&files, STATUS_IO, "config.json");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_file_loads),
        cmocka_unit_test(test_missing_tensor),
        cmocka_unit_test(test_wrong_shapes),
        cmocka_unit_test(test_values_that_are_no_numbers),
        cmocka_unit_test(test_dtypes_that_are_no_weights),
        cmocka_unit_test(test_header_without_data),
        cmocka_unit_test(test_config_is_needed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
