#define _GNU_SOURCE
#include "data/commands.h"

#include "core/adapter.h"
#include "core/atomic_file.h"
#include "core/directory.h"
#include "core/export.h"
#include "core/options.h"
#include "data/tokenizer.h"
#include "kernels/base/clock.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

static const char usage[] =
    "usage: strata convert SRC DST [--type safetensors|gguf] [--dtype f32|f16|bf16|q8_0]\n"
    "                      [--adapter DIR] [--threads N]\n"
    "  SRC        a directory of safetensors, a .safetensors or a .gguf file\n"
    "  DST        a directory (safetensors) or a .gguf file\n"
    "  --type     what DST becomes; without it a DST that ends in .gguf is GGUF\n"
    "  --dtype    of the matrices; as stored without it (quantized ones become f32);\n"
    "             q8_0 is GGUF's\n"
    "  --adapter  merge a PEFT adapter into the weights\n";

struct convert {
    const char *source, *target, *type, *dtype_name, *adapter;
    int64_t threads;
    enum export_format format;
    enum dtype dtype;
    struct model_file file;
    struct model model;
    struct gguf_metadata metadata; /* the tokenizer, for GGUF */
    const char *tokenizer;         /* what became of it, for the report */
};

static enum status parse_type(struct convert *convert) {
    size_t length = strlen(convert->target);
    bool gguf = length > 5 && strcasecmp(convert->target + length - 5, ".gguf") == 0;
    convert->format = gguf ? EXPORT_GGUF : EXPORT_SAFETENSORS;
    if (!convert->type) return STATUS_OK;
    if (strcmp(convert->type, "gguf") != 0 && strcmp(convert->type, "safetensors") != 0)
        return status_fail(STATUS_CONFIG, "--type: '%s' is not safetensors or gguf", convert->type);
    convert->format = convert->type[0] == 'g' ? EXPORT_GGUF : EXPORT_SAFETENSORS;
    if (gguf && convert->format == EXPORT_SAFETENSORS)
        return status_fail(STATUS_CONFIG, "safetensors are written into a directory, not to %s",
                           convert->target);
    return STATUS_OK;
}

static enum status parse_dtype(struct convert *convert) {
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0};
    if (!convert->dtype_name) return STATUS_OK;
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        convert->dtype = dtypes[i];
        if (strcasecmp(convert->dtype_name, dtype_info(dtypes[i])->name) == 0) return STATUS_OK;
    }
    return status_fail(STATUS_CONFIG, "--dtype: '%s' is not f32, f16, bf16 or q8_0",
                       convert->dtype_name);
}

/* What all matrices of the file have; F32 where they differ or are quantized: it loses nothing. */
static enum dtype stored_dtype(const struct model_file *file) {
    enum dtype common = DTYPE_COUNT;
    for (int i = 0; i < file->tensor_count; i++) {
        const struct file_tensor *tensor = &file->tensors[i];
        if (tensor->dims < 2) continue;
        if (common != DTYPE_COUNT && tensor->dtype != common) return DTYPE_F32;
        common = tensor->dtype;
    }
    return common == DTYPE_F16 || common == DTYPE_BF16 ? common : DTYPE_F32;
}

/* In fp32, so that a merge is rounded once; what is stored as BF16 and only moves stays that. */
static enum status load(struct convert *convert) {
    TRY(model_file_open(&convert->file, convert->source, false));
    enum dtype stored = stored_dtype(&convert->file);
    if (!convert->dtype_name) convert->dtype = stored;
    struct stream stream;
    stream_open_cpu(&stream, (int)convert->threads);
    bool moves = stored == DTYPE_BF16 && !convert->adapter;
    TRY(model_load(&convert->model, &convert->file, NULL,
                   moves ? LAYOUT_PANEL_BF16 : LAYOUT_PANEL_F32, 0, stream.threads));
    if (!convert->adapter) return STATUS_OK;
    struct adapter adapter = {0};
    enum status status = adapter_load(&adapter, "merged", &convert->model, convert->adapter);
    if (status == STATUS_OK) status = adapter_merge(&adapter, &convert->model);
    adapter_free(&adapter);
    return status;
}

/* The tokenizer's pairs of a GGUF file as they are. */
static void keep_pairs(struct convert *convert) {
    static const char prefix[] = "tokenizer.";
    convert->tokenizer = "none";
    for (int i = 0; i < convert->file.value_count; i++) {
        const struct gguf_value *value = &convert->file.values[i];
        if (value->key.bytes < sizeof prefix - 1 ||
            memcmp(value->key.text, prefix, sizeof prefix - 1) != 0)
            continue;
        gguf_put_value(&convert->metadata, value);
        convert->tokenizer = "kept";
    }
}

static bool is_there(const char *directory, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return access(path, R_OK) == 0;
}

