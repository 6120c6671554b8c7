/* The flight recorder of a rank: what it last did on each of its communicators. The thread that
 * makes a call writes, without a lock and without waiting (about 75 ns a call: bench_ring); a
 * watchdog's thread copies everything at any time, while that one is stuck inside a call.
 *
 * Fed where a communicator's implementation calls its library:
 *     ring_enter    the call begins (or, of a non-blocking one, is started)
 *     ring_wait     a started one is waited for
 *     ring_leave    it is done
 * One thread of a process at a time makes such calls, as MPI_THREAD_SERIALIZED has it. */
#ifndef STRATA_PARALLEL_RING_H
#define STRATA_PARALLEL_RING_H

#include "core/comm.h"
#include "kernels/base/where.h"

enum ring_op {
    RING_ALL_REDUCE,
    RING_ALL_REDUCE_ORDERED,
    RING_REDUCE_SCATTER,
    RING_ALL_GATHER,
    RING_BROADCAST,
    RING_BARRIER,
    RING_START_ALL_REDUCE,
    RING_START_REDUCE_SCATTER,
    RING_START_ALL_GATHER,
    RING_SPLIT, /* of this communicator into others */
    RING_SEND,
    RING_RECV,
    RING_OPS
};

/* As core/comm.h spells it: "all_reduce". */
const char *ring_op_name(enum ring_op op);

/* Sends and receives pair up by peer; all other ops are made by every rank of a communicator in one
 * order. */
static inline bool ring_op_pairs(enum ring_op op) {
    return op == RING_SEND || op == RING_RECV;
}

enum {
    RING_ENTRIES = 256, /* last calls that a ring keeps */
    RINGS_MAX = 64,     /* open communicators of a rank; what is beyond is not recorded */
    RING_NAME_BYTES = 16,
    RING_NOTE_BYTES = 160,
    RING_NO_PEER = -1
};

struct ring_entry {
    int64_t sequence; /* from 1: of the communicator's collectives, or of the sends to (receives
                         from) that peer */
    int64_t count;    /* elements, as the caller gave them */
    int32_t peer;     /* of a send, receive or broadcast (its root), in the communicator */
    int32_t layer, microbatch;
    uint8_t op, dtype, phase, zero; /* enum ring_op, dtype, where_phase */
    int64_t entered, waiting, left; /* ns of this host's monotonic clock; 0: not (yet). waiting:
                                       since when the caller is inside; a started call that nobody
                                       waits for has none */
};

struct rings; /* of a process */
struct ring;  /* of a communicator; NULL records nothing */

/* `rank` in the job. NULL when there is no memory. */
struct rings *rings_create(int rank);
void rings_free(struct rings *rings); /* and every ring; may be NULL */
int rings_rank(const struct rings *rings);

/* Says in copies why a rank calls nothing more: "leaving: no such file". Once. */
void rings_note(struct rings *rings, const char *text);

/* A number that no other communicator of the job has, if the lowest rank of it takes it. */
int64_t rings_next_id(struct rings *rings);

/* A communicator of the ranks `members` (size, in the job, copied), of which I am one. NULL when
 * there is no room: then it is not recorded. */
struct ring *ring_open(struct rings *rings, const char *name, int64_t id, const int32_t *members,
                       int size);
void ring_close(struct rings *rings, struct ring *ring); /* ring may be NULL */

/* A call under way; the caller's, on its stack or beside its request. */
struct ring_call {
    struct ring *ring;
    uint64_t at;
    struct ring_entry entry;
};

/* Of `what` the caller fills in op, count, peer and dtype. blocking: the caller is inside
 * until ring_leave. */
void ring_enter(struct ring_call *call, struct ring *ring, const struct where *where,
                const struct ring_entry *what, bool blocking);
void ring_wait(struct ring_call *call);
void ring_leave(struct ring_call *call); /* the second time nothing happens */

/* True when the process has been inside a call for `seconds`, all of it since `awake` (of
 * clock_seconds). From any thread. */
bool rings_overdue(struct rings *rings, double seconds, double awake);

struct ring_peer {
    int32_t peer; /* in the communicator */
    uint32_t sent, received;
};

/* A ring as it was at some moment. All pointers into the bytes of its rings_copy. */
struct ring_copy {
    char name[RING_NAME_BYTES];
    int64_t id;
    int64_t collectives; /* entered so far */
    int32_t size, peer_count, entry_count;
    const int32_t *members;        /* (size) ranks in the job */
    const struct ring_peer *peers; /* (peer_count) those that were ever sent to or received from */
    const struct ring_entry *entries; /* (entry_count) oldest first */
};

struct rings_copy {
    int64_t now; /* ns of that host's clock */
    char note[RING_NOTE_BYTES];
    int count;
    struct ring_copy *ring; /* (count) */
};

/* Everything as bytes that another process of the same program can read; the caller frees them.
 * NULL when there is no memory. From any thread. */
void *rings_pack(struct rings *rings, size_t *bytes);

/* Borrows the bytes, which malloc aligned; the caller gives rings_copy_free. STATUS_FORMAT when
 * they are no copy. */
enum status rings_unpack(struct rings_copy *copy, const void *data, size_t bytes);
void rings_copy_free(struct rings_copy *copy); /* may be called twice, and on a zeroed struct */

#endif
