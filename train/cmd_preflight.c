/* strata preflight [--option value]... */
#define _GNU_SOURCE
#include "train/commands.h"

#include "core/log.h"
#include "core/options.h"
#include "kernels/base/clock.h"
#include "parallel/preflight.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* EX_UNAVAILABLE: a node is broken. */
enum { EXIT_BROKEN = 69, LEAVE_SECONDS = 5 };

struct preflight_options {
    int64_t seconds, limit, slow, broken, memory;
};

/* A network that loses what is sent makes MPI wait for ever; this thread doesn't. */
struct watchdog {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t stopped;
    bool stop;
    double seconds;
    struct preflight_stage stage;
};

static void *watch(void *data) {
    struct watchdog *watchdog = data;
    struct timespec until;
    char host[PREFLIGHT_HOST_BYTES], with[32] = "";
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)watchdog->seconds;
    pthread_mutex_lock(&watchdog->lock);
    int code = 0;
    while (!watchdog->stop && code == 0)
        code = pthread_cond_timedwait(&watchdog->stopped, &watchdog->lock, &until);
    bool stop = watchdog->stop;
    pthread_mutex_unlock(&watchdog->lock);
    if (stop) return NULL;
    int node = atomic_load(&watchdog->stage.with);
    preflight_host(host);
    if (node >= 0) snprintf(with, sizeof with, " with node #%d", node + 1);
    log_line(LOG_ERROR,
             "event=preflight_timeout node=%s reason=\"still at %s%s after %.0f s: this node, that "
             "one, or what joins them is broken\"",
             log_value(&(struct log_text){0}, host), atomic_load(&watchdog->stage.doing), with,
             watchdog->seconds);
    _Exit(EXIT_BROKEN);
}

static bool watchdog_start(struct watchdog *watchdog, double seconds) {
    pthread_condattr_t attributes;
    *watchdog = (struct watchdog){.seconds = seconds};
    atomic_store(&watchdog->stage.doing, "the start of MPI");
    atomic_store(&watchdog->stage.with, -1);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&watchdog->lock, NULL);
    pthread_cond_init(&watchdog->stopped, &attributes);
    pthread_condattr_destroy(&attributes);
    return pthread_create(&watchdog->thread, NULL, watch, watchdog) == 0;
}

static void watchdog_stop(struct watchdog *watchdog) {
    pthread_mutex_lock(&watchdog->lock);
    watchdog->stop = true;
    pthread_cond_signal(&watchdog->stopped);
    pthread_mutex_unlock(&watchdog->lock);
    pthread_join(watchdog->thread, NULL);
}

static void print_node(const struct preflight_node *node, const struct preflight_finding *finding,
                       bool alone) {
    char network[96] = "";
    if (!alone)
        snprintf(network, sizeof network, " network_gbs=%.2f latency_us=%.1f clock_ms=%+.1f",
                 node->network_gbs, node->latency_us, node->clock_ms);
    printf("node=%s ranks=%d gemm_gflops=%.1f memory_gbs=%.1f available_gib=%.1f%s verdict=%s",
           log_value(&(struct log_text){0}, node->host), node->ranks, node->gemm_gflops,
           node->memory_gbs, node->available_gib, network,
           preflight_verdict_name(finding->verdict));
    if (*finding->reason) printf(" reason=\"%s\"", finding->reason);
    putchar('\n');
}

