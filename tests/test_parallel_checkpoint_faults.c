/* Whatever happens to a writer or to the disk, the newest intact checkpoint is found, and every
 * rank says the same. Runs plainly and under mpirun. */
#define _GNU_SOURCE
#include "tests/checkpoint_site.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void set_file_limit(rlim_t bytes) {
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* A write refused after any number of bytes: one sentence, the old checkpoint stays, nothing is
 * left over, and the next save goes through in the same process. */
static void test_refused_writes_leave_the_old_one(void **state) {
    (void)state;
    site_only_alone();
    signal(SIGXFSZ, SIG_IGN);
    assert_ok(site_save(&site.job.world, 1, 2));
    const rlim_t limits[] = {0, 100, 3000, 40000, 100000, 1000000};
    for (int i = 0; i < 6; i++) {
        set_file_limit(limits[i]);
        enum status status = site_save(&site.job.world, 2, 2);
        char message[512];
        snprintf(message, sizeof message, "%s", status_message());
        set_file_limit(RLIM_INFINITY);
        assert_int_equal(status, STATUS_IO);
        assert_non_null(strstr(message, "can't write '"));
        assert_non_null(strstr(message, "h5': File too large"));
        assert_string_equal(site_listing(), "step-00000001");
        assert_int_equal(site_load(&site.job.world, -1), 1);
    }
    assert_ok(site_save(&site.job.world, 2, 2));
    assert_int_equal(site_load(&site.job.world, -1), 2);
}

/* The writes of one rank alone are refused: every rank hears of it in the same words, nobody waits
 * for who has gone, and the old checkpoint stays. */
static void test_one_ranks_refused_write_is_everyones(void **state) {
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    assert_ok(site_save_parts(1));
    for (int victim = 0; victim < site.job.world.size; victim++) {
        char want[64], message[512];
        if (site.job.world.rank == victim) set_file_limit(3000);
        enum status status = site_save_parts(2);
        snprintf(message, sizeof message, "%s", status_message());
        set_file_limit(RLIM_INFINITY);
        snprintf(want, sizeof want,
                 site.job.world.size > 1 ? "rank %d: can't write" : "can't write", victim);
        assert_int_equal(status, STATUS_IO);
        assert_non_null(strstr(message, want));
        assert_string_equal(site_listing(), "step-00000001");
        assert_int_equal(site_load(&site.job.world, -1), 1);
        comm_barrier(&site.job.world, &site.stream);
    }
    assert_ok(site_save_parts(2));
    assert_int_equal(site_load(&site.job.world, -1), 2);
}

/* A mount table of our own, as root or as root of a user namespace. */
static bool may_mount(void) {
    if (unshare(CLONE_NEWNS) == 0) return true;
    char map[32];
    int bytes = snprintf(map, sizeof map, "0 %d 1", (int)getuid());
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
    int descriptor = open("/proc/self/uid_map", O_WRONLY);
    bool mapped = descriptor >= 0 && write(descriptor, map, (size_t)bytes) == bytes;
    if (descriptor >= 0) close(descriptor);
    return mapped;
}

/* The same on a disk of a few MiB that is really full. Child of the test below. */
static int fill_a_disk(void) {
    if (mkdir(site.folder, 0777) != 0) return 1;
    if (!may_mount()) return 77;
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return 77;
    if (mount("tmpfs", site.folder, "tmpfs", 0, "size=2500k") != 0) return 77;
    if (site_save(&site.job.world, 1, 2) != STATUS_OK) return 2;
    if (site_save(&site.job.world, 2, 2) != STATUS_IO) return 3;
    if (!strstr(status_message(), "No space left on device")) return 4;
    if (strcmp(site_listing(), "step-00000001") != 0) return 5;
    if (site_load_status(&site.job.world, 1) != STATUS_OK) return 6;
    return 0;
}

static void test_full_disk_leaves_the_old_one(void **state) {
    (void)state;
    site_only_alone();
    pid_t child = fork();
    if (child == 0) _exit(fill_a_disk());
    int code = 0;
    waitpid(child, &code, 0);
    assert_true(WIFEXITED(code));
    if (WEXITSTATUS(code) == 77) skip_because("no right to mount a tmpfs");
    assert_int_equal(WEXITSTATUS(code), 0);
}

/* A writer killed at any moment leaves an intact checkpoint, at least the last one it reported. */
static void test_killed_writers_leave_an_intact_one(void **state) {
    (void)state;
    site_only_alone();
    int64_t base = 0;
    uint64_t random = 12345;
    for (int trial = 0; trial < 10; trial++) {
        int reports[2];
        assert_int_equal(pipe(reports), 0);
        pid_t child = fork();
        if (child == 0) {
            for (int64_t step = base + 1;; step++)
                if (site_save(&site.job.world, step, 2) != STATUS_OK ||
                    write(reports[1], &step, 8) != 8)
                    _exit(1);
        }
        close(reports[1]);
        int64_t reported = 0, next;
        assert_int_equal(read(reports[0], &reported, 8), 8);
        random = random * 6364136223846793005u + 1442695040888963407u;
        usleep((useconds_t)(random >> 40) % 60000);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        while (read(reports[0], &next, 8) == 8) reported = next;
        close(reports[0]);
        base = site_load(&site.job.world, -1);
        assert_in_range(base, reported, reported + 1);
    }
    assert_ok(site_save(&site.job.world, base + 1, 2));
    assert_null(strstr(site_listing(), ".tmp"));
}

static int run_all(void) {
    const struct CMUnitTest tests[] = {
        site_test(test_refused_writes_leave_the_old_one),
        site_test(test_one_ranks_refused_write_is_everyones),
        site_test(test_full_disk_leaves_the_old_one),
        site_test(test_killed_writers_leave_an_intact_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv) {
    return site_main(argc, argv, run_all);
}
