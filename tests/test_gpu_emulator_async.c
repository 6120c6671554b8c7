/* The emulator catches bugs of asynchronous kernels: each planted one ends with a message or with a
 * wrong result under the schedules that are named, and its right twin passes under all three. */
#define _GNU_SOURCE
#include "tests/check.h"
#include "tests/gpu_planted_async.h"

#include <regex.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUND_ROBIN = 1, GREEDY = 2, SHUFFLED = 4, ALL = 7, RIGHT = 0, WRONG = 3 };

static const char *const schedules[] = {"round_robin", "greedy", "shuffled:11"};

/* Runs it in a process of its own: RIGHT, WRONG (the result), or SIGABRT and what was said. */
static int run_apart(enum planted kind, const char *schedule, char *said, size_t size) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        struct device gpu;
        struct stream stream;
        setenv("STRATA_EMULATION_SCHEDULE", schedule, 1);
        if (device_open_cuda(&gpu, 0) != STATUS_OK) _exit(1);
        if (device_open_stream(&gpu, &stream) != STATUS_OK) _exit(1);
        _exit(planted_run(&stream, &gpu, kind) ? RIGHT : WRONG);
    }
    close(ends[1]);
    size_t have = 0;
    for (ssize_t got; have + 1 < size && (got = read(ends[0], said + have, size - 1 - have)) > 0;)
        have += (size_t)got;
    said[have] = 0;
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

static void passes(enum planted kind) {
    char said[4096];
    for (int i = 0; i < 3; i++) {
        int end = run_apart(kind, schedules[i], said, sizeof said);
        if (end != RIGHT) fail_msg("%s: ended with %d: %s", schedules[i], end, said);
    }
}

static bool says(const char *said, const char *pattern) {
    regex_t regex;
    assert_int_equal(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
    bool found = regexec(&regex, said, 0, NULL, 0) == 0;
    regfree(&regex);
    return found;
}

/* Under the named schedules it is stopped with the message, or, where pattern is NULL, at least
 * gives a wrong result. */
static void caught(enum planted kind, int under, const char *pattern) {
    char said[4096];
    for (int i = 0; i < 3; i++) {
        if (!(under >> i & 1)) continue;
        int end = run_apart(kind, schedules[i], said, sizeof said);
        bool is_caught = end == SIGABRT || (!pattern && end == WRONG);
        if (!is_caught || (pattern && !says(said, pattern)))
            fail_msg("kind %d, %s: ended with %d: \"%s\", wanted \"%s\"", (int)kind, schedules[i],
                     end, said, pattern ? pattern : "a wrong result");
    }
}

static void right_kernels_pass(void **state) {
    (void)state;
    passes(PIPELINE_RIGHT);
    passes(COPY_RIGHT);
    passes(PRODUCT_RIGHT);
    passes(CLUSTER_RIGHT);
}

static void copies_are_poison_until_their_wait(void **state) {
    (void)state;
    caught(COPY_NO_WAIT, ALL, NULL);
    caught(COPY_NO_BARRIER, GREEDY | SHUFFLED, NULL);
    caught(COPY_MISALIGNED, ALL, "gpu_copy_async16 at .*16 bytes that are not aligned");
}

static void barriers_count(void **state) {
    (void)state;
    caught(PIPELINE_EXPECTS_TOO_FEW, ALL, NULL);
    caught(PIPELINE_EXPECTS_TOO_MANY, ALL,
           "deadlock.*gpu_mbarrier_wait at .*0 of 1 arrivals and 16 bytes");
    caught(PIPELINE_FIRST_PARITY, ALL, "deadlock.*gpu_mbarrier_wait at .*128 of 128 arrivals");
    caught(PIPELINE_ARRIVALS, ALL, "deadlock.*1 of 129 arrivals");
    caught(PIPELINE_NO_INIT_FENCE, ALL, "no gpu_mbarrier_init_fence by thread 0");
    caught(PIPELINE_NO_INIT_BARRIER, GREEDY, "mbarrier at byte .* is not initialised");
    caught(PIPELINE_BARRIER_IN_TILE, ALL,
           "mbarrier at byte [0-9]+ of shared memory was overwritten");
    caught(PIPELINE_LOAD_NOT_WAITED, ALL,
           "ended(, and nobody waited for the last bytes| while 16384 bytes were on their way)");
    caught(PIPELINE_REGISTERS, ALL, "deadlock.*gpu_registers_take.* registers are given back");
}

static void stages_are_awaited_and_kept(void **state) {
    (void)state;
    caught(PIPELINE_NO_FULL_WAIT, ALL, NULL);
    caught(PIPELINE_EARLY_RELEASE, ROUND_ROBIN | SHUFFLED,
           "loads over byte [0-9]+ of shared memory, which a wgmma or a store");
}

static void products_take_their_time(void **state) {
    (void)state;
    caught(PIPELINE_NO_WGMMA_FENCE, ALL, "no gpu_wgmma_fence");
    caught(PIPELINE_SUMS_TOO_EARLY, ALL, NULL);
    caught(PIPELINE_SUMS_WRITTEN, ALL, "accumulator was written while a wgmma");
    caught(PIPELINE_TILE_MISALIGNED, ALL,
           "tile at byte 512 of shared memory is not aligned to 1024");
    caught(PIPELINE_DESCRIPTOR_MISALIGNED, ALL,
           "descriptor of A: address 1152 is not aligned to 1024");
}

static void writes_are_fenced_by_who_wrote(void **state) {
    (void)state;
    caught(PIPELINE_NO_STORE_FENCE, ALL,
           "a bulk store reads byte .* wrote without gpu_async_fence");
    caught(PIPELINE_ONE_STORE_FENCE, ALL,
           "a bulk store reads byte .* which thread [1-9][0-9]* wrote without gpu_async_fence");
    caught(PRODUCT_NO_ASYNC_FENCE, ALL,
           "wgmma reads byte .* w(as )?r(itten|ote) without gpu_async_fence");
    caught(PRODUCT_FENCE_BEFORE_WRITES, ALL, "wgmma reads byte .* wrote without gpu_async_fence");
}

static void stores_are_awaited(void **state) {
    (void)state;
    caught(PIPELINE_STORE_OVERWRITTEN, ALL, "a bulk store reads byte [0-9]+ of .* wrote without");
    caught(PIPELINE_STORE_NOT_WAITED, ALL, "ended without gpu_bulk_wait_read");
}

static void clusters_wait_for_each_other(void **state) {
    (void)state;
    caught(CLUSTER_EARLY_END, ROUND_ROBIN | GREEDY, NULL);
    caught(CLUSTER_NO_BARRIER, ROUND_ROBIN | GREEDY, NULL);
    caught(CLUSTER_LOCAL_WAIT, ALL, "gpu_mbarrier_wait_cluster sees what they did");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(right_kernels_pass),
        cmocka_unit_test(copies_are_poison_until_their_wait),
        cmocka_unit_test(barriers_count),
        cmocka_unit_test(stages_are_awaited_and_kept),
        cmocka_unit_test(products_take_their_time),
        cmocka_unit_test(writes_are_fenced_by_who_wrote),
        cmocka_unit_test(stores_are_awaited),
        cmocka_unit_test(clusters_wait_for_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
