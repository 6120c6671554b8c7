/* Costs of collectives, links and pipelines against cases computed by hand. */
#include "tests/check.h"

#include "parallel/cost.h"

static const struct cost_network network = {
    .node = {1e-6, 400e9}, .between = {10e-6, 50e9}, .per_node = 8};

static void assert_near(double got, double want) {
    if (!(fabs(got - want) <= 1e-9 * fabs(want))) fail_msg("got %.12g, want %.12g", got, want);
}

static struct mesh mesh_of(int tp, int cp, int dp, int pp, const char *order) {
    struct mesh mesh;
    const struct mesh_options options = {tp, cp, dp, pp, order};
    assert_ok(mesh_create(&mesh, tp * cp * dp * pp, &options));
    return mesh;
}

static void test_collectives(void **state) {
    (void)state;
    const struct cost_link link = {1e-5, 1e9};
    /* 4 ranks, 1 GB: 2 log2(4) steps and 2 * 3/4 s */
    assert_near(cost_collective(COST_ALL_REDUCE, 4, 1e9, &link), 4e-5 + 1.5);
    assert_near(cost_collective(COST_ALL_GATHER, 4, 1e9, &link), 2e-5 + 0.75);
    assert_near(cost_collective(COST_REDUCE_SCATTER, 8, 1e9, &link), 3e-5 + 0.875);
    assert_near(cost_collective(COST_SEND, 2, 1e9, &link), 1e-5 + 1.0);
    assert_true(cost_collective(COST_ALL_REDUCE, 1, 1e9, &link) == 0.0);
    /* an all-reduce is a scatter and a gather */
    assert_near(cost_collective(COST_ALL_REDUCE, 6, 3e8, &link),
                cost_collective(COST_REDUCE_SCATTER, 6, 3e8, &link) +
                    cost_collective(COST_ALL_GATHER, 6, 3e8, &link));
}

static void assert_link(struct cost_link got, double latency, double bandwidth) {
    assert_near(got.latency, latency);
    assert_near(got.bandwidth, bandwidth);
}

static void test_links(void **state) {
    (void)state;
    /* 4 nodes of 8: tp 4 within a node, dp has 2 of its members on each */
    struct mesh mesh = mesh_of(4, 1, 4, 2, "tp-cp-dp-pp");
    assert_link(cost_group_link(&network, &mesh, 1u << MESH_TP), 1e-6, 400e9);
    assert_link(cost_group_link(&network, &mesh, 1u << MESH_DP), 1e-5, 100e9);
    assert_link(cost_group_link(&network, &mesh, 1u << MESH_PP), 1e-5, 50e9);
    assert_link(cost_group_link(&network, &mesh, 1u << MESH_TP | 1u << MESH_DP), 1e-5, 400e9);
    /* dp first: 4 of its members share a node */
    mesh = mesh_of(4, 1, 4, 2, "dp-tp-cp-pp");
    assert_link(cost_group_link(&network, &mesh, 1u << MESH_DP), 1e-6, 400e9);
    assert_link(cost_group_link(&network, &mesh, 1u << MESH_TP), 1e-5, 100e9);
    /* a ring over more than a node: 8 members bring 400 GB/s */
    mesh = mesh_of(1, 1, 32, 1, "tp-cp-dp-pp");
    assert_link(cost_group_link(&network, &mesh, 1u << MESH_DP), 1e-5, 400e9);
    assert_link(cost_hop_link(&network, &mesh, MESH_DP), 1e-5, 50e9);
    mesh = mesh_of(1, 1, 1, 8, "tp-cp-dp-pp");
    assert_link(cost_hop_link(&network, &mesh, MESH_PP), 1e-6, 400e9);
}

/* The formulas of parallel/schedule.h: m (F + B) and the bubble. */
static void test_pipelines(void **state) {
    (void)state;
    const double forward[8] = {1, 1, 1, 1, 1, 1, 1, 1}, half[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    const struct {
        struct schedule_shape shape;
        double seconds, busiest;
    } cases[] = {
        {{PIPELINE_1F1B, 1, 5, 1}, 15.0, 15.0},
        {{PIPELINE_1F1B, 4, 8, 1}, 24.0 + 9.0, 24.0},
        {{PIPELINE_GPIPE, 4, 8, 1}, 24.0 + 9.0, 24.0},
        {{PIPELINE_INTERLEAVED, 4, 8, 2}, 48.0 + 9.0, 48.0}, /* chunks of the same cost */
        {{PIPELINE_ZB_H1, 4, 8, 1}, 24.0 + 3.0, 24.0},
    };
    const struct schedule_costs costs = {forward, half, half, 0.0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct cost_pipeline cost;
        double ends[4];
        assert_ok(cost_pipeline(&cost, ends, &cases[i].shape, &costs));
        assert_near(cost.seconds, cases[i].seconds);
        assert_near(cost.busiest, cases[i].busiest);
        assert_near(ends[0], cases[i].seconds); /* the first stage ends last */
    }
}

/* 2 stages, 1 microbatch: there and back, a message each way. */
static void test_messages_take_time(void **state) {
    (void)state;
    const double forward[2] = {1, 1}, half[2] = {1, 1};
    const struct schedule_costs costs = {forward, half, half, 0.25};
    const struct schedule_shape shape = {PIPELINE_1F1B, 2, 1, 1};
    struct cost_pipeline cost;
    double ends[2];
    assert_ok(cost_pipeline(&cost, ends, &shape, &costs));
    assert_near(cost.seconds, 6.5);
    assert_near(ends[1], 4.25);
    const struct schedule_shape wrong = {PIPELINE_1F1B, 2, 1, 2};
    assert_int_equal(cost_pipeline(&cost, ends, &wrong, &costs), STATUS_CONFIG);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_collectives),
        cmocka_unit_test(test_links),
        cmocka_unit_test(test_pipelines),
        cmocka_unit_test(test_messages_take_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
