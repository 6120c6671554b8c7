#define _GNU_SOURCE
#include "parallel/watch_link.h"

#include "kernels/base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

struct header {
    uint32_t kind, zero;
    uint64_t bytes;
};

/* The first thing a rank says, and the token is the answer. */
struct hello {
    uint64_t token;
    int64_t rank;
};

enum { LARGEST_MESSAGE = 1 << 30, HELLO_MS = 2000, CONNECT_MS = 1000 };

union socket_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static void add_address(struct watch_address *address, const struct sockaddr *from) {
    if (address->count == WATCH_ADDRESSES) return;
    const union socket_address *a = (const void *)from;
    bool v4 = from->sa_family == AF_INET;
    address->at[address->count].family = v4 ? 4 : 6;
    memcpy(address->at[address->count].bytes,
           v4 ? (const void *)&a->v4.sin_addr : (const void *)&a->v6.sin6_addr, v4 ? 4 : 16);
    address->count++;
}

/* Link-local ones mean nothing without the interface. */
static bool usable(const struct ifaddrs *interface, bool loopback, int family) {
    if (!interface->ifa_addr || interface->ifa_addr->sa_family != family) return false;
    if (!(interface->ifa_flags & IFF_UP)) return false;
    if (((interface->ifa_flags & IFF_LOOPBACK) != 0) != loopback) return false;
    const union socket_address *a = (const void *)interface->ifa_addr;
    return family == AF_INET || !IN6_IS_ADDR_LINKLOCAL(&a->v6.sin6_addr);
}

/* Loopback last: it leads somewhere else on another host. */
static void list_addresses(struct watch_address *address, bool v6) {
    struct ifaddrs *all = NULL;
    address->count = 0;
    if (getifaddrs(&all) != 0) return;
    for (int loopback = 0; loopback < 2; loopback++)
        for (int sixth = 0; sixth <= v6; sixth++)
            for (const struct ifaddrs *i = all; i; i = i->ifa_next)
                if (usable(i, loopback, sixth ? AF_INET6 : AF_INET))
                    add_address(address, i->ifa_addr);
    freeifaddrs(all);
}

static int listen_on(union socket_address *any, socklen_t bytes, int ranks) {
    int fd = socket(any->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), off = 0;
    if (fd < 0) return -1;
    if (any->any.sa_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(fd, &any->any, bytes) == 0 && listen(fd, ranks + 16) == 0 &&
        getsockname(fd, &any->any, &bytes) == 0)
        return fd;
    close(fd);
    return -1;
}

enum status watch_listen(int *listener, struct watch_address *address, int ranks) {
    union socket_address any = {.v6 = {.sin6_family = AF_INET6}};
    bool v6 = true;
    *address = (struct watch_address){0};
    *listener = listen_on(&any, sizeof any.v6, ranks);
    if (*listener < 0) { /* a kernel without IPv6 */
        any = (union socket_address){.v4 = {.sin_family = AF_INET}};
        v6 = false;
        *listener = listen_on(&any, sizeof any.v4, ranks);
    }
    if (*listener < 0)
        return status_fail(STATUS_IO, "the watchdog can't listen: %s", strerror(errno));
    address->port = ntohs(v6 ? any.v6.sin6_port : any.v4.sin_port);
    list_addresses(address, v6);
    if (getrandom(&address->token, sizeof address->token, 0) != sizeof address->token)
        address->token = (uint64_t)(clock_seconds() * 1e9);
    return STATUS_OK;
}

static void set_up(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static bool ready(int fd, short events, int ms) {
    struct pollfd one = {.fd = fd, .events = events};
    return poll(&one, 1, ms < 0 ? 0 : ms) == 1;
}

/* Reads exactly so many bytes of a non-blocking socket, or not. */
static bool read_all(int fd, void *data, size_t bytes, int ms) {
    double until = clock_seconds() + 1e-3 * ms;
    for (size_t done = 0; done < bytes;) {
        if (!ready(fd, POLLIN, (int)(1e3 * (until - clock_seconds())))) return false;
        ssize_t n = recv(fd, (char *)data + done, bytes - done, MSG_DONTWAIT);
        if (n <= 0) return false;
        done += (size_t)n;
    }
    return true;
}

/* The rank that connected, -1 when it is none of ours. */
static int welcome(int fd, uint64_t token, int ranks) {
    struct hello hello;
    set_up(fd);
    if (!read_all(fd, &hello, sizeof hello, HELLO_MS) || hello.token != token) return -1;
    if (hello.rank < 0 || hello.rank >= ranks) return -1;
    if (send(fd, &token, sizeof token, MSG_NOSIGNAL) != sizeof token) return -1;
    return (int)hello.rank;
}

enum status watch_accept(struct watch_link *links, const bool *expected, int ranks, int listener,
                         uint64_t token, double seconds) {
    double until = clock_seconds() + seconds;
    for (int missing = 0; missing < ranks;) {
        if (!expected[missing] || links[missing].fd >= 0) {
            missing++;
            continue;
        }
        int left = (int)(1e3 * (until - clock_seconds()));
        if (left <= 0 || !ready(listener, POLLIN, left))
            return status_fail(STATUS_PEER, "rank %d did not connect to the watchdog", missing);
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) continue;
        int rank = welcome(fd, token, ranks);
        if (rank >= 0 && expected[rank]) {
            watch_link_close(&links[rank]);
            links[rank].fd = fd;
        } else {
            close(fd);
        }
    }
    return STATUS_OK;
}

