#define _GNU_SOURCE
#include "train/checkpoints.h"

#include "core/log.h"
#include "train/continuation.h"
#include "train/saves.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { PARTS = 5 }; /* of a slot, at most */

void checkpoints_slabs_free(struct slabs *slabs) {
    free(slabs->items);
    free(slabs->names);
    *slabs = (struct slabs){0};
}

/* A slab a rectangle of the slot. */
static void push_slabs(struct slabs *slabs, const char *name, const struct optimizer_slot *slot,
                       const struct optimizer_values *values) {
    const struct param_slice *slice = &slot->param->slice;
    struct weight_part parts[WEIGHT_PARTS];
    struct weight views[WEIGHT_PARTS];
    int count = optimizer_views(slot, values, parts, views);
    for (int i = 0; i < count; i++)
        slabs->items[slabs->count++] =
            (struct checkpoint_slab){.name = name,
                                     .rows = slice->rows,
                                     .cols = slice->cols,
                                     .first_row = slice->first_row + parts[i].first_row,
                                     .first_col = slice->first_col + parts[i].first_col,
                                     .values = views[i]};
}

/* Values of a slot under the name PREFIX/TENSOR. */
struct part {
    char prefix[40];
    struct optimizer_values values;
    bool mine; /* no other replica has them, or would write them */
};

/* Weight and two moments. Replicas that train alone have their own, beside the anchors, which are
 * what the run has come to, and their momenta. */
static int list_parts(const struct trainer *t, int i, struct part parts[PARTS]) {
    const struct optimizer_slot *slot = &t->optimizer.slots[i];
    const struct outer *outer = &t->outer;
    bool alone = outer->anchors != NULL;
    int count = 0;
    char own[24] = "";
    if (alone) {
        enum layout fp32 = slot->param->grad.layout;
        parts[count++] = (struct part){"weights", {fp32, outer->anchors[i]}, false};
        parts[count++] = (struct part){"outer_momentum", {fp32, outer->momenta[i]}, false};
        snprintf(own, sizeof own, "replica-%04d/", t->place.at[MESH_DP]);
    }
    static const char *const names[OPTIMIZER_KINDS] = {
        [OPTIMIZER_MASTER] = "weights", [OPTIMIZER_M] = "adam_m", [OPTIMIZER_V] = "adam_v"};
    for (int kind = 0; kind < OPTIMIZER_KINDS; kind++, count++) {
        bool mine = alone ? t->place.at[MESH_CP] == 0 : t->dp.shares > 1;
        parts[count] = (struct part){"", optimizer_values(slot, kind), mine};
        snprintf(parts[count].prefix, sizeof parts[count].prefix, "%s%s", own, names[kind]);
    }
    return count;
}

enum status checkpoints_slabs(const struct trainer *t, bool to_write, struct slabs *slabs) {
    *slabs = (struct slabs){0};
    size_t count = (size_t)t->optimizer.count * PARTS + 1;
    slabs->items = calloc(count * WEIGHT_PARTS, sizeof *slabs->items);
    slabs->names = calloc(count, sizeof *slabs->names);
    if (!slabs->items || !slabs->names) {
        checkpoints_slabs_free(slabs);
        return status_fail(STATUS_MEMORY, "no memory for a checkpoint's list");
    }
    for (int i = 0; i < t->optimizer.count; i++) {
        const struct optimizer_slot *slot = &t->optimizer.slots[i];
        struct part parts[PARTS];
        int parts_here = list_parts(t, i, parts);
        if (to_write && !slot->param->primary) continue;
        for (int k = 0; k < parts_here; k++) {
            char *name = slabs->names[i * PARTS + k];
            if (to_write && !parts[k].mine && t->comms.replicas.rank != 0) continue;
            snprintf(name, CHECKPOINT_NAME_BYTES, "%.39s/%.200s", parts[k].prefix,
                     slot->param->name);
            push_slabs(slabs, name, slot, &parts[k].values);
        }
    }
    return STATUS_OK;
}

void checkpoints_directory(const char *out, char path[4096]) {
    snprintf(path, 4096, "%s/checkpoints", out);
}

enum status checkpoints_claim(struct trainer *t) {
    char path[4096];
    if (*t->claim.folder) return STATUS_OK;
    checkpoints_directory(t->options->train.out, path);
    const struct checkpoint_start start = checkpoint_start_of_job();
    return checkpoint_claim_take(&t->parallel->world, path, &start, &t->claim);
}

/* A run may have ended between a checkpoint and its mark as the best one: then the newest knows of
 * a lower loss than the marked one, and is the best itself. */
