#define _GNU_SOURCE
/* Who is named for which state of a job: ranks are told what they last called, and the line is
 * compared with what a person would say. */
#include "tests/check.h"

#include "parallel/verdict.h"

enum { RANKS = 8, WORLD = 1, TP = 2, DP = 10 };

/* A job of 8 ranks on two hosts: the world, tp groups {0 1} {2 3} {4 5} {6 7}, dp groups of even
 * and of odd ranks. */
struct job {
    struct rings *rings[RANKS];
    struct ring *world[RANKS], *tp[RANKS], *dp[RANKS];
    struct verdict_rank ranks[RANKS];
    struct rings_copy copies[RANKS];
    void *bytes[RANKS];
    char line[2048];
    struct verdict verdict;
};

static const struct where forward = {WHERE_FORWARD, 2, 1}, backward = {WHERE_BACKWARD, 12, 3};

static int setup(void **state) {
    struct job *job = calloc(1, sizeof *job);
    for (int r = 0; r < RANKS; r++) {
        int32_t all[RANKS], pair[2] = {r / 2 * 2, r / 2 * 2 + 1}, strided[4];
        for (int i = 0; i < RANKS; i++) all[i] = i;
        for (int i = 0; i < 4; i++) strided[i] = 2 * i + r % 2;
        job->rings[r] = rings_create(r);
        job->world[r] = ring_open(job->rings[r], "world", WORLD, all, RANKS);
        job->tp[r] = ring_open(job->rings[r], "tp", TP + r / 2, pair, 2);
        job->dp[r] = ring_open(job->rings[r], "dp", DP + r % 2, strided, 4);
        job->ranks[r] = (struct verdict_rank){PRESENT, r < 4 ? "n1" : "n2", NULL};
    }
    *state = job;
    return 0;
}

static int teardown(void **state) {
    struct job *job = *state;
    for (int r = 0; r < RANKS; r++) {
        rings_copy_free(&job->copies[r]);
        free(job->bytes[r]);
        rings_free(job->rings[r]);
    }
    verdict_free(&job->verdict);
    verdict_free(&job->verdict);
    free(job);
    return 0;
}

/* A call that is done, or that the rank stays inside. */
static void call_of(struct ring *ring, enum ring_op op, int64_t count, enum dtype type, int peer,
                    bool done) {
    struct ring_call call;
    const struct ring_entry what = {
        .op = (uint8_t)op, .count = count, .dtype = (uint8_t)type, .peer = peer};
    ring_enter(&call, ring, op == RING_ALL_REDUCE ? &backward : &forward, &what, true);
    if (done) ring_leave(&call);
}

static void done(struct ring *ring, enum ring_op op) {
    call_of(ring, op, 64, DTYPE_F32, RING_NO_PEER, true);
}

static void waits(struct ring *ring, enum ring_op op) {
    call_of(ring, op, 64, DTYPE_F32, RING_NO_PEER, false);
}

/* Every rank has done an all_reduce on the world and one on tp. */
static void warm_up(struct job *job) {
    for (int r = 0; r < RANKS; r++) {
        done(job->world[r], RING_ALL_REDUCE);
        done(job->tp[r], RING_ALL_REDUCE);
    }
}

static enum verdict_kind decide_after(struct job *job, int judge, double seconds) {
    for (int r = 0; r < RANKS; r++) {
        if (job->ranks[r].presence != PRESENT) continue;
        size_t bytes;
        job->bytes[r] = rings_pack(job->rings[r], &bytes);
        assert_ok(rings_unpack(&job->copies[r], job->bytes[r], bytes));
        job->ranks[r].rings = &job->copies[r];
    }
    assert_ok(verdict_decide(&job->verdict, job->ranks, RANKS, judge, seconds));
    verdict_line(&job->verdict, job->ranks, job->line, sizeof job->line);
    return job->verdict.kind;
}

static enum verdict_kind decide(struct job *job) {
    return decide_after(job, 0, 0.0);
}

