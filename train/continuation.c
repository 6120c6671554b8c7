#define _GNU_SOURCE
#include "train/continuation.h"

#include "core/log.h"
#include "train/trainer_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the files of a run held. */
struct found {
    char *family;
    int64_t layers, hidden, ffn, heads, kv_heads, head_dim, vocabulary;
    bool tied;
    char *instructions; /* the op table that was taken; "" in checkpoints that didn't keep it */
    int64_t ranks;      /* 0 in those */
    struct config_list train, validation; /* a text a file (loader_describe_file) */
};

#define FIELD(name) offsetof(struct found, name)
static const struct config_row found_rows[] = {
    {"family", CONFIG_STRING, FIELD(family), "", .help = "model"},
    {"layers", CONFIG_INT, FIELD(layers), "0", .help = "model"},
    {"hidden", CONFIG_INT, FIELD(hidden), "0", .help = "model"},
    {"ffn", CONFIG_INT, FIELD(ffn), "0", .help = "model"},
    {"heads", CONFIG_INT, FIELD(heads), "0", .help = "model"},
    {"kv_heads", CONFIG_INT, FIELD(kv_heads), "0", .help = "model"},
    {"head_dim", CONFIG_INT, FIELD(head_dim), "0", .help = "model"},
    {"vocabulary", CONFIG_INT, FIELD(vocabulary), "0", .help = "model"},
    {"tied", CONFIG_BOOL, FIELD(tied), "false", .help = "model"},
    {"instructions", CONFIG_STRING, FIELD(instructions), "", .help = "op table"},
    {"ranks", CONFIG_INT, FIELD(ranks), "0", .help = "of the job"},
    {"train", CONFIG_LIST, FIELD(train), "", .help = "contents of the files of data.train"},
    {"validation", CONFIG_LIST, FIELD(validation), "", .help = "of the files of data.validation"},
};

/* Options and findings: the tables of a checkpoint's config. */
struct run_record {
    struct run_options options;
    struct found found;
};
enum { RECORD_TABLES = RUN_TABLES + 1 };

static void record_tables(struct run_record *record, struct config_table tables[RECORD_TABLES]) {
    run_options_tables(&record->options, tables);
    tables[RUN_TABLES] = (struct config_table){
        "found", found_rows, (int)(sizeof found_rows / sizeof *found_rows), &record->found};
}

static void found_free(struct found *found) {
    const struct config_table table = {"found", found_rows,
                                       (int)(sizeof found_rows / sizeof *found_rows), found};
    config_free(&table, 1);
}

static enum status describe_files(struct loader *loader, int64_t count, struct config_list *list) {
    list->items = calloc((size_t)count + 1, sizeof *list->items);
    for (; list->items && list->count < count; list->count++) {
        char text[LOADER_FILE_BYTES];
        TRY(loader_describe_file(loader, list->count, text));
        list->items[list->count] = strdup(text);
        if (!list->items[list->count]) break;
    }
    return list->count == count ? STATUS_OK
                                : status_fail(STATUS_MEMORY, "no memory to describe token files");
}

static enum status fill_found(const struct trainer *t, struct found *found) {
    const struct model_config *c = &t->model.config;
    const struct loader_options *data = &t->options->data;
    *found = (struct found){.family = strdup(model_family_name(c->family)),
                            .layers = c->layers,
                            .hidden = c->hidden,
                            .ffn = c->ffn,
                            .heads = c->heads,
                            .kv_heads = c->kv_heads,
                            .head_dim = c->head_dim,
                            .vocabulary = c->vocab,
                            .tied = c->tied,
                            .instructions = strdup(t->kernels->name),
                            .ranks = t->parallel->world.size};
    if (!found->family || !found->instructions)
        return status_fail(STATUS_MEMORY, "no memory to describe the model");
    TRY(describe_files(t->train, data->train.count, &found->train));
    return t->validation ? describe_files(t->validation, data->validation.count, &found->validation)
                         : STATUS_OK;
}

