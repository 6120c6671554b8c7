/* TCP connections between the watchdogs of a job: a way to the other ranks that is not MPI's, for
 * the time when MPI is stuck. A message is a kind and bytes; both ends are the same program on
 * machines of one byte order. Non-blocking but for the calls that open it. */
#ifndef STRATA_PARALLEL_WATCH_LINK_H
#define STRATA_PARALLEL_WATCH_LINK_H

#include "kernels/base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WATCH_ADDRESSES = 16 };

/* Where a rank listens: every address of its host, nearest use first, and a secret that tells its
 * listener from others on the same port of another host. Plain bytes, to be broadcast. */
struct watch_address {
    uint64_t token;
    uint16_t port;
    uint16_t count;
    struct {
        uint8_t family; /* 4 or 6 */
        uint8_t bytes[16];
    } at[WATCH_ADDRESSES];
};

struct watch_link {
    int fd; /* -1: none */
    char *in, *out;
    size_t in_bytes, in_room, out_bytes, out_room;
};

/* Listens on a port that the system chooses, IPv4 and IPv6; room for `ranks` that connect at once.
 * STATUS_IO. */
enum status watch_listen(int *listener, struct watch_address *address, int ranks);

/* Waits until the ranks for which expected[rank] is set have connected, `seconds` at most;
 * strangers are turned away. links (ranks) get open ones. STATUS_PEER names the first that is
 * missing. */
enum status watch_accept(struct watch_link *links, const bool *expected, int ranks, int listener,
                         uint64_t token, double seconds);

/* Connects to the first address that answers with the token. STATUS_PEER when none does in time. */
enum status watch_connect(struct watch_link *link, const struct watch_address *address, int rank,
                          double seconds);

/* May be called twice; a link that was never opened has fd -1. */
void watch_link_close(struct watch_link *link);

/* Queues a message and sends what the system takes. False when the connection is broken. */
bool watch_send(struct watch_link *link, uint32_t kind, const void *data, size_t bytes);

/* Sends more of what is queued. False when the connection is broken. */
bool watch_flush(struct watch_link *link);

/* Takes in what has arrived. False when the connection is broken or ended; whole messages that came
 * before can still be taken. */
bool watch_fill(struct watch_link *link);

struct watch_message {
    uint32_t kind;
    const void *data; /* aligned as malloc does to 16; valid until the next call on the link */
    size_t bytes;
};

/* The next whole message; false when there is none. watch_drop removes it. */
bool watch_peek(const struct watch_link *link, struct watch_message *message);
void watch_drop(struct watch_link *link);

#endif