/* The line begins so: what follows is a duration. */
static void assert_says(const struct job *job, const char *want) {
    if (strncmp(job->line, want, strlen(want)) != 0)
        fail_msg("\"%s\" does not begin with \"%s\"", job->line, want);
}

static void test_nothing_is_wrong(void **state) {
    struct job *job = *state;
    warm_up(job);
    for (int r = 0; r < RANKS; r++)
        if (r != 3) waits(job->world[r], RING_BARRIER);
    assert_int_equal(decide_after(job, 0, 1000.0),
                     VERDICT_NONE); /* they haven't waited that long */
    assert_string_equal(job->line, "");
}

static void test_never_entered(void **state) {
    struct job *job = *state;
    warm_up(job);
    for (int r = 0; r < RANKS; r++)
        if (r != 5) waits(job->world[r], RING_ALL_REDUCE);
    assert_int_equal(decide(job), VERDICT_NEVER_ENTERED);
    assert_says(job, "rank 5 @ n2 never entered world all_reduce #2 (layer 12 backward, microbatch "
                     "3); ranks 0-4, 6, 7 wait; rank 5 has been outside any call for ");
}

/* Waits are followed to where they end: 1 waits for 0, 3 for 1, all others for 3 or 1. */
static void test_a_chain_of_waits(void **state) {
    struct job *job = *state;
    warm_up(job);
    waits(job->tp[1], RING_ALL_REDUCE);
    waits(job->dp[3], RING_ALL_GATHER);
    for (int r = 2; r < RANKS; r++)
        if (r != 3) waits(job->world[r], RING_BARRIER);
    assert_int_equal(decide(job), VERDICT_NEVER_ENTERED);
    assert_says(job,
                "rank 0 @ n1 never entered tp all_reduce #2 (layer 12 backward, microbatch 3); "
                "rank 1 waits; behind them 6 more; rank 0 has been outside any call for ");
}

static void test_a_note_is_told(void **state) {
    struct job *job = *state;
    warm_up(job);
    rings_note(job->rings[7], "leaving: no space left on device");
    for (int r = 0; r < 7; r++) waits(job->world[r], RING_BARRIER);
    decide(job);
    assert_says(job, "rank 7 @ n2 never entered world barrier #2 (layer 2 forward, microbatch 1); "
                     "ranks 0-6 wait; rank 7: leaving: no space left on device");
}

static void test_gone(void **state) {
    struct job *job = *state;
    warm_up(job);
    job->ranks[2].presence = GONE;
    job->ranks[6].presence = UNKNOWN; /* pulled along */
    for (int r = 0; r < RANKS; r++) waits(r % 2 ? job->tp[r] : job->dp[r], RING_ALL_REDUCE);
    assert_int_equal(decide(job), VERDICT_GONE);
    assert_says(job, "rank 2 @ n1 is gone: the process ended; ranks 0, 4 wait in dp all_reduce #1 "
                     "(layer 12 backward, microbatch 3); behind them 4 more");
}

static void test_silent(void **state) {
    struct job *job = *state;
    warm_up(job);
    job->ranks[5].presence = SILENT;
    for (int r = 0; r < RANKS; r++) waits(job->world[r], RING_BARRIER);
    assert_int_equal(decide(job), VERDICT_SILENT);
    assert_says(job, "rank 5 @ n2 does not answer: stopped; ranks 0-4, 6, 7 wait in world barrier");
}

static void test_a_silent_host_is_unreachable(void **state) {
    struct job *job = *state;
    warm_up(job);
    for (int r = 4; r < RANKS; r++) job->ranks[r].presence = SILENT;
    for (int r = 0; r < 4; r++) waits(job->world[r], RING_BARRIER);
    assert_int_equal(decide(job), VERDICT_UNREACHABLE);
    assert_says(job, "ranks 4-7 @ n2 can't be reached: stopped, or the host or the link to it is "
                     "down; ranks 0-3 wait in world barrier #2");
}

