#include "tests/check.h"

#include "kernels/base/rng.h"
#include "serve/kv_pages.h"

static void test_takes_never_used_pages_before_published_ones(void **state) {
    (void)state;
    struct kv_pages pages;
    assert_ok(kv_pages_create(&pages, 3, 2));
    int32_t first = kv_take_page(&pages), second = kv_take_page(&pages);
    uint64_t stamp, child;
    first = kv_publish_page(&pages, first, 0, (int32_t[]){1, 2}, &stamp);
    second = kv_publish_page(&pages, second, stamp, (int32_t[]){3, 4}, &child);
    kv_drop_page(&pages, second);
    kv_drop_page(&pages, first);
    int32_t third = kv_take_page(&pages);
    assert_true(third != first && third != second);
    assert_int_equal(pages.evictions, 0);
    /* Then the one dropped first: the end of the prefix, not its beginning. */
    assert_int_equal(kv_take_page(&pages), second);
    assert_int_equal(pages.evictions, 1);
    uint64_t found;
    assert_int_equal(kv_find_page(&pages, stamp, (int32_t[]){3, 4}, &found), -1);
    assert_int_equal(kv_find_page(&pages, 0, (int32_t[]){1, 2}, &found), first);
    assert_int_equal(found, stamp);
    assert_int_equal(kv_take_page(&pages), -1);
    kv_pages_free(&pages);
    kv_pages_free(&pages);
}

static void test_equal_pages_become_one(void **state) {
    (void)state;
    struct kv_pages pages;
    assert_ok(kv_pages_create(&pages, 4, 2));
    int32_t mine = kv_take_page(&pages), yours = kv_take_page(&pages);
    int32_t other = kv_take_page(&pages);
    uint64_t mine_stamp, your_stamp, other_stamp;
    assert_int_equal(kv_publish_page(&pages, mine, 0, (int32_t[]){1, 2}, &mine_stamp), mine);
    assert_int_equal(kv_publish_page(&pages, yours, 0, (int32_t[]){1, 2}, &your_stamp), mine);
    assert_int_equal(mine_stamp, your_stamp);
    assert_int_equal(pages.pages[mine].references, 2);
    assert_int_equal(pages.pages[yours].references, 0);
    /* Another root is another adapter: never shared. */
    assert_int_equal(kv_publish_page(&pages, other, 1, (int32_t[]){1, 2}, &other_stamp), other);
    assert_true(other_stamp != mine_stamp);
    kv_pages_free(&pages);
}

static void test_forgotten_pages_are_not_found(void **state) {
    (void)state;
    struct kv_pages pages;
    assert_ok(kv_pages_create(&pages, 2, 1));
    int32_t page = kv_take_page(&pages);
    uint64_t stamp;
    kv_publish_page(&pages, page, 0, (int32_t[]){7}, &stamp);
    kv_forget_all(&pages);
    assert_int_equal(kv_find_page(&pages, 0, (int32_t[]){7}, &stamp), -1);
    kv_drop_page(&pages, page);
    assert_int_equal(pages.idle_count, 2);
    kv_pages_free(&pages);
}

/* Random takes, publications, finds and drops against a list of who holds what. */
static void test_random_steps_lose_no_page(void **state) {
    (void)state;
    enum { PAGES = 13, STEPS = 20000, MAX_HELD = 64 };
    struct kv_pages pages;
    assert_ok(kv_pages_create(&pages, PAGES, 2));
    int32_t held[MAX_HELD], held_count = 0;
    for (uint64_t step = 0; step < STEPS; step++) {
        struct rng_block random = rng_draw(1, RNG_TEST, 0, step);
        int32_t tokens[2] = {(int32_t)(random.word[1] % 3), (int32_t)(random.word[2] % 3)};
        uint64_t parent = random.word[3] % 2, stamp;
        int32_t page = -1;
        if (random.word[0] % 4 == 0 && held_count < MAX_HELD) page = kv_take_page(&pages);
        if (random.word[0] % 4 == 1 && held_count < MAX_HELD)
            page = kv_find_page(&pages, parent, tokens, &stamp);
        if (page >= 0) held[held_count++] = page;
        if (random.word[0] % 4 == 2 && held_count > 0) {
            int32_t which = (int32_t)(random.word[3] / 2 % (uint32_t)held_count);
            if (!pages.pages[held[which]].published && pages.pages[held[which]].references == 1)
                held[which] = kv_publish_page(&pages, held[which], parent, tokens, &stamp);
        }
        if (random.word[0] % 4 == 3 && held_count > 0) {
            int32_t which = (int32_t)(random.word[3] % (uint32_t)held_count);
            kv_drop_page(&pages, held[which]);
            held[which] = held[--held_count];
        }
        int32_t references[PAGES] = {0}, idle = 0;
        for (int32_t i = 0; i < held_count; i++) references[held[i]]++;
        for (int32_t i = 0; i < PAGES; i++) {
            assert_int_equal(references[i], pages.pages[i].references);
            idle += references[i] == 0;
        }
        assert_int_equal(idle, pages.idle_count);
    }
    assert_true(pages.evictions > 100);
    kv_pages_free(&pages);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_takes_never_used_pages_before_published_ones),
        cmocka_unit_test(test_equal_pages_become_one),
        cmocka_unit_test(test_forgotten_pages_are_not_found),
        cmocka_unit_test(test_random_steps_lose_no_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
