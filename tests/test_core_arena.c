#include "tests/check.h"

#include "core/arena.h"

static void push_layout(struct arena *arena) {
    arena_push(arena, 100);
    size_t mark = arena_mark(arena);
    arena_push(arena, 1);
    arena_push(arena, 5000);
    arena_release(arena, mark);
    arena_push(arena, 10);
}

static void test_count_equals_use(void **state) {
    (void)state;
    struct arena counted, real;
    arena_count(&counted, "counted");
    push_layout(&counted);
    assert_ok(arena_create(&real, "real", counted.peak));
    push_layout(&real);
    assert_int_equal(real.peak, counted.peak);
    assert_int_equal(counted.peak, 128 + 64 + 5056);
    arena_free(&real);
    arena_free(&real);
}

static void test_refusal_names_the_arena(void **state) {
    (void)state;
    struct arena arena;
    assert_int_equal(arena_create(&arena, "weights", (size_t)1 << 62), STATUS_MEMORY);
    assert_non_null(strstr(status_message(), "weights"));
}

/* Sizes that no machine has are counted as the largest, not as what is left after an overflow. */
static void test_counting_saturates(void **state) {
    (void)state;
    struct arena arena;
    arena_count(&arena, "counted");
    arena_push(&arena, 100);
    size_t mark = arena_mark(&arena);
    arena_push(&arena, SIZE_MAX - 64);
    assert_true(arena.used == SIZE_MAX && arena.peak == SIZE_MAX);
    arena_push(&arena, 1);
    assert_true(arena.used == SIZE_MAX && arena.peak == SIZE_MAX);
    arena_release(&arena, mark);
    arena_push(&arena, SIZE_MAX); /* its rounding alone would overflow */
    assert_true(arena.used == SIZE_MAX);
    assert_int_equal(arena_create(&arena, "weights", arena.peak), STATUS_MEMORY);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_count_equals_use),
        cmocka_unit_test(test_refusal_names_the_arena),
        cmocka_unit_test(test_counting_saturates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
