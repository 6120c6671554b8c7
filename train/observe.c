#define _GNU_SOURCE
#include "train/observe.h"

#include "core/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void observe_begin(struct trainer *t) {
    t->slow.before = t->trace.compute;
    t->trace.on = t->step + 1 == t->options->train.trace_step;
    trace_watch(&t->trace, &t->parallel->world);
    trace_watch(&t->trace, &t->comms.replicas);
    trace_watch(&t->trace, &t->comms.down);
    trace_watch(&t->trace, &t->comms.ends);
    for (int axis = 0; axis < MESH_AXES; axis++) trace_watch(&t->trace, &t->comms.comm[axis]);
    trace_watch(&t->trace, &t->tensor.copies);
}

void observe_end(struct trainer *t) {
    trace_unwatch(&t->trace);
    t->slow.mine.seconds += t->trace.compute - t->slow.before;
    for (int i = 0; i < t->micro_count; i++) t->slow.mine.tokens += (double)t->micro[i].tokens;
}

/* The memory of a comparison. */
struct comparison {
    struct slow_rank_window *windows;
    struct slow_rank_verdict *verdicts;
    int *group;
    double *scratch;
};

static void comparison_free(struct comparison *c) {
    free(c->windows);
    free(c->verdicts);
    free(c->group);
    free(c->scratch);
}

static bool comparison_create(const struct trainer *t, struct comparison *c) {
    size_t ranks = (size_t)t->parallel->world.size;
    *c = (struct comparison){.windows = calloc(ranks, sizeof *c->windows),
                             .verdicts = calloc(ranks, sizeof *c->verdicts),
                             .group = calloc(ranks, sizeof *c->group),
                             .scratch = calloc(ranks, sizeof *c->scratch)};
    if (!c->windows || !c->verdicts || !c->group || !c->scratch) return false;
    for (int rank = 0; rank < (int)ranks; rank++)
        c->group[rank] = mesh_place(&t->mesh, rank).at[MESH_PP];
    return true;
}

static enum status compare_ranks(struct trainer *t, struct comparison *c) {
    struct comm *world = &t->parallel->world;
    comm_all_gather(world, &t->ws.stream, c->windows, &t->slow.mine, 2, DTYPE_F64);
    TRY(stream_check(&t->ws.stream));
    slow_rank_judge(c->verdicts, t->slow.times, c->windows, c->group, world->size, c->scratch);
    const struct slow_rank_verdict *mine = &c->verdicts[world->rank];
    if (mine->tell)
        log_line(LOG_WARN, "event=slow_rank step=%lld seconds=%.3f median=%.3f steps=%lld",
                 (long long)t->step, t->slow.mine.seconds, mine->median,
                 (long long)t->options->train.slow_rank_every);
    return STATUS_OK;
}

enum status observe_slow_ranks(struct trainer *t) {
    struct comm *world = &t->parallel->world;
    struct comparison comparison;
    int64_t every = t->options->train.slow_rank_every;
    if (world->size == 1 || every == 0 || t->step % every != 0) return STATUS_OK;
    if (!t->slow.times) t->slow.times = calloc((size_t)world->size, sizeof *t->slow.times);
    bool room = comparison_create(t, &comparison) && t->slow.times;
    enum status status = parallel_agree(
        world, room ? STATUS_OK : status_fail(STATUS_MEMORY, "no memory to compare ranks"));
    if (status == STATUS_OK) status = compare_ranks(t, &comparison);
    comparison_free(&comparison);
    t->slow.mine = (struct slow_rank_window){0};
    return status;
}

/* "rank 3 @ n2", and where it stands along the axes that have several ranks. */
static void describe_rank(const struct trainer *t, char label[128]) {
    char host[64] = "?";
    gethostname(host, sizeof host - 1);
    int used = snprintf(label, 128, "rank %d @ %.40s", t->parallel->world.rank, host);
    for (int axis = 0; axis < MESH_AXES; axis++)
        if (t->mesh.size[axis] > 1)
            used += snprintf(label + used, 128 - (size_t)used, " %s%d",
                             mesh_axis_name((enum mesh_axis)axis), t->place.at[axis]);
}

enum status observe_trace(struct trainer *t) {
    char path[4096], label[128];
    if (!t->trace.on) return STATUS_OK;
    t->trace.on = false;
    snprintf(path, sizeof path, "%s/trace-step-%lld.json", t->options->train.out,
             (long long)t->step);
    describe_rank(t, label);
    struct comm *world = &t->parallel->world;
    TRY(parallel_agree(world, trace_write(&t->trace, world, path, label)));
    log_line(LOG_INFO, "event=trace step=%lld path=%s", (long long)t->step,
             log_value(&(struct log_text){0}, path));
    return STATUS_OK;
}
