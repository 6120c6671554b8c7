/* What a preflight makes of figures that were never measured, and who talks with whom. */
#include "tests/check.h"

#include "parallel/preflight.h"

enum { NODES = 5 };

static const struct preflight_limits limits = {
    .slow = 0.8, .broken = 0.5, .memory_gib = 10, .clock_ms = 1000};

/* Nodes that differ by a few per cent, as good ones do. */
static void make_nodes(struct preflight_node *nodes, int count) {
    for (int i = 0; i < count; i++) {
        double good = 1.0 - 0.03 * i;
        nodes[i] = (struct preflight_node){.ranks = 4,
                                           .gemm_gflops = 400 * good,
                                           .memory_gbs = 200 * good,
                                           .available_gib = 100 * good,
                                           .network_gbs = 12 * good,
                                           .latency_us = 2 / good,
                                           .clock_ms = 10 * i};
        snprintf(nodes[i].host, sizeof nodes[i].host, "n%d", i + 1);
    }
}

/* Judges; all nodes but `odd` must be fine. Returns the odd one's. */
static const struct preflight_finding *judge(const struct preflight_node *nodes, int count,
                                             int odd) {
    static struct preflight_finding findings[NODES];
    assert_ok(preflight_judge(findings, nodes, count, &limits));
    for (int i = 0; i < count; i++) {
        if (i == odd) continue;
        if (findings[i].verdict != PREFLIGHT_FINE)
            fail_msg("%s: %s", nodes[i].host, findings[i].reason);
        assert_string_equal(findings[i].reason, "");
    }
    return &findings[odd < 0 ? 0 : odd];
}

static void assert_found(const struct preflight_finding *finding, enum preflight_verdict verdict,
                         const char *reason) {
    assert_string_equal(finding->reason, reason);
    assert_int_equal(finding->verdict, verdict);
}

static void test_good_nodes_are_fine(void **state) {
    (void)state;
    struct preflight_node nodes[NODES];
    for (int count = 1; count <= NODES; count++) {
        make_nodes(nodes, count);
        judge(nodes, count, -1);
    }
}

static void test_each_figure_is_judged(void **state) {
    (void)state;
    struct preflight_node nodes[NODES];
    make_nodes(nodes, NODES); /* the medians are those of the third node: 94% of the first */
    nodes[4].gemm_gflops = 400 * 0.94 * 0.7;
    assert_found(judge(nodes, NODES, 4), PREFLIGHT_SLOW, "gemm 70% of the median");
    nodes[4].gemm_gflops = 400 * 0.94 * 0.4;
    assert_found(judge(nodes, NODES, 4), PREFLIGHT_BROKEN, "gemm 40% of the median");
    make_nodes(nodes, NODES);
    nodes[3].memory_gbs = 200 * 0.94 * 0.79;
    nodes[3].network_gbs = 12 * 0.94 * 0.25;
    assert_found(judge(nodes, NODES, 3), PREFLIGHT_BROKEN,
                 "memory bandwidth 79% of the median, network bandwidth 25% of the median");
    make_nodes(nodes, NODES);
    nodes[4].latency_us = 2 / 0.94 * 3;
    assert_found(judge(nodes, NODES, 4), PREFLIGHT_SLOW, "network latency 300% of the median");
    nodes[4].latency_us = 2 / 0.94 * 11;
    assert_found(judge(nodes, NODES, 4), PREFLIGHT_BROKEN, "network latency 1100% of the median");
    make_nodes(nodes, NODES);
    nodes[4].available_gib = 12; /* little, but enough */
    assert_found(judge(nodes, NODES, 4), PREFLIGHT_SLOW, "memory available 13% of the median");
    nodes[4].available_gib = 9;
    assert_found(judge(nodes, NODES, 4), PREFLIGHT_BROKEN,
                 "9.0 GiB of memory available, not 10.0, memory available 10% of the median");
}

static void test_what_needs_no_comparison(void **state) {
    (void)state;
    struct preflight_node nodes[NODES];
    make_nodes(nodes, NODES);
    nodes[1].wrong = true;
    assert_found(judge(nodes, NODES, 1), PREFLIGHT_BROKEN, "it computes wrong products");
    make_nodes(nodes, NODES);
    nodes[2].clock_ms = -2500;
    assert_found(judge(nodes, NODES, 2), PREFLIGHT_SLOW, "its clock is off by -2.5 s");
    make_nodes(nodes, NODES);
    nodes[2].network_gbs = 0;
    assert_found(judge(nodes, NODES, 2), PREFLIGHT_BROKEN,
                 "network bandwidth could not be measured");
    nodes[2].network_gbs = NAN;
    assert_found(judge(nodes, NODES, 2), PREFLIGHT_BROKEN,
                 "network bandwidth could not be measured");
}

/* One of two is compared with the other, and one alone with nobody. */
static void test_few_nodes(void **state) {
    (void)state;
    struct preflight_node nodes[NODES];
    make_nodes(nodes, 2);
    nodes[0].gemm_gflops = 400 * 0.97 * 0.6;
    assert_found(judge(nodes, 2, 0), PREFLIGHT_SLOW, "gemm 60% of the median");
    make_nodes(nodes, 1);
    nodes[0].network_gbs = nodes[0].latency_us = 0;
    judge(nodes, 1, -1);
    nodes[0].memory_gbs = 0;
    assert_found(judge(nodes, 1, 0), PREFLIGHT_BROKEN, "memory bandwidth could not be measured");
}

/* A node with half of the ranks is as fast where each rank is. */
static void test_ranks_are_uneven(void **state) {
    (void)state;
    struct preflight_node nodes[NODES];
    make_nodes(nodes, 3);
    nodes[2].ranks = 2;
    nodes[2].gemm_gflops /= 2;
    judge(nodes, 3, -1);
}

/* Every pair of neighbours meets once, and nobody is in two pairs at a time. */
static void test_partners(void **state) {
    (void)state;
    for (int count = 1; count <= 9; count++) {
        int met[9][9] = {{0}};
        for (int round = 0; round < PREFLIGHT_ROUNDS; round++)
            for (int place = 0; place < count; place++) {
                int partner = preflight_partner(round, place, count);
                assert_in_range(partner + 1, 0, count);
                if (partner < 0) continue;
                assert_int_not_equal(partner, place);
                assert_int_equal(preflight_partner(round, partner, count), place);
                met[place][partner]++;
            }
        for (int a = 0; a < count; a++)
            for (int b = 0; b < count; b++) {
                int apart = (b - a + count) % count;
                bool neighbours = count > 1 && (apart == 1 || apart == count - 1);
                assert_int_equal(met[a][b], neighbours);
            }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_nodes_are_fine),
        cmocka_unit_test(test_each_figure_is_judged),
        cmocka_unit_test(test_what_needs_no_comparison),
        cmocka_unit_test(test_few_nodes),
        cmocka_unit_test(test_ranks_are_uneven),
        cmocka_unit_test(test_partners),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
