#define _GNU_SOURCE
#include "parallel/ring.h"

#include "kernels/base/clock.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* An entry as seven words and a version: 2 n + 1 while entry n is being written, 2 n + 2
 * afterwards. A reader that sees the same even version before and after has seen one entry. */
enum { WORDS = sizeof(struct ring_entry) / sizeof(uint64_t) };
static_assert(WORDS * sizeof(uint64_t) == sizeof(struct ring_entry), "no tail");

enum {
    WAITING_WORD = offsetof(struct ring_entry, waiting) / sizeof(uint64_t),
    LEFT_WORD = offsetof(struct ring_entry, left) / sizeof(uint64_t)
};

struct slot {
    _Atomic uint64_t version;
    _Atomic uint64_t word[WORDS];
};

struct pair_counts {
    _Atomic uint32_t sent, received;
};

struct ring {
    char name[RING_NAME_BYTES];
    int64_t id;
    int size;
    int32_t *members;
    struct pair_counts *pairs; /* (size) */
    _Atomic uint64_t head;     /* entries written so far */
    _Atomic int64_t collectives;
    struct slot slots[RING_ENTRIES];
};

struct rings {
    int rank;
    int32_t ids;
    pthread_mutex_t lock; /* opening, closing, copying: never a call */
    struct ring *ring[RINGS_MAX];
    char note[RING_NOTE_BYTES];
};

const char *ring_op_name(enum ring_op op) {
    static const char *const names[RING_OPS] = {[RING_ALL_REDUCE] = "all_reduce",
                                                [RING_ALL_REDUCE_ORDERED] = "all_reduce_ordered",
                                                [RING_REDUCE_SCATTER] = "reduce_scatter",
                                                [RING_ALL_GATHER] = "all_gather",
                                                [RING_BROADCAST] = "broadcast",
                                                [RING_BARRIER] = "barrier",
                                                [RING_START_ALL_REDUCE] = "start_all_reduce",
                                                [RING_START_REDUCE_SCATTER] =
                                                    "start_reduce_scatter",
                                                [RING_START_ALL_GATHER] = "start_all_gather",
                                                [RING_SPLIT] = "split",
                                                [RING_SEND] = "send",
                                                [RING_RECV] = "recv"};
    return (unsigned)op < RING_OPS ? names[op] : "unknown";
}

static int64_t clock_ns(void) {
    return (int64_t)(clock_seconds() * 1e9);
}

struct rings *rings_create(int rank) {
    struct rings *rings = calloc(1, sizeof *rings);
    if (!rings) return NULL;
    rings->rank = rank;
    pthread_mutex_init(&rings->lock, NULL);
    return rings;
}

static void free_ring(struct ring *ring) {
    if (!ring) return;
    free(ring->members);
    free(ring->pairs);
    free(ring);
}

void rings_free(struct rings *rings) {
    if (!rings) return;
    for (int i = 0; i < RINGS_MAX; i++) free_ring(rings->ring[i]);
    pthread_mutex_destroy(&rings->lock);
    free(rings);
}

int rings_rank(const struct rings *rings) {
    return rings->rank;
}

void rings_note(struct rings *rings, const char *text) {
    pthread_mutex_lock(&rings->lock);
    snprintf(rings->note, sizeof rings->note, "%s", text);
    pthread_mutex_unlock(&rings->lock);
}

int64_t rings_next_id(struct rings *rings) {
    return ((int64_t)rings->rank << 32) | (uint32_t)rings->ids++;
}

static struct ring *create_ring(const char *name, int64_t id, const int32_t *members, int size) {
    struct ring *ring = calloc(1, sizeof *ring);
    if (!ring) return NULL;
    snprintf(ring->name, sizeof ring->name, "%s", name);
    ring->id = id;
    ring->size = size;
    ring->members = malloc((size_t)size * sizeof *members);
    ring->pairs = calloc((size_t)size, sizeof *ring->pairs);
    if (!ring->members || !ring->pairs) {
        free_ring(ring);
        return NULL;
    }
    memcpy(ring->members, members, (size_t)size * sizeof *members);
    return ring;
}

