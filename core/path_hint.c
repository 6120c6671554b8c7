#define _GNU_SOURCE
#include "core/path_hint.h"

#include "core/json_util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char path_hdf5_signature[8] = {'\x89', 'H', 'D', 'F', '\r', '\n', '\x1a', '\n'};

const char *path_hint_bytes(const void *bytes, size_t count) {
    static const struct {
        const char *start, *what;
        size_t bytes;
    } kinds[] = {
        {path_hdf5_signature, "an HDF5 file; strata inspect shows token files and checkpoints", 8},
        {"PK\3\4", "a zip archive, perhaps PyTorch's: save the model as safetensors", 4},
        {"\x80\2", "a Python pickle: save the model as safetensors", 2},
        {"\x1f\x8b", "compressed by gzip: gunzip it first", 2},
        {"\x7f"
         "ELF",
         "a program", 4},
        {"version https://git-lfs", "a Git LFS pointer: git lfs pull fetches the file", 23},
        {"{", "JSON", 1},
        {"<", "a web page or XML, perhaps a failed download", 1},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (count >= kinds[i].bytes && memcmp(bytes, kinds[i].start, kinds[i].bytes) == 0)
            return kinds[i].what;
    return NULL;
}

static bool holds(const char *directory, const char *name) {
    char path[4096];
    struct stat info;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return stat(path, &info) == 0;
}

/* The adapter lies in directory/`inside`; its file names the model it was made for. */
static enum status refuse_adapter(enum status status, const char *directory, const char *inside) {
    char path[4096];
    json_t *root = NULL;
    const char *base = NULL;
    snprintf(path, sizeof path, "%s%s/adapter_config.json", directory, inside);
    if (json_parse_file(&root, path) == STATUS_OK)
        base = json_string_value(json_object_get(root, "base_model_name_or_path"));
    status = status_fail(
        status, "%s: %s: give the model that it was made for%s%s%s, and --adapter %s%s%s",
        directory, *inside ? "a run that made an adapter, not a model" : "an adapter, not a model",
        base ? " (" : "", base ? base : "", base ? ")" : "", directory, inside,
        " (with NAME= before it for serve and chat)");
    json_decref(root);
    return status;
}

enum status path_hint_model(enum status status, const char *directory) {
    if (holds(directory, "adapter_config.json")) return refuse_adapter(status, directory, "");
    if (holds(directory, "adapter/adapter_config.json"))
        return refuse_adapter(status, directory, "/adapter");
    if (holds(directory, "model/config.json"))
        return status_fail(status, "%s: a run, not a model: give the model it made, %s/model",
                           directory, directory);
    if (holds(directory, "checkpoints"))
        return status_fail(status,
                           "%s: a run that has not ended: it holds checkpoints, and no model or "
                           "adapter yet",
                           directory);
    if (holds(directory, "index.h5"))
        return status_fail(status,
                           "%s: a checkpoint, not a model: strata inspect shows it, and its run's "
                           "model or adapter lies in the run's directory",
                           directory);
    return status;
}

/* What a run holds from its first moments on. */
static bool is_run(const char *directory) {
    return holds(directory, "metrics.jsonl") || holds(directory, "checkpoints");
}

/* `run` has no adapter/, whatever was given: itself, or that. */
static enum status refuse_run_without_adapter(enum status status, const char *run) {
    if (holds(run, "model/config.json"))
        return status_fail(status, "%s: a run that made a model, %s/model, not an adapter", run,
                           run);
    return status_fail(status,
                       "%s: a run that has made no adapter: it is written after the last step, "
                       "where train.export is on; the command that began the run goes on with it",
                       run);
}

enum status path_hint_adapter(enum status status, const char *directory) {
    if (holds(directory, "adapter/adapter_config.json"))
        return status_fail(status,
                           "%s: a run, not an adapter: give the adapter it made, %s/adapter",
                           directory, directory);
    if (holds(directory, "config.json"))
        return status_fail(status, "%s: a model, not an adapter", directory);
    if (is_run(directory)) return refuse_run_without_adapter(status, directory);
    size_t bytes = strlen(directory);
    while (bytes > 0 && directory[bytes - 1] == '/') bytes--;
    while (bytes > 0 && directory[bytes - 1] != '/') bytes--;
    while (bytes > 1 && directory[bytes - 1] == '/') bytes--;
    char *parent = bytes ? strndup(directory, bytes) : strdup(".");
    if (parent && is_run(parent)) status = refuse_run_without_adapter(status, parent);
    free(parent);
    return status;
}
