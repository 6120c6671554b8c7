/* The emulator catches bugs of kernels, streams and graphs: each planted one ends with a message or
 * with a wrong result under the schedules that are named, and its right twin passes under all. */
#define _GNU_SOURCE
#include "tests/check.h"
#include "tests/gpu_planted_core.h"

static void caught(int kind, int under, const char *pattern) {
    planted_caught(planted_core_run, kind, under, pattern);
}

static void right_kernels_pass(void **state) {
    (void)state;
    const int kinds[] = {REVERSE_RIGHT, WARP_RIGHT, HALVES_RIGHT, LAST_RIGHT, HOST_RIGHT};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        planted_passes(planted_core_run, kinds[i]);
}

static void accesses_are_in_bounds(void **state) {
    (void)state;
    caught(REVERSE_SHARED_BOUNDS, UNDER_ALL, "out of bounds of shared memory: byte 512 of 512");
    caught(REVERSE_STATIC_BOUNDS, UNDER_ALL, "out of bounds of shared memory: beyond a static");
    caught(REVERSE_DEVICE_BOUNDS, UNDER_ALL,
           "op reverse: block \\(2,0,0\\) thread 127.*byte 1536 of an allocation of 1536");
    caught(REVERSE_STRAY, UNDER_ALL, "op reverse: .*no allocation of the device");
    caught(REVERSE_FREED, UNDER_ALL, "freed memory: byte [0-9]+ of what was an allocation of 1536");
    caught(REVERSE_HOST_ARGUMENT, UNDER_ALL, "op reverse: argument 2 points to the host's own");
    if (ACCESSES_ARE_SEEN)
        caught(REVERSE_HOST_IN_STRUCT, UNDER_ALL, "op reverse: .*reads .* the host's own memory");
    caught(REVERSE_STACK, UNDER_ALL, "op reverse: .*its stack is used up");
}

static void nothing_unwritten_is_used(void **state) {
    (void)state;
    caught(REVERSE_UNWRITTEN, UNDER_ALL, NULL);
    caught(REVERSE_DEVICE_UNWRITTEN, UNDER_ALL, NULL);
    caught(REVERSE_GRID, UNDER_ALL, NULL);
    caught(REVERSE_THREADS, UNDER_ALL, NULL);
    caught(REVERSE_TOO_MUCH_SHARED, UNDER_ALL, NULL);
}

static void races_are_found(void **state) {
    (void)state;
    caught(LAST_NO_RESET, UNDER_ALL, NULL);
    caught(REVERSE_NO_BARRIER, UNDER_ALL, ACCESSES_ARE_SEEN ? "op reverse: .*a race: " : NULL);
    if (!ACCESSES_ARE_SEEN) return;
    caught(WARP_NO_SYNC, UNDER_ALL, "op rotate: .*a race: ");
    caught(LAST_NO_FENCE, UNDER_ALL, "op add_all: .*a race: reads .* thread .* wrote");
    caught(LAST_NO_BARRIER, UNDER_ALL, "op add_all: .*a race: reads .* thread .* wrote");
    caught(LAST_NO_ATOMIC, UNDER_ALL, "op add_all: .*a race: reads .* thread 0 of block");
}

static void threads_meet_in_one_place(void **state) {
    (void)state;
    caught(REVERSE_BARRIER_DIVIDED, UNDER_ALL, "__syncthreads at .*its warp is divided");
    caught(WARP_DIVIDED, UNDER_ALL, "its warp is divided: lane [0-9]+ .* is in __");
    caught(WARP_MASKS, UNDER_ALL, "mask 0x[0-9a-f]+, but lane [0-9]+ came with mask 0x");
    caught(WARP_LANE_ENDED, UNDER_ALL, "lane 5, which has ended");
    caught(HALVES_COUNT, UNDER_ALL, "gpu_barrier.* at .*barrier 1 for (64|128) threads, but");
    caught(HALVES_TOO_MANY, UNDER_ALL, "barrier 1 for 512 threads: it counts whole warps");
}

static void deadlocks_name_every_thread(void **state) {
    (void)state;
    caught(HALVES_OTHER_BARRIER, UNDER_ALL,
           "deadlock.*threads 0-63: wait in gpu_barrier at .*gpu_planted_core.cu:[0-9]+.*"
           "threads 64-127: wait in gpu_barrier at .*barrier 1: 64 of 128 threads.*"
           "barrier 3: 64 of 128 threads");
    caught(LAST_WAITS_FOR_NOBODY, UNDER_ALL, "deadlock.*look again and again in gpu_load_acquire");
}

static void the_host_waits(void **state) {
    (void)state;
    caught(HOST_READS_DEVICE, UNDER_ALL, "the host touches device memory outside of kernels");
    caught(HOST_NO_CHECK, UNDER_GREEDY, NULL);
    caught(HOST_NO_EVENT, UNDER_GREEDY, NULL);
}

static void graphs_are_captured_whole(void **state) {
    (void)state;
    caught(HOST_CAPTURE_ALLOCATES, UNDER_ALL, NULL);
    caught(HOST_CAPTURE_WAITS, UNDER_ALL, NULL);
    caught(HOST_CAPTURE_UNJOINED, UNDER_ALL, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(right_kernels_pass),
        cmocka_unit_test(accesses_are_in_bounds),
        cmocka_unit_test(nothing_unwritten_is_used),
        cmocka_unit_test(races_are_found),
        cmocka_unit_test(threads_meet_in_one_place),
        cmocka_unit_test(deadlocks_name_every_thread),
        cmocka_unit_test(the_host_waits),
        cmocka_unit_test(graphs_are_captured_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
