/* Matrix products against what the machine can do: the FMA peak and the read bandwidth measured in
 * the same run, OpenBLAS and oneDNN beside them where the build found them. Best of several runs.
 */
#define _GNU_SOURCE
#include "kernels/base/clock.h"
#include "kernels/base/rng.h"
#include "kernels/kernels.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if STRATA_OPENBLAS
#include <cblas.h>
#endif
#if STRATA_ONEDNN
#include <oneapi/dnnl/dnnl.h>
#endif

static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(1 << 21, (bytes + (1 << 21)) >> 21 << 21);
    if (!memory) abort();
    return memory;
}

/* ---- ceilings ---- */

typedef float lanes __attribute__((vector_size(64)));

/* Twelve independent chains in registers: more than latency times throughput anywhere. */
enum { CHAINS = 12 };
#define FMA12(r)                                                                                   \
    "vfmadd231ps %%" r "0,%%" r "0,%%" r "1\n vfmadd231ps %%" r "0,%%" r "0,%%" r "2\n"            \
    "vfmadd231ps %%" r "0,%%" r "0,%%" r "3\n vfmadd231ps %%" r "0,%%" r "0,%%" r "4\n"            \
    "vfmadd231ps %%" r "0,%%" r "0,%%" r "5\n vfmadd231ps %%" r "0,%%" r "0,%%" r "6\n"            \
    "vfmadd231ps %%" r "0,%%" r "0,%%" r "7\n vfmadd231ps %%" r "0,%%" r "0,%%" r "8\n"            \
    "vfmadd231ps %%" r "0,%%" r "0,%%" r "9\n vfmadd231ps %%" r "0,%%" r "0,%%" r "10\n"           \
    "vfmadd231ps %%" r "0,%%" r "0,%%" r "11\n vfmadd231ps %%" r "0,%%" r "0,%%" r "12\n"
#define CLOBBERS                                                                                   \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",       \
        "xmm11", "xmm12", "cc"

static void spin(int64_t rounds, bool wide) {
    if (wide)
        __asm__ volatile("vxorps %%xmm0,%%xmm0,%%xmm0\n 1: " FMA12("zmm") "dec %0\n jnz 1b"
                         : "+r"(rounds)
                         :
                         : CLOBBERS);
    else
        __asm__ volatile("vxorps %%xmm0,%%xmm0,%%xmm0\n 1: " FMA12("ymm") "dec %0\n jnz 1b"
                         : "+r"(rounds)
                         :
                         : CLOBBERS);
}

static volatile float sink;

/* FLOP/s of one run of about a millisecond. */
static double fma_rate(int threads, bool wide) {
    int64_t rounds = 200000;
    double start = clock_seconds();
#pragma omp parallel num_threads(threads)
    spin(rounds, wide);
    return (double)rounds * CHAINS * (wide ? 32 : 16) * threads / (clock_seconds() - start);
}

/* Bytes/s of one pass of all threads over `data`, each in four streams. */
static double read_rate(int threads, const char *data, size_t bytes) {
    enum { STREAMS = 4, AHEAD = 2048 };
    size_t run = bytes / STREAMS / (size_t)threads / 64 * 64;
    double start = clock_seconds();
#pragma omp parallel num_threads(threads)
    {
        const char *mine = data + (size_t)omp_get_thread_num() * STREAMS * run;
        lanes sum[STREAMS] = {{0}};
        for (size_t at = 0; at < run; at += 64) {
            for (size_t i = 0; i < STREAMS; i++) {
                sum[i] += *(const lanes *)(mine + i * run + at);
                __builtin_prefetch(mine + i * run + at + AHEAD);
            }
        }
        sink = sum[0][0] + sum[1][1] + sum[2][2] + sum[3][3];
    }
    return (double)(run * STREAMS * (size_t)threads) / (clock_seconds() - start);
}

/* ---- what is measured ---- */

enum product { FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT };
static const char *const product_names[] = {"forward", "grad x", "grad w"};

/* The last one finds the weight in panels, as it is, and copies it to rows first. */
enum library { OURS, OPENBLAS, ONEDNN, ONEDNN_COPIED };

struct ceilings {
    double flops, bytes; /* a second */
};

struct bench {
    const struct kernels *k;
    struct stream stream;
    int64_t tokens, rows, cols;
    enum product product;
    struct weight w, dw; /* copies follow each other, so that decode reads memory, not a cache */
    int copies;
    void *x, *dy, *out;
    float *plain; /* (N, K) for the libraries */
};

static void run_ours(struct bench *b, int copy) {
    struct weight w = b->w;
    w.data = (char *)w.data + (size_t)copy * weight_bytes(w.layout, w.rows, w.cols);
    if (b->product == FORWARD)
        b->k->matmul_forward(&b->stream, &(struct matmul_forward_args){
                                             .y = b->out, .x = b->x, .w = &w, .tokens = b->tokens});
    else if (b->product == BACKWARD_INPUT)
        b->k->matmul_backward_input(&b->stream,
                                    &(struct matmul_backward_input_args){
                                        .dx = b->out, .dy = b->dy, .w = &w, .tokens = b->tokens});
    else
        b->k->matmul_backward_weight(
            &b->stream, &(struct matmul_backward_weight_args){&b->dw, b->dy, b->x, b->tokens});
}