/* Seen from n2, n2's own silent ranks are stopped: it is not the link. */
static void test_the_judges_host_is_not_far(void **state) {
    struct job *job = *state;
    for (int r = 5; r < RANKS; r++) job->ranks[r].presence = SILENT;
    decide_after(job, 4, 0.0);
    assert_int_equal(job->verdict.kind, VERDICT_SILENT);
    assert_says(job, "ranks 5, 6, 7 @ n2 do not answer: stopped");
}

static void mismatch(struct job *job, int rank, enum ring_op op, int64_t count, enum dtype type) {
    warm_up(job);
    for (int r = 0; r < RANKS; r++)
        if (r == rank)
            call_of(job->dp[r], op, count, type, RING_NO_PEER, false);
        else
            call_of(job->dp[r], RING_ALL_REDUCE, 8192, DTYPE_F32, RING_NO_PEER, false);
}

static void test_wrong_count(void **state) {
    struct job *job = *state;
    mismatch(job, 3, RING_ALL_REDUCE, 4096, DTYPE_F32);
    assert_int_equal(decide(job), VERDICT_MISMATCH);
    assert_says(job, "rank 3 @ n1 called dp all_reduce #1 with 4096 f32 (layer 12 backward, "
                     "microbatch 3) where ranks 1, 5, 7 called it with 8192 f32 (layer 12");
}

static void test_wrong_dtype(void **state) {
    struct job *job = *state;
    mismatch(job, 6, RING_ALL_REDUCE, 8192, DTYPE_BF16);
    assert_int_equal(decide(job), VERDICT_MISMATCH);
    assert_says(job, "rank 6 @ n2 called dp all_reduce #1 with 8192 bf16 (layer 12 backward, "
                     "microbatch 3) where ranks 0, 2, 4 called it with 8192 f32");
}

static void test_wrong_op(void **state) {
    struct job *job = *state;
    mismatch(job, 0, RING_ALL_GATHER, 8192, DTYPE_F32);
    assert_int_equal(decide(job), VERDICT_MISMATCH);
    assert_says(job, "rank 0 @ n1 called dp all_gather #1 with 8192 f32 (layer 2 forward, "
                     "microbatch 1) where ranks 2, 4, 6 called all_reduce with 8192 f32");
}

/* One of two differs, and nobody can say which: the other groups of that name can. */
static void test_other_groups_decide_a_tie(void **state) {
    struct job *job = *state;
    for (int r = 0; r < RANKS; r++)
        call_of(job->tp[r], RING_ALL_REDUCE, r == 0 ? 32 : 64, DTYPE_F32, RING_NO_PEER, r > 1);
    assert_int_equal(decide(job), VERDICT_MISMATCH);
    assert_says(job, "rank 0 @ n1 called tp all_reduce #1 with 32 f32 (layer 12 backward, "
                     "microbatch 3) where rank 1 called it with 64 f32");
}

/* What is mismatched is the cause even if the hang came calls later. */
static void test_an_old_mismatch(void **state) {
    struct job *job = *state;
    for (int r = 0; r < RANKS; r++)
        call_of(job->world[r], RING_ALL_GATHER, r == 4 ? 1 : 2, DTYPE_I64, RING_NO_PEER, true);
    warm_up(job);
    for (int r = 0; r < RANKS; r++)
        if (r != 7) waits(job->world[r], RING_BARRIER);
    assert_int_equal(decide(job), VERDICT_MISMATCH);
    assert_says(job, "rank 4 @ n2 called world all_gather #1 with 1 i64");
}

static void test_never_waited(void **state) {
    struct job *job = *state;
    warm_up(job);
    for (int r = 0; r < RANKS; r++) {
        struct ring_call call;
        const struct ring_entry what = {
            .op = RING_START_ALL_REDUCE, .count = 9, .peer = RING_NO_PEER};
        ring_enter(&call, job->world[r], &backward, &what, false);
        if (r != 2) ring_wait(&call);
    }
    assert_int_equal(decide(job), VERDICT_NEVER_WAITED);
    assert_says(job, "rank 2 @ n1 started and never waited for world start_all_reduce #2 (layer 12 "
                     "backward, microbatch 3); ranks 0, 1, 3-7 wait; rank 2 has been outside");
}