static bool has_tokenizer(const char *directory) {
    static const char *const names[] = {"tokenizer.json", "tokenizer.model", "vocab.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (is_there(directory, names[i])) return true;
    return false;
}

static enum status put_tokenizer(struct convert *convert) {
    const char *directory = convert->file.directory;
    convert->tokenizer = has_tokenizer(directory) ? "written" : "none";
    if (!has_tokenizer(directory)) return STATUS_OK;
    struct tokenizer *tokenizer;
    TRY(tokenizer_open(&tokenizer, directory));
    enum status status =
        tokenizer_put_gguf(tokenizer, convert->model.config.vocab, &convert->metadata);
    tokenizer_close(tokenizer);
    return status == STATUS_OK ? status : status_context(status, "%s", directory);
}

/* A GGUF's tokenizer in files of its own. One that they can't hold doesn't lose the weights. */
static enum status write_tokenizer(struct convert *convert) {
    convert->tokenizer = "none";
    if (!gguf_find(&convert->file, "tokenizer.ggml.model")) return STATUS_OK;
    struct tokenizer *tokenizer = NULL;
    enum status status = tokenizer_open_gguf(&tokenizer, &convert->file);
    if (status == STATUS_OK) status = tokenizer_write_json(tokenizer, convert->target);
    tokenizer_close(tokenizer);
    convert->tokenizer = "written";
    if (status != STATUS_UNSUPPORTED) return status;
    fprintf(stderr, "strata convert: the tokenizer is left in SRC: %s\n", status_message());
    convert->tokenizer = "left in SRC";
    return STATUS_OK;
}

static enum status write_model(struct convert *convert) {
    bool from_gguf = convert->file.format == MODEL_GGUF;
    struct export_request request = {.model = &convert->model,
                                     .format = convert->format,
                                     .dtype = convert->dtype,
                                     .path = convert->target,
                                     .companions = from_gguf ? NULL : convert->file.directory,
                                     .metadata = &convert->metadata};
    bool to_gguf = convert->format == EXPORT_GGUF;
    TRY(to_gguf ? directory_make_for(convert->target) : directory_make(convert->target));
    if (to_gguf && from_gguf) keep_pairs(convert);
    if (to_gguf && !from_gguf) TRY(put_tokenizer(convert));
    TRY(export_model(&request));
    if (to_gguf) return STATUS_OK;
    if (from_gguf) return write_tokenizer(convert);
    convert->tokenizer = has_tokenizer(convert->file.directory) ? "copied" : "none";
    return STATUS_OK;
}

/* Bytes of the weights as they are stored. */
static long long source_bytes(const struct model_file *file) {
    long long total = 0;
    for (int i = 0; i < file->tensor_count; i++) total += (long long)file->tensors[i].bytes;
    return total;
}

static long long target_bytes(const struct convert *convert) {
    char path[4096];
    struct stat info;
    bool gguf = convert->format == EXPORT_GGUF;
    snprintf(path, sizeof path, "%s%s", convert->target, gguf ? "" : "/model.safetensors");
    return stat(path, &info) == 0 ? (long long)info.st_size : 0;
}

static enum status run(struct convert *convert) {
    double start = clock_seconds();
    TRY(atomic_file_spares(convert->target, &convert->source, 1));
    TRY(parse_type(convert));
    TRY(parse_dtype(convert));
    TRY(load(convert));
    TRY(write_model(convert));
    printf("file=%s type=%s dtype=%s parameters=%lld bytes=%lld source_bytes=%lld tokenizer=\"%s\" "
           "adapter=%s seconds=%.2f\n",
           convert->target, convert->format == EXPORT_GGUF ? "gguf" : "safetensors",
           dtype_info(convert->dtype)->name,
           (long long)model_config_parameters(&convert->model.config), target_bytes(convert),
           source_bytes(&convert->file), convert->tokenizer, convert->adapter ? "merged" : "none",
           clock_seconds() - start);
    return STATUS_OK;
}

int cmd_convert(int argc, char **argv) {
    struct convert convert = {0};
    const struct option_row rows[] = {
        {NULL, OPTION_TEXT, &convert.source, true, 0, 0},
        {NULL, OPTION_TEXT, &convert.target, true, 0, 0},
        {"--type", OPTION_TEXT, &convert.type, false, 0, 0},
        {"--dtype", OPTION_TEXT, &convert.dtype_name, false, 0, 0},
        {"--adapter", OPTION_TEXT, &convert.adapter, false, 0, 0},
        {"--threads", OPTION_INTEGER, &convert.threads, false, 1, 1024},
    };
    if (options_ask_help(argc, argv)) {
        fputs(usage, stdout);
        return 0;
    }
    if (options_parse(rows, sizeof rows / sizeof *rows, argc, argv) != STATUS_OK) {
        fprintf(stderr, "strata convert: %s\n%s", status_message(), usage);
        return 2;
    }
    enum status status = run(&convert);
    gguf_metadata_free(&convert.metadata);
    model_free(&convert.model);
    model_file_close(&convert.file);
    if (status == STATUS_OK) return 0;
    fprintf(stderr, "strata convert: %s\n", status_message());
    return status == STATUS_CONFIG ? 2 : 1;
}
