/* Slow ranks: the judgement on its own, and a run in which one rank computes slowly. */
#define _GNU_SOURCE
#include "tests/check.h"
#include "tests/temporary.h"

#include "data/token_file.h"
#include "train/observe.h"
#include "train/slow_rank.h"

#include <time.h>
#include <unistd.h>

static struct parallel job; /* cmocka's tests take no arguments */

enum { RANKS = 8 };

struct judged {
    int times[RANKS];
    struct slow_rank_verdict verdicts[RANKS];
};

/* Seconds of ranks that each had 1000 tokens; a bit a rank that is told. */
static unsigned judge(struct judged *judged, const double *seconds, const int *group, int ranks) {
    static const int one_group[RANKS];
    struct slow_rank_window windows[RANKS];
    double scratch[RANKS];
    unsigned told = 0;
    for (int i = 0; i < ranks; i++) windows[i] = (struct slow_rank_window){seconds[i], 1000.0};
    int count = slow_rank_judge(judged->verdicts, judged->times, windows, group ? group : one_group,
                                ranks, scratch);
    for (int i = 0; i < ranks; i++) told |= (unsigned)judged->verdicts[i].tell << i;
    assert_int_equal(count, __builtin_popcount(told));
    return told;
}

static void test_told_once_until_it_changes(void **state) {
    (void)state;
    static const double even[] = {10, 10.5, 9.8, 10}, slow[] = {10, 10.5, 9.8, 11.2};
    struct judged judged = {0};
    assert_int_equal(judge(&judged, slow, NULL, 4), 0); /* once is chance */
    assert_int_equal(judge(&judged, slow, NULL, 4), 1 << 3);
    assert_true(fabs(judged.verdicts[3].median - 10.0) < 1e-12);
    for (int i = 0; i < 5; i++) assert_int_equal(judge(&judged, slow, NULL, 4), 0);
    assert_int_equal(judge(&judged, even, NULL, 4), 0);
    assert_int_equal(judge(&judged, slow, NULL, 4), 0);
    assert_int_equal(judge(&judged, slow, NULL, 4), 1 << 3);
}

/* Of two ranks the slower is compared with the faster; two slow ones of five are both told. */
static void test_few_and_several(void **state) {
    (void)state;
    static const double two[] = {11.2, 10}, five[] = {20, 10, 10, 19, 10};
    struct judged judged = {0};
    judge(&judged, two, NULL, 2);
    assert_int_equal(judge(&judged, two, NULL, 2), 1);
    judged = (struct judged){0};
    judge(&judged, five, NULL, 5);
    assert_int_equal(judge(&judged, five, NULL, 5), 1 << 0 | 1 << 3);
}

/* A stage with more layers isn't slow; a rank is, among those of its own stage. */
static void test_groups(void **state) {
    (void)state;
    static const double seconds[] = {10, 10, 12, 20, 20, 20};
    static const int group[] = {0, 0, 0, 1, 1, 1};
    struct judged judged = {0};
    judge(&judged, seconds, group, 6);
    assert_int_equal(judge(&judged, seconds, group, 6), 1 << 2);
}

/* Time is judged a token; a rank without any isn't judged; milliseconds are noise. */
static void test_tokens_and_noise(void **state) {
    (void)state;
    static const struct slow_rank_window windows[] = {{10, 1000}, {20, 2000}, {0, 0}, {10, 1010}};
    static const double short_ones[] = {0.1, 0.1, 0.5};
    static const int group[4];
    struct slow_rank_verdict verdicts[4];
    struct judged judged = {0};
    int times[4] = {0};
    double scratch[4];
    for (int i = 0; i < 3; i++) {
        assert_int_equal(slow_rank_judge(verdicts, times, windows, group, 4, scratch), 0);
        assert_int_equal(judge(&judged, short_ones, NULL, 3), 0);
    }
}

/* --- a run ------------------------------------------------------------------------------------ */

static const struct kernels *real_kernels; /* an op table's functions can reach nothing else */

static void slow_rope(struct stream *s, float *table, const int32_t *positions,
                      const double *inverse_frequency, double factor, int64_t tokens,
                      int head_dim) {
    nanosleep(&(struct timespec){.tv_nsec = 60000000}, NULL);
    real_kernels->rope_table(s, table, positions, inverse_frequency, factor, tokens, head_dim);
}

static void write_tokens(const char *path) {
    const struct token_file_info info = {.vocabulary = 96};
    struct token_writer *writer;
    int32_t ids[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    assert_ok(token_writer_create(&writer, path, &info));
    for (int d = 0; d < 12; d++) assert_ok(token_writer_append(writer, ids, NULL, 16));
    assert_ok(token_writer_finish(writer));
}

/* Steps with standard error in a file; how many lines of it tell of a slow rank. */
static int train_and_count(struct trainer *trainer, const char *log, int steps) {
    fflush(stderr);
    int kept = dup(STDERR_FILENO), found = 0;
    assert_non_null(freopen(log, "w", stderr));
    for (int i = 0; i < steps; i++) {
        struct step_report report;
        enum status status = trainer_step(trainer, &report);
        if (status == STATUS_OK) status = observe_slow_ranks(trainer);
        assert_int_equal(status, STATUS_OK);
    }
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    char line[1024], who[64];
    snprintf(who, sizeof who, "rank=%d ", job.world.rank);
    FILE *file = fopen(log, "r");
    while (fgets(line, sizeof line, file))
        found += strstr(line, "event=slow_rank") && strstr(line, who) && strstr(line, "host=");
    fclose(file);
    return found;
}

/* The others wait in collectives as long as the slow one computes, and yet it is the one. */
static void test_slow_rank_says_so(void **state) {
    (void)state;
    if (job.world.size == 1) skip_because("it takes two ranks, and runs with them");
    struct temporary folder;
    struct run_options options = {0};
    struct config_table tables[RUN_TABLES];
    struct trainer trainer;
    char text[2048];
    temporary_open(&folder);
    write_tokens(temporary_file(&folder, "tokens.h5"));
    snprintf(text, sizeof text,
             "model: {path: tests/fixtures/llama}\n"
             "data: {train: [%s], sequence_length: 16}\n"
             "train: {out: %s, steps: 40, global_batch: 6, threads: 1, slow_rank_every: 10}\n",
             folder.file, folder.path);
    run_options_tables(&options, tables);
    assert_ok(config_parse(tables, RUN_TABLES, text, strlen(text), "test.yaml", NULL, 0));
    assert_ok(trainer_open(&trainer, &options, &job));
    real_kernels = trainer.ws.exec.k;
    struct kernels slow = *real_kernels;
    slow.rope_table = slow_rope;
    if (job.world.rank == 1) trainer.ws.exec.k = &slow;
    int told = train_and_count(&trainer, temporary_file(&folder, "log"), 30);
    assert_int_equal(told, job.world.rank == 1 ? 1 : 0);
    trainer_close(&trainer);
    config_free(tables, RUN_TABLES);
    temporary_close(&folder);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_told_once_until_it_changes),
        cmocka_unit_test(test_few_and_several),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_tokens_and_noise),
        cmocka_unit_test(test_slow_rank_says_so),
    };
    if (parallel_start(&job, &argc, &argv) != STATUS_OK) return 1;
    job.threads = 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) parallel_abort(&job, "looking for slow ranks");
    parallel_finish(&job);
    return failed;
}
