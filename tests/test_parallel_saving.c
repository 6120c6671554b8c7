/* Checkpoints that are written while training goes on: what was there at begin is what comes back,
 * the name comes last, and what a rank's thread is refused is every rank's to hear. Runs plainly
 * (also under ThreadSanitizer) and under mpirun. */
#define _GNU_SOURCE
#include "tests/checkpoint_site.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* --- the disk --------------------------------------------------------------------------------- */

/* What writes of other threads than main's meet. */
static atomic_bool held, full;
static atomic_bool leaving;          /* main joins the thread; then nothing is held any more */
static atomic_int slow_milliseconds; /* for one of them */
static atomic_int writes;

static void sleep_milliseconds(int milliseconds) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    nanosleep(&time, NULL);
}

/* Whether the main thread waits for something. */
static bool main_sleeps(void) {
    char path[64], text[256] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)getpid());
    FILE *file = fopen(path, "r");
    if (!file) return false;
    size_t got = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    const char *end = got ? strrchr(text, ')') : NULL;
    return end && end[1] == ' ' && end[2] == 'S';
}

/* In place of the C library's. */
ssize_t pwrite(int descriptor, const void *data, size_t bytes, off_t at) {
    if (gettid() != getpid()) {
        atomic_fetch_add(&writes, 1);
        while (atomic_load(&held) && !(atomic_load(&leaving) && main_sleeps()))
            sleep_milliseconds(1);
        sleep_milliseconds(atomic_exchange(&slow_milliseconds, 0));
        if (atomic_load(&full)) {
            errno = ENOSPC;
            return -1;
        }
    }
    return syscall(SYS_pwrite64, descriptor, data, bytes, at);
}

/* --- a save ----------------------------------------------------------------------------------- */

struct save {
    struct checkpoint_slab slabs[SITE_TENSORS];
    int count;
    void *snapshot;
    struct checkpoint_saving *saving;
};

/* Every rank owns a part; their values are those of the next step as soon as it has begun. */
static enum status begin(struct save *save, int64_t step, bool best) {
    struct checkpoint_state state = site_state(step);
    save->count = site_slabs(save->slabs, site.job.world.rank, site.job.world.size, 1);
    save->snapshot = malloc(checkpoint_snapshot_bytes(save->slabs, save->count));
    site_fill(save->slabs, save->count, step);
    const struct checkpoint_request request = {.claim = site_claimed(),
                                               .state = &state,
                                               .slabs = save->slabs,
                                               .slab_count = save->count,
                                               .keep = 2,
                                               .best = best,
                                               .snapshot = save->snapshot};
    enum status status = checkpoint_begin(&save->saving, &site.job.world, &request);
    site_fill(save->slabs, save->count, step + 1);
    return status;
}

static void end(struct save *save) {
    assert_null(save->saving);
    site_free_slabs(save->slabs, save->count);
    free(save->snapshot);
}

/* Polls until it is over; how often that took. */
static int poll_to_the_end(struct save *save) {
    bool over = false;
    int polls = 0;
    for (; !over; polls++) {
        assert_ok(checkpoint_poll(save->saving, &over));
        if (!over) sleep_milliseconds(2);
    }
    return polls;
}

/* --- tests ------------------------------------------------------------------------------------ */

static void test_what_was_there_at_begin_comes_back(void **state) {
    (void)state;
    struct save save;
    struct checkpoint_report report;
    atomic_store(&held, true);
    assert_ok(begin(&save, 40, true));
    for (int step = 0; step < 5; step++) { /* of a training that goes on */
        bool over = true;
        assert_ok(checkpoint_poll(save.saving, &over));
        assert_false(over);
    }
    assert_null(strstr(site_listing(), "step-00000040"));
    atomic_store(&held, false);
    assert_in_range(poll_to_the_end(&save), 2, 100000); /* all written, then the name */
    assert_ok(checkpoint_finish(&save.saving, &report));
    assert_int_equal(report.step, 40);
    assert_true(report.begun > 0.0 && report.written >= report.begun &&
                report.ended >= report.written);
    assert_string_equal(site_listing(), "best.txt step-00000040");
    assert_int_equal(checkpoint_best(site.folder), 40);
    assert_int_equal(site_load(&site.job.world, -1), 40);
    end(&save);
}