struct ring *ring_open(struct rings *rings, const char *name, int64_t id, const int32_t *members,
                       int size) {
    struct ring *ring = NULL;
    pthread_mutex_lock(&rings->lock);
    for (int i = 0; i < RINGS_MAX && !ring; i++) {
        if (rings->ring[i]) continue;
        ring = rings->ring[i] = create_ring(name, id, members, size);
        break;
    }
    pthread_mutex_unlock(&rings->lock);
    return ring;
}

void ring_close(struct rings *rings, struct ring *ring) {
    if (!ring) return;
    pthread_mutex_lock(&rings->lock);
    for (int i = 0; i < RINGS_MAX; i++)
        if (rings->ring[i] == ring) rings->ring[i] = NULL;
    pthread_mutex_unlock(&rings->lock);
    free_ring(ring);
}

static void push(struct ring_call *call) {
    struct ring *ring = call->ring;
    uint64_t words[WORDS];
    memcpy(words, &call->entry, sizeof words);
    call->at = atomic_load_explicit(&ring->head, memory_order_relaxed);
    struct slot *slot = &ring->slots[call->at % RING_ENTRIES];
    atomic_store_explicit(&slot->version, 2 * call->at + 1, memory_order_relaxed);
    for (int i = 0; i < WORDS; i++)
        atomic_store_explicit(&slot->word[i], words[i], memory_order_release);
    atomic_store_explicit(&slot->version, 2 * call->at + 2, memory_order_release);
    atomic_store_explicit(&ring->head, call->at + 1, memory_order_release);
}

/* Numbers a call. Only this thread counts; others only look. */
static int64_t next_sequence(struct ring *ring, const struct ring_entry *entry) {
    if (!ring_op_pairs((enum ring_op)entry->op)) {
        int64_t n = atomic_load_explicit(&ring->collectives, memory_order_relaxed) + 1;
        atomic_store_explicit(&ring->collectives, n, memory_order_release);
        return n;
    }
    assert(entry->peer >= 0 && entry->peer < ring->size);
    struct pair_counts *pair = &ring->pairs[entry->peer];
    _Atomic uint32_t *counter = entry->op == RING_SEND ? &pair->sent : &pair->received;
    uint32_t n = atomic_load_explicit(counter, memory_order_relaxed) + 1;
    atomic_store_explicit(counter, n, memory_order_release);
    return n;
}

void ring_enter(struct ring_call *call, struct ring *ring, const struct where *where,
                const struct ring_entry *what, bool blocking) {
    call->ring = ring;
    if (!ring) return;
    struct ring_entry *entry = &call->entry;
    *entry = *what;
    entry->sequence = next_sequence(ring, what);
    entry->layer = where->layer;
    entry->microbatch = where->microbatch;
    entry->phase = (uint8_t)where->phase;
    entry->entered = clock_ns();
    entry->waiting = blocking ? entry->entered : 0;
    entry->left = 0;
    push(call);
}

/* An entry that newer ones took the place of is written again. */
static void update(struct ring_call *call, int word, int64_t value) {
    struct slot *slot = &call->ring->slots[call->at % RING_ENTRIES];
    uint64_t version = atomic_load_explicit(&slot->version, memory_order_relaxed);
    if (version == 2 * call->at + 2)
        atomic_store_explicit(&slot->word[word], (uint64_t)value, memory_order_release);
    else if (word == WAITING_WORD)
        push(call);
}

void ring_wait(struct ring_call *call) {
    if (!call->ring || call->entry.left) return;
    call->entry.waiting = clock_ns();
    update(call, WAITING_WORD, call->entry.waiting);
}

void ring_leave(struct ring_call *call) {
    if (!call->ring || call->entry.left) return;
    call->entry.left = clock_ns();
    update(call, LEFT_WORD, call->entry.left);
}

