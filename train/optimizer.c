#include "train/optimizer.h"

#include "kernels/base/units.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static bool in_place(const struct param *param) {
    return param->w.layout == layout_of_gradient(param->w.layout);
}

static size_t piece_bytes(const struct optimizer_slot *slot) {
    return (size_t)slot->piece.count * sizeof(float);
}

/* --- layout ---------------------------------------------------------------------------------- */

static bool in_8_bits(const struct optimizer_options *options, const struct param *param) {
    const struct param_slice *slice = &param->slice;
    return options->moments8 && !weight_is_vector(param->id) && param->id != WEIGHT_EMBED &&
           slice->cols % MOMENT8_TILE == 0 && slice->rows * slice->cols >= OPTIMIZER_LEAST_8;
}

/* Where a slice begins or ends inside a tile: that place, else 0. */
static int64_t cut_inside(int64_t first, int64_t count, int64_t whole) {
    if (first % MOMENT8_TILE != 0) return first;
    return (first + count) % MOMENT8_TILE != 0 && first + count < whole ? first + count : 0;
}

static enum status check_cut(const struct param *param) {
    const struct param_slice *slice = &param->slice;
    int64_t row = cut_inside(slice->first_row, param->w.rows, slice->rows);
    int64_t col = cut_inside(slice->first_col, param->w.cols, slice->cols);
    if (row == 0 && col == 0) return STATUS_OK;
    return status_fail(STATUS_CONFIG,
                       "tensor parallelism cuts %s at %s %lld, inside a block of %d that 8-bit "
                       "moments keep together: choose another parallel.tp, or train.optimizer "
                       "adamw",
                       param->name, row ? "row" : "column", (long long)(row ? row : col),
                       MOMENT8_TILE);
}

static size_t moment_bytes(bool in8, int64_t count) {
    assert(!in8 || count % MOMENT8_BLOCK == 0);
    return (size_t)(in8 ? count / MOMENT8_BLOCK : count) *
           (in8 ? sizeof(struct moment8) : sizeof(float));
}

static void push_state(const struct optimizer_options *options, struct optimizer_slot *slot,
                       struct arena *arena) {
    const struct param *param = slot->param;
    bool in8 = in_8_bits(options, param);
    size_t bytes = moment_bytes(in8, slot->piece.count);
    void *m = arena_push(arena, bytes), *v = arena_push(arena, bytes);
    if (in8)
        slot->m8 = m, slot->v8 = v;
    else
        slot->m = m, slot->v = v;
    slot->master = !in_place(param) ? arena_push(arena, piece_bytes(slot))
                   : slot->home     ? slot->home
                                    : (float *)param->w.data + slot->piece.first;
}

/* What push_state takes for rank `rank`'s share of a bucket. */
static size_t share_bytes(const struct optimizer_options *options, int b, int rank) {
    const struct dp *dp = options->dp;
    struct arena counted;
    arena_count(&counted, "optimizer");
    for (int i = dp->buckets[b].first; i < dp->buckets[b].last; i++) {
        struct optimizer_slot slot = {.param = dp->params[i]};
        slot.piece.count = dp_piece_count(dp, b, i, rank);
        if (slot.piece.count > 0) push_state(options, &slot, &counted);
    }
    return counted.used;
}

/* Of rank `rank`'s share of a bucket, each of its rectangles padded as a checkpoint's snapshot
 * does. */
static size_t spared_bytes(const struct optimizer_options *options, int b, int rank) {
    const struct dp *dp = options->dp;
    size_t spared = 0;
    for (int i = dp->buckets[b].first; i < dp->buckets[b].last; i++) {
        int64_t count = dp_piece_count(dp, b, i, rank);
        if (count == 0 || !in_8_bits(options, dp->params[i])) continue;
        size_t bytes = moment_bytes(true, count) + WEIGHT_PARTS * ARENA_ALIGN;
        if (bytes < moment_bytes(false, count)) spared += 2 * (moment_bytes(false, count) - bytes);
    }
    return spared;
}