/* Who started a call and is inside another one moves the first on from there. */
static void test_started_and_elsewhere(void **state) {
    struct job *job = *state;
    warm_up(job);
    for (int r = 0; r < RANKS; r++) {
        struct ring_call call;
        const struct ring_entry what = {.op = RING_START_ALL_REDUCE, .peer = RING_NO_PEER};
        ring_enter(&call, job->world[r], &backward, &what, false);
        if (r != 2 && r != 3) ring_wait(&call);
    }
    waits(job->tp[2], RING_ALL_REDUCE);
    assert_int_equal(decide(job), VERDICT_NEVER_ENTERED);
    assert_says(job, "rank 3 @ n1 never entered tp all_reduce #2");
}

static void test_alone(void **state) {
    struct job *job = *state;
    warm_up(job);
    waits(job->dp[4], RING_ALL_REDUCE);
    assert_int_equal(decide(job), VERDICT_ALONE);
    assert_string_equal(job->line,
                        "rank 4 @ n2 waits alone in dp all_reduce #1 (layer 12 backward, "
                        "microbatch 3); ranks 0, 2, 6 never entered it");
}

static void test_left(void **state) {
    struct job *job = *state;
    warm_up(job);
    job->ranks[1].presence = LEFT;
    for (int r = 0; r < RANKS; r++) waits(job->world[r], RING_BARRIER);
    assert_int_equal(decide(job), VERDICT_LEFT);
    assert_says(job, "rank 1 @ n1 left the job without world barrier #2 (layer 2 forward, "
                     "microbatch 1); ranks 0, 2-7 wait");
}

static void test_never_sent(void **state) {
    struct job *job = *state;
    warm_up(job);
    call_of(job->dp[2], RING_SEND, 10, DTYPE_F32, 2, true);
    call_of(job->dp[4], RING_RECV, 10, DTYPE_F32, 1, true);
    call_of(job->dp[4], RING_RECV, 10, DTYPE_F32, 1, false);
    assert_int_equal(decide(job), VERDICT_NEVER_ENTERED);
    assert_says(job, "rank 2 @ n1 never entered dp send #2 to rank 4 (layer 2 forward, microbatch "
                     "1); rank 4 waits; rank 2 has been outside any call for ");
}

static void test_never_received(void **state) {
    struct job *job = *state;
    warm_up(job);
    call_of(job->dp[2], RING_SEND, 10, DTYPE_F32, 2, false);
    assert_int_equal(decide(job), VERDICT_NEVER_ENTERED);
    assert_says(job,
                "rank 4 @ n2 never entered dp recv #1 from rank 2 (layer 2 forward, microbatch "
                "1); rank 2 waits");
}

static void test_wrong_message_size(void **state) {
    struct job *job = *state;
    warm_up(job);
    call_of(job->world[5], RING_SEND, 10, DTYPE_F32, 6, true);
    call_of(job->world[6], RING_RECV, 20, DTYPE_F32, 5, false);
    assert_int_equal(decide(job), VERDICT_MISMATCH);
    assert_says(job, "rank 5 @ n2 called world send #1 with 10 f32 to rank 6 (layer 2 forward, "
                     "microbatch 1) where rank 6 called recv with 20 f32 from rank 5");
}

/* Others exchange 10 as well: it is the receiver that is wrong. */
static void test_wrong_size_expected(void **state) {
    struct job *job = *state;
    warm_up(job);
    call_of(job->world[0], RING_SEND, 10, DTYPE_F32, 1, true);
    call_of(job->world[5], RING_SEND, 10, DTYPE_F32, 6, true);
    call_of(job->world[6], RING_RECV, 20, DTYPE_F32, 5, false);
    assert_int_equal(decide(job), VERDICT_MISMATCH);
    assert_says(job, "rank 6 @ n2 called world recv #1 with 20 f32 from rank 5 (layer 2 forward, "
                     "microbatch 1) where rank 5 called send with 10 f32 to rank 6");
}

