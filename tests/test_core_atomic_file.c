/* What an atomic write may replace. */
#define _GNU_SOURCE
#include "tests/check.h"
#include "tests/temporary.h"

#include "core/atomic_file.h"

#include <sys/stat.h>

static void assert_content(const char *path, const char *want) {
    char got[64] = "";
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t bytes = fread(got, 1, sizeof got - 1, file);
    fclose(file);
    assert_int_equal(bytes, strlen(want));
    assert_string_equal(got, want);
}

static void test_a_file_is_made_and_replaced(void **state) {
    (void)state;
    struct temporary folder;
    temporary_open(&folder);
    assert_ok(atomic_file_replace(temporary_file(&folder, "file"), "one", 3));
    assert_content(folder.file, "one");
    assert_ok(atomic_file_replace(folder.file, "second", 6));
    assert_content(folder.file, "second");
    assert_int_equal(temporary_count(&folder, 0), 1);
    temporary_close(&folder);
}

static void test_only_regular_files_are_replaced(void **state) {
    (void)state;
    struct temporary folder;
    struct stat found;
    char want[600];
    temporary_open(&folder);
    assert_int_equal(mkfifo(temporary_file(&folder, "pipe"), 0600), 0);
    assert_int_equal(atomic_file_replace(folder.file, "x", 1), STATUS_IO);
    snprintf(want, sizeof want, "%s: not a regular file", folder.file);
    assert_string_equal(status_message(), want);
    assert_int_equal(lstat(folder.file, &found), 0);
    assert_true(S_ISFIFO(found.st_mode));

    assert_int_equal(symlink("pipe", temporary_file(&folder, "link")), 0);
    assert_int_equal(atomic_file_replace(folder.file, "x", 1), STATUS_IO);
    assert_non_null(strstr(status_message(), "/pipe: not a regular file"));
    assert_int_equal(atomic_file_replace(folder.path, "x", 1), STATUS_IO);
    assert_non_null(strstr(status_message(), ": not a regular file"));
    assert_int_equal(temporary_count(&folder, 0), 2);
    temporary_close(&folder);
}

static void test_a_links_target_is_replaced(void **state) {
    (void)state;
    struct temporary folder;
    struct stat found;
    temporary_open(&folder);
    temporary_write(&folder, "target", "old", 3);
    assert_int_equal(symlink("target", temporary_file(&folder, "link")), 0);
    assert_ok(atomic_file_replace(folder.file, "new one", 7));
    assert_int_equal(lstat(folder.file, &found), 0);
    assert_true(S_ISLNK(found.st_mode));
    assert_content(temporary_file(&folder, "target"), "new one");

    assert_int_equal(symlink("nothing", temporary_file(&folder, "astray")), 0);
    assert_int_equal(atomic_file_replace(folder.file, "x", 1), STATUS_IO);
    assert_non_null(strstr(status_message(), "/astray: can't follow it"));
    assert_int_equal(temporary_count(&folder, 0), 3);
    temporary_close(&folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_file_is_made_and_replaced),
        cmocka_unit_test(test_only_regular_files_are_replaced),
        cmocka_unit_test(test_a_links_target_is_replaced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
