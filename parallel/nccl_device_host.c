#define _GNU_SOURCE
#include "parallel/nccl_device.h"

#include "parallel/comm_fold.h"

#include <sched.h>
#include <stdlib.h>

/* The stand-in only tells streams apart. */
static void *open_stream(void) {
    return malloc(1);
}

static void follow(const struct nccl_device *device, void *stream, const struct stream *s) {
    (void)device, (void)stream, (void)s; /* ops of the host are over when they return */
}

static uint64_t mark(const struct nccl_device *device, const void *stream) {
    return device->library->mark(stream);
}

static bool done(const struct nccl_device *device, uint64_t number) {
    return device->library->done(number) != 0;
}

static bool join(const struct nccl_device *device, struct stream *s, uint64_t number) {
    (void)s;
    if (done(device, number)) return true;
    sched_yield(); /* ranks of tests share cores */
    return false;
}

static void fold(struct stream *s, void *out, const void *rows, int ranks, int64_t count,
                 enum dtype type, enum comm_sum sum) {
    comm_fold(out, rows, ranks, count, type, sum, s->threads);
}

enum status nccl_device_host(struct nccl_device *device, const struct nccl_library *library) {
    if (!library->mark || !library->done)
        return status_fail(STATUS_UNSUPPORTED,
                           "parallel.backend nccl: %s (NCCL) moves memory of GPUs, and this run "
                           "computes on CPUs: take parallel.backend mpi",
                           library->path);
    *device = (struct nccl_device){.library = library,
                                   .open_stream = open_stream,
                                   .close_stream = free,
                                   .allocate = malloc,
                                   .release = free,
                                   .follow = follow,
                                   .mark = mark,
                                   .done = done,
                                   .join = join,
                                   .fold = fold};
    return STATUS_OK;
}
