#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool in_place(const struct param *param) {
    return param->w.layout == layout_of_gradient(param->w.layout);
}

/* State of my share of a bucket, laid out as the share is: all ranks have as much of it. */
struct share_state {
    float *m, *v, *master; /* master: NULL where no weight needs one */
};

static struct share_state push_state(const struct dp *dp, int b, struct arena *arena) {
    const struct dp_bucket *bucket = &dp->buckets[b];
    size_t bytes = (size_t)(bucket->count / dp->shares) * sizeof(float);
    bool masters = false;
    for (int i = bucket->first; i < bucket->last; i++) masters |= !in_place(dp->params[i]);
    struct share_state state = {arena_push(arena, bytes), arena_push(arena, bytes), NULL};
    if (masters) state.master = arena_push(arena, bytes);
    return state;
}

static void place_slot(struct optimizer_slot *slot, const struct dp *dp,
                       const struct share_state *state) {
    int64_t at = slot->piece.grad - dp->buckets[slot->piece.bucket].share;
    slot->m = state->m + at;
    slot->v = state->v + at;
    slot->master = !in_place(slot->param) ? state->master + at
                   : slot->home           ? slot->home
                                          : (float *)slot->param->w.data + slot->piece.first;
}

/* A piece of a bf16 matrix with an even number of columns: pairs of columns, whatever panel. */
static struct weight home_view(const struct optimizer_slot *slot) {
    return (struct weight){slot->param->w.layout, PANEL_ROWS, slot->piece.count / PANEL_ROWS,
                           slot->home};
}

enum status optimizer_plan(struct optimizer *optimizer, struct dp *dp,
                           struct sharded_weights *sharded, struct param *const *params, int count,
                           struct arena *arena) {
    *optimizer = (struct optimizer){.dp = dp, .sharded = sharded};
    optimizer->slots = calloc((size_t)count + 1, sizeof *optimizer->slots);
    struct share_state *states = calloc((size_t)dp->bucket_count + 1, sizeof *states);
    if (!optimizer->slots || !states) {
        free(states);
        optimizer_free(optimizer);
        return status_fail(STATUS_MEMORY, "no memory for the optimizer's list");
    }
    for (int b = 0; b < dp->bucket_count; b++) states[b] = push_state(dp, b, arena);
    for (int i = 0; i < count; i++) {
        struct optimizer_slot *slot = &optimizer->slots[optimizer->count];
        *slot = (struct optimizer_slot){.param = params[i], .piece = dp_piece(dp, params[i])};
        if (slot->piece.count == 0) continue;
        slot->home = sharded_place(sharded, params[i], slot->piece.first);
        place_slot(slot, dp, &states[slot->piece.bucket]);
        optimizer->count++;
    }
    free(states);
    return STATUS_OK;
}

void optimizer_free(struct optimizer *optimizer) {
    free(optimizer->slots);
    memset(optimizer, 0, sizeof *optimizer);
}

int optimizer_views(const struct optimizer_slot *slot, float *values,
                    struct weight_part parts[WEIGHT_PARTS], struct weight views[WEIGHT_PARTS]) {
    const struct weight *grad = &slot->param->grad;
    int count = weight_parts(parts, grad, slot->piece.first, slot->piece.count);
    for (int i = 0; i < count; i++)
        views[i] =
            (struct weight){grad->layout, parts[i].rows, parts[i].cols, values + parts[i].at};
    return count;
}

static size_t piece_bytes(const struct optimizer_slot *slot) {
    return (size_t)slot->piece.count * sizeof(float);
}

/* A piece may end within what bf16 keeps together, so the whole is widened, into the gradient. */
void optimizer_start(const struct optimizer *optimizer, struct stream *stream) {
    for (int i = 0; i < optimizer->count; i++) {
        const struct optimizer_slot *slot = &optimizer->slots[i];
        if (in_place(slot->param)) continue;
        if (slot->home) {
            const struct weight home = home_view(slot);
            weight_widen(stream, slot->master, &home);
            continue;
        }
        weight_widen(stream, slot->param->grad.data, &slot->param->w);
        memcpy(slot->master, slot->piece.staged, piece_bytes(slot));
    }
}

static void gather_bucket(const struct optimizer *optimizer, int bucket) {
    for (int i = 0; i < optimizer->count; i++) {
        const struct optimizer_slot *slot = &optimizer->slots[i];
        if (slot->piece.bucket == bucket)
            memcpy(slot->piece.staged, slot->master, piece_bytes(slot));
    }
    dp_gather(optimizer->dp, bucket);
}

void optimizer_refresh(const struct optimizer *optimizer, struct stream *stream) {
    struct dp *dp = optimizer->dp;
    for (int b = 0; b < dp->bucket_count && dp->shares > 1; b++)
        if (dp->buckets[b].whole) gather_bucket(optimizer, b);
    for (int i = 0; i < optimizer->count; i++) {
        const struct optimizer_slot *slot = &optimizer->slots[i];
        if (in_place(slot->param) || (dp->shares > 1 && !slot->home)) continue;
        const struct weight to = slot->home ? home_view(slot) : slot->param->w;
        weight_round(stream, &to, slot->master);
    }
    sharded_forget(optimizer->sharded);
}

double optimizer_square_sum(const struct optimizer *optimizer, const struct exec *exec) {
    double sum = 0.0;
    for (int i = 0; i < optimizer->count; i++)
        if (optimizer->slots[i].param->primary)
            exec->k->sum_squares(exec->stream, &sum, optimizer->slots[i].piece.grad,
                                 optimizer->slots[i].piece.count);
    dp_sum_shares(optimizer->dp, &sum, 1);
    comm_all_reduce(exec->tp, exec->stream, &sum, 1, DTYPE_F64, COMM_SUM);
    return sum;
}

void optimizer_update(const struct optimizer *optimizer, const struct exec *exec,
                      const struct optimizer_step *step) {
    for (int i = 0; i < optimizer->count; i++) {
        const struct optimizer_slot *slot = &optimizer->slots[i];
        const struct adamw_args args = {.w = slot->master,
                                        .m = slot->m,
                                        .v = slot->v,
                                        .grad = slot->piece.grad,
                                        .n = slot->piece.count,
                                        .lr = step->lr,
                                        .beta1 = step->beta1,
                                        .beta2 = step->beta2,
                                        .eps = step->eps,
                                        .decay = slot->param->decays ? step->weight_decay : 0.0,
                                        .step = step->step,
                                        .grad_scale = step->grad_scale};
        exec->k->adamw(exec->stream, &args);
    }
    optimizer_refresh(optimizer, exec->stream);
}
