/* What communication and schedules cost: arithmetic for planners, no communicator, no clock.
 *
 * Collectives, alpha-beta (Hockney 1994; k as in nccl-tests' PERFORMANCE.md), n ranks:
 *
 *     seconds = latency * steps + bytes * k / bandwidth
 *
 *                        steps          k              bytes
 *     all-reduce         2 log2 n       2 (n - 1) / n  of a rank's array
 *     all-gather         log2 n         (n - 1) / n    of the whole
 *     reduce-scatter     log2 n         (n - 1) / n    of the whole
 *     send               1              1              of the message
 *
 * Links: a group of ranks within one node has the node's link. One that spans nodes is as fast as a
 * rank's own way out of its node, times the members of the group on a node (each brings its own
 * network card to the ring), but no faster than the node's link. */
#ifndef STRATA_PARALLEL_COST_H
#define STRATA_PARALLEL_COST_H

#include "parallel/mesh.h"
#include "parallel/schedule_simulate.h"

struct cost_link {
    double latency;   /* seconds a step */
    double bandwidth; /* bytes/s that a rank sends while it receives as many */
};

struct cost_network {
    struct cost_link node, between; /* within a node; a rank's share of the way out of it */
    int per_node;                   /* ranks on a node; rank r is on node r / per_node */
};

enum cost_kind { COST_ALL_REDUCE, COST_ALL_GATHER, COST_REDUCE_SCATTER, COST_SEND };

/* 0 for one rank. */
double cost_collective(enum cost_kind kind, int ranks, double bytes, const struct cost_link *link);

/* The link of the ranks that differ along the axes of `axes` alone: bits 1 << MESH_DP and so on. */
struct cost_link cost_group_link(const struct cost_network *network, const struct mesh *mesh,
                                 unsigned axes);

/* The slowest link between neighbours along an axis: pipeline stages, ranks of a ring. */
struct cost_link cost_hop_link(const struct cost_network *network, const struct mesh *mesh,
                               enum mesh_axis axis);

/* A schedule with these costs of virtual stages; `ends` (stages): when each has done its last
 * action. Sends do not block. STATUS_CONFIG as schedule_create says; STATUS_MEMORY. */
struct cost_pipeline {
    double seconds; /* from the first start to the last end */
    double busiest; /* seconds that the busiest stage computes */
};
enum status cost_pipeline(struct cost_pipeline *cost, double *ends,
                          const struct schedule_shape *shape, const struct schedule_costs *costs);

#endif
