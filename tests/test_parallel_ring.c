/* The record of a rank's calls: what is kept, what is overwritten, and that a copy made while calls
 * go on holds only whole entries. */
#include "tests/check.h"

#include "kernels/base/clock.h"
#include "parallel/ring.h"

#include <pthread.h>
#include <stdatomic.h>

static const int32_t members[] = {3, 5, 8};
static const struct where somewhere = {WHERE_BACKWARD, 12, 3};

struct record {
    struct rings *rings;
    struct ring *ring;
    void *bytes;
    struct rings_copy copy;
};

static void open_record(struct record *record) {
    memset(record, 0, sizeof *record);
    record->rings = rings_create(5);
    assert_non_null(record->rings);
    record->ring = ring_open(record->rings, "tp", rings_next_id(record->rings), members, 3);
    assert_non_null(record->ring);
}

static const struct ring_copy *look(struct record *record) {
    size_t bytes;
    rings_copy_free(&record->copy);
    free(record->bytes);
    record->bytes = rings_pack(record->rings, &bytes);
    assert_non_null(record->bytes);
    assert_ok(rings_unpack(&record->copy, record->bytes, bytes));
    assert_int_equal(record->copy.count, 1);
    return &record->copy.ring[0];
}

static void close_record(struct record *record) {
    rings_copy_free(&record->copy);
    free(record->bytes);
    ring_close(record->rings, record->ring);
    rings_free(record->rings);
}

static void enter(struct record *record, struct ring_call *call, enum ring_op op, int peer,
                  bool blocking) {
    const struct ring_entry what = {.op = (uint8_t)op, .count = 64, .peer = peer};
    ring_enter(call, record->ring, &somewhere, &what, blocking);
}

static void test_a_call_is_kept_as_it_was_made(void **state) {
    (void)state;
    struct record record;
    struct ring_call call;
    open_record(&record);
    const struct ring_entry what = {
        .op = RING_BROADCAST, .count = 4096, .dtype = DTYPE_BF16, .peer = 2};
    ring_enter(&call, record.ring, &somewhere, &what, true);
    const struct ring_copy *ring = look(&record);
    assert_string_equal(ring->name, "tp");
    assert_int_equal(ring->size, 3);
    assert_memory_equal(ring->members, members, sizeof members);
    assert_int_equal(ring->collectives, 1);
    assert_int_equal(ring->entry_count, 1);
    const struct ring_entry *entry = &ring->entries[0];
    assert_int_equal(entry->sequence, 1);
    assert_int_equal(entry->count, 4096);
    assert_int_equal(entry->op, RING_BROADCAST);
    assert_int_equal(entry->dtype, DTYPE_BF16);
    assert_int_equal(entry->peer, 2);
    assert_int_equal(entry->layer, 12);
    assert_int_equal(entry->microbatch, 3);
    assert_int_equal(entry->phase, WHERE_BACKWARD);
    assert_true(entry->entered > 0 && entry->waiting == entry->entered && entry->left == 0);
    ring_leave(&call);
    ring = look(&record);
    assert_true(ring->entries[0].left >= ring->entries[0].entered);
    close_record(&record);
}

static void test_a_started_call_waits_later(void **state) {
    (void)state;
    struct record record;
    struct ring_call started, other;
    open_record(&record);
    enter(&record, &started, RING_START_ALL_REDUCE, RING_NO_PEER, false);
    enter(&record, &other, RING_BARRIER, RING_NO_PEER, true);
    ring_leave(&other);
    const struct ring_copy *ring = look(&record);
    assert_int_equal(ring->entries[0].waiting, 0);
    assert_int_equal(ring->entries[1].sequence, 2);
    ring_wait(&started);
    assert_true(look(&record)->entries[0].waiting > 0);
    ring_leave(&started);
    int64_t left = look(&record)->entries[0].left;
    ring_wait(&started); /* what was found done by a test needs no wait */
    ring_leave(&started);
    assert_int_equal(look(&record)->entries[0].left, left);
    close_record(&record);
}

/* Sends and receives count by peer; collectives among themselves. */
static void test_pairs_have_their_own_numbers(void **state) {
    (void)state;
    struct record record;
    struct ring_call call;
    open_record(&record);
    const enum ring_op made[] = {RING_SEND, RING_SEND, RING_RECV, RING_BARRIER, RING_SEND};
    const int peers[] = {0, 2, 2, RING_NO_PEER, 2};
    const int64_t numbers[] = {1, 1, 1, 1, 2};
    for (int i = 0; i < 5; i++) enter(&record, &call, made[i], peers[i], true);
    const struct ring_copy *ring = look(&record);
    for (int i = 0; i < 5; i++) assert_int_equal(ring->entries[i].sequence, numbers[i]);
    assert_int_equal(ring->peer_count, 2);
    assert_int_equal(ring->peers[1].peer, 2);
    assert_int_equal(ring->peers[1].sent, 2);
    assert_int_equal(ring->peers[1].received, 1);
    close_record(&record);
}