/* However many steps pass, nothing has its name before every rank's files are synced. */
static void test_the_name_needs_every_rank(void **state) {
    (void)state;
    struct save save;
    for (int slow = 0; slow < site.job.world.size; slow++) {
        bool over = false;
        atomic_store(&held, site.job.world.rank == slow);
        assert_ok(begin(&save, 10 + slow, false));
        for (int step = 0; step < 20; step++) {
            assert_ok(checkpoint_poll(save.saving, &over));
            assert_false(over);
            sleep_milliseconds(2);
        }
        char name[32];
        snprintf(name, sizeof name, "step-%08d", 10 + slow);
        assert_null(strstr(site_listing(), name));
        comm_barrier(&site.job.world, &site.stream);
        atomic_store(&held, false);
        assert_ok(checkpoint_finish(&save.saving, NULL));
        assert_non_null(strstr(site_listing(), name));
        assert_int_equal(site_load(&site.job.world, -1), 10 + slow);
        end(&save);
        comm_barrier(&site.job.world, &site.stream);
    }
}

/* A disk that is full for one rank's thread: all hear of it at a poll, in the words of a save that
 * was waited for; the others stop writing; the old checkpoint stays, and the next save works. */
static void test_what_a_thread_is_refused_is_everyones(void **state) {
    (void)state;
    struct save save;
    assert_ok(site_save_parts(1));
    for (int victim = 0; victim < site.job.world.size; victim++) {
        char want[64];
        atomic_store(&full, site.job.world.rank == victim);
        assert_ok(begin(&save, 2, true));
        poll_to_the_end(&save);
        assert_int_equal(checkpoint_finish(&save.saving, NULL), STATUS_IO);
        atomic_store(&full, false);
        snprintf(want, sizeof want,
                 site.job.world.size > 1 ? "rank %d: can't write '" : "can't write '", victim);
        assert_non_null(strstr(status_message(), want));
        assert_non_null(strstr(status_message(), ".h5': No space left on device"));
        assert_string_equal(site_listing(), "step-00000001");
        assert_int_equal(checkpoint_best(site.folder), -1);
        assert_int_equal(site_load(&site.job.world, -1), 1);
        end(&save);
        comm_barrier(&site.job.world, &site.stream);
    }
    assert_ok(site_save_parts(2));
    assert_int_equal(site_load(&site.job.world, -1), 2);
}

/* Who waits for a slow disk is no rank that hangs. */
static void test_a_slow_disk_is_no_hang(void **state) {
    (void)state;
    struct save save;
    if (!site.job.mpi || site.job.world.size == 1) return;
    assert_ok(parallel_watch(&site.job, 1.0, NULL)); /* a verdict would end the job */
    if (site.job.world.rank == 1) atomic_store(&slow_milliseconds, 2500);
    assert_ok(begin(&save, 3, false));
    assert_ok(checkpoint_finish(&save.saving, NULL));
    assert_int_equal(atomic_load(&slow_milliseconds), 0);
    assert_int_equal(site_load(&site.job.world, -1), 3);
    end(&save);
}

/* Given up, it leaves nothing under a name that is read, and stops writing. */
static void test_given_up_it_leaves_nothing(void **state) {
    (void)state;
    struct save save;
    assert_ok(site_save_parts(1));
    atomic_store(&writes, 0);
    atomic_store(&held, true); /* its first write lasts until it is given up */
    assert_ok(begin(&save, 2, false));
    while (atomic_load(&writes) == 0) sleep_milliseconds(1);
    atomic_store(&leaving, true);
    checkpoint_abandon(&save.saving);
    assert_int_equal(atomic_load(&writes), 1);
    atomic_store(&leaving, false);
    atomic_store(&held, false);
    comm_barrier(&site.job.world, &site.stream);
    assert_int_equal(site_load(&site.job.world, -1), 1);
    comm_barrier(&site.job.world, &site.stream);
    end(&save);
    assert_ok(site_save_parts(3));
    assert_string_equal(site_listing(), "step-00000001 step-00000003");
}

/* Without memory for a copy the values are read where they are. */
static void test_without_a_snapshot(void **state) {
    (void)state;
    atomic_store(&writes, 0);
    assert_ok(site_save_parts(7));
    assert_true(atomic_load(&writes) > 0); /* also these are a thread's */
    assert_int_equal(site_load(&site.job.world, -1), 7);
}

static int run_all(void) {
    const struct CMUnitTest tests[] = {
        site_test(test_what_was_there_at_begin_comes_back),
        site_test(test_the_name_needs_every_rank),
        site_test(test_what_a_thread_is_refused_is_everyones),
        site_test(test_given_up_it_leaves_nothing),
        site_test(test_without_a_snapshot),
        site_test(test_a_slow_disk_is_no_hang),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv) {
    return site_main(argc, argv, run_all);
}
