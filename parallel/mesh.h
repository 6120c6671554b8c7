/* Where a rank stands in the grid of parallel axes, and its communicators along them.
 *
 * An axis's order is how close its ranks are: tensor-parallel peers talk in every layer and are
 * neighbours, pipeline stages talk least and are far apart.
 *
 *     rank = (pp * DP + dp) * TP + tp          (fastest axis first in enum mesh_axis)
 *
 * All but mesh_open is arithmetic without MPI. */
#ifndef STRATA_PARALLEL_MESH_H
#define STRATA_PARALLEL_MESH_H

#include "core/comm.h"

enum mesh_axis { MESH_TP, MESH_DP, MESH_PP, MESH_AXES };

struct mesh {
    int size[MESH_AXES]; /* ranks along each axis; their product is the job's ranks */
};

struct mesh_place {
    int at[MESH_AXES];
};

/* "tp", "dp", "pp" */
const char *mesh_axis_name(enum mesh_axis axis);

/* Fills in sizes. dp = 0 takes what tp and pp leave. STATUS_CONFIG says which product does not fit
 * the number of ranks. */
enum status mesh_create(struct mesh *mesh, int ranks, int dp, int pp, int tp);

int mesh_ranks(const struct mesh *mesh);
struct mesh_place mesh_place(const struct mesh *mesh, int rank);
int mesh_rank(const struct mesh *mesh, const struct mesh_place *place);

/* The lowest rank of the group that differs from `rank` along `axis` only. */
int mesh_group(const struct mesh *mesh, enum mesh_axis axis, int rank);

struct mesh_comms {
    struct comm comm[MESH_AXES]; /* my rank in comm[axis] is my place along it */
};

/* Splits `world` (mesh_ranks ranks) once along every axis. Collective. */
enum status mesh_open(struct mesh_comms *comms, const struct mesh *mesh, const struct comm *world);

/* May be called twice, and on a zeroed struct. Collective. */
void mesh_close(struct mesh_comms *comms);

#endif
