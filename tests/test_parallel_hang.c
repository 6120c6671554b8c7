/* A job of four ranks that goes wrong in one of many ways, and must be ended by its watchdog.
 *
 *     mpirun -n 4 test_parallel_hang FAULT SECONDS FOLDER
 *
 * Every rank walks through a list of calls on the world, on tp (0 1, 2 3) and on dp (0 2, 1 3); in
 * the fourth round one rank does something else at one of them. "none" walks to the end; "walk"
 * goes on until it is ended. tests/test_parallel_hang.sh knows what verdicts are right. */
#define _GNU_SOURCE
#include "kernels/base/clock.h"
#include "parallel/comm_mpi.h"
#include "parallel/parallel.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum which { WORLD, TP, DP };
enum call {
    ALL_REDUCE,
    ALL_REDUCE_ORDERED,
    SEND, /* to the next rank */
    RECV, /* from the one before */
    START,
    WAIT,
    ALL_GATHER,
    BROADCAST,
    BARRIER
};

static const struct op {
    enum call call;
    enum which comm;
    int count;
    struct where where;
} ops[] = {
    {ALL_REDUCE_ORDERED, TP, 64, {WHERE_FORWARD, 2, 1}},
    {ALL_REDUCE, WORLD, 20000, {WHERE_FORWARD, 2, 1}},
    {SEND, WORLD, 100, {WHERE_FORWARD, 3, 1}},
    {RECV, WORLD, 100, {WHERE_FORWARD, 3, 1}},
    {START, WORLD, 512, {WHERE_BACKWARD, 12, 3}},
    {WAIT, WORLD, 512, {WHERE_BACKWARD, 11, 3}},
    {ALL_GATHER, DP, 3000, {WHERE_BACKWARD, WHERE_HEAD, WHERE_NO_MICROBATCH}},
    {BROADCAST, TP, 30, {WHERE_OTHER, 0, 0}},
    {BARRIER, WORLD, 0, {WHERE_OTHER, 0, 0}},
};
enum { OPS = sizeof ops / sizeof *ops, ROUNDS = 8, FAULTY_ROUND = 3 };

enum action {
    NOTHING,
    KILL,
    STOP,
    SLEEP,
    SKIP,
    HALF,
    DOUBLES,
    TWICE,
    SWAP,
    LEAVE,
    EXIT,
    ALONE,
    HALF_EARLY,
    FOREVER
};

static const struct fault {
    const char *name;
    int rank, op;
    enum action action;
} faults[] = {
    {"none", -1, 0, NOTHING},      {"walk", -1, 0, FOREVER},
    {"killed", 2, 1, KILL},        {"killed-first", 0, 1, KILL},
    {"exited", 3, 6, EXIT},        {"stopped", 1, 1, STOP},
    {"stopped-first", 0, 8, STOP}, {"asleep", 3, 1, SLEEP},
    {"asleep-first", 0, 1, SLEEP}, {"asleep-tp", 3, 0, SLEEP},
    {"asleep-start", 2, 4, SLEEP}, {"asleep-wait", 1, 5, SLEEP},
    {"asleep-send", 0, 2, SLEEP},  {"count", 3, 1, HALF},
    {"count-gather", 1, 6, HALF},  {"count-send", 2, 2, HALF},
    {"type", 2, 1, DOUBLES},       {"type-tp", 1, 0, DOUBLES},
    {"missed", 2, 1, SKIP},        {"missed-start", 1, 4, SKIP},
    {"missed-send", 2, 2, SKIP},   {"missed-barrier", 3, 8, SKIP},
    {"order", 0, 7, SWAP},         {"order-comms", 1, 0, SWAP},
    {"extra-tp", 1, 0, TWICE},     {"extra-world", 0, 8, ALONE},
    {"left", 2, 6, LEAVE},         {"count-early", 3, 1, HALF_EARLY},
};

static struct parallel job;
static struct comm tp, dp;
static struct stream stream;
static double buffer[1 << 17];

/* As `strata train` has it: a launcher's SIGTERM is kept for later. */
static void keep_for_later(int signal) {
    (void)signal;
}

static void say_when(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    fprintf(stderr, "fault at %lld.%06ld\n", (long long)now.tv_sec, now.tv_nsec / 1000);
}

static struct comm *comm_of(enum which which) {
    return which == WORLD ? &job.world : which == TP ? &tp : &dp;
}