static int connect_to(const struct watch_address *address, int i) {
    union socket_address to = {0};
    bool v4 = address->at[i].family == 4;
    if (v4) {
        to.v4.sin_family = AF_INET;
        to.v4.sin_port = htons(address->port);
        memcpy(&to.v4.sin_addr, address->at[i].bytes, 4);
    } else {
        to.v6.sin6_family = AF_INET6;
        to.v6.sin6_port = htons(address->port);
        memcpy(&to.v6.sin6_addr, address->at[i].bytes, 16);
    }
    int fd = socket(to.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    int error = 0;
    socklen_t bytes = sizeof error;
    if (connect(fd, &to.any, v4 ? sizeof to.v4 : sizeof to.v6) == 0 ||
        (errno == EINPROGRESS && ready(fd, POLLOUT, CONNECT_MS) &&
         getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &bytes) == 0 && error == 0))
        return fd;
    close(fd);
    return -1;
}

enum status watch_connect(struct watch_link *link, const struct watch_address *address, int rank,
                          double seconds) {
    const struct hello hello = {address->token, rank};
    for (int i = 0; i < address->count; i++) {
        uint64_t answer = 0;
        int fd = connect_to(address, i);
        if (fd < 0) continue;
        set_up(fd);
        if (send(fd, &hello, sizeof hello, MSG_NOSIGNAL) == sizeof hello &&
            read_all(fd, &answer, sizeof answer, (int)(1e3 * seconds)) &&
            answer == address->token) {
            link->fd = fd;
            return STATUS_OK;
        }
        close(fd);
    }
    return status_fail(STATUS_PEER,
                       "the watchdog of rank %d reaches no address of another's port "
                       "%d (addresses: %d)",
                       rank, address->port, address->count);
}

void watch_link_close(struct watch_link *link) {
    if (link->fd >= 0) close(link->fd);
    free(link->in);
    free(link->out);
    *link = (struct watch_link){.fd = -1};
}

static bool make_room(char **buffer, size_t *room, size_t needed) {
    if (needed <= *room) return true;
    size_t larger = needed > 2 * *room ? needed : 2 * *room;
    char *moved = realloc(*buffer, larger);
    if (!moved) return false;
    *buffer = moved;
    *room = larger;
    return true;
}

bool watch_flush(struct watch_link *link) {
    size_t done = 0;
    bool whole = true;
    while (done < link->out_bytes) {
        ssize_t n =
            send(link->fd, link->out + done, link->out_bytes - done, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            whole = errno == EAGAIN || errno == EWOULDBLOCK;
            break;
        }
        done += (size_t)n;
    }
    if (done > 0) memmove(link->out, link->out + done, link->out_bytes - done);
    link->out_bytes -= done;
    return whole;
}

bool watch_send(struct watch_link *link, uint32_t kind, const void *data, size_t bytes) {
    const struct header header = {.kind = kind, .bytes = bytes};
    if (link->fd < 0) return false;
    if (!make_room(&link->out, &link->out_room, link->out_bytes + sizeof header + bytes))
        return true; /* no memory: the message is lost, the connection isn't */
    memcpy(link->out + link->out_bytes, &header, sizeof header);
    if (bytes > 0) memcpy(link->out + link->out_bytes + sizeof header, data, bytes);
    link->out_bytes += sizeof header + bytes;
    return watch_flush(link);
}

bool watch_fill(struct watch_link *link) {
    enum { AT_ONCE = 64 << 10 };
    for (;;) {
        if (link->in_bytes > LARGEST_MESSAGE ||
            !make_room(&link->in, &link->in_room, link->in_bytes + AT_ONCE))
            return false;
        ssize_t n = recv(link->fd, link->in + link->in_bytes, AT_ONCE, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno == EAGAIN || errno == EWOULDBLOCK;
        if (n == 0) return false;
        link->in_bytes += (size_t)n;
    }
}

bool watch_peek(const struct watch_link *link, struct watch_message *message) {
    struct header header;
    if (link->in_bytes < sizeof header) return false;
    memcpy(&header, link->in, sizeof header);
    if (header.bytes > link->in_bytes - sizeof header) return false;
    *message = (struct watch_message){header.kind, link->in + sizeof header, header.bytes};
    return true;
}

void watch_drop(struct watch_link *link) {
    struct watch_message message;
    if (!watch_peek(link, &message)) return;
    size_t all = sizeof(struct header) + message.bytes;
    memmove(link->in, link->in + all, link->in_bytes - all);
    link->in_bytes -= all;
}
