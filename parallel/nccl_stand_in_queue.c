#include "parallel/nccl_stand_in.h"

#include <stdlib.h>
#include <string.h>

/* What runs together: a call, or those of a group that are on one communicator and stream. */
struct batch {
    const void *stream;
    struct ncclComm *comm;
    uint64_t number;
    struct batch *next;
    int count;
    struct work *works; /* (count) */
};

static struct {
    struct batch *first; /* oldest first */
    uint64_t numbers;
    int depth;           /* of open groups */
    struct batch *group; /* what they have called */
} library;

static struct batch **end_of(struct batch **list) {
    while (*list) list = &(*list)->next;
    return list;
}

static void free_batch(struct batch *batch) {
    for (int i = 0; i < batch->count; i++) stand_in_drop(&batch->works[i]);
    free(batch->works);
    free(batch);
}

/* The batch of `list` that a call belongs to, or a new one at its end; NULL: no memory. */
static struct batch *batch_for(struct batch **list, struct ncclComm *comm, const void *stream) {
    struct batch **at = list;
    while (*at && ((*at)->comm != comm || (*at)->stream != stream)) at = &(*at)->next;
    if (*at) return *at;
    *at = calloc(1, sizeof **at);
    if (*at) **at = (struct batch){.comm = comm, .stream = stream};
    return *at;
}

int stand_in_queue(const struct work *work, const void *stream) {
    struct batch *alone = NULL;
    struct batch **list = library.depth > 0 ? &library.group : &alone;
    struct batch *batch = batch_for(list, work->comm, stream);
    struct work *works =
        batch ? realloc(batch->works, (size_t)(batch->count + 1) * sizeof *works) : NULL;
    if (!works) {
        free(alone);
        return NCCL_SYSTEM_ERROR;
    }
    batch->works = works;
    works[batch->count++] = *work;
    if (!alone) return NCCL_OK;
    alone->number = ++library.numbers;
    *end_of(&library.first) = alone;
    return NCCL_OK;
}

nccl_group ncclGroupStart, ncclGroupEnd;

__attribute__((visibility("default"))) int ncclGroupStart(void) {
    library.depth++;
    return NCCL_OK;
}

__attribute__((visibility("default"))) int ncclGroupEnd(void) {
    if (library.depth == 0) return NCCL_INVALID_USAGE;
    if (--library.depth > 0) return NCCL_OK;
    for (struct batch *batch = library.group; batch; batch = batch->next)
        batch->number = ++library.numbers;
    *end_of(&library.first) = library.group;
    library.group = NULL;
    return NCCL_OK;
}

/* Whether an older batch of the stream or the communicator is not done. */
static bool held_up(const struct batch *batch) {
    for (const struct batch *older = library.first; older != batch; older = older->next)
        if (older->stream == batch->stream || older->comm == batch->comm) return true;
    return false;
}

/* True when there is nothing more to do for it. */
static bool move_batch(struct batch *batch) {
    bool ended = true;
    for (int i = 0; i < batch->count && !batch->comm->error; i++) {
        stand_in_move(&batch->works[i]);
        ended &= batch->works[i].state == WORK_ENDED;
    }
    return ended || batch->comm->error;
}

static void move_all(void) {
    for (struct batch **at = &library.first; *at;) {
        struct batch *batch = *at;
        if (held_up(batch) || !move_batch(batch)) {
            at = &batch->next;
            continue;
        }
        *at = batch->next;
        free_batch(batch);
    }
}

void stand_in_finish(struct ncclComm *comm) {
    for (bool more = true; more;) {
        more = false;
        move_all();
        for (struct batch *batch = library.first; batch; batch = batch->next)
            more |= batch->comm == comm;
    }
}

void stand_in_forget(struct ncclComm *comm) {
    for (struct batch **at = &library.first; *at;) {
        struct batch *batch = *at;
        if (batch->comm != comm) {
            at = &batch->next;
            continue;
        }
        *at = batch->next;
        free_batch(batch);
    }
}

nccl_stand_in_mark strata_stand_in_mark;
nccl_stand_in_done strata_stand_in_done;

__attribute__((visibility("default"))) uint64_t strata_stand_in_mark(const void *stream) {
    uint64_t mark = 0;
    for (struct batch *batch = library.first; batch; batch = batch->next)
        if (batch->stream == stream) mark = batch->number;
    return mark;
}

__attribute__((visibility("default"))) int strata_stand_in_done(uint64_t mark) {
    move_all();
    for (struct batch *batch = library.first; batch; batch = batch->next)
        if (batch->number == mark) return 0;
    return 1;
}