static void test_the_newest_are_kept(void **state) {
    (void)state;
    struct record record;
    struct ring_call first, call;
    open_record(&record);
    enter(&record, &first, RING_START_ALL_REDUCE, RING_NO_PEER, false);
    for (int i = 0; i < 3 * RING_ENTRIES; i++) {
        enter(&record, &call, RING_ALL_REDUCE, RING_NO_PEER, true);
        ring_leave(&call);
    }
    const struct ring_copy *ring = look(&record);
    assert_int_equal(ring->entry_count, RING_ENTRIES);
    assert_int_equal(ring->collectives, 3 * RING_ENTRIES + 1);
    for (int i = 0; i < RING_ENTRIES; i++)
        assert_int_equal(ring->entries[i].sequence, 2 * RING_ENTRIES + 2 + i);
    ring_wait(&first); /* it was overwritten: what is waited for must be seen */
    ring = look(&record);
    assert_int_equal(ring->entries[RING_ENTRIES - 1].sequence, 1);
    assert_true(ring->entries[RING_ENTRIES - 1].waiting > 0);
    ring_leave(&first);
    assert_true(look(&record)->entries[RING_ENTRIES - 1].left > 0);
    close_record(&record);
}

static void test_overdue(void **state) {
    (void)state;
    struct record record;
    struct ring_call call;
    open_record(&record);
    double start = clock_seconds();
    enter(&record, &call, RING_START_ALL_REDUCE, RING_NO_PEER, false);
    assert_false(rings_overdue(record.rings, 0.0, start)); /* nobody waits for it */
    ring_wait(&call);
    assert_true(rings_overdue(record.rings, 0.0, start));
    assert_false(rings_overdue(record.rings, 1000.0, start));
    assert_false(rings_overdue(record.rings, 0.5, clock_seconds())); /* was stopped until now */
    ring_leave(&call);
    assert_false(rings_overdue(record.rings, 0.0, start));
    close_record(&record);
}

static void test_communicators_come_and_go(void **state) {
    (void)state;
    struct rings *rings = rings_create(0);
    struct ring *open[RINGS_MAX];
    for (int i = 0; i < RINGS_MAX; i++) {
        open[i] = ring_open(rings, "group", rings_next_id(rings), members, 3);
        assert_non_null(open[i]);
    }
    assert_null(ring_open(rings, "one more", 0, members, 3));
    struct ring_call call;
    ring_enter(&call, NULL, &somewhere, &(struct ring_entry){.op = RING_BARRIER}, true);
    ring_wait(&call);
    ring_leave(&call);
    ring_close(rings, open[7]);
    open[7] = ring_open(rings, "again", rings_next_id(rings), members, 3);
    assert_non_null(open[7]);
    ring_close(rings, NULL);
    rings_free(rings);
}

static void test_damaged_bytes_are_refused(void **state) {
    (void)state;
    struct record record;
    struct ring_call call;
    open_record(&record);
    for (int i = 0; i < 5; i++) enter(&record, &call, RING_BARRIER, RING_NO_PEER, true);
    rings_note(record.rings, "leaving: disk full");
    size_t bytes;
    char *data = rings_pack(record.rings, &bytes);
    struct rings_copy copy;
    assert_ok(rings_unpack(&copy, data, bytes));
    assert_string_equal(copy.note, "leaving: disk full");
    rings_copy_free(&copy);
    rings_copy_free(&copy);
    for (size_t cut = 0; cut < bytes; cut += 8) {
        char *part = malloc(cut + 1);
        memcpy(part, data, cut);
        assert_int_equal(rings_unpack(&copy, part, cut), STATUS_FORMAT);
        free(part);
    }
    free(data);
    close_record(&record);
}

struct reader {
    struct rings *rings;
    _Atomic bool stop;
    int copies, torn;
};

/* Every entry that the writer below makes has count = 3 * sequence = layer. */
static void *read_all_the_time(void *context) {
    struct reader *reader = context;
    while (!atomic_load(&reader->stop) || reader->copies == 0) {
        size_t bytes;
        void *data = rings_pack(reader->rings, &bytes);
        struct rings_copy copy;
        if (data && rings_unpack(&copy, data, bytes) == STATUS_OK) {
            for (int e = 0; e < copy.ring[0].entry_count; e++) {
                const struct ring_entry *entry = &copy.ring[0].entries[e];
                reader->torn += entry->count != 3 * entry->sequence;
                reader->torn += entry->layer != (int32_t)entry->count;
                reader->torn += entry->left && entry->left < entry->entered;
            }
            rings_copy_free(&copy);
        }
        reader->copies++;
        free(data);
    }
    return NULL;
}

static void test_copies_hold_whole_entries(void **state) {
    (void)state;
    struct record record;
    open_record(&record);
    struct reader reader = {.rings = record.rings};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, read_all_the_time, &reader), 0);
    for (int64_t i = 1; i <= 200000; i++) {
        struct ring_call call;
        const struct where where = {.layer = (int32_t)(3 * i)};
        const struct ring_entry what = {.op = RING_ALL_REDUCE, .count = 3 * i};
        ring_enter(&call, record.ring, &where, &what, true);
        ring_leave(&call);
    }
    atomic_store(&reader.stop, true);
    pthread_join(thread, NULL);
    assert_true(reader.copies > 0);
    assert_int_equal(reader.torn, 0);
    close_record(&record);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_call_is_kept_as_it_was_made),
        cmocka_unit_test(test_a_started_call_waits_later),
        cmocka_unit_test(test_pairs_have_their_own_numbers),
        cmocka_unit_test(test_the_newest_are_kept),
        cmocka_unit_test(test_overdue),
        cmocka_unit_test(test_communicators_come_and_go),
        cmocka_unit_test(test_damaged_bytes_are_refused),
        cmocka_unit_test(test_copies_hold_whole_entries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