/* Rank 0's part: a line a node, and how many of them are broken. */
static enum status print_verdict(const struct preflight_options *o,
                                 const struct preflight_node *nodes, int count, int32_t *broken,
                                 double seconds) {
    const struct preflight_limits limits = {.slow = (double)o->slow / 100,
                                            .broken = (double)o->broken / 100,
                                            .memory_gib = (double)o->memory,
                                            .clock_ms = 1000};
    struct preflight_finding *findings = calloc((size_t)count, sizeof *findings);
    if (!findings) return status_fail(STATUS_MEMORY, "no memory for the verdict");
    enum status status = preflight_judge(findings, nodes, count, &limits);
    int slow = 0;
    for (int i = 0; i < count && status == STATUS_OK; i++) {
        print_node(&nodes[i], &findings[i], count == 1);
        slow += findings[i].verdict == PREFLIGHT_SLOW;
        *broken += findings[i].verdict == PREFLIGHT_BROKEN;
    }
    if (status == STATUS_OK)
        printf("nodes=%d slow=%d broken=%d seconds=%.1f\n", count, slow, *broken, seconds);
    free(findings);
    return status;
}

static enum status preflight(struct parallel *parallel, const struct preflight_options *o,
                             struct preflight_stage *stage, int32_t *broken) {
    struct preflight_node *nodes;
    struct stream stream;
    int count;
    double start = clock_seconds();
    TRY(preflight_measure(parallel, (double)o->seconds, stage, &nodes, &count));
    enum status status = STATUS_OK;
    if (parallel->world.rank == 0)
        status = print_verdict(o, nodes, count, broken, clock_seconds() - start);
    free(nodes);
    TRY(parallel_agree(&parallel->world, status));
    stream_open_cpu(&stream, 1);
    comm_broadcast(&parallel->world, &stream, broken, 1, DTYPE_I32, 0);
    return stream_check(&stream);
}

static void print_usage(FILE *out) {
    fputs("usage: strata preflight [--option value]...   (under srun, mpirun, or plainly)\n\n"
          "Measures every node of the job: fp32 matrix product, memory bandwidth and room, the\n"
          "network between neighbours, clocks; a line a node. Exit code 69 when one is broken.\n\n"
          "  --seconds   to measure for, about [8]\n"
          "  --limit     seconds after which a process that waits for others gives up [30]\n"
          "  --slow      a node below this percentage of the median is named [80]\n"
          "  --broken    and below this one is broken [50]\n"
          "  --memory    GiB that every node must have available [0]\n",
          out);
}

int cmd_preflight(int argc, char **argv) {
    struct preflight_options o = {.seconds = 8, .limit = 30, .slow = 80, .broken = 50};
    const struct option_row rows[] = {
        {"--seconds", OPTION_INTEGER, &o.seconds, .low = 1, .high = 600},
        {"--limit", OPTION_INTEGER, &o.limit, .low = 1, .high = 3600},
        {"--slow", OPTION_INTEGER, &o.slow, .low = 0, .high = 100},
        {"--broken", OPTION_INTEGER, &o.broken, .low = 0, .high = 100},
        {"--memory", OPTION_INTEGER, &o.memory, .low = 0, .high = 1 << 20}};
    if (options_ask_help(argc, argv)) {
        print_usage(stdout);
        return 0;
    }
    if (options_parse(rows, sizeof rows / sizeof *rows, argc, argv) != STATUS_OK) {
        fprintf(stderr, "strata preflight: %s\n", status_message());
        print_usage(stderr);
        return 2;
    }
    struct watchdog watchdog;
    struct parallel parallel;
    if (!watchdog_start(&watchdog, (double)o.limit) ||
        parallel_start(&parallel, &argc, &argv) != STATUS_OK) {
        fprintf(stderr, "strata preflight: %s\n", status_message());
        return 1;
    }
    int32_t broken = 0;
    enum status status = preflight(&parallel, &o, &watchdog.stage, &broken);
    if (status == STATUS_PEER) parallel_abort(&parallel, "the preflight");
    if (status != STATUS_OK && parallel.world.rank == 0)
        log_line(LOG_ERROR, "event=preflight reason=%s",
                 log_value(&(struct log_text){0}, status_message()));
    if (status == STATUS_OK)
        parallel_finish(&parallel);
    else
        parallel_finish_failed(&parallel, LEAVE_SECONDS);
    watchdog_stop(&watchdog);
    return status != STATUS_OK ? 1 : broken ? EXIT_BROKEN : 0;
}
