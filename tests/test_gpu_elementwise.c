/* Elementwise ops on a GPU against the reference table: odd lengths, pointers that 16 bytes don't
 * divide, in place. */
#define _GNU_SOURCE
#include "tests/gpu_case.h"

/* An array that is used from element `skip` on, so that it may lie unaligned. */
struct slice {
    char *host, *device;
};

static struct slice slice_of(struct gpu_case *c, void *host, size_t skip) {
    return (struct slice){(char *)host + skip, (char *)gpu_of(c, host) + skip};
}

static size_t random_count(struct gpu_case *c) {
    static const int counts[] = {1, 2, 7, 8, 255, 2048, 2049, 4099};
    if (c->number < 8) return (size_t)counts[c->number];
    return (size_t)random_int(&c->random, 1, 3000);
}

/* The exact ones: every rounding is the reference's. */
static void run_exact(struct gpu_case *c, void *context) {
    (void)context;
    size_t n = random_count(c), element = act_bytes(c->cuda, 1);
    size_t skip = c->number % 3 == 2 ? 1 : 0, whole = n + skip;
    void *a = gpu_act(c, whole, 2.0f), *b = gpu_act(c, whole, 2.0f);
    void *y = c->number % 4 == 1 ? b : gpu_act(c, whole, 1.0f);
    struct slice as = slice_of(c, a, skip * element), bs = slice_of(c, b, skip * element);
    struct slice ys = slice_of(c, y, skip * element);
    c->cuda->add(&c->stream, ys.device, as.device, bs.device, (int64_t)n);
    c->reference->add(&c->host_stream, ys.host, as.host, bs.host, (int64_t)n);
    gpu_expect_bytes(c, y, "add");
    c->cuda->scale(&c->stream, as.device, 0.3f, (int64_t)n);
    c->reference->scale(&c->host_stream, as.host, 0.3f, (int64_t)n);
    gpu_expect_bytes(c, a, "scale");

    float *sum = gpu_f32(c, whole, 1.0f), *x = gpu_f32(c, whole, 1.0f);
    void *round = c->number % 4 == 3 ? x : gpu_act(c, whole, 1.0f);
    struct slice sums = slice_of(c, sum, skip * 4), xs = slice_of(c, x, skip * 4);
    struct slice rounds = slice_of(c, round, round == x ? skip * 4 : skip * element);
    c->cuda->accumulate_f32(&c->stream, (float *)sums.device, (float *)xs.device, (int64_t)n);
    c->reference->accumulate_f32(&c->host_stream, (float *)sums.host, (float *)xs.host, (int64_t)n);
    gpu_expect_bytes(c, sum, "accumulate_f32");
    c->cuda->round_f32(&c->stream, rounds.device, (float *)xs.device, (int64_t)n);
    c->reference->round_f32(&c->host_stream, rounds.host, (float *)xs.host, (int64_t)n);
    gpu_expect_bytes(c, round, "round_f32");
}

/* exp differs by 2 ulp of fp32; in bf16 one rounding may fall the other way. */
static void run_swiglu(struct gpu_case *c, void *context) {
    (void)context;
    size_t n = random_count(c), skip = c->number % 3 == 2 ? 1 : 0, whole = n + skip;
    size_t bytes = skip * act_bytes(c->cuda, 1);
    bool bf16 = c->cuda->act == DTYPE_BF16;
    double absolute = 1e-6, relative = bf16 ? 0x1p-7 : 1e-6;
    void *gate = gpu_act(c, whole, 4.0f), *up = gpu_act(c, whole, 1.0f);
    void *dy = gpu_act(c, whole, 1.0f), *y = gpu_act(c, whole, 1.0f);
    void *dgate = c->number % 4 == 1 ? gate : gpu_act(c, whole, 1.0f);
    void *dup = c->number % 4 == 1 ? up : c->number % 4 == 2 ? dy : gpu_act(c, whole, 1.0f);
    struct slice gs = slice_of(c, gate, bytes), us = slice_of(c, up, bytes);
    struct slice ys = slice_of(c, y, bytes), ds = slice_of(c, dy, bytes);
    struct slice dgs = slice_of(c, dgate, bytes), dus = slice_of(c, dup, bytes);
    c->cuda->swiglu_forward(&c->stream, ys.device, gs.device, us.device, (int64_t)n);
    c->reference->swiglu_forward(&c->host_stream, ys.host, gs.host, us.host, (int64_t)n);
    gpu_expect_act(c, y, absolute, relative, "y");
    c->cuda->swiglu_backward(&c->stream, dgs.device, dus.device, ds.device, gs.device, us.device,
                             (int64_t)n);
    c->reference->swiglu_backward(&c->host_stream, dgs.host, dus.host, ds.host, gs.host, us.host,
                                  (int64_t)n);
    gpu_expect_act(c, dgate, 1e-5, relative, "dgate");
    gpu_expect_act(c, dup, absolute, relative, "dup");
}

static void run_dropout(struct gpu_case *c, void *context) {
    (void)context;
    int rows = random_int(&c->random, 1, 9), whole = random_int(&c->random, 1, 400);
    if (c->number == 0) whole = 2100;
    int first = random_int(&c->random, 0, whole - 1);
    int width = random_int(&c->random, 1, whole - first);
    void *x = gpu_act(c, (size_t)(rows * width), 1.0f);
    void *y = c->number % 2 ? x : gpu_act(c, (size_t)(rows * width), 1.0f);
    int64_t *row_id = gpu_shared_bytes(c, (size_t)rows * sizeof *row_id);
    for (int i = 0; i < rows; i++) row_id[i] = (int64_t)random_word(&c->random) << 8;
    struct dropout_args host = {.y = y,
                                .x = x,
                                .row_id = row_id,
                                .rows = rows,
                                .width = width,
                                .first = first,
                                .whole = whole,
                                .seed = 0x123456789abcdefull,
                                .domain = 77,
                                .p = 0.3f};
    struct dropout_args gpu = host;
    gpu.y = gpu_of(c, y), gpu.x = gpu_of(c, x);
    c->cuda->dropout(&c->stream, &gpu);
    c->reference->dropout(&c->host_stream, &host);
    gpu_expect_bytes(c, y, "dropout");
}

static void test_exact(void **state) {
    (void)state;
    gpu_each(20, run_exact, NULL);
}

static void test_swiglu(void **state) {
    (void)state;
    gpu_each(20, run_swiglu, NULL);
}

static void test_dropout(void **state) {
    (void)state;
    gpu_each(20, run_dropout, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_exact), cmocka_unit_test(test_swiglu),
                                       cmocka_unit_test(test_dropout)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