/* Of a bucket: as much as the rank with most needs, so that a plan is the same for all. */
static void push_bucket(struct optimizer *optimizer, const struct optimizer_options *options, int b,
                        struct arena *arena) {
    size_t begin = arena_mark(arena), most = 0, spared = SIZE_MAX;
    for (int rank = 0; rank < options->dp->shares; rank++) {
        size_t bytes = share_bytes(options, b, rank), less = spared_bytes(options, b, rank);
        if (bytes > most) most = bytes;
        if (less < spared) spared = less;
    }
    optimizer->spared += spared;
    for (int i = 0; i < optimizer->count; i++)
        if (optimizer->slots[i].piece.bucket == b) push_state(options, &optimizer->slots[i], arena);
    arena_push(arena, most - (arena_mark(arena) - begin));
}

/* Two buffers that any rank's runs fit in. */
static void push_buffers(struct optimizer *optimizer, const struct optimizer_options *options,
                         struct arena *arena) {
    size_t moments = 0, masters = 0;
    const struct dp *dp = options->dp;
    for (int b = 0; b < dp->bucket_count; b++)
        for (int i = dp->buckets[b].first; i < dp->buckets[b].last; i++) {
            const struct weight *w = &dp->params[i]->grad;
            int64_t count = weight_elements(w->layout, w->rows, w->cols);
            count = min_i64(count, OPTIMIZER_STAGED);
            size_t bytes = moment_bytes(in_8_bits(options, dp->params[i]), count);
            if (bytes > moments) moments = bytes;
            if (!in_place(dp->params[i]) && (size_t)count * sizeof(float) > masters)
                masters = (size_t)count * sizeof(float);
        }
    for (int i = 0; i < 2; i++)
        optimizer->buffers[i] = (struct optimizer_buffer){
            arena_push(arena, moments), arena_push(arena, moments), arena_push(arena, masters)};
}

static enum status list_slots(struct optimizer *optimizer,
                              const struct optimizer_options *options) {
    for (int i = 0; i < options->count; i++) {
        struct param *param = options->params[i];
        struct optimizer_slot *slot = &optimizer->slots[optimizer->count];
        if (in_8_bits(options, param)) TRY(check_cut(param));
        *slot = (struct optimizer_slot){.param = param, .piece = dp_piece(options->dp, param)};
        if (slot->piece.count == 0) continue;
        slot->home = sharded_place(options->sharded, param, slot->piece.first);
        optimizer->count++;
    }
    return STATUS_OK;
}

enum status optimizer_plan(struct optimizer *optimizer, const struct optimizer_options *options,
                           struct arena *arena) {
    *optimizer =
        (struct optimizer){.dp = options->dp, .sharded = options->sharded, .host = options->host};
    optimizer->slots = calloc((size_t)options->count + 1, sizeof *optimizer->slots);
    enum status status = optimizer->slots
                             ? list_slots(optimizer, options)
                             : status_fail(STATUS_MEMORY, "no memory for the optimizer's list");
    if (status != STATUS_OK) {
        optimizer_free(optimizer);
        return status;
    }
    for (int b = 0; b < options->dp->bucket_count; b++)
        push_bucket(optimizer, options, b, options->host ? options->host : arena);
    if (options->host) push_buffers(optimizer, options, arena);
    return STATUS_OK;
}

void optimizer_free(struct optimizer *optimizer) {
    free(optimizer->slots);
    memset(optimizer, 0, sizeof *optimizer);
}

struct optimizer_values optimizer_values(const struct optimizer_slot *slot, int kind) {
    enum layout fp32 = slot->param->grad.layout;
    switch (kind) {
    case OPTIMIZER_M:
        return slot->m8 ? (struct optimizer_values){LAYOUT_MOMENT8, slot->m8}
                        : (struct optimizer_values){fp32, slot->m};
    case OPTIMIZER_V:
        return slot->v8 ? (struct optimizer_values){LAYOUT_MOMENT8_POSITIVE, slot->v8}
                        : (struct optimizer_values){fp32, slot->v};
    default:
        return (struct optimizer_values){fp32, slot->master};
    }
}

