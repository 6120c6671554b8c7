#include "parallel/cost.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

double cost_collective(enum cost_kind kind, int ranks, double bytes, const struct cost_link *link) {
    if (ranks <= 1) return 0.0;
    double hops = log2((double)ranks), part = (ranks - 1.0) / ranks;
    const double steps[] = {[COST_ALL_REDUCE] = 2.0 * hops,
                            [COST_ALL_GATHER] = hops,
                            [COST_REDUCE_SCATTER] = hops,
                            [COST_SEND] = 1.0};
    const double k[] = {[COST_ALL_REDUCE] = 2.0 * part,
                        [COST_ALL_GATHER] = part,
                        [COST_REDUCE_SCATTER] = part,
                        [COST_SEND] = 1.0};
    return steps[kind] * link->latency + k[kind] * bytes / link->bandwidth;
}

/* The next place of the group, the first axis fastest; false after the last. */
static bool next_place(const struct mesh *mesh, unsigned axes, struct mesh_place *place) {
    for (int axis = 0; axis < MESH_AXES; axis++) {
        if (!(axes & 1u << axis)) continue;
        if (++place->at[axis] < mesh->size[axis]) return true;
        place->at[axis] = 0;
    }
    return false;
}

struct cost_link cost_group_link(const struct cost_network *network, const struct mesh *mesh,
                                 unsigned axes) {
    int members = 0, here = 0;
    struct mesh_place place = {{0}};
    do {
        members++;
        here += mesh_rank(mesh, &place) < network->per_node;
    } while (next_place(mesh, axes, &place));
    if (here == members) return network->node;
    return (struct cost_link){.latency = network->between.latency,
                              .bandwidth =
                                  fmin(network->node.bandwidth, network->between.bandwidth * here)};
}

struct cost_link cost_hop_link(const struct cost_network *network, const struct mesh *mesh,
                               enum mesh_axis axis) {
    struct mesh_place last = {{0}};
    last.at[axis] = mesh->size[axis] - 1;
    return mesh_rank(mesh, &last) < network->per_node ? network->node : network->between;
}

static enum status simulate(struct cost_pipeline *cost, double *ends, struct schedule *schedules,
                            const struct schedule_shape *shape,
                            const struct schedule_costs *costs) {
    struct schedule_timeline timeline;
    for (int stage = 0; stage < shape->stages; stage++)
        TRY(schedule_create(&schedules[stage], shape, stage));
    TRY(schedule_simulate(&timeline, schedules, costs, SEND_FREE));
    *cost = (struct cost_pipeline){timeline.seconds, timeline.busiest};
    for (int stage = 0; stage < shape->stages; stage++)
        ends[stage] = timeline.events[stage][schedules[stage].count - 1].end;
    schedule_timeline_free(&timeline);
    return STATUS_OK;
}

enum status cost_pipeline(struct cost_pipeline *cost, double *ends,
                          const struct schedule_shape *shape, const struct schedule_costs *costs) {
    struct schedule *schedules = calloc((size_t)shape->stages, sizeof *schedules);
    if (!schedules)
        return status_fail(STATUS_MEMORY, "no memory to simulate %d stages", shape->stages);
    enum status status = simulate(cost, ends, schedules, shape, costs);
    for (int stage = 0; stage < shape->stages; stage++) schedule_free(&schedules[stage]);
    free(schedules);
    return status;
}
