/* Every layout of 1, 2, 4 and 8 ranks, with other settings so that each pair of them occurs, equals
 * one rank: first gradients, losses, gradient norms and final weights.
 *
 * Under 8 ranks all are tried, those of fewer ranks side by side, and the table is written to
 * layouts.txt beside the program; a smaller job tries what it can. */
#define _GNU_SOURCE
#include "tests/layout_settings.h"

#include "parallel/comm_mpi.h"

#include <signal.h>
#include <unistd.h>

static struct parallel job; /* cmocka's tests take no arguments */
static const char *program;
static char trying[4 * LAYOUT_WORDS]; /* for who reads why it failed */

static const struct layout_limits limits = {1e-6, 1e-6, 1e-6, 1e-6};

struct table {
    struct layout_site site;
    int count, alone_count;
    struct covering_row *rows;
    struct layout_words *words;  /* (count) */
    int *alone;                  /* (count) which of the runs on one rank a row must equal */
    int *first;                  /* (alone_count) a row of each */
    struct layout_limits *worst; /* (count) */
};

/* --- what is tried --------------------------------------------------------------------------- */

static void find_alone(struct table *t, int i) {
    for (int k = 0; k < t->alone_count; k++) {
        const struct layout_case *a = &t->words[t->first[k]].alone, *b = &t->words[i].alone;
        if (strcmp(a->model, b->model) == 0 && strcmp(a->training, b->training) == 0) {
            t->alone[i] = k;
            return;
        }
    }
    t->first[t->alone_count] = i;
    t->alone[i] = t->alone_count++;
}

static void table_open(struct table *t) {
    memset(t, 0, sizeof *t);
    t->rows = covering_make(&layout_space, &t->count);
    size_t count = (size_t)t->count;
    t->words = calloc(count, sizeof *t->words);
    t->alone = calloc(count, sizeof *t->alone);
    t->first = calloc(count, sizeof *t->first);
    t->worst = calloc(count, sizeof *t->worst);
    assert_true(t->words && t->alone && t->first && t->worst);
    for (int i = 0; i < t->count; i++) {
        layout_say(&t->words[i], &t->rows[i]);
        if (t->words[i].row.ranks <= job.world.size) find_alone(t, i);
    }
    layout_site_open(&t->site, &job);
}

static void table_close(struct table *t) {
    layout_site_close(&t->site);
    free(t->rows);
    free(t->words);
    free(t->alone);
    free(t->first);
    free(t->worst);
}

/* --- side by side ---------------------------------------------------------------------------- */

/* Ranks of the job that work as a job of their own. */
struct part {
    struct parallel parallel;
    struct layout_site site;
    int index, count;
};

static void part_open(struct part *part, const struct table *t, int ranks) {
    part->parallel = job;
    part->index = job.world.rank / ranks;
    part->count = job.world.size / ranks;
    assert_ok(comm_mpi_open_split(&part->parallel.world, &job.world, "part", part->index,
                                  job.world.rank));
    part->parallel.node_size = ranks;
    part->parallel.node_rank = part->parallel.world.rank;
    part->parallel.node_first = 0;
    part->site = t->site;
    part->site.job = &part->parallel;
}

static void part_close(struct part *part) {
    comm_close(&part->parallel.world);
}

static void train_alone(const struct table *t) {
    static const struct layout_leg legs[] = {{1, LAYOUT_STEPS, ""}};
    struct part part;
    char name[32];
    part_open(&part, t, 1);
    for (int k = part.index; k < t->alone_count; k += part.count) {
        const struct layout_case *row = &t->words[t->first[k]].alone;
        snprintf(trying, sizeof trying, "one rank: %s, %s\n", row->model, row->training);
        snprintf(name, sizeof name, "alone-%d", k);
        layout_train(&part.site, name, row, legs);
    }
    part_close(&part);
}

static void compare(struct table *t, const char *alone, const char *name, int i) {
    struct layout_result want, got;
    layout_read(&t->site, alone, &want);
    layout_read(&t->site, name, &got);
    const struct layout_differences found = layout_differences(&want, &got);
    t->worst[i] = found.worst;
    if (!layout_within(&found.worst, &limits))
        print_message("row %d: a gradient of %s by %.1e, a weight of %s by %.1e\n", i,
                      found.gradient, found.worst.gradients, found.weight, found.worst.weights);
    layout_result_free(&want);
    layout_result_free(&got);
}

static void try_row(struct table *t, const struct part *part, int i) {
    const struct layout_case *row = &t->words[i].row;
    const struct layout_leg legs[] = {{row->ranks, LAYOUT_STEPS, row->layout}};
    char name[32], alone[32];
    snprintf(trying, sizeof trying, "row %d: %s, %s,%s\n", i, row->model, row->training,
             row->layout);
    snprintf(name, sizeof name, "row-%d", i);
    snprintf(alone, sizeof alone, "alone-%d", t->alone[i]);
    layout_train(&part->site, name, row, legs);
    if (part->parallel.world.rank == 0) compare(t, alone, name, i);
    layout_remove(&part->site, name);
}

