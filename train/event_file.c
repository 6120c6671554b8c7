#define _GNU_SOURCE
#include "train/event_file.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE_BYTES = EVENT_MAX_SCALARS * (EVENT_TAG_BYTES + 16) + 64, MAX_NAMES = 1000 };

/* A protobuf message being written. */
struct message {
    size_t used;
    uint8_t bytes[MESSAGE_BYTES];
};

enum wire { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

static void put(struct message *message, const void *data, size_t bytes) {
    assert(message->used + bytes <= sizeof message->bytes);
    memcpy(message->bytes + message->used, data, bytes);
    message->used += bytes;
}

static void put_little_endian(struct message *message, uint64_t value, size_t bytes) {
    uint8_t out[8];
    for (size_t i = 0; i < bytes; i++) out[i] = (uint8_t)(value >> (8 * i));
    put(message, out, bytes);
}

static void put_varint(struct message *message, uint64_t value) {
    for (; value >= 0x80; value >>= 7) put(message, &(uint8_t){(uint8_t)(value | 0x80)}, 1);
    put(message, &(uint8_t){(uint8_t)value}, 1);
}

static void put_key(struct message *message, int field, enum wire wire) {
    put_varint(message, (uint64_t)field << 3 | wire);
}

static void put_bytes(struct message *message, int field, const void *data, size_t bytes) {
    put_key(message, field, WIRE_BYTES);
    put_varint(message, bytes);
    put(message, data, bytes);
}

static void put_f32(struct message *message, int field, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_key(message, field, WIRE_32);
    put_little_endian(message, bits, sizeof bits);
}

static void put_f64(struct message *message, int field, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_key(message, field, WIRE_64);
    put_little_endian(message, bits, sizeof bits);
}

uint32_t event_file_crc(const void *data, size_t bytes) {
    const uint8_t *at = data;
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= at[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

static uint32_t masked_crc(const void *data, size_t bytes) {
    uint32_t crc = event_file_crc(data, bytes);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static enum status write_record(struct event_file *events, const struct message *event) {
    struct message head = {0}, tail = {0};
    put_little_endian(&head, event->used, 8);
    put_little_endian(&head, masked_crc(head.bytes, 8), 4);
    put_little_endian(&tail, masked_crc(event->bytes, event->used), 4);
    bool written = fwrite(head.bytes, head.used, 1, events->file) == 1 &&
                   fwrite(event->bytes, event->used, 1, events->file) == 1 &&
                   fwrite(tail.bytes, tail.used, 1, events->file) == 1;
    return written && fflush(events->file) == 0
               ? STATUS_OK
               : status_fail(STATUS_IO, "%s: %s", events->path, strerror(errno));
}

/* What every event begins with. */
static void begin_event(struct message *event, int64_t step) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    event->used = 0;
    put_f64(event, 1, (double)now.tv_sec + (double)now.tv_nsec * 1e-9);
    put_key(event, 2, WIRE_VARINT);
    put_varint(event, (uint64_t)step);
}

static enum status write_head(struct event_file *events, int64_t first_step) {
    static const char version[] = "brain.Event:2";
    static const uint8_t start[] = {1 << 3 | WIRE_VARINT, 1};
    struct message event;
    begin_event(&event, 0);
    put_bytes(&event, 3, version, sizeof version - 1);
    TRY(write_record(events, &event));
    begin_event(&event, first_step);
    put_bytes(&event, 7, start, sizeof start);
    return write_record(events, &event);
}

/* Readers take the files of a folder in the order of their names. */
static enum status create(struct event_file *events, const char *folder) {
    char host[256] = "localhost";
    gethostname(host, sizeof host - 1);
    for (int i = 0; i < MAX_NAMES; i++) {
        snprintf(events->path, sizeof events->path, "%s/events.out.tfevents.%010lld.%03d.%s.%d",
                 folder, (long long)time(NULL), i, host, (int)getpid());
        events->file = fopen(events->path, "wbx");
        if (events->file || errno != EEXIST) break;
    }
    return events->file ? STATUS_OK
                        : status_fail(STATUS_IO, "%s: %s", events->path, strerror(errno));
}

enum status event_file_open(struct event_file *events, const char *folder, int64_t first_step) {
    *events = (struct event_file){0};
    if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        return status_fail(STATUS_IO, "%s: %s", folder, strerror(errno));
    TRY(create(events, folder));
    enum status status = write_head(events, first_step);
    if (status != STATUS_OK) event_file_close(events);
    return status;
}

void event_file_close(struct event_file *events) {
    if (events->file) fclose(events->file);
    events->file = NULL;
}

enum status event_file_write(struct event_file *events, int64_t step,
                             const struct event_scalar *scalars, int count) {
    assert(count <= EVENT_MAX_SCALARS);
    struct message event, summary = {0};
    if (!events->file) return STATUS_OK;
    for (int i = 0; i < count; i++) {
        struct message value = {0};
        assert(strlen(scalars[i].tag) <= EVENT_TAG_BYTES);
        put_bytes(&value, 1, scalars[i].tag, strlen(scalars[i].tag));
        put_f32(&value, 2, (float)scalars[i].value);
        put_bytes(&summary, 1, value.bytes, value.used);
    }
    begin_event(&event, step);
    put_bytes(&event, 5, summary.bytes, summary.used);
    return write_record(events, &event);
}
