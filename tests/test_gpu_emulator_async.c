/* The emulator catches bugs of asynchronous kernels: each planted one ends with a message or with a
 * wrong result under the schedules that are named, and its right twin passes under all three. */
#define _GNU_SOURCE
#include "tests/check.h"
#include "tests/gpu_planted_async.h"

enum {
    ROUND_ROBIN = UNDER_ROUND_ROBIN,
    GREEDY = UNDER_GREEDY,
    SHUFFLED = UNDER_SHUFFLED,
    ALL = UNDER_ALL
};

static void passes(enum planted kind) {
    planted_passes(planted_run, (int)kind);
}

static void caught(enum planted kind, int under, const char *pattern) {
    planted_caught(planted_run, (int)kind, under, pattern);
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
