#include "core/sequence.h"

#include "kernels/base/units.h"

static int64_t room_of(const struct exec *exec, int64_t tokens) {
    return sequence_room(tokens, exec->sequence ? exec->tp->size : 1);
}

struct sequence_part sequence_part(const struct exec *exec, int64_t tokens) {
    int64_t room = room_of(exec, tokens), first = exec->sequence ? room * exec->tp->rank : 0;
    int64_t left = tokens > first ? tokens - first : 0;
    return (struct sequence_part){room, min_i64(left, room)};
}

int64_t sequence_rows(const struct exec *exec, int64_t tokens) {
    return exec->sequence ? room_of(exec, tokens) * exec->tp->size : tokens;
}

void *sequence_mine(const struct exec *exec, void *all, int64_t tokens, int64_t width) {
    int64_t first = exec->sequence ? room_of(exec, tokens) * exec->tp->rank : 0;
    return (char *)all + act_bytes(exec, first * width);
}

void sequence_gather(const struct exec *exec, void *all, int64_t tokens, int64_t width) {
    if (!exec->sequence) return;
    comm_all_gather(exec->tp, exec->stream, all, sequence_mine(exec, all, tokens, width),
                    room_of(exec, tokens) * width, exec->k->act);
}

const void *sequence_all(const struct exec *exec, const void *part, int64_t tokens, int64_t width) {
    if (!exec->sequence) return part;
    void *all = scratch_act(exec, sequence_rows(exec, tokens) * width);
    comm_all_gather(exec->tp, exec->stream, all, part, room_of(exec, tokens) * width, exec->k->act);
    return all;
}

static struct sequence_gathering start(const struct exec *exec, void *all, const void *part,
                                       int64_t tokens, int64_t width) {
    struct sequence_gathering gathering = {.all = all};
    comm_start_all_gather(exec->tp, exec->stream, all, part, room_of(exec, tokens) * width,
                          exec->k->act, &gathering.request);
    return gathering;
}

struct sequence_gathering sequence_start_gather(const struct exec *exec, void *all, int64_t tokens,
                                                int64_t width) {
    if (!exec->sequence) return (struct sequence_gathering){.all = all};
    return start(exec, all, sequence_mine(exec, all, tokens, width), tokens, width);
}

struct sequence_gathering sequence_start_all(const struct exec *exec, const void *part,
                                             int64_t tokens, int64_t width) {
    if (!exec->sequence) return (struct sequence_gathering){.all = part};
    void *all = scratch_act(exec, sequence_rows(exec, tokens) * width);
    return start(exec, all, part, tokens, width);
}

void sequence_test(const struct exec *exec, struct sequence_gathering *gathering) {
    if (exec->sequence) comm_test(exec->tp, exec->stream, &gathering->request);
}

void sequence_wait(const struct exec *exec, struct sequence_gathering *gathering) {
    if (exec->sequence) comm_wait(exec->tp, exec->stream, &gathering->request);
}

void *sequence_partial(const struct exec *exec, void *part, int64_t tokens, int64_t width) {
    return exec->sequence ? scratch_act(exec, sequence_rows(exec, tokens) * width) : part;
}

void sequence_sum(const struct exec *exec, void *part, void *partial, int64_t tokens,
                  int64_t width) {
    if (exec->sequence)
        comm_reduce_scatter(exec->tp, exec->stream, part, partial,
                            sequence_rows(exec, tokens) * width, exec->k->act);
    else
        comm_all_reduce_ordered(exec->tp, exec->stream, part, tokens * width, exec->k->act);
}