/* False when entry n is being overwritten. */
static bool read_entry(struct ring *ring, uint64_t n, struct ring_entry *entry) {
    struct slot *slot = &ring->slots[n % RING_ENTRIES];
    uint64_t words[WORDS];
    if (atomic_load_explicit(&slot->version, memory_order_acquire) != 2 * n + 2) return false;
    for (int i = 0; i < WORDS; i++)
        words[i] = atomic_load_explicit(&slot->word[i], memory_order_acquire);
    if (atomic_load_explicit(&slot->version, memory_order_relaxed) != 2 * n + 2) return false;
    memcpy(entry, words, sizeof *entry);
    return true;
}

static uint64_t oldest(uint64_t head) {
    return head > RING_ENTRIES ? head - RING_ENTRIES : 0;
}

static bool ring_overdue(struct ring *ring, int64_t before) {
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
    for (uint64_t n = head; n-- > oldest(head);) {
        struct ring_entry entry;
        if (read_entry(ring, n, &entry) && entry.waiting && !entry.left && entry.waiting <= before)
            return true;
    }
    return false;
}

bool rings_overdue(struct rings *rings, double seconds, double awake) {
    double now = clock_seconds();
    bool overdue = false;
    if (now - awake < seconds) return false;
    int64_t before = (int64_t)((now - seconds) * 1e9);
    pthread_mutex_lock(&rings->lock);
    for (int i = 0; i < RINGS_MAX && !overdue; i++)
        overdue = rings->ring[i] && ring_overdue(rings->ring[i], before);
    pthread_mutex_unlock(&rings->lock);
    return overdue;
}

/* The bytes of a copy: a head, then for every ring a head, members, peers, entries. */
struct packed {
    int64_t now;
    char note[RING_NOTE_BYTES];
    int64_t count;
};
struct packed_ring {
    char name[RING_NAME_BYTES];
    int64_t id, collectives;
    int64_t size, peer_count, entry_count;
};

/* Entries need 8 bytes, so everything before them takes a multiple. */
static size_t padded(size_t bytes) {
    return (bytes + 7) / 8 * 8;
}

static size_t ring_room(const struct ring *ring) {
    return sizeof(struct packed_ring) + padded((size_t)ring->size * sizeof(int32_t)) +
           padded((size_t)ring->size * sizeof(struct ring_peer)) +
           RING_ENTRIES * sizeof(struct ring_entry);
}

static int64_t pack_peers(struct ring *ring, struct ring_peer *peers) {
    int64_t count = 0;
    for (int i = 0; i < ring->size; i++) {
        const struct ring_peer peer = {
            .peer = i,
            .sent = atomic_load_explicit(&ring->pairs[i].sent, memory_order_acquire),
            .received = atomic_load_explicit(&ring->pairs[i].received, memory_order_acquire)};
        if (peer.sent || peer.received) peers[count++] = peer;
    }
    return count;
}

static char *pack_ring(struct ring *ring, char *to) {
    struct packed_ring head = {.id = ring->id, .size = ring->size};
    memcpy(head.name, ring->name, sizeof head.name);
    char *at = to + sizeof head;
    memset(at, 0, padded((size_t)ring->size * sizeof(int32_t)));
    memcpy(at, ring->members, (size_t)ring->size * sizeof(int32_t));
    at += padded((size_t)ring->size * sizeof(int32_t));
    head.peer_count = pack_peers(ring, (struct ring_peer *)(void *)at);
    size_t peer_bytes = (size_t)head.peer_count * sizeof(struct ring_peer);
    memset(at + peer_bytes, 0, padded(peer_bytes) - peer_bytes);
    at += padded(peer_bytes);
    /* entries first, counter last: a call that begins meanwhile is counted, not missing */
    struct ring_entry *entries = (struct ring_entry *)(void *)at;
    uint64_t newest = atomic_load_explicit(&ring->head, memory_order_acquire);
    for (uint64_t n = oldest(newest); n < newest; n++)
        head.entry_count += read_entry(ring, n, &entries[head.entry_count]);
    head.collectives = atomic_load_explicit(&ring->collectives, memory_order_acquire);
    memcpy(to, &head, sizeof head);
    return at + (size_t)head.entry_count * sizeof *entries;
}