int optimizer_views(const struct optimizer_slot *slot, const struct optimizer_values *values,
                    struct weight_part parts[WEIGHT_PARTS], struct weight views[WEIGHT_PARTS]) {
    int count = weight_parts(parts, &slot->param->grad, slot->piece.first, slot->piece.count);
    bool in8 = layout_is_moment8(values->layout);
    for (int i = 0; i < count; i++) {
        void *at = (char *)values->data + moment_bytes(in8, parts[i].at);
        views[i] = (struct weight){values->layout, parts[i].rows, parts[i].cols, at};
    }
    return count;
}

/* --- masters --------------------------------------------------------------------------------- */

/* A piece of a bf16 matrix with an even number of columns: pairs of columns, whatever panel. */
static struct weight home_view(const struct optimizer_slot *slot) {
    return (struct weight){slot->param->w.layout, PANEL_ROWS, slot->piece.count / PANEL_ROWS,
                           slot->home};
}

/* Of state in a file no more than a slot's need be in memory. */
static void rest(const struct optimizer *optimizer) {
    if (optimizer->host) arena_rest(optimizer->host);
}

/* A piece may end within what bf16 keeps together, so the whole is widened, into the gradient. */
void optimizer_start(const struct optimizer *optimizer, struct stream *stream) {
    for (int i = 0; i < optimizer->count; i++) {
        const struct optimizer_slot *slot = &optimizer->slots[i];
        if (in_place(slot->param)) continue;
        if (slot->home) {
            const struct weight home = home_view(slot);
            weight_widen(stream, slot->piece.grad, &home);
            stream_copy(stream, slot->master, slot->piece.grad, piece_bytes(slot));
            rest(optimizer);
            continue;
        }
        weight_widen(stream, slot->param->grad.data, &slot->param->w);
        stream_copy(stream, slot->master, slot->piece.staged, piece_bytes(slot));
        rest(optimizer);
    }
}

static void gather_bucket(const struct optimizer *optimizer, struct stream *stream, int bucket) {
    for (int i = 0; i < optimizer->count; i++) {
        const struct optimizer_slot *slot = &optimizer->slots[i];
        if (slot->piece.bucket != bucket) continue;
        stream_copy(stream, slot->piece.staged, slot->master, piece_bytes(slot));
        rest(optimizer);
    }
    dp_gather(optimizer->dp, bucket);
}

/* The masters on the device: of those on the host a copy, in the gradient. */
static const float *masters_here(const struct optimizer *optimizer, struct stream *stream,
                                 const struct optimizer_slot *slot) {
    if (!optimizer->host) return slot->master;
    stream_copy(stream, slot->piece.grad, slot->master, piece_bytes(slot));
    rest(optimizer);
    return slot->piece.grad;
}

void optimizer_refresh(const struct optimizer *optimizer, struct stream *stream) {
    struct dp *dp = optimizer->dp;
    for (int b = 0; b < dp->bucket_count && dp->shares > 1; b++)
        if (dp->buckets[b].whole) gather_bucket(optimizer, stream, b);
    for (int i = 0; i < optimizer->count; i++) {
        const struct optimizer_slot *slot = &optimizer->slots[i];
        if (in_place(slot->param) || (dp->shares > 1 && !slot->home)) continue;
        const struct weight to = slot->home ? home_view(slot) : slot->param->w;
        weight_round(stream, &to, masters_here(optimizer, stream, slot));
    }
    sharded_forget(optimizer->sharded);
}

/* --- a step ---------------------------------------------------------------------------------- */

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

/* A run of a slot's elements that is updated at once. */
struct run {
    const struct optimizer_slot *slot;
    int64_t first, count; /* 0 behind the last */
};

