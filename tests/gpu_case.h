/* What tests of GPU ops share. They see the op table and kernels/base/device.h alone, so the same
 * program runs on the emulator and on a real GPU: the reference table computes on the host, the
 * cuda table on copies in the device's memory, and the two are compared.
 *
 * gpu_each runs a case a number of times on fresh random numbers: with both activation types, and
 * on the emulator under three schedules. */
#ifndef STRATA_TESTS_GPU_CASE_H
#define STRATA_TESTS_GPU_CASE_H

#include "tests/kernels_tables.h"

#include "kernels/base/device.h"

enum { GPU_MOST_BUFFERS = 64 };

/* An array of the host and its copy on the device. */
struct gpu_buffer {
    void *host, *device;
    size_t bytes;
    bool is_shared; /* host == device: pinned memory */
};

struct gpu_case {
    struct device gpu;
    struct stream stream, host_stream; /* of the device; of the reference table */
    const struct kernels *cuda, *reference;
    struct random random;
    const char *schedule;
    int number; /* of the case among those of its schedule and type */
    struct gpu_buffer buffers[GPU_MOST_BUFFERS];
    int count;
};

/* run(c, context) for `cases` cases of each act and schedule. Everything that the case made is
 * freed after each. */
void gpu_each(int cases, void (*run)(struct gpu_case *c, void *context), void *context);

/* A new array of `count` elements: activations in the table's type, or f32; normal numbers times
 * scale; on both sides. Return the host's side. */
void *gpu_act(struct gpu_case *c, size_t count, float scale);
float *gpu_f32(struct gpu_case *c, size_t count, float scale);

/* The same, with the bytes that the host puts into it before gpu_send: until then, and where it
 * never is sent, the device's side holds garbage (NaNs on the emulator). */
void *gpu_bytes(struct gpu_case *c, size_t bytes);

/* Pinned memory, one address for both. */
void *gpu_shared_bytes(struct gpu_case *c, size_t bytes);

/* The device's side of an array; NULL of NULL. */
void *gpu_of(struct gpu_case *c, const void *host);
void gpu_send(struct gpu_case *c, const void *host);

/* What the ops gave, compared with what the reference wrote to the host's side: for each element
 * |got - want| <= absolute + relative * |want|; NaN never passes. Waits for the stream first, and
 * fails the test on an error of it. */
void gpu_expect_act(struct gpu_case *c, const void *host, double absolute, double relative,
                    const char *what);
void gpu_expect_f32(struct gpu_case *c, const float *host, double absolute, double relative,
                    const char *what);
/* Bit for bit. */
void gpu_expect_bytes(struct gpu_case *c, const void *host, const char *what);

/* A copy of the device's side; the caller frees it. */
void *gpu_fetch(struct gpu_case *c, const void *host);

#endif