static void make_call(const struct op *op, int count, enum dtype type) {
    static struct comm_request request;
    struct comm *comm = comm_of(op->comm);
    int next = (job.world.rank + 1) % 4, before = (job.world.rank + 3) % 4;
    stream.where = op->where;
    switch (op->call) {
    case ALL_REDUCE:
        comm_all_reduce(comm, &stream, buffer, count, type, COMM_SUM);
        break;
    case ALL_REDUCE_ORDERED:
        comm_all_reduce_ordered(comm, &stream, buffer, count, type);
        break;
    case SEND:
        comm_send(comm, &stream, buffer, count, type, next);
        break;
    case RECV:
        comm_recv(comm, &stream, buffer, count, type, before);
        break;
    case START:
        comm_start_all_reduce(comm, &stream, buffer, count, type, &request);
        break;
    case WAIT:
        comm_wait(comm, &stream, &request);
        break;
    case ALL_GATHER:
        comm_all_gather(comm, &stream, buffer, buffer + (1 << 16), count, type);
        break;
    case BROADCAST:
        comm_broadcast(comm, &stream, buffer, count, type, 0);
        break;
    case BARRIER:
        comm_barrier(comm, &stream);
        break;
    }
    if (stream_check(&stream) != STATUS_OK) parallel_abort(&job, "calling");
}

static void make(const struct op *op) {
    make_call(op, op->count, DTYPE_F32);
}

/* What the faulty rank does instead of the op; returns how many ops of the list that covers. */
static int go_wrong(const struct fault *fault) {
    const struct op *op = &ops[fault->op];
    say_when();
    switch (fault->action) {
    case KILL:
        raise(SIGKILL);
        break;
    case STOP:
        raise(SIGSTOP);
        break;
    case SLEEP:
        for (;;) sleep(60);
    case SKIP:
        break;
    case HALF:
    case HALF_EARLY:
        make_call(op, op->count / 2, DTYPE_F32);
        break;
    case DOUBLES:
        make_call(op, op->count, DTYPE_F64);
        break;
    case TWICE:
        make(op);
        make(op);
        break;
    case SWAP:
        make(op + 1);
        make(op);
        return 2;
    case LEAVE:
        parallel_finish(&job);
        exit(0);
    case EXIT:
        _exit(0);
    default:
        make(op);
        break;
    }
    return 1;
}

static void run_round(const struct fault *fault, bool faulty, bool late) {
    for (int i = 0; i < OPS;) {
        if (late && i == fault->op) nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
        if (faulty && fault->action != ALONE && i == fault->op) {
            i += go_wrong(fault);
        } else {
            make(&ops[i++]);
        }
    }
}

static void pause_between(int round) {
    if (round == FAULTY_ROUND) fprintf(stderr, "walking\n");
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
}

/* The last thing: a rank makes a call too many, the others are busy with something else. */
static void end_alone(const struct fault *fault) {
    if (fault->action != ALONE) return;
    if (job.world.rank != fault->rank)
        for (;;) sleep(60);
    say_when();
    make(&ops[fault->op]);
}

int main(int argc, char **argv) {
    const struct sigaction later = {.sa_handler = keep_for_later};
    const struct fault *fault = NULL;
    for (size_t i = 0; argc == 4 && i < sizeof faults / sizeof *faults; i++)
        if (strcmp(faults[i].name, argv[1]) == 0) fault = &faults[i];
    if (!fault || parallel_start(&job, &argc, &argv) != STATUS_OK || job.world.size != 4) {
        fprintf(stderr, "mpirun -n 4 test_parallel_hang FAULT SECONDS FOLDER\n");
        return 2;
    }
    int rank = job.world.rank;
    sigaction(SIGTERM, &later, NULL);
    stream_open_cpu(&stream, 1);
    if (comm_mpi_open_split(&tp, &job.world, "tp", rank / 2, rank) != STATUS_OK ||
        comm_mpi_open_split(&dp, &job.world, "dp", rank % 2, rank) != STATUS_OK ||
        parallel_watch(&job, atof(argv[2]), argv[3]) != STATUS_OK)
        return 2;
    for (int round = 0; round < ROUNDS || fault->action == FOREVER; round++) {
        if (fault->action == FOREVER) pause_between(round);
        bool faulty = round == FAULTY_ROUND;
        /* who fails sees it long before ranks 0 and 1 are there */
        bool late = faulty && fault->action == HALF_EARLY && rank < 2;
        run_round(fault, faulty && rank == fault->rank, late);
    }
    end_alone(fault);
    comm_close(&tp);
    comm_close(&dp);
    parallel_finish(&job);
    return 0;
}
