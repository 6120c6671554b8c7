#define _GNU_SOURCE
#include "tests/gpu_case.h"

static struct gpu_buffer *find(struct gpu_case *c, const void *host) {
    for (int i = 0; i < c->count; i++)
        if (c->buffers[i].host == host) return &c->buffers[i];
    fail_msg("this is no array of the case");
    return NULL;
}

void *gpu_bytes(struct gpu_case *c, size_t bytes) {
    assert_true(c->count < GPU_MOST_BUFFERS);
    struct gpu_buffer *buffer = &c->buffers[c->count++];
    *buffer = (struct gpu_buffer){.host = new_bytes(bytes), .bytes = bytes};
    assert_ok(device_allocate(&c->gpu, &buffer->device, bytes));
    return buffer->host;
}

void *gpu_shared_bytes(struct gpu_case *c, size_t bytes) {
    assert_true(c->count < GPU_MOST_BUFFERS);
    struct gpu_buffer *buffer = &c->buffers[c->count++];
    *buffer = (struct gpu_buffer){.bytes = bytes, .is_shared = true};
    assert_ok(device_allocate_shared(&c->gpu, &buffer->host, bytes));
    buffer->device = buffer->host;
    return buffer->host;
}

float *gpu_f32(struct gpu_case *c, size_t count, float scale) {
    float *host = gpu_bytes(c, count * sizeof *host);
    for (size_t i = 0; i < count; i++) host[i] = scale * random_normal(&c->random);
    gpu_send(c, host);
    return host;
}

void *gpu_act(struct gpu_case *c, size_t count, float scale) {
    if (c->cuda->act == DTYPE_F32) return gpu_f32(c, count, scale);
    uint16_t *host = gpu_bytes(c, count * sizeof *host);
    for (size_t i = 0; i < count; i++) host[i] = f32_to_bf16(scale * random_normal(&c->random));
    gpu_send(c, host);
    return host;
}

void *gpu_of(struct gpu_case *c, const void *host) {
    return host ? find(c, host)->device : NULL;
}

void gpu_send(struct gpu_case *c, const void *host) {
    const struct gpu_buffer *buffer = find(c, host);
    if (!buffer->is_shared) stream_copy(&c->stream, buffer->device, host, buffer->bytes);
}

void *gpu_fetch(struct gpu_case *c, const void *host) {
    const struct gpu_buffer *buffer = find(c, host);
    void *copy = new_bytes(buffer->bytes);
    stream_copy(&c->stream, copy, buffer->device, buffer->bytes);
    assert_ok(stream_check(&c->stream));
    return copy;
}

static double number_at(const void *array, enum dtype type, size_t i) {
    if (type == DTYPE_F32) return (double)((const float *)array)[i];
    return (double)bf16_to_f32(((const uint16_t *)array)[i]);
}

static void expect(struct gpu_case *c, const void *host, enum dtype type, double absolute,
                   double relative, const char *what) {
    size_t count = find(c, host)->bytes / dtype_bytes(type, 1);
    void *got = gpu_fetch(c, host);
    for (size_t i = 0; i < count; i++) {
        double g = number_at(got, type, i), w = number_at(host, type, i);
        if (fabs(g - w) <= absolute + relative * fabs(w)) continue;
        fail_msg("%s[%zu] of %zu: got %.9g, want %.9g (case %d, %s, schedule %s)", what, i, count,
                 g, w, c->number, dtype_info(c->cuda->act)->name, c->schedule);
    }
    free(got);
}

void gpu_expect_act(struct gpu_case *c, const void *host, double absolute, double relative,
                    const char *what) {
    expect(c, host, c->cuda->act, absolute, relative, what);
}

void gpu_expect_f32(struct gpu_case *c, const float *host, double absolute, double relative,
                    const char *what) {
    expect(c, host, DTYPE_F32, absolute, relative, what);
}

void gpu_expect_bytes(struct gpu_case *c, const void *host, const char *what) {
    unsigned char *got = gpu_fetch(c, host);
    for (size_t i = 0; i < find(c, host)->bytes; i++)
        if (got[i] != ((const unsigned char *)host)[i])
            fail_msg("%s: byte %zu is 0x%02x, not 0x%02x (case %d, %s, schedule %s)", what, i,
                     got[i], ((const unsigned char *)host)[i], c->number,
                     dtype_info(c->cuda->act)->name, c->schedule);
    free(got);
}

static void free_buffers(struct gpu_case *c) {
    assert_ok(stream_check(&c->stream));
    for (int i = 0; i < c->count; i++) {
        struct gpu_buffer *buffer = &c->buffers[i];
        if (buffer->is_shared)
            device_free_shared(&c->gpu, buffer->device);
        else
            device_free(&c->gpu, buffer->device), free(buffer->host);
    }
    c->count = 0;
}

void gpu_each(int cases, void (*run)(struct gpu_case *c, void *context), void *context) {
    static const char *const schedules[] = {"round_robin", "greedy", "shuffled:7"};
    struct gpu_case c = {0};
    assert_ok(device_open_cuda(&c.gpu, 0));
    stream_open_cpu(&c.host_stream, 1);
    for (int i = 0; i < (c.gpu.is_emulated ? 6 : 2); i++) {
        enum dtype act = i % 2 ? DTYPE_BF16 : DTYPE_F32;
        c.schedule = schedules[i / 2];
        setenv("STRATA_EMULATION_SCHEDULE", c.schedule, 1);
        assert_ok(device_open_stream(&c.gpu, &c.stream));
        assert_ok(kernels_cuda(&c.cuda, act));
        assert_ok(kernels_cpu(&c.reference, "reference", act));
        c.random = (struct random){.seed = (uint64_t)i + 1};
        for (c.number = 0; c.number < cases; c.number++) {
            run(&c, context);
            free_buffers(&c);
        }
        stream_close(&c.stream);
    }
    stream_close(&c.host_stream);
}
