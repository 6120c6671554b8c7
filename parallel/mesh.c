#include "parallel/mesh.h"
#include "kernels/base/units.h"
#include "parallel/comm_mpi.h"
#include "parallel/comm_nccl.h"

#include <assert.h>
#include <string.h>

const char *mesh_axis_name(enum mesh_axis axis) {
    static const char *const names[MESH_AXES] = {
        [MESH_TP] = "tp", [MESH_CP] = "cp", [MESH_DP] = "dp", [MESH_PP] = "pp"};
    assert((unsigned)axis < MESH_AXES);
    return names[axis];
}

static enum status parse_order(struct mesh *mesh, const char *order) {
    bool seen[MESH_AXES] = {false};
    const char *at = order;
    for (int i = 0; i < MESH_AXES; i++) {
        int axis = 0;
        while (axis < MESH_AXES &&
               (strncmp(at, mesh_axis_name((enum mesh_axis)axis), 2) != 0 || seen[axis]))
            axis++;
        char after = axis < MESH_AXES ? at[2] : ' ';
        if (after != (i + 1 < MESH_AXES ? '-' : '\0'))
            return status_fail(STATUS_CONFIG,
                               "the order of ranks '%s' is not tp, cp, dp and pp, each once, "
                               "joined by '-'",
                               order);
        seen[axis] = true;
        mesh->order[i] = (enum mesh_axis)axis;
        at += 3;
    }
    return STATUS_OK;
}

enum status mesh_create(struct mesh *mesh, int ranks, const struct mesh_options *o) {
    assert(ranks > 0);
    const int64_t fixed[] = {o->tp, o->cp, o->pp};
    int64_t model = 1; /* ranks of one replica of the data */
    *mesh = (struct mesh){0};
    for (int i = 0; i < 3; i++) {
        if (fixed[i] < 1 || o->dp < 0)
            return status_fail(STATUS_CONFIG,
                               "parallel degrees must be positive: dp %lld, pp %lld, cp %lld, tp "
                               "%lld",
                               (long long)o->dp, (long long)o->pp, (long long)o->cp,
                               (long long)o->tp);
        model = fixed[i] > ranks ? ranks + 1 : min_i64(model * fixed[i], ranks + 1);
    }
    int64_t dp = o->dp ? o->dp : ranks / model;
    if (model > ranks || dp > ranks || dp * model != ranks)
        return status_fail(
            STATUS_CONFIG,
            o->dp ? "dp %lld x pp %lld x cp %lld x tp %lld are not the job's %d ranks"
                  : "dp %lld (what is left) x pp %lld x cp %lld x tp %lld are not "
                    "the job's %d ranks",
            (long long)dp, (long long)o->pp, (long long)o->cp, (long long)o->tp, ranks);
    mesh->size[MESH_TP] = (int)o->tp;
    mesh->size[MESH_CP] = (int)o->cp;
    mesh->size[MESH_DP] = (int)dp;
    mesh->size[MESH_PP] = (int)o->pp;
    return parse_order(mesh, o->order);
}

int mesh_ranks(const struct mesh *mesh) {
    int ranks = 1;
    for (int axis = 0; axis < MESH_AXES; axis++) ranks *= mesh->size[axis];
    return ranks;
}

struct mesh_place mesh_place(const struct mesh *mesh, int rank) {
    assert(rank >= 0 && rank < mesh_ranks(mesh));
    struct mesh_place place;
    for (int axis = 0; axis < MESH_AXES; axis++) {
        place.at[mesh->order[axis]] = rank % mesh->size[mesh->order[axis]];
        rank /= mesh->size[mesh->order[axis]];
    }
    return place;
}

int mesh_rank(const struct mesh *mesh, const struct mesh_place *place) {
    int rank = 0;
    for (int i = MESH_AXES - 1; i >= 0; i--) {
        enum mesh_axis axis = mesh->order[i];
        assert(place->at[axis] >= 0 && place->at[axis] < mesh->size[axis]);
        rank = rank * mesh->size[axis] + place->at[axis];
    }
    return rank;
}

int mesh_group(const struct mesh *mesh, enum mesh_axis axis, int rank) {
    struct mesh_place place = mesh_place(mesh, rank);
    place.at[axis] = 0;
    return mesh_rank(mesh, &place);
}

/* The lowest rank with my weights. */
static int replica_group(const struct mesh *mesh, int rank) {
    struct mesh_place place = mesh_place(mesh, rank);
    place.at[MESH_CP] = place.at[MESH_DP] = 0;
    return mesh_rank(mesh, &place);
}

/* What is started along an axis. */
static int uses_of(enum mesh_axis axis) {
    switch (axis) {
    case MESH_CP:
        return COMM_NCCL_SUMS | COMM_NCCL_MESSAGES;
    case MESH_TP:
    case MESH_DP:
        return COMM_NCCL_SUMS;
    default:
        return COMM_NCCL_MESSAGES;
    }
}

/* One communicator of the mesh. */
static enum status split(struct comm *comm, const struct comm *world, const char *name, int colour,
                         int key, const struct nccl *nccl, int uses) {
    if (nccl) return comm_nccl_open_split(comm, world, name, colour, key, nccl, uses);
    return comm_mpi_open_split(comm, world, name, colour, key);
}

enum status mesh_open(struct mesh_comms *comms, const struct mesh *mesh, const struct comm *world,
                      const struct nccl *nccl) {
    assert(world->size == mesh_ranks(mesh));
    *comms = (struct mesh_comms){0};
    struct mesh_place place = mesh_place(mesh, world->rank);
    enum status status = STATUS_OK;
    for (int axis = 0; axis < MESH_AXES && status == STATUS_OK; axis++)
        status = split(&comms->comm[axis], world, mesh_axis_name((enum mesh_axis)axis),
                       mesh_group(mesh, (enum mesh_axis)axis, world->rank), place.at[axis], nccl,
                       uses_of((enum mesh_axis)axis));
    if (status == STATUS_OK)
        status = split(&comms->replicas, world, "replicas", replica_group(mesh, world->rank),
                       place.at[MESH_DP] * mesh->size[MESH_CP] + place.at[MESH_CP], nccl,
                       COMM_NCCL_SUMS);
    int column = mesh_group(mesh, MESH_PP, world->rank), stage = place.at[MESH_PP];
    bool end = stage == 0 || stage == mesh->size[MESH_PP] - 1;
    if (status == STATUS_OK)
        status = split(&comms->down, world, "pp_down", column, stage, nccl, COMM_NCCL_MESSAGES);
    if (status == STATUS_OK)
        status = split(&comms->ends, world, "pp_ends", end ? column : world->size + world->rank,
                       stage, nccl, 0);
    if (status != STATUS_OK) mesh_close(comms);
    return status;
}

void mesh_close(struct mesh_comms *comms) {
    for (int axis = 0; axis < MESH_AXES; axis++) comm_close(&comms->comm[axis]);
    comm_close(&comms->replicas);
    comm_close(&comms->down);
    comm_close(&comms->ends);
}
