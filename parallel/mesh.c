#include "parallel/mesh.h"
#include "parallel/comm_mpi.h"

#include <assert.h>

const char *mesh_axis_name(enum mesh_axis axis) {
    static const char *const names[MESH_AXES] = {
        [MESH_TP] = "tp", [MESH_DP] = "dp", [MESH_PP] = "pp"};
    assert((unsigned)axis < MESH_AXES);
    return names[axis];
}

enum status mesh_create(struct mesh *mesh, int ranks, int dp, int pp, int tp) {
    assert(ranks > 0);
    if (pp < 1 || tp < 1 || dp < 0)
        return status_fail(STATUS_CONFIG, "parallel degrees must be positive: dp %d, pp %d, tp %d",
                           dp, pp, tp);
    int64_t model = (int64_t)pp * tp;
    if (dp == 0 && ranks % model != 0)
        return status_fail(STATUS_CONFIG, "%d ranks are no multiple of pp %d x tp %d", ranks, pp,
                           tp);
    if (dp == 0) dp = (int)(ranks / model);
    if (model > ranks || dp * model != ranks)
        return status_fail(STATUS_CONFIG, "dp %d x pp %d x tp %d are not the job's %d ranks", dp,
                           pp, tp, ranks);
    *mesh = (struct mesh){.size = {[MESH_TP] = tp, [MESH_DP] = dp, [MESH_PP] = pp}};
    return STATUS_OK;
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
        place.at[axis] = rank % mesh->size[axis];
        rank /= mesh->size[axis];
    }
    return place;
}

int mesh_rank(const struct mesh *mesh, const struct mesh_place *place) {
    int rank = 0;
    for (int axis = MESH_AXES - 1; axis >= 0; axis--) {
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

enum status mesh_open(struct mesh_comms *comms, const struct mesh *mesh, const struct comm *world) {
    assert(world->size == mesh_ranks(mesh));
    *comms = (struct mesh_comms){0};
    struct mesh_place place = mesh_place(mesh, world->rank);
    for (int axis = 0; axis < MESH_AXES; axis++) {
        enum status status = comm_mpi_open_split(
            &comms->comm[axis], world, mesh_axis_name((enum mesh_axis)axis),
            mesh_group(mesh, (enum mesh_axis)axis, world->rank), place.at[axis]);
        if (status == STATUS_OK) continue;
        mesh_close(comms);
        return status;
    }
    return STATUS_OK;
}

void mesh_close(struct mesh_comms *comms) {
    for (int axis = 0; axis < MESH_AXES; axis++) comm_close(&comms->comm[axis]);
}