static enum status repair_mark(struct trainer *t, const char *path) {
    struct comm *world = &t->parallel->world;
    struct checkpoint_state marked = {.best_loss = INFINITY};
    /* one rank reads the mark, or a slow one could see what a fast one is about to write */
    int64_t best = world->rank == 0 ? checkpoint_best(path) : -1;
    comm_broadcast(world, &t->ws.stream, &best, 1, DTYPE_I64, 0);
    TRY(stream_check(&t->ws.stream));
    if (best >= 0) {
        enum status status = checkpoint_load(world, path, best, &marked, NULL, 0);
        free(marked.config);
        if (status == STATUS_FORMAT || status == STATUS_IO)
            return STATUS_OK; /* the marked one is damaged: nothing to compare with */
        TRY(status);
    }
    if (!(t->best_loss < marked.best_loss)) return STATUS_OK;
    return parallel_agree(world,
                          world->rank == 0 ? checkpoint_mark_best(&t->claim, t->step) : STATUS_OK);
}

/* Says no before tensors are looked for that another run's checkpoint can't have. One that can't be
 * read is not the one to go on from. */
static enum status check_newest(struct trainer *t, const char *path) {
    struct checkpoint_state state = {0};
    struct comm *world = &t->parallel->world;
    int64_t step;
    TRY(checkpoint_latest(world, path, INT64_MAX, &step));
    if (step < 0) return STATUS_OK;
    enum status status = checkpoint_load(world, path, step, &state, NULL, 0);
    if (status == STATUS_FORMAT || status == STATUS_IO) return STATUS_OK;
    if (status == STATUS_OK) status = parallel_agree(world, continuation_check(t, &state, false));
    free(state.config);
    return status;
}

/* A run that is beyond its last step was asked for something that can't be. */
static enum status check_length(const struct trainer *t) {
    const struct train_options *o = &t->options->train;
    if (t->step <= t->steps) return STATUS_OK;
    return status_fail(STATUS_CONFIG,
                       "%s asks for %lld steps, and the run in %s has done %lld: set train.steps "
                       "above %lld to go on, or choose another train.out",
                       o->steps ? "train.steps" : "train.epochs", (long long)t->steps, o->out,
                       (long long)t->step, (long long)t->step);
}

/* The tensors are read; checkpoints from before there was a guard have no history of one. */
static void take_state(struct trainer *t, const struct checkpoint_state *state) {
    t->step = state->step;
    t->tokens = state->tokens;
    t->best_loss = state->best_loss;
    t->data_offset = state->cursor - state->step * t->options->train.global_batch;
    guard_load(&t->guard, state->history, state->history_count);
    optimizer_refresh(&t->optimizer, &t->ws.stream);
}

static enum status read_newest(struct trainer *t, const char *path) {
    struct slabs slabs;
    struct checkpoint_state state = {0};
    struct comm *world = &t->parallel->world;
    int64_t step = -1;
    TRY(check_newest(t, path));
    TRY(parallel_agree(world, checkpoints_slabs(t, false, &slabs)));
    enum status status =
        checkpoint_resume(world, path, INT64_MAX, &step, &state, slabs.items, slabs.count);
    if (status == STATUS_OK && step >= 0)
        status = parallel_agree(world, continuation_check(t, &state, world->rank == 0));
    if (status == STATUS_OK && step >= 0) {
        take_state(t, &state);
        log_line(LOG_INFO, "event=resume step=%lld tokens=%lld", (long long)t->step,
                 (long long)t->tokens);
        status = repair_mark(t, path);
        if (status == STATUS_OK) status = check_length(t);
    }
    free(state.config);
    checkpoints_slabs_free(&slabs);
    return status;
}

enum status checkpoints_rewind(struct trainer *t, int64_t below, int64_t *step) {
    char path[4096];
    struct slabs slabs;
    struct checkpoint_state state = {0};
    struct comm *world = &t->parallel->world;
    checkpoints_directory(t->options->train.out, path);
    *step = -1;
    TRY(saves_settle(t)); /* as if it had been waited for */
    TRY(parallel_agree(world, checkpoints_slabs(t, false, &slabs)));
    enum status status =
        checkpoint_resume(world, path, below, step, &state, slabs.items, slabs.count);
    if (status == STATUS_OK && *step >= 0) take_state(t, &state);
    free(state.config);
    checkpoints_slabs_free(&slabs);
    return status;
}

enum status checkpoints_resume(struct trainer *t) {
    char path[4096];
    struct stat found;
    int64_t absent = stat(t->options->train.out, &found) != 0 && errno == ENOENT;
    comm_all_reduce(&t->parallel->world, &t->ws.stream, &absent, 1, DTYPE_I64, COMM_MAX);
    TRY(stream_check(&t->ws.stream));
    if (absent) return STATUS_OK;
    TRY(checkpoints_claim(t));
    checkpoints_directory(t->options->train.out, path);
    return read_newest(t, path);
}

enum status checkpoints_refuse(struct trainer *t) {
    char path[4096];
    int64_t step;
    checkpoints_directory(t->options->train.out, path);
    TRY(checkpoint_latest(&t->parallel->world, path, INT64_MAX, &step));
    if (step < 0) return STATUS_OK;
    return status_fail(STATUS_CONFIG,
                       "train.resume is never, and %s holds a run at step %lld: choose another "
                       "train.out or remove it",
                       t->options->train.out, (long long)step);
}
