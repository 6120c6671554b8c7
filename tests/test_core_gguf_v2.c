#define _GNU_SOURCE
/* A GGUF file of version 2, read whole. It differs from version 3 in its number alone (3 allows
 * big-endian files; 2 made all lengths 64 bits wide). The file is put together here, byte by byte
 * after the specification (ggml/docs/gguf.md, "Version history"), as converters of 2023 wrote them:
 * no vocabulary size, no alignment, weights in F32. */
#include "tests/fixture.h"
#include "tests/temporary.h"

#include "core/export.h"

enum { UINT32 = 4, FLOAT32 = 6, STRING = 8, TOKENS = 40 };

/* What is written. */
struct writer {
    FILE *out;
    struct model_file source; /* the fixture's safetensors */
};

static void put(struct writer *w, const void *data, size_t bytes) {
    assert_int_equal(fwrite(data, 1, bytes, w->out), bytes);
}

static void put_u32(struct writer *w, uint32_t value) {
    put(w, &value, sizeof value);
}

static void put_u64(struct writer *w, uint64_t value) {
    put(w, &value, sizeof value);
}

static void put_string(struct writer *w, const char *text) {
    put_u64(w, strlen(text));
    put(w, text, strlen(text));
}

static void put_text(struct writer *w, const char *key, const char *value) {
    put_string(w, key);
    put_u32(w, STRING);
    put_string(w, value);
}

static void put_count(struct writer *w, const char *key, uint32_t value) {
    put_string(w, key);
    put_u32(w, UINT32);
    put_u32(w, value);
}

static void put_number(struct writer *w, const char *key, float value) {
    put_string(w, key);
    put_u32(w, FLOAT32);
    put(w, &value, sizeof value);
}

static void put_padding(struct writer *w) {
    static const char zeros[32];
    long at = ftell(w->out);
    put(w, zeros, (size_t)((32 - at % 32) % 32));
}

/* --- tests/fixtures/llama: 2 layers, width 32, 4 heads of 16, 2 of keys, untied ----------------
 */

enum { LAYERS = 2, HEAD = 16, PER_LAYER = 9, TENSORS = LAYERS * PER_LAYER + 3 };
static const struct {
    const char *gguf, *hf;
    int rotated; /* rows come in heads whose pairs (i, i + D/2) GGUF stores as neighbours */
} layer_names[PER_LAYER] = {
    {"attn_norm", "input_layernorm", 0},    {"attn_q", "self_attn.q_proj", 1},
    {"attn_k", "self_attn.k_proj", 1},      {"attn_v", "self_attn.v_proj", 0},
    {"attn_output", "self_attn.o_proj", 0}, {"ffn_norm", "post_attention_layernorm", 0},
    {"ffn_gate", "mlp.gate_proj", 0},       {"ffn_up", "mlp.up_proj", 0},
    {"ffn_down", "mlp.down_proj", 0}};

/* Tensor number i: its names, and whether its rows are rotated. */
static const struct file_tensor *tensor_at(const struct writer *w, int i, char gguf[64],
                                           int *rotated) {
    static const char *const outside[3][2] = {{"token_embd.weight", "model.embed_tokens.weight"},
                                              {"output_norm.weight", "model.norm.weight"},
                                              {"output.weight", "lm_head.weight"}};
    char hf[128];
    *rotated = 0;
    if (i < 3) {
        snprintf(gguf, 64, "%s", outside[i][0]);
        snprintf(hf, sizeof hf, "%s", outside[i][1]);
    } else {
        int layer = (i - 3) / PER_LAYER, row = (i - 3) % PER_LAYER;
        snprintf(gguf, 64, "blk.%d.%s.weight", layer, layer_names[row].gguf);
        snprintf(hf, sizeof hf, "model.layers.%d.%s.weight", layer, layer_names[row].hf);
        *rotated = layer_names[row].rotated;
    }
    const struct file_tensor *tensor = model_file_find(&w->source, hf);
    if (!tensor) fail_msg("no tensor %s", hf);
    assert_int_equal(tensor->dtype, DTYPE_F32);
    return tensor;
}

static void put_infos(struct writer *w) {
    uint64_t offset = 0;
    for (int i = 0; i < TENSORS; i++) {
        char name[64];
        int rotated;
        const struct file_tensor *tensor = tensor_at(w, i, name, &rotated);
        put_string(w, name);
        put_u32(w, (uint32_t)tensor->dims);
        for (int d = tensor->dims - 1; d >= 0; d--) put_u64(w, (uint64_t)tensor->shape[d]);
        put_u32(w, 0); /* F32 */
        put_u64(w, offset);
        offset += (tensor->bytes + 31) / 32 * 32;
    }
}

static void put_tensors(struct writer *w) {
    for (int i = 0; i < TENSORS; i++) {
        char name[64];
        int rotated;
        put_padding(w);
        const struct file_tensor *tensor = tensor_at(w, i, name, &rotated);
        const char *data = tensor->data;
        int64_t rows = tensor->dims == 2 ? tensor->shape[0] : 1;
        size_t row_bytes = tensor->bytes / (size_t)rows;
        for (int64_t row = 0; row < rows; row++) {
            int64_t in_head = row % HEAD, from = row;
            if (rotated) from += in_head / 2 + in_head % 2 * (HEAD / 2) - in_head;
            put(w, data + (size_t)from * row_bytes, row_bytes);
        }
    }
    put_padding(w);
}

