/* The GEMM of TMA and wgmma against sums in double precision, at odd sizes, and its promise: an
 * element's bits depend on its own row and column alone. */
#define _GNU_SOURCE
#include "tests/check.h"

#include "kernels/base/device.h"
#include "kernels/base/dtype.h"
#include "kernels/base/rng.h"
#include "kernels/gemm_hopper.h"

enum { MOST = 1 << 18 };

struct site {
    struct device gpu;
    struct stream stream;
    uint16_t *host[3]; /* y, x, w */
    void *device[3];
};

static void open_site(struct site *site, const char *schedule) {
    setenv("STRATA_EMULATION_SCHEDULE", schedule, 1);
    assert_ok(device_open_cuda(&site->gpu, 0));
    assert_ok(device_open_stream(&site->gpu, &site->stream));
    for (int i = 0; i < 3; i++) {
        site->host[i] = calloc(MOST, sizeof(uint16_t));
        assert_non_null(site->host[i]);
        assert_ok(device_allocate(&site->gpu, &site->device[i], MOST * sizeof(uint16_t)));
    }
}

static void close_site(struct site *site) {
    for (int i = 0; i < 3; i++) {
        device_free(&site->gpu, site->device[i]);
        free(site->host[i]);
    }
    stream_close(&site->stream);
}

/* Numbers around 1, the padding behind each row NaN: none of it may be read into a sum. */
static void fill(uint16_t *matrix, int rows, int columns, int64_t stride, uint64_t seed) {
    for (int row = 0; row < rows; row++)
        for (int column = 0; column < stride; column++) {
            uint64_t bits =
                (seed + (uint64_t)row * 1009 + (uint64_t)column) * 0x9E3779B97F4A7C15ull;
            float value = (float)(int)(bits >> 40 & 0xffff) / 32768.0f - 1.0f;
            matrix[row * stride + column] = column < columns ? f32_to_bf16(value) : 0x7fff;
        }
}

static void multiply(struct site *site, struct gemm_hopper gemm) {
    fill(site->host[1], gemm.m, gemm.k, gemm.x_stride, 1);
    fill(site->host[2], gemm.n, gemm.k, gemm.w_stride, 77);
    memset(site->host[0], 0x5a, MOST * sizeof(uint16_t));
    for (int i = 0; i < 3; i++)
        stream_copy(&site->stream, site->device[i], site->host[i], MOST * sizeof(uint16_t));
    gemm.y = site->device[0];
    gemm.x = site->device[1];
    gemm.w = site->device[2];
    gemm_hopper_bf16(&site->stream, &gemm);
    stream_copy(&site->stream, site->host[0], site->device[0], MOST * sizeof(uint16_t));
    assert_ok(stream_check(&site->stream));
}

static void compare(const struct site *site, const struct gemm_hopper *gemm) {
    for (int row = 0; row < gemm->m; row++) {
        const uint16_t *y = site->host[0] + row * gemm->y_stride;
        for (int column = 0; column < gemm->n; column++) {
            double want = 0, size = 0;
            for (int k = 0; k < gemm->k; k++) {
                double term = (double)bf16_to_f32(site->host[1][row * gemm->x_stride + k]) *
                              (double)bf16_to_f32(site->host[2][column * gemm->w_stride + k]);
                want += term;
                size += fabs(term);
            }
            double got = (double)bf16_to_f32(y[column]);
            if (!(fabs(got - want) <= fabs(want) / 256 + size * 1e-6))
                fail_msg("(%d, %d) of %d x %d x %d: got %g, want %g", row, column, gemm->m, gemm->n,
                         gemm->k, got, want);
        }
        for (int column = gemm->n; column < gemm->y_stride; column++)
            assert_int_equal(y[column], 0x5a5a);
    }
    assert_int_equal(site->host[0][gemm->m * gemm->y_stride], 0x5a5a);
}

static const struct gemm_hopper shapes[] = {
    {.m = 1, .n = 1, .k = 1, .y_stride = 1, .x_stride = 8, .w_stride = 8, .processors = 1},
    {.m = 1, .n = 8, .k = 64, .y_stride = 8, .x_stride = 64, .w_stride = 64, .processors = 4},
    {.m = 130,
     .n = 70,
     .k = 200,
     .y_stride = 72,
     .x_stride = 200,
     .w_stride = 208,
     .processors = 1},
    {.m = 65,
     .n = 129,
     .k = 321,
     .y_stride = 129,
     .x_stride = 328,
     .w_stride = 328,
     .processors = 4},
    {.m = 300, .n = 264, .k = 72, .y_stride = 264, .x_stride = 72, .w_stride = 72, .processors = 2},
};

static void products_are_right(void **state) {
    (void)state;
    static const char *const schedules[] = {"round_robin", "greedy", "shuffled:5"};
    for (int i = 0; i < 3; i++) {
        struct site site = {0};
        open_site(&site, schedules[i]);
        for (size_t shape = 0; shape < sizeof shapes / sizeof *shapes; shape++) {
            multiply(&site, shapes[shape]);
            compare(&site, &shapes[shape]);
        }
        close_site(&site);
    }
}

static void bits_do_not_depend_on_the_rows_beside(void **state) {
    (void)state;
    struct gemm_hopper gemm = shapes[3];
    struct site site = {0};
    open_site(&site, "greedy");
    uint16_t *first = calloc((size_t)gemm.n, sizeof *first);
    assert_non_null(first);
    for (int m = gemm.m; m >= 1; m = m / 3) {
        gemm.m = m;
        multiply(&site, gemm);
        if (m == shapes[3].m)
            memcpy(first, site.host[0], (size_t)gemm.n * sizeof *first);
        else
            assert_memory_equal(first, site.host[0], (size_t)gemm.n * sizeof *first);
    }
    free(first);
    close_site(&site);
}

static void what_is_not_aligned_is_refused(void **state) {
    (void)state;
    struct site site = {0};
    open_site(&site, "greedy");
    struct gemm_hopper gemm = shapes[1];
    gemm.y = site.device[0];
    gemm.x = site.device[1];
    gemm.w = site.device[2];
    gemm.x_stride = 63;
    gemm_hopper_bf16(&site.stream, &gemm);
    assert_int_equal(stream_check(&site.stream), STATUS_SHAPE);
    assert_non_null(strstr(status_message(), "a stride is not a multiple of 16 bytes"));
    gemm.m = 0;
    gemm_hopper_bf16(&site.stream, &gemm);
    assert_ok(stream_check(&site.stream));
    close_site(&site);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_right),
        cmocka_unit_test(bits_do_not_depend_on_the_rows_beside),
        cmocka_unit_test(what_is_not_aligned_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