/* The record of this run; its options are borrowed: only record->found is to be freed. */
static enum status record_now(const struct trainer *t, struct run_record *record) {
    *record = (struct run_record){.options = *t->options};
    record->options.parallel.zero = trainer_zero(t);
    enum status status = fill_found(t, &record->found);
    if (status != STATUS_OK) found_free(&record->found);
    return status;
}

enum status continuation_describe(const struct trainer *t, char **yaml) {
    struct run_record now;
    struct config_table tables[RECORD_TABLES];
    TRY(record_now(t, &now));
    record_tables(&now, tables);
    enum status status = config_dump(tables, RECORD_TABLES, yaml);
    found_free(&now.found);
    return status;
}

static bool among(const char *const *keys, const char *key) {
    for (; *keys; keys++)
        if (strcmp(*keys, key) == 0) return true;
    return false;
}

/* What decides which samples a step sees and what is drawn for them. */
static const char *const fixed[] = {"train.mode",   "train.global_batch",   "train.seed",
                                    "data.seed",    "data.sequence_length", "data.packing",
                                    "data.shuffle", "parallel.sync_every",  NULL};
/* And what decides which tensors an adapter has, unless it was read from a directory. */
static const char *const fixed_lora[] = {"lora.rank", "lora.targets", NULL};
/* Length, reports, and what changes no result: every sum has an order of its own, whatever the
 * threads. Of the instructions it is the table they chose that counts (check_found). */
static const char *const free_keys[] = {"train.steps",
                                        "train.epochs",
                                        "train.out",
                                        "train.log_every",
                                        "train.tensorboard",
                                        "train.trace_step",
                                        "train.slow_rank_every",
                                        "train.validate_every",
                                        "train.checkpoint_every",
                                        "train.checkpoint_async",
                                        "train.keep",
                                        "train.export",
                                        "train.resume",
                                        "train.threads",
                                        "train.recompute",
                                        "train.offload",
                                        "train.offload_path",
                                        "train.instructions",
                                        "parallel.tp",
                                        "parallel.cp",
                                        "parallel.dp",
                                        "parallel.pp",
                                        "parallel.order",
                                        "parallel.sequence",
                                        "parallel.watchdog",
                                        "parallel.schedule",
                                        "parallel.chunks",
                                        "parallel.layers",
                                        "parallel.zero",
                                        NULL};

struct check {
    const struct trainer *trainer;
    const struct run_record *was;
    bool tell;
};

static void tell_change(const char *key, const char *file, const char *was, const char *now) {
    struct log_text texts[3];
    log_line(LOG_WARN, "event=resume_changed key=%s%s%s was=%s now=%s", key, file ? " file=" : "",
             file ? log_value(&texts[0], file) : "", log_value(&texts[1], was),
             log_value(&texts[2], now));
}

static enum status refuse(const char *key, const char *what, const char *was, const char *now) {
    return status_fail(STATUS_CONFIG,
                       "%s%s was %.200s when the checkpoint was written and is %.200s now, so the "
                       "run can't go on: set it back or choose another train.out",
                       key, what, was, now);
}

static enum status check_option(const struct config_change *change, void *context) {
    const struct check *check = context;
    const struct run_options *was = &check->was->options, *is = check->trainer->options;
    bool lora = is->train.mode == TRAIN_LORA && !*was->lora.init_from && !*is->lora.init_from;
    if (among(fixed, change->key) || (lora && among(fixed_lora, change->key)))
        return refuse(change->key, "", change->was, change->is);
    if (check->tell && !among(free_keys, change->key))
        tell_change(change->key, NULL, change->was, change->is);
    return STATUS_OK;
}

/* Other instructions and another number of ranks add up in another order: the last digits of what
 * follows are not those of the run that was. */
