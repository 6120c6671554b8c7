#define _GNU_SOURCE
#include "train/observe.h"

#include "core/log.h"

#include <stdio.h>
#include <unistd.h>

void observe_begin(struct trainer *t) {
    t->trace.on = t->step + 1 == t->options->train.trace_step;
    trace_watch(&t->trace, &t->parallel->world);
    trace_watch(&t->trace, &t->comms.replicas);
    for (int axis = 0; axis < MESH_AXES; axis++) trace_watch(&t->trace, &t->comms.comm[axis]);
}

void observe_end(struct trainer *t) {
    trace_unwatch(&t->trace);
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
