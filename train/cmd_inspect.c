/* What a path holds: a model file, a token file or a checkpoint. */
#include "train/commands.h"

#include "core/inspect.h"
#include "core/options.h"
#include "core/path_hint.h"
#include "core/text.h"
#include "data/token_file.h"
#include "kernels/base/printable.h"
#include "parallel/checkpoint_summary.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const char usage[] =
    "usage: strata inspect PATH [--json]\n"
    "  PATH    a .gguf, a .safetensors, an index .json or a directory with one: metadata, tensors,\n"
    "          parameters, bytes; a token file (.h5): tokens, documents, tokenizer; a checkpoint or\n"
    "          a run's directory: step, tensors, bytes\n"
    "  --json  one JSON object\n";

static bool is_hdf5(const char *path) {
    char start[sizeof path_hdf5_signature];
    FILE *file = fopen(path, "rb");
    size_t count = file ? fread(start, 1, sizeof start, file) : 0;
    if (file) fclose(file);
    return count == sizeof start && memcmp(start, path_hdf5_signature, sizeof start) == 0;
}

/* By its name or its first bytes one that may be damaged, but is no other thing. */
static bool is_model_file(const char *path) {
    char start[4];
    FILE *file = fopen(path, "rb");
    size_t count = file ? fread(start, 1, sizeof start, file) : 0;
    if (file) fclose(file);
    return ends_with(path, ".gguf") || ends_with(path, ".safetensors") ||
           ends_with(path, ".json") || (count == sizeof start && memcmp(start, "GGUF", 4) == 0);
}

/* Plain lines "key: value", or the object as it is; gives `facts` back. */
static void print_facts(json_t *facts, bool json) {
    const char *key;
    json_t *value;
    if (json) {
        json_dumpf(facts, stdout, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
        putchar('\n');
    }
    json_object_foreach(facts, key, value) {
        if (json || json_is_array(value)) continue;
        if (json_is_string(value))
            printf("%s: %s\n", key, json_string_value(value));
        else if (json_is_integer(value))
            printf("%s: %" JSON_INTEGER_FORMAT "\n", key, json_integer_value(value));
        else
            printf("%s: %.9g\n", key, json_number_value(value));
    }
    json_decref(facts);
}

/* Texts of files may hold anything: what would not print is shown as '?'. */
static json_t *text_of(const char *text) {
    char clean[4 * PRINTABLE_SIZE];
    return json_string(printable(clean, sizeof clean, text, strlen(text)));
}

static json_t *hash_of(uint64_t hash) {
    return json_sprintf("%016" PRIx64, hash);
}

static enum status inspect_token_file(const char *path, bool json) {
    struct token_file *file;
    struct stat status = {0};
    TRY(token_file_open(&file, path));
    const struct token_file_info *info = token_file_info(file);
    stat(path, &status);
    const char *weights = !info->weighted ? "none" : info->fractional ? "f32" : "u8";
    print_facts(json_pack("{s:o, s:s, s:I, s:I, s:I, s:s, s:o, s:o, s:I}", "file", text_of(path),
                          "format", "token file (HDF5)", "tokens", (json_int_t)info->tokens,
                          "documents", (json_int_t)info->documents, "vocabulary",
                          (json_int_t)info->vocabulary, "weights", weights, "tokenizer",
                          text_of(info->tokenizer), "tokenizer_hash", hash_of(info->tokenizer_hash),
                          "bytes", (json_int_t)status.st_size),
                json);
    token_file_close(file);
    return STATUS_OK;
}

static json_t *facts_of(const struct checkpoint_summary *summary) {
    const struct checkpoint_state *state = &summary->state;
    json_t *facts = json_pack("{s:o, s:s, s:I, s:I, s:I, s:I, s:o, s:i, s:I, s:i, s:i}", "file",
                              text_of(summary->folder.text), "format", "checkpoint (HDF5)", "step",
                              (json_int_t)state->step, "tokens", (json_int_t)state->tokens,
                              "cursor", (json_int_t)state->cursor, "seed", (json_int_t)state->seed,
                              "tokenizer_hash", hash_of(state->tokenizer_hash), "checkpoints",
                              summary->steps, "bytes", (json_int_t)summary->bytes, "files",
                              summary->files, "tensors", summary->tensor_count);
    if (state->best_loss < 1e30)
        json_object_set_new(facts, "best_loss", json_real(state->best_loss));
    return facts;
}

static void print_checkpoint(const struct checkpoint_summary *summary, bool json) {
    json_t *facts = facts_of(summary), *list = json_array();
    for (int i = 0; i < summary->tensor_count; i++) {
        const struct checkpoint_tensor *tensor = &summary->tensors[i];
        json_array_append_new(list,
                              json_pack("{s:o, s:[I, I]}", "name", text_of(tensor->name), "shape",
                                        (json_int_t)tensor->rows, (json_int_t)tensor->cols));
    }
    if (json) json_object_set_new(facts, "tensors", json_incref(list));
    print_facts(facts, json);
    for (int i = 0; i < summary->tensor_count && !json; i++) {
        const struct checkpoint_tensor *tensor = &summary->tensors[i];
        printf("  %-60s f32     [%" PRId64 ", %" PRId64 "]\n",
               json_string_value(json_object_get(json_array_get(list, (size_t)i), "name")),
               tensor->rows, tensor->cols);
    }
    json_decref(list);
}

static enum status inspect_checkpoint(const struct checkpoint_path *folder, bool json) {
    struct checkpoint_summary summary;
    enum status status = checkpoint_summarise(&summary, folder);
    if (status == STATUS_OK) print_checkpoint(&summary, json);
    checkpoint_summary_free(&summary);
    return status;
}

static enum status inspect(const char *path, bool json) {
    struct checkpoint_path folder;
    struct stat info;
    bool directory = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
    bool hdf5 = !directory && is_hdf5(path);
    if ((directory || hdf5) && checkpoint_find(path, &folder))
        return inspect_checkpoint(&folder, json);
    if (hdf5) return inspect_token_file(path, json);
    enum status status = inspect_model_file(path, json);
    if (status != STATUS_FORMAT || is_model_file(path)) return status;
    return status_fail(status,
                       "%s; nor is it a token file or a checkpoint, which inspect shows too",
                       status_message());
}

int cmd_inspect(int argc, char **argv) {
    const char *path = NULL;
    bool json = false;
    const struct option_row rows[] = {
        {NULL, OPTION_TEXT, &path, true, 0, 0},
        {"--json", OPTION_FLAG, &json, false, 0, 0},
    };
    if (options_ask_help(argc, argv)) return fputs(usage, stdout) < 0;
    if (options_parse(rows, sizeof rows / sizeof *rows, argc, argv) != STATUS_OK) {
        fprintf(stderr, "strata inspect: %s\n%s", status_message(), usage);
        return 2;
    }
    if (inspect(path, json) != STATUS_OK) {
        fprintf(stderr, "strata inspect: %s\n", status_message());
        return 1;
    }
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "strata inspect: the output could not be written\n");
        return 1;
    }
    return 0;
}