static void tell_arithmetic(const struct check *check, const struct config_change *change) {
    bool instructions = strcmp(change->key, "found.instructions") == 0;
    const struct found *was = &check->was->found;
    bool known = instructions ? *was->instructions : was->ranks > 0;
    if (check->tell && known)
        tell_change(instructions ? "train.instructions" : "ranks", NULL, change->was, change->is);
}

static enum status check_found(const struct config_change *change, void *context) {
    const struct check *check = context;
    char what[64];
    if (strcmp(change->key, "found.train") == 0 || strcmp(change->key, "found.validation") == 0)
        return STATUS_OK; /* files are compared one by one */
    if (strcmp(change->key, "found.ranks") == 0 &&
        check->trainer->options->parallel.sync_every > 1) /* replicas have weights of their own */
        return refuse("parallel.sync_every is above 1", ": the number of ranks", change->was,
                      change->is);
    if (strcmp(change->key, "found.instructions") == 0 || strcmp(change->key, "found.ranks") == 0) {
        tell_arithmetic(check, change);
        return STATUS_OK;
    }
    snprintf(what, sizeof what, ": the model's %s", strchr(change->key, '.') + 1);
    return refuse(*check->trainer->options->model.path ? "model.path" : "model.config", what,
                  change->was, change->is);
}

/* Files that were there before under the same path, with other contents. */
static void tell_contents(const char *key, const struct config_list *was_paths,
                          const struct config_list *was, const struct config_list *paths,
                          const struct config_list *now) {
    for (int64_t i = 0; i < now->count; i++)
        for (int64_t j = 0; j < was->count && j < was_paths->count; j++)
            if (strcmp(paths->items[i], was_paths->items[j]) == 0 &&
                strcmp(now->items[i], was->items[j]) != 0) {
                tell_change(key, paths->items[i], was->items[j], now->items[i]);
                break;
            }
}

static enum status compare(const struct trainer *t, struct run_record *was, bool tell) {
    struct run_record now;
    struct config_table before[RECORD_TABLES], after[RECORD_TABLES];
    TRY(record_now(t, &now));
    record_tables(was, before);
    record_tables(&now, after);
    struct check check = {t, was, tell};
    enum status status = STATUS_OK;
    if (was->found.layers) /* checkpoints before strata kept this don't know */
        status = config_compare(before + RUN_TABLES, after + RUN_TABLES, 1, check_found, &check);
    if (status == STATUS_OK)
        status = config_compare(before, after, RUN_TABLES, check_option, &check);
    if (status == STATUS_OK && tell) {
        tell_contents("data.train", &was->options.data.train, &was->found.train,
                      &now.options.data.train, &now.found.train);
        tell_contents("data.validation", &was->options.data.validation, &was->found.validation,
                      &now.options.data.validation, &now.found.validation);
    }
    found_free(&now.found);
    return status;
}

static enum status check_tokenizer(const struct trainer *t, const struct checkpoint_state *state) {
    char was[20], now[20];
    uint64_t hash = t->tokenizer ? tokenizer_hash(t->tokenizer) : 0;
    if (!hash || !state->tokenizer_hash || hash == state->tokenizer_hash) return STATUS_OK;
    snprintf(was, sizeof was, "%016llx", (unsigned long long)state->tokenizer_hash);
    snprintf(now, sizeof now, "%016llx", (unsigned long long)hash);
    return refuse("model.tokenizer", ": the tokenizer's hash", was, now);
}

enum status continuation_check(const struct trainer *t, const struct checkpoint_state *state,
                               bool tell) {
    struct run_record was = {0};
    struct config_table tables[RECORD_TABLES];
    TRY(check_tokenizer(t, state));
    record_tables(&was, tables);
    TRY(config_parse(tables, RECORD_TABLES, state->config, strlen(state->config),
                     "the checkpoint's config", NULL, 0));
    enum status status = compare(t, &was, tell);
    config_free(tables, RECORD_TABLES);
    return status;
}
