#define _GNU_SOURCE
#include "train/result.h"

#include "core/export.h"
#include "core/log.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* Where the tokenizer's files lie that go with an exported model; "" when nothing names one. */
static void tokenizer_folder(const struct run_options *o, char folder[4096]) {
    const char *path = *o->model.tokenizer ? o->model.tokenizer : o->model.path;
    struct stat found;
    snprintf(folder, 4096, "%s", path);
    if (!*path || (stat(folder, &found) == 0 && S_ISDIR(found.st_mode))) return;
    char *slash = strrchr(folder, '/');
    if (!slash) snprintf(folder, 4096, ".");
    if (slash) slash[slash == folder] = '\0'; /* a file of the root keeps its slash */
}

enum status result_export(const struct trainer *t) {
    const struct run_options *o = t->options;
    if (!o->train.export_model || t->parallel->world.rank != 0) return STATUS_OK;
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", o->train.out, t->trained ? "adapter" : "model");
    if (t->trained) {
        TRY(adapter_save(&t->adapter, path, o->model.path));
    } else {
        char companions[4096];
        tokenizer_folder(o, companions);
        const struct export_request request = {.model = &t->model,
                                               .format = EXPORT_SAFETENSORS,
                                               .dtype = t->model.config.dtype,
                                               .path = path,
                                               .companions = companions};
        TRY(export_model(&request));
    }
    log_line(LOG_INFO, "event=exported path=%s", log_value(&(struct log_text){0}, path));
    return STATUS_OK;
}
