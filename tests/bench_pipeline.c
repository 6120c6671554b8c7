/* How much of a pipeline's step its stages wait, beside what the schedule says for the costs that
 * they had: every schedule, on as many stages as there are ranks.
 *
 *     mpirun -n RANKS bench_pipeline RUN.yaml [STEPS] [key=value ...]
 *
 * RUN.yaml names model and data; a step has 4, then 8 microbatches of one sequence. Of each step
 * after the first, the trace gives the mean seconds of each stage's forwards and backwards (the
 * loss counts to the backward); parallel/schedule_simulate.h makes a timeline of these costs. A
 * bubble is the time from the first action's begin to the last one's end, over the time that the
 * busiest stage computes, minus 1. Columns: medians over the steps; the difference of the bubbles
 * as a share of the simulated one; what each stage waits, as a share of the step, measured and (in
 * brackets) simulated. All ranks share one clock: one host. */
#define _GNU_SOURCE
#include "kernels/base/median.h"
#include "parallel/schedule_simulate.h"
#include "train/options.h"
#include "train/trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_STAGES = 16, MAX_CHUNKS = 4, MAX_STEPS = 64, MAX_ARGUMENTS = 64 };

/* What one stage did in one step; only doubles, so that ranks exchange it as it is. */
struct stage_step {
    double begin, end, busy;                                           /* of its actions; seconds */
    double forward[MAX_CHUNKS], input[MAX_CHUNKS], weight[MAX_CHUNKS]; /* means of an action */
};

struct figures {
    double measured[MAX_STEPS], simulated[MAX_STEPS], seconds[MAX_STEPS];
    double waits[MAX_STAGES][MAX_STEPS], should[MAX_STAGES][MAX_STEPS];
    int steps;
};

static void check(enum status status) {
    if (status == STATUS_OK) return;
    fprintf(stderr, "bench_pipeline: %s\n", status_message());
    exit(1);
}

static int chunk_of(const struct trainer *t, const struct trace_event *event) {
    int chunks = t->pipeline.schedule.shape.chunks;
    if (event->kind == TRACE_LOSS) return chunks - 1;
    for (int chunk = 0; chunk < chunks; chunk++)
        if (t->parts[chunk].shard.first_layer == event->first_layer) return chunk;
    return 0;
}

static struct stage_step summarize(const struct trainer *t) {
    struct stage_step s = {.begin = INFINITY, .end = -INFINITY};
    double m = t->pipeline.schedule.shape.microbatches;
    for (int64_t i = 0; i < t->trace.count; i++) {
        const struct trace_event *event = &t->trace.events[i];
        double seconds = event->end - event->begin;
        int chunk = chunk_of(t, event);
        if (event->kind < TRACE_FORWARD || event->kind > TRACE_BACKWARD_WEIGHT) continue;
        s.begin = fmin(s.begin, event->begin);
        s.end = fmax(s.end, event->end);
        s.busy += seconds;
        if (event->kind == TRACE_FORWARD)
            s.forward[chunk] += seconds / m;
        else if (event->kind == TRACE_BACKWARD_WEIGHT)
            s.weight[chunk] += seconds / m;
        else
            s.input[chunk] += seconds / m;
    }
    return s;
}

/* A step's two bubbles out of what all stages did. */
static void judge(struct figures *figures, const struct schedule_shape *shape,
                  const struct stage_step *stages) {
    struct schedule schedules[MAX_STAGES] = {0};
    double forward[MAX_STAGES * MAX_CHUNKS], input[MAX_STAGES * MAX_CHUNKS],
        weight[MAX_STAGES * MAX_CHUNKS], begin = INFINITY, end = -INFINITY, busiest = 0.0;
    struct schedule_costs costs = {forward, input, weight, 0.0};
    struct schedule_timeline timeline;
    int step = figures->steps++;
    for (int stage = 0; stage < shape->stages; stage++) {
        check(schedule_create(&schedules[stage], shape, stage));
        begin = fmin(begin, stages[stage].begin);
        end = fmax(end, stages[stage].end);
        busiest = fmax(busiest, stages[stage].busy);
        for (int chunk = 0; chunk < shape->chunks; chunk++) {
            forward[chunk * shape->stages + stage] = stages[stage].forward[chunk];
            input[chunk * shape->stages + stage] = stages[stage].input[chunk];
            weight[chunk * shape->stages + stage] = stages[stage].weight[chunk];
        }
    }
    check(schedule_simulate(&timeline, schedules, &costs, SEND_FREE));
    figures->seconds[step] = end - begin;
    figures->measured[step] = (end - begin) / busiest - 1.0;
    figures->simulated[step] = schedule_timeline_bubble(&timeline);
    for (int stage = 0; stage < shape->stages; stage++) {
        figures->waits[stage][step] = 1.0 - stages[stage].busy / (end - begin);
        figures->should[stage][step] = 1.0 - stages[stage].busy / timeline.seconds;
        schedule_free(&schedules[stage]);
    }
    schedule_timeline_free(&timeline);
}

