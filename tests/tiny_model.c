#define _GNU_SOURCE
#include "tests/tiny_model.h"

#include "core/adapter.h"
#include "kernels/base/rng.h"
#include "tests/check.h"

#include <ftw.h>
#include <jansson.h>
#include <unistd.h>

enum { BYTES = 256, IM_START = 256, IM_END = 257, END_OF_TEXT = 258, VOCAB = 272 };

static const char template_text[] =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\\n' }}{% endif %}";

static void write_json(const char *directory, const char *name, json_t *json) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    assert_non_null(json);
    assert_int_equal(json_dump_file(json, path, 0), 0);
    json_decref(json);
}

/* GPT-2's letter for a byte: itself where it is printable, else from U+0100 on. */
static json_t *byte_letter(int byte) {
    int code = byte, hidden = 0;
    for (int b = 0; b <= byte; b++) {
        bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        if (b == byte && !printable) code = 256 + hidden;
        hidden += !printable;
    }
    char text[3] = {(char)code, 0, 0};
    if (code >= 0x80) {
        text[0] = (char)(0xC0 | code >> 6);
        text[1] = (char)(0x80 | (code & 0x3F));
    }
    return json_string(text);
}

static json_t *added_token(int id, const char *text) {
    return json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", text,
                     "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1);
}

static void write_tokenizer(const char *directory) {
    json_t *vocab = json_object();
    for (int byte = 0; byte < BYTES; byte++) {
        json_t *letter = byte_letter(byte);
        json_object_set_new(vocab, json_string_value(letter), json_integer(byte));
        json_decref(letter);
    }
    json_t *added =
        json_pack("[o, o, o]", added_token(IM_START, "<|im_start|>"),
                  added_token(IM_END, "<|im_end|>"), added_token(END_OF_TEXT, "<|endoftext|>"));
    json_t *split = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                              "trim_offsets", 1, "use_regex", 1);
    json_t *model = json_pack("{s:s, s:o, s:[]}", "type", "BPE", "vocab", vocab, "merges");
    write_json(directory, "tokenizer.json",
               json_pack("{s:s, s:o, s:O, s:o, s:o}", "version", "1.0", "added_tokens", added,
                         "pre_tokenizer", split, "decoder", split, "model", model));
    write_json(directory, "tokenizer_config.json",
               json_pack("{s:s, s:s, s:n, s:s}", "tokenizer_class", "PreTrainedTokenizerFast",
                         "eos_token", "<|endoftext|>", "bos_token", "chat_template",
                         template_text));
}

static struct model_config tiny_config(void) {
    return (struct model_config){
        .family = FAMILY_LLAMA,
        .vocab = VOCAB,
        .hidden = 32,
        .ffn = 64,
        .layers = 2,
        .heads = 4,
        .kv_heads = 2,
        .head_dim = 16,
        .norm_eps = 1e-5f,
        .max_context = TINY_CONTEXT,
        .rope = {.theta = 10000.0},
        .tied = true,
        .bos = -1,
        .eos = {END_OF_TEXT},
        .eos_count = 1,
        .temperature = -1.0,
        .top_p = -1.0,
        .top_k = -1,
    };
}

static void write_config(const char *directory) {
    write_json(directory, "config.json",
               json_pack("{s:[s], s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:i, s:f, s:b, s:i, "
                         "s:s, s:s}",
                         "architectures", "LlamaForCausalLM", "model_type", "llama", "vocab_size",
                         VOCAB, "hidden_size", 32, "intermediate_size", 64, "num_hidden_layers", 2,
                         "num_attention_heads", 4, "num_key_value_heads", 2, "head_dim", 16,
                         "rms_norm_eps", 1e-5, "max_position_embeddings", TINY_CONTEXT,
                         "rope_theta", 10000.0, "tie_word_embeddings", 1, "eos_token_id",
                         END_OF_TEXT, "hidden_act", "silu", "torch_dtype", "float32"));
}

static json_t *tensor_entry(const struct param *param, int64_t *offset) {
    int64_t bytes = param->w.rows * param->w.cols * (int64_t)sizeof(float), start = *offset;
    *offset += bytes;
    json_t *shape = weight_is_vector(param->id)
                        ? json_pack("[I]", (json_int_t)param->w.cols)
                        : json_pack("[I, I]", (json_int_t)param->w.rows, (json_int_t)param->w.cols);
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F32", "shape", shape, "data_offsets",
                     (json_int_t)start, (json_int_t)*offset);
}

static void write_weights(const char *directory, const struct model *model) {
    char path[128];
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    json_t *header = json_object();
    int64_t offset = 0;
    for (int i = 0; i < model->param_count; i++)
        if (model->params[i].w.data)
            json_object_set_new(header, model->params[i].name,
                                tensor_entry(&model->params[i], &offset));
    char *text = json_dumps(header, JSON_COMPACT);
    uint64_t bytes = strlen(text);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fwrite(&bytes, sizeof bytes, 1, file);
    fwrite(text, 1, bytes, file);
    for (int i = 0; i < model->param_count; i++) {
        const struct param *param = &model->params[i];
        if (!param->w.data) continue;
        size_t count = (size_t)(param->w.rows * param->w.cols);
        float *values = malloc(count * sizeof *values);
        param_read(values, param, 0, param->w.rows);
        fwrite(values, sizeof *values, count, file);
        free(values);
    }
    assert_int_equal(fclose(file), 0);
    free(text);
    json_decref(header);
}

/* Both factors random, so that the adapter is felt. */
static void write_adapter(const char *directory, const struct model *model) {
    struct adapter_config config = {.rank = 4, .alpha = 16.0};
    for (int id = 0; id < WEIGHT_COUNT; id++) config.targets[id] = weight_table[id].lora_target;
    struct adapter adapter;
    assert_ok(adapter_create(&adapter, "tuned", model, &config, 3));
    for (int i = 0; i < adapter.param_count; i++) {
        const struct weight *w = &adapter.params[i].w;
        if (!w->data) continue;
        float *values = malloc((size_t)(w->rows * w->cols) * sizeof *values);
        for (int64_t j = 0; j < w->rows * w->cols; j++) {
            struct rng_block random = rng_draw(7, RNG_TEST, (uint64_t)i, (uint64_t)j);
            values[j] = 0.2f * rng_normal(random.word[0], random.word[1]);
        }
        weight_pack(w, 0, w->rows, values);
        free(values);
    }
    assert_ok(adapter_save(&adapter, NULL, directory, "tiny"));
    adapter_free(&adapter);
}

void tiny_model_write(struct tiny_model *tiny) {
    strcpy(tiny->directory, "/tmp/strata-tiny-XXXXXX");
    strcpy(tiny->adapter, "/tmp/strata-tuned-XXXXXX");
    assert_non_null(mkdtemp(tiny->directory));
    assert_non_null(mkdtemp(tiny->adapter));
    const struct model_config config = tiny_config();
    struct model model;
    assert_ok(model_create(&model, &config, NULL, LAYOUT_PANEL_F32));
    model_init_random(&model, 11, 0.4f, 1);
    write_tokenizer(tiny->directory);
    write_config(tiny->directory);
    write_weights(tiny->directory, &model);
    write_adapter(tiny->adapter, &model);
    model_free(&model);
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *place) {
    (void)info, (void)type, (void)place;
    return remove(path);
}

void tiny_model_remove(const struct tiny_model *tiny) {
    nftw(tiny->directory, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    nftw(tiny->adapter, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}