/* All wait in a circle. Most waiters are right... */
static void test_circle_most_waiters(void **state) {
    struct job *job = *state;
    warm_up(job);
    for (int r = 0; r < RANKS; r++) {
        if (r == 3)
            call_of(job->world[r], RING_RECV, 1, DTYPE_F32, 2, false);
        else
            waits(job->world[r], RING_BARRIER);
    }
    assert_int_equal(decide(job), VERDICT_NEVER_ENTERED);
    assert_says(job, "rank 3 @ n1 never entered world barrier #2 (layer 2 forward, microbatch 1); "
                     "ranks 0, 1, 2, 4-7 wait; rank 3 waits in world recv #1 from rank 2");
}

/* ...unless one of them skipped what the others had done when they came there. */
static void test_circle_out_of_order(void **state) {
    struct job *job = *state;
    warm_up(job);
    for (int r = 2; r < RANKS; r++) done(job->tp[r], RING_ALL_REDUCE);
    waits(job->tp[0], RING_ALL_REDUCE);
    for (int r = 1; r < RANKS; r++) waits(job->world[r], RING_BARRIER);
    assert_int_equal(decide(job), VERDICT_NEVER_ENTERED);
    assert_says(job,
                "rank 1 @ n1 never entered tp all_reduce #2 (layer 12 backward, microbatch 3); "
                "rank 0 waits; behind them 6 more; rank 1 waits in world barrier #2");
}

static void test_stuck(void **state) {
    struct job *job = *state;
    warm_up(job);
    for (int r = 0; r < RANKS; r++) waits(job->world[r], RING_BARRIER);
    assert_int_equal(decide(job), VERDICT_STUCK);
    assert_string_equal(job->line, "nobody is missing in world barrier #2 (layer 2 forward, "
                                   "microbatch 1) and it does not end: the network or the library "
                                   "is stuck; ranks 0-7 wait");
}

static void test_the_table_tells_all(void **state) {
    struct job *job = *state;
    char *text = NULL;
    size_t bytes = 0;
    warm_up(job);
    job->ranks[6].presence = GONE;
    for (int r = 0; r < RANKS; r++) waits(job->world[r], RING_BARRIER);
    decide(job);
    FILE *file = open_memstream(&text, &bytes);
    verdict_table(&job->verdict, job->ranks, file);
    fclose(file);
    assert_memory_equal(text, job->line, strlen(job->line));
    assert_non_null(strstr(text, "rank 6 @ n2: gone"));
    assert_non_null(strstr(text, "rank 7 @ n2: answered"));
    assert_non_null(strstr(text, "  tp of ranks 4, 5: 1 collectives\n"));
    assert_non_null(strstr(text, "world barrier #2 (layer 2 forward, microbatch 1)\n"));
    assert_non_null(strstr(text, "tp all_reduce #1 (layer 12 backward, microbatch 3) with 64 f32"));
    free(text);
}

#define job_test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        job_test(test_nothing_is_wrong),
        job_test(test_never_entered),
        job_test(test_a_chain_of_waits),
        job_test(test_a_note_is_told),
        job_test(test_gone),
        job_test(test_silent),
        job_test(test_a_silent_host_is_unreachable),
        job_test(test_the_judges_host_is_not_far),
        job_test(test_wrong_count),
        job_test(test_wrong_dtype),
        job_test(test_wrong_op),
        job_test(test_other_groups_decide_a_tie),
        job_test(test_an_old_mismatch),
        job_test(test_never_waited),
        job_test(test_started_and_elsewhere),
        job_test(test_alone),
        job_test(test_left),
        job_test(test_never_sent),
        job_test(test_never_received),
        job_test(test_wrong_message_size),
        job_test(test_wrong_size_expected),
        job_test(test_circle_most_waiters),
        job_test(test_circle_out_of_order),
        job_test(test_stuck),
        job_test(test_the_table_tells_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