static void write_file(const char *path) {
    struct writer w;
    assert_ok(model_file_open(&w.source, "tests/fixtures/llama", false));
    w.out = fopen(path, "wb");
    assert_non_null(w.out);
    put(&w, "GGUF", 4);
    put_u32(&w, 2);
    put_u64(&w, TENSORS);
    put_u64(&w, 13);
    put_text(&w, "general.architecture", "llama");
    put_text(&w, "general.name", "fixture");
    put_count(&w, "general.file_type", 0);
    put_text(&w, "llama.tensor_data_layout", "Meta AI original pth");
    put_count(&w, "llama.context_length", 128);
    put_count(&w, "llama.embedding_length", 32);
    put_count(&w, "llama.block_count", LAYERS);
    put_count(&w, "llama.feed_forward_length", 64);
    put_count(&w, "llama.attention.head_count", 4);
    put_count(&w, "llama.attention.head_count_kv", 2);
    put_count(&w, "llama.attention.key_length", HEAD);
    put_count(&w, "llama.rope.dimension_count", HEAD);
    put_number(&w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    put_infos(&w);
    put_tensors(&w);
    assert_int_equal(fclose(w.out), 0);
    model_file_close(&w.source);
}

static float *logits_of(const char *path, uint32_t version, int64_t *count) {
    struct model_file file;
    struct model model;
    int32_t ids[TOKENS];
    assert_ok(model_file_open(&file, path, false));
    if (version) assert_int_equal(file.gguf_version, version);
    assert_ok(model_load(&model, &file, NULL, LAYOUT_PANEL_F32, 0, 1));
    for (int i = 0; i < TOKENS; i++) ids[i] = (int32_t)((i * i + 3 * i + 1) % model.config.vocab);
    float *logits = model_logits(&model, ids, TOKENS, NULL);
    *count = TOKENS * model.config.vocab;
    model_free(&model);
    model_file_close(&file);
    return logits;
}

static void assert_same_logits(const char *path, uint32_t version, const float *want,
                               int64_t count) {
    int64_t got_count;
    float *got = logits_of(path, version, &got_count);
    assert_int_equal(got_count, count);
    assert_memory_equal(got, want, (size_t)count * sizeof *got);
    free(got);
}

/* The same bits as the safetensors, and as the file of version 3 that we write from them. */
static void test_version_2_computes_the_same(void **state) {
    (void)state;
    struct temporary folder;
    struct model model;
    struct model_file file;
    int64_t count;
    temporary_open(&folder);
    float *want = logits_of("tests/fixtures/llama", 0, &count);
    const char *path = temporary_file(&folder, "v2.gguf");
    write_file(path);
    assert_same_logits(path, 2, want, count);
    assert_ok(model_file_open(&file, path, false));
    assert_ok(model_load(&model, &file, NULL, LAYOUT_PANEL_F32, 0, 1));
    path = temporary_file(&folder, "v3.gguf");
    const struct export_request request = {
        .model = &model, .format = EXPORT_GGUF, .dtype = DTYPE_F32, .path = path};
    assert_ok(export_model(&request));
    assert_same_logits(path, 3, want, count);
    model_free(&model);
    model_file_close(&file);
    free(want);
    temporary_close(&folder);
}

/* Files that others wrote as version 3, quantized ones too, under the older number. */
static void test_number_alone_makes_no_difference(void **state) {
    (void)state;
    static const char *const names[] = {
        "gguf_stories260k_quantised/stories260K-F32.gguf",
        "gguf_stories260k_quantised/stories260K-pad192-Q4_0.gguf",
        "gguf_stories260k_quantised/random256-Q4_K_M.gguf",
        "llama2_tiny_random_gguf/llama-2-tiny-random.gguf",
    };
    struct temporary folder;
    const char *data = test_data_or_skip();
    temporary_open(&folder);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[1024];
        int64_t count;
        const uint32_t version = 2;
        snprintf(path, sizeof path, "%s/%s", data, names[i]);
        float *want = logits_of(path, 3, &count);
        FILE *in = fopen(path, "rb");
        assert_non_null(in);
        assert_int_equal(fseek(in, 0, SEEK_END), 0);
        size_t bytes = (size_t)ftell(in);
        rewind(in);
        char *copy = malloc(bytes);
        assert_int_equal(fread(copy, 1, bytes, in), bytes);
        fclose(in);
        memcpy(copy + 4, &version, sizeof version);
        temporary_write(&folder, "v2.gguf", copy, bytes);
        free(copy);
        assert_same_logits(temporary_file(&folder, "v2.gguf"), 2, want, count);
        free(want);
    }
    temporary_close(&folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_version_2_computes_the_same),
        cmocka_unit_test(test_number_alone_makes_no_difference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
