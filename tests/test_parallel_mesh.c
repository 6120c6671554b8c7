/* Properties of the mesh arithmetic over many shapes. */
#define _GNU_SOURCE
#include "tests/check.h"

#include "parallel/cores.h"
#include "parallel/mesh.h"

#include <sched.h>

static const char *const orders[] = {"tp-cp-dp-pp", "tp-pp-cp-dp", "dp-cp-pp-tp"};

static void check_orders(void (*check)(const struct mesh *), struct mesh_options o) {
    for (int i = 0; i < 3; i++) {
        struct mesh mesh;
        o.order = orders[i];
        assert_ok(mesh_create(&mesh, (int)(o.dp * o.pp * o.cp * o.tp), &o));
        check(&mesh);
    }
}

static void for_each_mesh(void (*check)(const struct mesh *)) {
    for (int dp = 1; dp <= 4; dp++)
        for (int pp = 1; pp <= 3; pp++)
            for (int cp = 1; cp <= 2; cp++)
                for (int tp = 1; tp <= 3; tp++)
                    check_orders(check, (struct mesh_options){tp, cp, dp, pp, NULL});
}

static void check_bijection(const struct mesh *mesh) {
    for (int rank = 0; rank < mesh_ranks(mesh); rank++) {
        struct mesh_place place = mesh_place(mesh, rank);
        for (int axis = 0; axis < MESH_AXES; axis++)
            assert_in_range(place.at[axis], 0, mesh->size[axis] - 1);
        assert_int_equal(mesh_rank(mesh, &place), rank);
    }
}

/* Two ranks share a group of an axis exactly when they differ along that axis only. */
static void check_groups(const struct mesh *mesh) {
    int ranks = mesh_ranks(mesh);
    for (int axis = 0; axis < MESH_AXES; axis++)
        for (int a = 0; a < ranks; a++) {
            struct mesh_place pa = mesh_place(mesh, a);
            int members = 0;
            for (int b = 0; b < ranks; b++) {
                struct mesh_place pb = mesh_place(mesh, b);
                pb.at[axis] = pa.at[axis];
                bool same_line = memcmp(&pa, &pb, sizeof pa) == 0;
                bool same_group = mesh_group(mesh, (enum mesh_axis)axis, a) ==
                                  mesh_group(mesh, (enum mesh_axis)axis, b);
                assert_int_equal(same_line, same_group);
                members += same_group;
            }
            assert_int_equal(members, mesh->size[axis]);
        }
}

/* Peers of the first axis of the order are neighbours: they land on one host first. */
static void check_neighbours(const struct mesh *mesh) {
    enum mesh_axis nearest = mesh->order[0];
    for (int rank = 0; rank < mesh_ranks(mesh); rank++) {
        int first = mesh_group(mesh, nearest, rank);
        assert_in_range(rank - first, 0, mesh->size[nearest] - 1);
    }
}

static void test_rank_and_place_are_inverse(void **state) {
    (void)state;
    for_each_mesh(check_bijection);
}

static void test_groups_are_lines(void **state) {
    (void)state;
    for_each_mesh(check_groups);
}

static void test_nearest_peers_are_neighbours(void **state) {
    (void)state;
    for_each_mesh(check_neighbours);
}

static enum status create(struct mesh *mesh, int ranks, int64_t tp, int64_t cp, int64_t dp,
                          int64_t pp) {
    const struct mesh_options options = {tp, cp, dp, pp, "tp-cp-dp-pp"};
    return mesh_create(mesh, ranks, &options);
}

static void test_sizes(void **state) {
    (void)state;
    struct mesh mesh;
    assert_ok(create(&mesh, 24, 4, 1, 0, 2));
    assert_int_equal(mesh.size[MESH_DP], 3);
    assert_ok(create(&mesh, 24, 2, 3, 0, 2));
    assert_int_equal(mesh.size[MESH_DP], 2);
    assert_int_equal(create(&mesh, 24, 1, 1, 0, 5), STATUS_CONFIG);
    assert_int_equal(create(&mesh, 24, 4, 1, 2, 2), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "dp 2 x pp 2 x cp 1 x tp 4"));
    assert_non_null(strstr(status_message(), "24"));
    assert_int_equal(create(&mesh, 24, 4, 1, 1, 0), STATUS_CONFIG);
    assert_int_equal(create(&mesh, 2, 2000000000, 2000000000, 0, 2000000000), STATUS_CONFIG);
    assert_int_equal(create(&mesh, 2, INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX), STATUS_CONFIG);
}

static void test_orders(void **state) {
    (void)state;
    static const char *const wrong[] = {
        "", "tp", "tp-cp-dp", "tp-cp-dp-dp", "tp-cp-dp-pp-", "tp,cp,dp,pp"};
    struct mesh mesh;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const struct mesh_options options = {1, 1, 1, 1, wrong[i]};
        assert_int_equal(mesh_create(&mesh, 1, &options), STATUS_CONFIG);
        assert_non_null(strstr(status_message(), wrong[i]));
    }
}

static int allowed_cpus(void) {
    cpu_set_t allowed;
    assert_int_equal(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    return CPU_COUNT(&allowed);
}

static void test_cores_are_shared_fairly(void **state) {
    (void)state;
    static struct cores mine;
    static int32_t sharers[CORES_MAX];
    for (int i = 0; i < 8; i++) mine.core[i] = 1;
    for (int i = 0; i < 8; i++) sharers[i] = 1;
    assert_int_equal(cores_share(&mine, sharers), 8); /* bound to cores of its own */
    for (int i = 0; i < 8; i++) sharers[i] = 2;
    assert_int_equal(cores_share(&mine, sharers), 4); /* two ranks, unbound */
    for (int i = 0; i < 8; i++) sharers[i] = 3;
    assert_int_equal(cores_share(&mine, sharers), 2);
    for (int i = 0; i < 8; i++) sharers[i] = 16;
    assert_int_equal(cores_share(&mine, sharers), 1); /* more ranks than cores */
    cores_allowed(&mine);
    assert_int_equal(cores_cpus(mine.cpu), allowed_cpus());
    assert_true(cores_share(&mine, mine.core) >= 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rank_and_place_are_inverse),
        cmocka_unit_test(test_groups_are_lines),
        cmocka_unit_test(test_nearest_peers_are_neighbours),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_orders),
        cmocka_unit_test(test_cores_are_shared_fairly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