#if STRATA_OPENBLAS
static void run_openblas(struct bench *b, int copy) {
    int t = (int)b->tokens, n = (int)b->rows, k = (int)b->cols;
    const float *w = b->plain + (size_t)copy * (size_t)(b->rows * b->cols);
    if (b->product == FORWARD)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, t, n, k, 1.0f, b->x, k, w, k, 0.0f,
                    b->out, n);
    else if (b->product == BACKWARD_INPUT)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, t, k, n, 1.0f, b->dy, n, w, k, 0.0f,
                    b->out, k);
    else
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, n, k, t, 1.0f, b->dy, n, b->x, k, 1.0f,
                    b->plain, k);
}
#endif

#if STRATA_ONEDNN
static void run_onednn(struct bench *b, int copy) {
    int64_t t = b->tokens, n = b->rows, k = b->cols;
    const float *w = b->plain + (size_t)copy * (size_t)(b->rows * b->cols);
    if (b->product == FORWARD)
        dnnl_sgemm('N', 'T', t, n, k, 1.0f, b->x, k, w, k, 0.0f, b->out, n);
    else if (b->product == BACKWARD_INPUT)
        dnnl_sgemm('N', 'N', t, k, n, 1.0f, b->dy, n, w, k, 0.0f, b->out, k);
    else
        dnnl_sgemm('T', 'N', n, k, t, 1.0f, b->dy, n, b->x, k, 1.0f, b->plain, k);
}
#endif

#if STRATA_ONEDNN
static bool run_onednn_copied(struct bench *b, int copy) {
    if (b->product != BACKWARD_INPUT) return false;
#pragma omp parallel for num_threads(b->stream.threads) schedule(static)
    for (int64_t row = 0; row < b->rows; row += PANEL_ROWS)
        weight_unpack(b->plain + row * b->cols, &b->w, row,
                      b->rows - row < PANEL_ROWS ? b->rows - row : PANEL_ROWS);
    run_onednn(b, copy);
    return true;
}
#endif

static bool run_once(struct bench *b, enum library library, int copy) {
    switch (library) {
    case OURS:
        run_ours(b, copy);
        return true;
    case OPENBLAS:
#if STRATA_OPENBLAS
        run_openblas(b, copy);
        return true;
#else
        return false;
#endif
#if STRATA_ONEDNN
    case ONEDNN:
        run_onednn(b, copy);
        return true;
    default:
        return run_onednn_copied(b, copy);
#else
    default:
        return false;
#endif
    }
}

enum { LIBRARIES = ONEDNN_COPIED + 1 };

/* Seconds of the best run of each library, 0 where it is absent, and the best rates of the machine,
 * all taken in turns: what else the machine does hits all of them alike. */
static struct ceilings best_times(struct bench *b, enum library last, double budget,
                                  double best[LIBRARIES]) {
    bool wide = strncmp(b->k->name, "avx512", 6) == 0;
    size_t bytes = weight_bytes(b->w.layout, b->rows, b->cols) * (size_t)b->copies;
    struct ceilings top = {0};
    double begin = clock_seconds();
    for (int library = OURS; library < LIBRARIES; library++) best[library] = 0.0;
    for (int run = 0; run < 3 || clock_seconds() - begin < budget; run++) {
        double flops = fma_rate(b->stream.threads, wide);
        if (flops > top.flops) top.flops = flops;
        double read =
            b->copies > 1 && run % 8 == 0 ? read_rate(b->stream.threads, b->w.data, bytes) : 0.0;
        if (read > top.bytes) top.bytes = read;
        for (enum library library = OURS; library <= last; library++) {
            double start = clock_seconds();
            if (!run_once(b, library, run % b->copies)) continue;
            double took = clock_seconds() - start;
            if (best[library] == 0.0 || took < best[library]) best[library] = took;
        }
    }
    return top;
}

static void fill(float *to, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = (float)((i * 2654435761u >> 8) & 1023) / 512 - 1.0f;
}

