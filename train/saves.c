#define _GNU_SOURCE
#include "train/saves.h"

#include "core/log.h"
#include "kernels/base/clock.h"
#include "kernels/base/units.h"
#include "train/checkpoints.h"
#include "train/continuation.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

bool saves_want_snapshot(const struct run_options *options) {
    const struct train_options *train = &options->train;
    return train->checkpoint_async && (train->checkpoint_every > 0 || train->validate_every > 0);
}

/* Whatever of the state is unique lies in my shares of the buckets, as often as there are values of
 * an element: ranks that differ in what they own take the same. */
size_t saves_snapshot_bytes(const struct trainer *t) {
    bool alone = t->outer.anchors != NULL, first = t->comms.replicas.rank == 0;
    size_t bytes = 0, values = alone && first ? 5 : 3;
    if (!t->saves.behind || (!first && !alone && t->dp.shares == 1)) return 0;
    for (int b = 0; b < t->dp.bucket_count; b++)
        bytes += (size_t)(t->dp.buckets[b].count / t->dp.shares) * sizeof(float) * values;
    return bytes - t->optimizer.spared;
}

static enum status begin(struct trainer *t, bool best, bool copy, const char *config) {
    struct comm *world = &t->parallel->world;
    struct checkpoint_state state = {.step = t->step,
                                     .cursor = trainer_cursor(t),
                                     .tokens = t->tokens,
                                     .seed = (uint64_t)t->options->train.seed,
                                     .tokenizer_hash =
                                         t->tokenizer ? tokenizer_hash(t->tokenizer) : 0,
                                     .best_loss = t->best_loss,
                                     .config = (char *)config,
                                     .history_count = GUARD_NUMBERS};
    guard_save(&t->guard, state.history);
    struct slabs slabs;
    TRY(parallel_agree(world, checkpoints_slabs(t, true, &slabs)));
    const struct checkpoint_request request = {.claim = &t->claim,
                                               .state = &state,
                                               .slabs = slabs.items,
                                               .slab_count = slabs.count,
                                               .keep = (int)t->options->train.keep,
                                               .best = best,
                                               .snapshot = copy ? t->saves.snapshot.base : NULL};
    assert(!copy ||
           checkpoint_snapshot_bytes(slabs.items, slabs.count) <= t->saves.snapshot.capacity);
    enum status status = checkpoint_begin(&t->saves.saving, world, &request);
    checkpoints_slabs_free(&slabs);
    arena_rest(&t->offloaded);
    return status;
}

static enum status finish(struct trainer *t) {
    struct checkpoint_report report;
    double start = clock_seconds();
    TRY(checkpoint_finish(&t->saves.saving, &report));
    arena_rest(&t->offloaded);
    t->saves.blocked += clock_seconds() - start;
    log_line(LOG_INFO, "event=checkpoint step=%lld mib=%.1f blocked=%.3fs written=%.3fs",
             (long long)report.step, to_mib((size_t)report.bytes), t->saves.blocked,
             report.ended - t->saves.begun);
    return STATUS_OK;
}

enum status saves_begin(struct trainer *t, bool best, bool wait) {
    char *config = NULL;
    if (t->saves.saving)
        log_line(LOG_INFO, "event=checkpoint_wait step=%lld reason=\"one is still being written\"",
                 (long long)t->step);
    TRY(saves_settle(t));
    t->saves.begun = clock_seconds();
    TRY(checkpoints_claim(t));
    TRY(parallel_agree(&t->parallel->world, continuation_describe(t, &config)));
    bool copy = t->saves.behind && !wait;
    enum status status = begin(t, best, copy, config);
    free(config);
    TRY(status);
    t->saves.blocked = clock_seconds() - t->saves.begun;
    return copy ? STATUS_OK : finish(t);
}

/* In a trace a save in flight is a slice from its begin, or the trace's, to the latest poll. */
enum status saves_poll(struct trainer *t) {
    bool over;
    if (!t->saves.saving) return STATUS_OK;
    double start = clock_seconds();
    struct trace_span span = trace_begin_phase(&t->trace, TRACE_CHECKPOINT);
    TRY(checkpoint_poll(t->saves.saving, &over));
    t->saves.blocked += clock_seconds() - start;
    if (over) TRY(finish(t));
    span.event.started = fmax(t->saves.begun, t->trace.count ? t->trace.events[0].begin : 0.0);
    trace_end(&t->trace, &span);
    return STATUS_OK;
}

enum status saves_settle(struct trainer *t) {
    return t->saves.saving ? finish(t) : STATUS_OK;
}

void saves_close(struct trainer *t) {
    checkpoint_abandon(&t->saves.saving);
    arena_free(&t->saves.snapshot);
}

enum status trainer_checkpoint(struct trainer *t, bool best) {
    return saves_begin(t, best, true);
}
