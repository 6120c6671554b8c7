/* Log lines: values from outside can neither end a line nor look like another pair. */
#define _GNU_SOURCE
#include "core/log.h"

#include "tests/check.h"

#include <unistd.h>

static void values(void **state) {
    (void)state;
    static const struct {
        const char *value, *logged;
    } cases[] = {
        {"runs/first", "runs/first"},
        {"[q_proj,k_proj]", "[q_proj,k_proj]"},
        {"caf\xc3\xa9", "caf\xc3\xa9"},
        {"", "\"\""},
        {"two words", "\"two words\""},
        {"a=b", "\"a=b\""},
        {"say \"no\"", "\"say \\\"no\\\"\""},
        {"\"", "\"\\\"\""},
        {"C:\\dir", "\"C:\\\\dir\""},
        {"one\ntwo\r\n\tthree", "\"one\\ntwo\\r\\n\\tthree\""},
        {"bell\a", "\"bell\\x07\""},
        {"del\x7f", "\"del\\x7f\""},
        {"c1\xc2\x9b", "\"c1\\xc2\\x9b\""},
        {"bad\xff", "\"bad\\xff\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct log_text room;
        assert_string_equal(log_value(&room, cases[i].value), cases[i].logged);
    }
}

static void long_values_are_cut(void **state) {
    (void)state;
    static const char *const units[] = {"x", "\n", " ", "\x01", "\xc2\x9b", "\xc3\xa9"};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        char value[3 * LOG_VALUE_BYTES] = "";
        for (size_t at = 0; at + strlen(units[i]) < 2 * LOG_VALUE_BYTES; at += strlen(units[i]))
            memcpy(value + at, units[i], strlen(units[i]));
        struct log_text room;
        size_t bytes = strlen(log_value(&room, value));
        assert_in_range(bytes, LOG_VALUE_BYTES - 16, LOG_VALUE_BYTES - 1);
        assert_int_equal(room.text[0], '"');
        assert_string_equal(room.text + bytes - 4, "...\"");
    }
    char whole[LOG_VALUE_BYTES]; /* fits to the last byte */
    memset(whole, 'x', sizeof whole);
    whole[sizeof whole - 1] = '\0';
    struct log_text room;
    assert_string_equal(log_value(&room, whole), whole);
}

/* A message with a newline and quotes stays one line of standard error. */
static void one_line(void **state) {
    (void)state;
    char line[256];
    FILE *file = tmpfile();
    int saved = dup(STDERR_FILENO);
    fflush(stderr);
    dup2(fileno(file), STDERR_FILENO);
    log_line(LOG_WARN, "event=x reason=%s next=1",
             log_value(&(struct log_text){0}, "no \"a\"\nlevel=error"));
    dup2(saved, STDERR_FILENO);
    close(saved);
    rewind(file);
    assert_non_null(fgets(line, sizeof line, file));
    assert_string_equal(line, "level=warn event=x reason=\"no \\\"a\\\"\\nlevel=error\" next=1\n");
    assert_null(fgets(line, sizeof line, file));
    fclose(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values),
        cmocka_unit_test(long_values_are_cut),
        cmocka_unit_test(one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