static void bench_open(struct bench *b, enum layout layout) {
    size_t bytes = weight_bytes(layout, b->rows, b->cols);
    int64_t size = b->rows * b->cols, wide = b->rows > b->cols ? b->rows : b->cols;
    b->copies = b->product == FORWARD && b->tokens <= 32 ? (int)((256u << 20) / bytes) + 1 : 1;
    b->w = (struct weight){layout, b->rows, b->cols, allocate(bytes * (size_t)b->copies)};
    enum layout gradient = layout_of_gradient(layout);
    b->dw = (struct weight){gradient, b->rows, b->cols,
                            allocate(weight_bytes(gradient, b->rows, b->cols))};
    memset(b->dw.data, 0, weight_bytes(gradient, b->rows, b->cols));
    b->plain = allocate((size_t)size * sizeof(float) * (size_t)b->copies);
    fill(b->plain, size * b->copies);
    for (int copy = 0; copy < b->copies; copy++) {
        struct weight w = b->w;
        w.data = (char *)w.data + bytes * (size_t)copy;
        weight_pack(&w, 0, b->rows, b->plain);
    }
    b->x = allocate((size_t)(b->tokens * b->cols) * sizeof(float));
    b->dy = allocate((size_t)(b->tokens * b->rows) * sizeof(float));
    b->out = allocate((size_t)(b->tokens * wide) * sizeof(float));
    fill(b->x, b->tokens * b->cols);
    fill(b->dy, b->tokens * b->rows);
    memset(b->out, 0, (size_t)(b->tokens * wide) * sizeof(float));
}

static void bench_close(struct bench *b) {
    free(b->w.data), free(b->dw.data), free(b->plain), free(b->x), free(b->dy), free(b->out);
}

static void print_rate(double flops, double bytes, double seconds, const struct ceilings *top) {
    if (seconds == 0.0) {
        printf(" %26s", "-");
        return;
    }
    double compute = flops / seconds / top->flops;
    double memory = top->bytes > 0.0 ? bytes / seconds / top->bytes : 0.0;
    if (compute >= memory)
        printf("  %7.1f GFLOP/s %5.1f%%", flops / seconds * 1e-9, 100.0 * compute);
    else
        printf("  %7.1f GB/s    %5.1f%%", bytes / seconds * 1e-9, 100.0 * memory);
    printf("  ");
}

static void bench_case(struct bench b, enum layout layout, double budget) {
    bench_open(&b, layout);
    double flops = 2.0 * (double)b.tokens * (double)b.rows * (double)b.cols;
    double bytes = (double)weight_bytes(layout, b.rows, b.cols);
    printf("%-8s %-5s %5d %6d %6d", product_names[b.product],
           layout == LAYOUT_PANEL_BF16 ? "bf16" : "f32", (int)b.tokens, (int)b.rows, (int)b.cols);
    enum library last = layout == LAYOUT_PANEL_F32 && b.k->act == DTYPE_F32 ? ONEDNN_COPIED : OURS;
    double best[LIBRARIES];
    struct ceilings top = best_times(&b, last, budget, best);
    printf(" %7.1f %6.1f", top.flops * 1e-9, top.bytes * 1e-9);
    for (enum library library = OURS; library <= last; library++)
        print_rate(flops, library == OURS ? bytes : 4.0 * (double)b.rows * (double)b.cols,
                   best[library], &top);
    printf("\n");
    fflush(stdout);
    bench_close(&b);
}

/* FMA (GFLOP/s) and read (GB/s) are the machine's, measured beside each line; read only where the
 * weights come from memory. A percentage is of the nearer one; bf16 dot products go beyond 100.
 * Usage: bench_matmul [table] [act] [seconds a case] [rows cols] */
int main(int argc, char **argv) {
    const struct kernels *k;
    enum dtype act = argc > 2 && strcmp(argv[2], "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
    if (kernels_cpu(&k, argc > 1 ? argv[1] : NULL, act) != STATUS_OK) {
        fprintf(stderr, "%s\n", status_message());
        return 1;
    }
    double budget = argc > 3 ? atof(argv[3]) : 0.3;
    struct bench b = {.k = k};
    stream_open_cpu(&b.stream, 0);
#if STRATA_OPENBLAS
    openblas_set_num_threads(b.stream.threads);
#endif
    printf("table %s, activations %s, %d threads\n", k->name, dtype_info(act)->name,
           b.stream.threads);
    printf("%-8s %-5s %5s %6s %6s %7s %6s  %-25s  %-25s  %-25s  %s\n", "product", "W", "T", "N",
           "K", "FMA", "read", "ours", "OpenBLAS", "oneDNN", "oneDNN and a copy of W");
    static const int64_t shapes[][2] = {{768, 768},   {3072, 768}, {768, 3072}, {32000, 768},
                                        {4096, 4096}, {16, 768},   {768, 16}};
    static const int64_t tokens[] = {1, 4, 8, 32, 256, 1024};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        b.rows = shapes[i][0];
        b.cols = shapes[i][1];
        if (argc > 5 && (b.rows != atoi(argv[4]) || b.cols != atoi(argv[5]))) continue;
        for (int layout = LAYOUT_PANEL_F32; layout <= LAYOUT_PANEL_BF16; layout++) {
            b.product = FORWARD;
            for (size_t t = 0; t < sizeof tokens / sizeof *tokens; t++) {
                b.tokens = tokens[t];
                bench_case(b, (enum layout)layout, budget);
            }
            b.tokens = 1024;
            for (b.product = BACKWARD_INPUT; b.product <= BACKWARD_WEIGHT; b.product++)
                bench_case(b, (enum layout)layout, budget);
        }
    }
    return 0;
}
