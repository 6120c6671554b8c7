/* Where a rank stands in the grid of parallel axes, and its communicators along them.
 *
 * An axis's order is how close its ranks are: tensor-parallel peers talk in every layer and are
 * neighbours, pipeline stages talk least and are far apart.
 *
 *     rank = ((pp * DP + dp) * CP + cp) * TP + tp          in the order tp-cp-dp-pp
 *
 * All but mesh_open is arithmetic without MPI. */
#ifndef STRATA_PARALLEL_MESH_H
#define STRATA_PARALLEL_MESH_H

#include "core/comm.h"

enum mesh_axis { MESH_TP, MESH_CP, MESH_DP, MESH_PP, MESH_AXES };

struct mesh {
    int size[MESH_AXES];             /* ranks along each axis; their product is the job's ranks */
    enum mesh_axis order[MESH_AXES]; /* neighbours first */
};

struct mesh_place {
    int at[MESH_AXES];
};

/* "tp", "cp", "dp", "pp" */
const char *mesh_axis_name(enum mesh_axis axis);

/* What a run asks for. */
struct mesh_options {
    int64_t tp, cp, dp, pp; /* dp = 0 takes what the others leave */
    const char *order;      /* "tp-cp-dp-pp": each axis once, neighbours first */
};

/* STATUS_CONFIG says which product does not fit the number of ranks, or what is wrong with the
 * order. */
enum status mesh_create(struct mesh *mesh, int ranks, const struct mesh_options *options);

int mesh_ranks(const struct mesh *mesh);
struct mesh_place mesh_place(const struct mesh *mesh, int rank);
int mesh_rank(const struct mesh *mesh, const struct mesh_place *place);

/* The lowest rank of the group that differs from `rank` along `axis` only. */
int mesh_group(const struct mesh *mesh, enum mesh_axis axis, int rank);

struct mesh_comms {
    struct comm comm[MESH_AXES]; /* my rank in comm[axis] is my place along it */
    struct comm replicas;        /* the ranks that hold the same weights: cp x dp, cp neighbours */
    struct comm down;            /* the ranks of comm[MESH_PP] again: what goes down the pipeline */
    struct comm ends;            /* the first and the last of them; between these: a rank alone */
};

struct nccl;

/* Splits `world` (mesh_ranks ranks) once along every axis, and into replicas: over NCCL
 * (parallel/comm_nccl.h), or MPI where nccl is NULL. Collective. */
enum status mesh_open(struct mesh_comms *comms, const struct mesh *mesh, const struct comm *world,
                      const struct nccl *nccl);

/* May be called twice, and on a zeroed struct. Collective. */
void mesh_close(struct mesh_comms *comms);

#endif