static void print_figures(struct figures *figures, const struct schedule_shape *shape) {
    double measured = median(figures->measured, figures->steps, MEDIAN_MEAN);
    double simulated = median(figures->simulated, figures->steps, MEDIAN_MEAN);
    printf("%-12s %6d %12d %8.3f %9.4f %9.4f %+7.1f%%  ", pipeline_schedule_words[shape->kind],
           shape->stages, shape->microbatches,
           median(figures->seconds, figures->steps, MEDIAN_MEAN), measured, simulated,
           100.0 * (measured / simulated - 1.0));
    for (int stage = 0; stage < shape->stages; stage++)
        printf(" %.1f%% (%.1f%%)",
               100.0 * median(figures->waits[stage], figures->steps, MEDIAN_MEAN),
               100.0 * median(figures->should[stage], figures->steps, MEDIAN_MEAN));
    putchar('\n');
    fflush(stdout);
}

static void run_steps(struct trainer *t, struct run_options *options, int steps,
                      struct figures *figures) {
    struct stage_step all[MAX_STAGES];
    for (int step = 0; step <= steps; step++) {
        struct step_report report;
        options->train.trace_step = t->step + 1;
        t->trace.count = 0;
        check(trainer_step(t, &report));
        struct stage_step mine = summarize(t);
        comm_all_gather(&t->parallel->world, &t->ws.stream, all, &mine,
                        sizeof mine / sizeof(double), DTYPE_F64);
        check(stream_check(&t->ws.stream));
        if (step > 0) judge(figures, &t->pipeline.schedule.shape, all);
    }
}

static void measure(struct parallel *parallel, const char *path, char **settings, int count,
                    enum schedule_kind kind, int microbatches, int steps) {
    struct run_options options = {0};
    struct config_table tables[RUN_TABLES];
    struct trainer trainer;
    struct figures figures = {0};
    char *arguments[MAX_ARGUMENTS + 8];
    char schedule[64], stages[64], batch[64], chunks[64];
    snprintf(schedule, sizeof schedule, "parallel.schedule=%s", pipeline_schedule_words[kind]);
    snprintf(stages, sizeof stages, "parallel.pp=%d", parallel->world.size);
    snprintf(batch, sizeof batch, "train.global_batch=%d", microbatches);
    snprintf(chunks, sizeof chunks, "parallel.chunks=%d", kind == PIPELINE_INTERLEAVED ? 2 : 1);
    char *ours[] = {schedule,
                    stages,
                    batch,
                    chunks,
                    "train.micro_batch=1",
                    "train.steps=1000",
                    "train.trace_step=1"};
    int used = 0;
    for (int i = 0; i < count; i++) arguments[used++] = settings[i];
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) arguments[used++] = ours[i];
    run_options_tables(&options, tables);
    check(config_load(tables, RUN_TABLES, path, arguments, used));
    check(trainer_open(&trainer, &options, parallel));
    run_steps(&trainer, &options, steps, &figures);
    if (parallel->world.rank == 0) print_figures(&figures, &trainer.pipeline.schedule.shape);
    trainer_close(&trainer);
    config_free(tables, RUN_TABLES);
}

int main(int argc, char **argv) {
    struct parallel parallel;
    check(parallel_start(&parallel, &argc, &argv));
    int first = argc > 2 && !strchr(argv[2], '=') ? 3 : 2, steps = first == 3 ? atoi(argv[2]) : 4;
    int count = argc - first;
    if (argc < 2 || steps < 1 || steps > MAX_STEPS || count > MAX_ARGUMENTS ||
        parallel.world.size > MAX_STAGES) {
        fprintf(stderr, "usage: mpirun -n RANKS bench_pipeline RUN.yaml [STEPS] [key=value ...]\n");
        return 2;
    }
    if (parallel.world.rank == 0)
        printf(
            "schedule     stages microbatches  seconds  measured simulated    off   stages wait\n");
    for (int kind = PIPELINE_GPIPE; kind <= PIPELINE_ZB_H1; kind++)
        for (int microbatches = 4; microbatches <= 8; microbatches += 4)
            measure(&parallel, argv[1], argv + first, count, (enum schedule_kind)kind, microbatches,
                    steps);
    parallel_finish(&parallel);
    return 0;
}
