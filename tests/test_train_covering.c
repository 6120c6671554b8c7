/* The rows that tests/layouts' table tries: every pair of settings that can be is in one of them,
 * every layout too, and what can't be has a reason. */
#include "tests/layout_settings.h"

static bool has_pair(const struct covering_row *rows, int count, const struct covering_row *pair) {
    for (int i = 0; i < count; i++) {
        bool same = true;
        for (int a = 0; a < LAYOUT_AXES; a++)
            same &= pair->choice[a] == COVERING_OPEN || pair->choice[a] == rows[i].choice[a];
        if (same) return true;
    }
    return false;
}

/* A pair is in a row, or impossible; returns 1 where it is possible. */
static int check_pair(const struct covering_row *rows, int count, int a, int v, int b, int w) {
    struct covering_row pair;
    for (int i = 0; i < COVERING_AXES; i++) pair.choice[i] = COVERING_OPEN;
    pair.choice[a] = v;
    pair.choice[b] = w;
    const char *why = covering_impossible(&layout_space, &pair);
    assert_int_equal(has_pair(rows, count, &pair), why == NULL);
    return why == NULL;
}

static void test_every_pair_is_covered(void **state) {
    int count, possible = 0;
    struct covering_row *rows = covering_make(&layout_space, &count);
    (void)state;
    for (int a = 0; a < LAYOUT_AXES; a++)
        for (int b = a + 1; b < LAYOUT_AXES; b++)
            for (int v = 0; v < covering_values(&layout_space.axes[a]); v++)
                for (int w = 0; w < covering_values(&layout_space.axes[b]); w++)
                    possible += check_pair(rows, count, a, v, b, w);
    print_message("%d rows cover %d pairs\n", count, possible);
    assert_true(count >= 120);
    for (int i = 0; i < count; i++) {
        assert_null(layout_space.excluded(&rows[i]));
        for (int k = 0; k < i; k++) assert_memory_not_equal(&rows[i], &rows[k], sizeof *rows);
    }
    free(rows);
}

/* What the table says that the program refuses. */
static void test_refusals(void **state) {
    static const struct layout_refusal rows[] = {
        {{8, "heads8", "", "pp=8 schedule=interleaved chunks=2"}, "can't be cut into 16 parts"},
        {{2, "heads8", "recompute=full", "pp=2 schedule=zb-h1"}, "train.recompute must be none"},
        {{8, "wide", LORA " model.weights=nf4", "tp=8"}, "inside a block of 64"},
    };
    struct parallel job = {.node_size = 1, .threads = 1, .node_cpus = 1};
    (void)state;
    comm_open_self(&job.world, "world");
    layout_check_refused(&job, rows, sizeof rows / sizeof *rows);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_pair_is_covered),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