static void try_rows(struct table *t, int ranks) {
    struct part part;
    int turn = 0;
    part_open(&part, t, ranks);
    for (int i = 0; i < t->count; i++)
        if (t->words[i].row.ranks == ranks && turn++ % part.count == part.index)
            try_row(t, &part, i);
    part_close(&part);
}

/* --- the table ------------------------------------------------------------------------------- */

static void print_row(FILE *out, const struct table *t, int i) {
    fprintf(out, "%5d", t->words[i].row.ranks);
    for (int axis = 0; axis < LAYOUT_AXES; axis++)
        fprintf(out, " %*s", (int)strlen(layout_space.axes[axis].name) < 4 ? 4 : 11,
                layout_space.axes[axis].values[t->rows[i].choice[axis]]);
    const struct layout_limits *worst = &t->worst[i];
    fprintf(out, "  %7.1e %7.1e %7.1e %7.1e\n", worst->gradients, worst->norms, worst->losses,
            worst->weights);
}

static void print_rows(FILE *out, const struct table *t) {
    fprintf(out, "ranks");
    for (int axis = 0; axis < LAYOUT_AXES; axis++) {
        const char *name = layout_space.axes[axis].name;
        fprintf(out, " %*s", strlen(name) < 4 ? 4 : 11, name);
    }
    fprintf(out, "  %7s %7s %7s %7s\n", "grads", "norms", "losses", "weights");
    for (int i = 0; i < t->count; i++)
        if (t->words[i].row.ranks <= job.world.size) print_row(out, t, i);
}

static void print_excluded(FILE *out) {
    struct covering_row pair;
    for (int a = 0; a < COVERING_AXES; a++) pair.choice[a] = COVERING_OPEN;
    fprintf(out, "\nNot tried, and why:\n");
    for (int a = 0; a < LAYOUT_AXES; a++)
        for (int v = 0; v < covering_values(&layout_space.axes[a]); v++)
            for (int b = a + 1; b < LAYOUT_AXES; b++)
                for (int w = 0; w < covering_values(&layout_space.axes[b]); w++) {
                    pair.choice[a] = v, pair.choice[b] = w;
                    const char *why = covering_impossible(&layout_space, &pair);
                    pair.choice[a] = pair.choice[b] = COVERING_OPEN;
                    if (why)
                        fprintf(out, "%s %s with %s %s: %s\n", layout_space.axes[a].name,
                                layout_space.axes[a].values[v], layout_space.axes[b].name,
                                layout_space.axes[b].values[w], why);
                }
}

static void write_table(const struct table *t) {
    char path[4096];
    snprintf(path, sizeof path, "%.*slayouts.txt", (int)(strrchr(program, '/') + 1 - program),
             program);
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    print_rows(out, t);
    print_excluded(out);
    struct layout_limits most = {0};
    for (int i = 0; i < t->count; i++) {
        most.gradients = fmax(most.gradients, t->worst[i].gradients);
        most.norms = fmax(most.norms, t->worst[i].norms);
        most.losses = fmax(most.losses, t->worst[i].losses);
        most.weights = fmax(most.weights, t->worst[i].weights);
    }
    fprintf(out,
            "\n%d layouts against %d runs on one rank. At most gradients differ by %.1e of a "
            "tensor's norm, gradient norms by %.1e, losses by %.1e, weights by %.1e.\n",
            t->count, t->alone_count, most.gradients, most.norms, most.losses, most.weights);
    assert_int_equal(fclose(out), 0);
}

static void test_ranks_equal_one(void **state) {
    struct table t;
    struct stream stream;
    int failed = 0;
    (void)state;
    stream_open_cpu(&stream, 1);
    table_open(&t);
    train_alone(&t);
    comm_barrier(&job.world, &stream);
    for (int ranks = 1; ranks <= job.world.size; ranks *= 2) try_rows(&t, ranks);
    comm_all_reduce(&job.world, &stream, t.worst, t.count * 4, DTYPE_F64, COMM_SUM);
    assert_ok(stream_check(&stream));
    if (job.world.rank == 0) {
        print_rows(stdout, &t);
        if (job.world.size == LAYOUT_MOST_RANKS) write_table(&t);
    }
    for (int i = 0; i < t.count; i++) {
        failed += !layout_within(&t.worst[i], &limits);
    }
    table_close(&t);
    if (failed) fail_msg("%d layouts differ from one rank", failed);
}

static void say_what_failed(int signal) {
    (void)signal;
    if (write(STDERR_FILENO, trying, strlen(trying)) < 0) _exit(1);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks_equal_one),
    };
    program = argv[0];
    layout_start(&job, &argc, &argv);
    signal(SIGABRT, say_what_failed);
    return layout_finish(&job, cmocka_run_group_tests(tests, NULL, NULL));
}