static void *pack_locked(struct rings *rings, size_t *bytes) {
    size_t room = sizeof(struct packed);
    for (int i = 0; i < RINGS_MAX; i++) room += rings->ring[i] ? ring_room(rings->ring[i]) : 0;
    char *data = malloc(room);
    if (!data) return NULL;
    struct packed head = {.now = clock_ns()};
    memcpy(head.note, rings->note, sizeof head.note);
    char *at = data + sizeof head;
    for (int i = 0; i < RINGS_MAX; i++) {
        if (!rings->ring[i]) continue;
        at = pack_ring(rings->ring[i], at);
        head.count++;
    }
    memcpy(data, &head, sizeof head);
    *bytes = (size_t)(at - data);
    assert(*bytes <= room);
    return data;
}

void *rings_pack(struct rings *rings, size_t *bytes) {
    pthread_mutex_lock(&rings->lock);
    void *data = pack_locked(rings, bytes);
    pthread_mutex_unlock(&rings->lock);
    return data;
}

/* What is left to unpack. */
struct cursor {
    const char *at;
    size_t left;
};

/* `count` things of `bytes` each, padded; NULL when they aren't there. */
static const void *take(struct cursor *cursor, int64_t count, size_t bytes) {
    if (count < 0 || (uint64_t)count > cursor->left / bytes) return NULL;
    size_t all = padded((size_t)count * bytes);
    if (all > cursor->left) return NULL;
    const void *taken = cursor->at;
    cursor->at += all;
    cursor->left -= all;
    return taken;
}

static bool unpack_ring(struct cursor *cursor, struct ring_copy *ring) {
    const struct packed_ring *head = take(cursor, 1, sizeof *head);
    if (!head || head->size > INT32_MAX || head->peer_count > head->size ||
        head->entry_count > RING_ENTRIES)
        return false;
    *ring = (struct ring_copy){.id = head->id,
                               .collectives = head->collectives,
                               .size = (int32_t)head->size,
                               .peer_count = (int32_t)head->peer_count,
                               .entry_count = (int32_t)head->entry_count};
    memcpy(ring->name, head->name, sizeof ring->name - 1);
    ring->members = take(cursor, head->size, sizeof *ring->members);
    ring->peers = ring->members ? take(cursor, head->peer_count, sizeof *ring->peers) : NULL;
    ring->entries = ring->peers ? take(cursor, head->entry_count, sizeof *ring->entries) : NULL;
    return ring->entries != NULL;
}

enum status rings_unpack(struct rings_copy *copy, const void *data, size_t bytes) {
    struct cursor cursor = {data, bytes};
    *copy = (struct rings_copy){0};
    const struct packed *head = take(&cursor, 1, sizeof *head);
    if (!head || head->count < 0 || head->count > RINGS_MAX)
        return status_fail(STATUS_FORMAT, "%zu bytes are no record of a rank's calls", bytes);
    copy->now = head->now;
    memcpy(copy->note, head->note, sizeof copy->note - 1);
    copy->ring = calloc((size_t)head->count + 1, sizeof *copy->ring);
    if (!copy->ring) return status_fail(STATUS_MEMORY, "no memory for a record of calls");
    for (; copy->count < head->count; copy->count++) {
        if (unpack_ring(&cursor, &copy->ring[copy->count])) continue;
        rings_copy_free(copy);
        return status_fail(STATUS_FORMAT, "a record of a rank's calls is cut short");
    }
    return STATUS_OK;
}

void rings_copy_free(struct rings_copy *copy) {
    free(copy->ring);
    *copy = (struct rings_copy){0};
}
