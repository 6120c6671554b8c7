#define _GNU_SOURCE
#include "train/checkpoints.h"

#include "core/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { PARTS = 3, NAME_BYTES = CHECKPOINT_NAME_BYTES }; /* weight, m, v */

struct slabs {
    int count;
    struct checkpoint_slab *items;
    char (*names)[NAME_BYTES];
};

static void slabs_free(struct slabs *slabs) {
    free(slabs->items);
    free(slabs->names);
}

/* Every trained tensor and its two moments, fp32. Under data parallelism every rank holds all of
 * them: rank 0 gives them, all read them. */
static enum status slabs_create(const struct trainer *t, bool mine, struct slabs *slabs) {
    static const char *const prefixes[PARTS] = {"weights", "adam_m", "adam_v"};
    *slabs = (struct slabs){0};
    if (!mine) return STATUS_OK;
    size_t count = (size_t)t->optimizer.count * PARTS;
    slabs->items = calloc(count, sizeof *slabs->items);
    slabs->names = calloc(count, sizeof *slabs->names);
    if (!slabs->items || !slabs->names) {
        slabs_free(slabs);
        return status_fail(STATUS_MEMORY, "no memory for a checkpoint's list");
    }
    for (int i = 0; i < t->optimizer.count; i++) {
        const struct optimizer_slot *slot = &t->optimizer.slots[i];
        float *const values[PARTS] = {slot->master, slot->m, slot->v};
        for (int part = 0; part < PARTS; part++) {
            char *name = slabs->names[slabs->count];
            snprintf(name, NAME_BYTES, "%s/%s", prefixes[part], slot->param->name);
            slabs->items[slabs->count++] =
                (struct checkpoint_slab){.name = name,
                                         .rows = slot->param->w.rows,
                                         .cols = slot->param->w.cols,
                                         .values = optimizer_view(slot, values[part])};
        }
    }
    return STATUS_OK;
}

static void directory_of(const struct trainer *t, char path[4096]) {
    snprintf(path, 4096, "%s/checkpoints", t->options->train.out);
}

/* The options that decide what a step computes, for people; resume checks what must agree. */
static char *describe(const struct trainer *t) {
    struct run_options copy = *t->options;
    struct config_table tables[RUN_TABLES];
    run_options_tables(&copy, tables);
    char *yaml = NULL;
    return config_dump(tables, RUN_TABLES, &yaml) == STATUS_OK ? yaml : NULL;
}

enum status trainer_checkpoint(struct trainer *t, bool best) {
    char path[4096];
    struct slabs slabs;
    directory_of(t, path);
    const struct comm *world = &t->parallel->world;
    char *config = describe(t);
    const struct checkpoint_state state = {.step = t->step,
                                           .cursor = t->step * t->options->train.global_batch,
                                           .tokens = t->tokens,
                                           .seed = (uint64_t)t->options->train.seed,
                                           .tokenizer_hash =
                                               t->tokenizer ? tokenizer_hash(t->tokenizer) : 0,
                                           .best_loss = t->best_loss,
                                           .config = config ? config : (char *)""};
    enum status status =
        parallel_agree(&t->parallel->world, slabs_create(t, world->rank == 0, &slabs));
    if (status == STATUS_OK) {
        status = checkpoint_save(&t->parallel->world, path, &state, slabs.items, slabs.count,
                                 (int)t->options->train.keep);
        slabs_free(&slabs);
    }
    if (status == STATUS_OK && best && world->rank == 0)
        status = checkpoint_mark_best(path, t->step);
    free(config);
    return status;
}

static enum status check_state(const struct trainer *t, const struct checkpoint_state *state) {
    uint64_t hash = t->tokenizer ? tokenizer_hash(t->tokenizer) : 0;
    if (hash && state->tokenizer_hash && hash != state->tokenizer_hash)
        return status_fail(STATUS_CONFIG,
                           "the checkpoint of step %lld was trained with another "
                           "tokenizer",
                           (long long)state->step);
    int64_t batch = t->options->train.global_batch;
    if (state->cursor != state->step * batch)
        return status_fail(STATUS_CONFIG,
                           "the checkpoint of step %lld has seen %lld samples, which train."
                           "global_batch %lld can't continue exactly",
                           (long long)state->step, (long long)state->cursor, (long long)batch);
    return STATUS_OK;
}

enum status checkpoints_resume(struct trainer *t) {
    char path[4096];
    struct slabs slabs;
    struct checkpoint_state state = {0};
    struct stat found;
    directory_of(t, path);
    int64_t absent = stat(path, &found) != 0 && errno == ENOENT, step = -1;
    comm_all_reduce(&t->parallel->world, &t->ws.stream, &absent, 1, DTYPE_I64, COMM_MAX);
    TRY(stream_check(&t->ws.stream));
    if (absent) return STATUS_OK;
    TRY(parallel_agree(&t->parallel->world, slabs_create(t, true, &slabs)));
    enum status status =
        checkpoint_resume(&t->parallel->world, path, &step, &state, slabs.items, slabs.count);
    if (status == STATUS_OK && step >= 0) status = check_state(t, &state);
    if (status == STATUS_OK && step >= 0) {
        t->step = state.step;
        t->tokens = state.tokens;
        t->best_loss = state.best_loss;
        optimizer_refresh(&t->optimizer, &t->ws.stream);
        log_line(LOG_INFO, "event=resume step=%lld tokens=%lld", (long long)t->step,
                 (long long)t->tokens);
    }
    free(state.config);
    slabs_free(&slabs);
    return status;
}
