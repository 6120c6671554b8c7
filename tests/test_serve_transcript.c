#include "tests/check.h"

#include "kernels/base/rng.h"
#include "serve/transcript.h"
#include "tests/fake_tokenizer.h"

static int32_t id_of(char letter) {
    return letter - '!';
}

static void push(struct transcript *transcript, char letter) {
    const struct token_chance chosen = {id_of(letter), -1.0f};
    assert_ok(transcript_push(transcript, chosen, NULL, 0, false, true));
}

static void assert_visible(const struct transcript *transcript, const char *text, size_t ready) {
    assert_int_equal(transcript->visible, strlen(text));
    assert_memory_equal(transcript->text, text, strlen(text));
    assert_int_equal(transcript->ready, ready);
}

static void test_holds_what_may_become_a_stop_string(void **state) {
    (void)state;
    struct tokenizer *tokenizer = fake_tokenizer_create(96);
    const struct stop_string stops[] = {{"END", 3}, {"NO", 2}};
    struct transcript transcript;
    transcript_init(&transcript, tokenizer, false, stops, 2, false);
    push(&transcript, 'a');
    assert_visible(&transcript, "a", 1);
    push(&transcript, 'E');
    assert_visible(&transcript, "a", 1);
    push(&transcript, 'N'); /* may be END or, from here, NO */
    assert_visible(&transcript, "a", 1);
    push(&transcript, 'x');
    assert_visible(&transcript, "aENx", 4);
    push(&transcript, 'E');
    push(&transcript, 'N');
    push(&transcript, 'O');
    assert_true(transcript.stopped);
    assert_visible(&transcript, "aENxE", 5);
    assert_ok(transcript_finish(&transcript));
    assert_visible(&transcript, "aENxE", 5);
    assert_int_equal(transcript.count, 5);
    transcript_free(&transcript);
    fake_tokenizer_free(tokenizer);
}

static void test_end_releases_what_was_held(void **state) {
    (void)state;
    struct tokenizer *tokenizer = fake_tokenizer_create(96);
    const struct stop_string stops[] = {{"END", 3}};
    struct transcript transcript;
    transcript_init(&transcript, tokenizer, false, stops, 1, false);
    push(&transcript, 'E');
    push(&transcript, 'N');
    assert_visible(&transcript, "", 0);
    assert_ok(transcript_finish(&transcript));
    assert_visible(&transcript, "EN", 2);
    transcript_free(&transcript);
    fake_tokenizer_free(tokenizer);
}

static void test_stop_string_can_be_kept_or_ignored(void **state) {
    (void)state;
    struct tokenizer *tokenizer = fake_tokenizer_create(96);
    const struct stop_string stops[] = {{"END", 3}};
    struct transcript transcript;
    transcript_init(&transcript, tokenizer, false, stops, 1, true);
    for (const char *at = "END"; *at; at++) {
        const struct token_chance chosen = {id_of(*at), 0.0f};
        assert_ok(transcript_push(&transcript, chosen, NULL, 0, false, false));
    }
    assert_false(transcript.stopped);
    for (const char *at = "xEND"; *at; at++) push(&transcript, *at);
    assert_true(transcript.stopped);
    assert_visible(&transcript, "ENDxEND", 7);
    transcript_free(&transcript);
    fake_tokenizer_free(tokenizer);
}

/* Whatever the stops and the text: what is shown never shrinks, ends before the first stop string
 * of the whole text, and is all of it when there is none. */
static void test_random_texts_stop_where_a_search_says(void **state) {
    (void)state;
    struct tokenizer *tokenizer = fake_tokenizer_create(96);
    for (uint64_t round = 0; round < 3000; round++) {
        struct rng_block random = rng_draw(3, RNG_TEST, 0, round);
        char text[33] = {0}, first[5] = {0}, second[5] = {0};
        for (int i = 0; i < 32; i++) text[i] = (char)('a' + (random.word[0] >> i & 1));
        for (uint32_t i = 0; i < 1 + random.word[1] % 4; i++)
            first[i] = (char)('a' + (random.word[2] >> i & 1));
        for (uint32_t i = 0; i < 4; i++) second[i] = (char)('a' + (random.word[3] >> i & 1));
        second[random.word[1] >> 8 & 3] = 'c'; /* never met */
        const struct stop_string stops[] = {{first, strlen(first)}, {second, 4}};
        struct transcript transcript;
        transcript_init(&transcript, tokenizer, false, stops, 2, false);
        size_t shown = 0;
        for (int i = 0; i < 32 && !transcript.stopped; i++) {
            push(&transcript, text[i]);
            assert_true(transcript.visible >= shown);
            shown = transcript.visible;
        }
        assert_ok(transcript_finish(&transcript));
        const char *hit = strstr(text, first);
        assert_int_equal(transcript.visible, hit ? (size_t)(hit - text) : 32);
        assert_int_equal(transcript.ready, transcript.visible);
        transcript_free(&transcript);
    }
    fake_tokenizer_free(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_holds_what_may_become_a_stop_string),
        cmocka_unit_test(test_end_releases_what_was_held),
        cmocka_unit_test(test_stop_string_can_be_kept_or_ignored),
        cmocka_unit_test(test_random_texts_stop_where_a_search_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