static struct run next_run(const struct optimizer *optimizer, const struct run *run) {
    const struct optimizer_slot *slot = run->slot, *end = optimizer->slots + optimizer->count;
    int64_t first = run->first + run->count;
    if (slot < end && first == slot->piece.count) slot++, first = 0;
    if (slot == end) return (struct run){.slot = end};
    int64_t left = slot->piece.count - first;
    return (struct run){slot, first, optimizer->host ? min_i64(left, OPTIMIZER_STAGED) : left};
}

/* Where a run's state lies. */
static struct optimizer_buffer state_of(const struct run *run) {
    const struct optimizer_slot *slot = run->slot;
    size_t bytes = moment_bytes(slot->m8, run->first);
    void *m = slot->m8 ? (void *)slot->m8 : slot->m, *v = slot->v8 ? (void *)slot->v8 : slot->v;
    return (struct optimizer_buffer){(char *)m + bytes, (char *)v + bytes,
                                     slot->master + run->first};
}

static void copy_state(struct stream *stream, const struct run *run,
                       const struct optimizer_buffer *to, const struct optimizer_buffer *from) {
    size_t bytes = moment_bytes(run->slot->m8, run->count);
    stream_copy(stream, to->m, from->m, bytes);
    stream_copy(stream, to->v, from->v, bytes);
    if (!in_place(run->slot->param))
        stream_copy(stream, to->master, from->master, (size_t)run->count * sizeof(float));
}

static void update_run(const struct exec *exec, const struct run *run,
                       const struct optimizer_buffer *state, const struct optimizer_step *step) {
    const struct optimizer_slot *slot = run->slot;
    struct adamw_args args = {.w = state->master,
                              .grad = slot->piece.grad + run->first,
                              .n = run->count,
                              .lr = step->lr,
                              .beta1 = step->beta1,
                              .beta2 = step->beta2,
                              .eps = step->eps,
                              .decay = slot->param->decays ? step->weight_decay : 0.0,
                              .step = step->step,
                              .grad_scale = step->grad_scale};
    if (slot->m8) {
        exec->k->adamw8(exec->stream, &args, state->m, state->v);
        return;
    }
    args.m = state->m;
    args.v = state->v;
    exec->k->adamw(exec->stream, &args);
}

static void update_here(const struct optimizer *optimizer, const struct exec *exec,
                        const struct optimizer_step *step) {
    const struct run none = {.slot = optimizer->slots};
    for (struct run run = next_run(optimizer, &none); run.count > 0;
         run = next_run(optimizer, &run)) {
        const struct optimizer_buffer state = state_of(&run);
        update_run(exec, &run, &state, step);
    }
}

static void fetch_run(const struct optimizer *optimizer, struct stream *stream,
                      const struct run *run, int buffer) {
    if (run->count == 0) return;
    const struct optimizer_buffer there = state_of(run);
    copy_state(stream, run, &optimizer->buffers[buffer], &there);
}

/* A run comes while the one before it is updated. */
static void update_through_buffers(const struct optimizer *optimizer, const struct exec *exec,
                                   const struct optimizer_step *step) {
    const struct run none = {.slot = optimizer->slots};
    struct run run = next_run(optimizer, &none);
    fetch_run(optimizer, exec->stream, &run, 0);
    for (int turn = 0; run.count > 0; turn = !turn) {
        const struct run next = next_run(optimizer, &run);
        fetch_run(optimizer, exec->stream, &next, !turn);
        struct optimizer_buffer here = optimizer->buffers[turn];
        const struct optimizer_buffer there = state_of(&run);
        if (in_place(run.slot->param)) here.master = there.master;
        update_run(exec, &run, &here, step);
        copy_state(exec->stream, &run, &there, &here);
        rest(optimizer);
        run = next;
    }
}

void optimizer_update(const struct optimizer *optimizer, const struct exec *exec,
                      const struct optimizer_step *step) {
    if (optimizer->host)
        update_through_buffers(optimizer, exec, step);
    else
        update_here(optimizer, exec, step);
    optimizer_refresh(optimizer, exec->stream);
}
