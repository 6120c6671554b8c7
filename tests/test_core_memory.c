/* What memory_available makes of the files of several machines. */
#define _GNU_SOURCE
#include "tests/check.h"
#include "tests/temporary.h"

#include "core/memory.h"

#include <sys/stat.h>

/* A machine is a folder with the system's files. */
static void put(struct temporary *root, const char *path, const char *text) {
    for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        char part[256];
        snprintf(part, sizeof part, "%.*s", (int)(slash - path), path);
        mkdir(temporary_file(root, part), 0777); /* may be there */
    }
    temporary_write(root, path, text, strlen(text));
}

static void remove_machine(struct temporary *root) {
    char command[512];
    snprintf(command, sizeof command, "rm -rf '%s'", root->path);
    assert_int_equal(system(command), 0);
}

static size_t available(const struct temporary *root) {
    size_t bytes = 0;
    assert_true(memory_available(root->path, &bytes));
    return bytes;
}

static void test_without_groups(void **state) {
    (void)state;
    struct temporary root;
    size_t bytes;
    temporary_open(&root);
    assert_false(memory_available(root.path, &bytes));
    put(&root, "proc/meminfo", "MemTotal: 2000 kB\nMemAvailable:    1000 kB\nSwapFree: 7 kB\n");
    assert_int_equal(available(&root), 1000 * 1024);
    put(&root, "proc/self/cgroup", "0::/\n");
    assert_int_equal(available(&root), 1000 * 1024);
    remove_machine(&root);
}

static void test_version_2(void **state) {
    (void)state;
    struct temporary root;
    temporary_open(&root);
    put(&root, "proc/meminfo", "MemAvailable:    1000 kB\n");
    put(&root, "proc/self/cgroup", "0::/outer/inner\n");
    put(&root, "sys/fs/cgroup/outer/inner/memory.max", "max\n");
    put(&root, "sys/fs/cgroup/outer/memory.max", "500000\n");
    put(&root, "sys/fs/cgroup/outer/memory.current", "300000\n");
    put(&root, "sys/fs/cgroup/outer/memory.stat", "anon 1\ninactive_file 100000\n");
    assert_int_equal(available(&root), 300000);
    put(&root, "sys/fs/cgroup/outer/inner/memory.max", "4096\n");
    assert_int_equal(available(&root), 4096);
    put(&root, "sys/fs/cgroup/outer/inner/memory.current", "5000\n");
    assert_int_equal(available(&root), 0);
    remove_machine(&root);
}

/* The path is the host's, the mount begins at the container's group. */
static void test_version_1_in_a_container(void **state) {
    (void)state;
    struct temporary root;
    temporary_open(&root);
    put(&root, "proc/meminfo", "MemAvailable:    1000 kB\n");
    put(&root, "proc/self/cgroup", "4:memory:/host/1234\n1:cpu:/\n0::/\n");
    put(&root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    assert_int_equal(available(&root), 1000 * 1024);
    put(&root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "70000\n");
    put(&root, "sys/fs/cgroup/memory/memory.usage_in_bytes", "20000\n");
    put(&root, "sys/fs/cgroup/memory/memory.stat", "inactive_file 9\ntotal_inactive_file 5000\n");
    assert_int_equal(available(&root), 55000);
    remove_machine(&root);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_groups),
        cmocka_unit_test(test_version_2),
        cmocka_unit_test(test_version_1_in_a_container),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
