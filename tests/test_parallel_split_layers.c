/* Layer splits against trying every cut. */
#define _GNU_SOURCE
#include "tests/check.h"

#include "kernels/base/rng.h"
#include "parallel/split_layers.h"

#include <stdbool.h>

enum { MAX_LAYERS = 9 };

static double cost_of(const int *first, int part, int parts, const struct split_costs *costs) {
    double cost = part == 0 ? costs->embedding : 0.0;
    if (part == parts - 1) cost += costs->head;
    for (int layer = first[part]; layer < first[part + 1]; layer++) cost += costs->layer[layer];
    return cost;
}

struct value {
    double slowest, squares;
};

static struct value value_of(const int *first, int parts, const struct split_costs *costs) {
    struct value value = {0.0, 0.0};
    for (int part = 0; part < parts; part++) {
        double cost = cost_of(first, part, parts, costs);
        value.slowest = fmax(value.slowest, cost);
        value.squares += cost * cost;
    }
    return value;
}

/* The best of all cuts whose parts before `part` are set. */
static struct value best_cut(int *first, int part, int layers, int parts,
                             const struct split_costs *costs) {
    if (part == parts) return value_of(first, parts, costs);
    struct value best = {INFINITY, INFINITY};
    int end = part == parts - 1 ? layers : layers - (parts - 1 - part);
    int begin = part == parts - 1 ? layers : first[part] + 1;
    for (first[part + 1] = begin; first[part + 1] <= end; first[part + 1]++) {
        struct value value = best_cut(first, part + 1, layers, parts, costs);
        bool slower = value.slowest > best.slowest * (1 + 1e-9);
        bool faster = value.slowest < best.slowest * (1 - 1e-9);
        if (faster || (!slower && value.squares < best.squares)) best = value;
    }
    return best;
}

static void test_no_cut_is_better(void **state) {
    (void)state;
    for (uint64_t trial = 0; trial < 300; trial++) {
        double layer[MAX_LAYERS];
        int first[MAX_LAYERS + 1], tried[MAX_LAYERS + 1] = {0};
        for (int i = 0; i < MAX_LAYERS; i++)
            layer[i] = 1.0 + rng_draw(trial, RNG_INIT, 0, (uint64_t)i).word[0] % 8;
        const struct split_costs costs = {(double)(trial % 3), (double)(trial % 7), layer};
        int layers = 1 + (int)(trial % MAX_LAYERS), parts = 1 + (int)(trial * 7 % (uint64_t)layers);
        assert_ok(split_layers(first, layers, parts, &costs));
        assert_int_equal(first[0], 0);
        assert_int_equal(first[parts], layers);
        for (int part = 0; part < parts; part++) assert_true(first[part] < first[part + 1]);
        struct value got = value_of(first, parts, &costs);
        struct value want = best_cut(tried, 0, layers, parts, &costs);
        assert_true(fabs(got.slowest - want.slowest) < 1e-9);
        assert_true(fabs(got.squares - want.squares) < 1e-6);
    }
}

static void test_a_dear_head_leaves_its_stage_fewer_layers(void **state) {
    (void)state;
    double layer[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    int first[5];
    assert_ok(split_layers(first, 8, 4, &(struct split_costs){0.0, 1.5, layer}));
    const int want[] = {0, 2, 4, 7, 8}, also[] = {0, 2, 5, 7, 8}, or [] = {0, 3, 5, 7, 8};
    assert_true(memcmp(first, want, sizeof want) == 0 || memcmp(first, also, sizeof also) == 0 ||
                memcmp(first, or, sizeof or) == 0);
}

static void test_too_few_layers(void **state) {
    (void)state;
    double layer[3] = {1, 1, 1};
    int first[5];
    assert_int_equal(split_layers(first, 3, 4, &(struct split_costs){0, 0, layer}), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "3 layers can't be cut into 4 parts"));
}

static void test_a_cut_by_hand(void **state) {
    (void)state;
    int first[3];
    assert_ok(split_layers_by_hand(first, 5, 2, (const int[]){4, 1}));
    assert_int_equal(first[1], 4);
    assert_int_equal(split_layers_by_hand(first, 5, 2, (const int[]){3, 1}), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "adds up to 4 layers, the model has 5"));
    assert_int_equal(split_layers_by_hand(first, 5, 2, (const int[]){5, 0}), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "part 1 has 0 layers"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_cut_is_better),
        cmocka_unit_test(test_a_dear_head_leaves_its_stage_fewer_layers),
        cmocka_unit_test(test_too_few_layers),
        cmocka_unit_test(test_a_cut_by_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
