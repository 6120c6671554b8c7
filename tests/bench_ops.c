/* Every op but the matmuls against what the machine can do: memory-bound ones as a share of the
 * copy bandwidth, attention as a share of the FMA peak, both measured in the same run. Best of
 * several runs.
 *
 *     bench_ops [threads] [table] [f32 | bf16]
 *
 * On one thread a share of copy can exceed 100%: one core does not fill the memory bus with one
 * stream, and ops with several streams get more. Judge shares on all cores of an idle machine.
 * "large" exceeds the caches; "step" is a training step's shape: 1024 tokens, 768 wide, ffn 3072.
 */
#define _GNU_SOURCE
#include "kernels/base/clock.h"
#include "kernels/base/rng.h"
#include "kernels/kernels.h"

#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RUNS = 15, LARGE = 1 << 24, STEP = 1024 * 768 };

struct bench {
    const struct kernels *kernels;
    struct stream stream;
    char *x[4]; /* LARGE f32 each */
    int64_t n, width;
    double copy, read, peak; /* bytes and flops a second */
    volatile float sink;
};

/* Best seconds of one call: what else runs on the machine only adds. Short calls are repeated. */
static double seconds_of(void (*run)(struct bench *), struct bench *b) {
    double best = 1e30, start = clock_seconds();
    run(b);
    run(b);
    int repeats = 1 + (int)(2e-3 / (clock_seconds() - start));
    for (int i = 0; i < RUNS; i++) {
        start = clock_seconds();
        for (int r = 0; r < repeats; r++) run(b);
        double seconds = (clock_seconds() - start) / repeats;
        if (seconds < best) best = seconds;
    }
    return best;
}

/* Past the caches: an ordinary store would first read the line it overwrites, traffic that is not
 * counted, and so make every share of this baseline look better than it is. */
__attribute__((target("avx"))) static void copy_past_caches(float *to, const float *from,
                                                            int64_t count) {
    for (int64_t i = 0; i < count; i += 16) {
        _mm256_stream_ps(to + i, _mm256_load_ps(from + i));
        _mm256_stream_ps(to + i + 8, _mm256_load_ps(from + i + 8));
    }
    _mm_sfence();
}

static void run_copy(struct bench *b) {
    int64_t share = LARGE / 64;
#pragma omp parallel for num_threads(b->stream.threads) schedule(static)
    for (int i = 0; i < 64; i++)
        copy_past_caches((float *)(void *)b->x[0] + i * share,
                         (const float *)(const void *)b->x[1] + i * share, share);
}

/* All four arrays read, nothing written: what bounds sums and the decode's walk over keys. */
__attribute__((target("avx"))) static float read_floats(const float *from, int64_t count) {
    __m256 sum[8];
    for (int j = 0; j < 8; j++) sum[j] = _mm256_setzero_ps();
    for (int64_t i = 0; i < count; i += 64) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++)
            sum[j] = _mm256_add_ps(sum[j], _mm256_load_ps(from + i + 8 * j));
    }
    for (int j = 1; j < 8; j++) sum[0] = _mm256_add_ps(sum[0], sum[j]);
    return _mm256_cvtss_f32(sum[0]);
}

static void run_read(struct bench *b) {
    int64_t share = LARGE / 64;
    float total = 0.0f;
#pragma omp parallel for num_threads(b->stream.threads) schedule(static) reduction(+ : total)
    for (int i = 0; i < 256; i++)
        total += read_floats((const float *)(const void *)b->x[i / 64] + i % 64 * share, share);
    b->sink = total;
}

typedef float lanes __attribute__((vector_size(64)));

/* Twenty independent chains: enough for latency times throughput. */
__attribute__((target("avx512f"))) static void spin_512(lanes *out, int64_t rounds) {
    enum { CHAINS = 20 };
    lanes sum[CHAINS], factor = *out;
#pragma GCC unroll 20
    for (int i = 0; i < CHAINS; i++) sum[i] = factor;
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 20
        for (int i = 0; i < CHAINS; i++)
            __asm__ volatile("vfmadd213ps %1, %1, %0" : "+v"(sum[i]) : "v"(factor));
    }
#pragma GCC unroll 20
    for (int i = 0; i < CHAINS; i++) *out += sum[i];
}

typedef float half_lanes __attribute__((vector_size(32)));

__attribute__((target("avx2,fma"))) static void spin_256(half_lanes *out, int64_t rounds) {
    enum { CHAINS = 12 };
    half_lanes sum[CHAINS], factor = *out;
#pragma GCC unroll 20
    for (int i = 0; i < CHAINS; i++) sum[i] = factor;
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            __asm__ volatile("vfmadd213ps %1, %1, %0" : "+x"(sum[i]) : "x"(factor));
    }
#pragma GCC unroll 20
    for (int i = 0; i < CHAINS; i++) *out += sum[i];
}

static double measure_peak(struct bench *b) {
    bool wide = strncmp(b->kernels->name, "avx512", 6) == 0;
    int64_t rounds = 200000;
    double best = 0.0;
    for (int run = 0; run < 15; run++) {
        double start = clock_seconds();
#pragma omp parallel num_threads(b->stream.threads)
        {
            _Alignas(64) char out[64] = {0};
            if (wide)
                spin_512((lanes *)(void *)out, rounds);
            else
                spin_256((half_lanes *)(void *)out, rounds);
        }
        double rate = (double)rounds * (wide ? 20 * 32 : 12 * 16) * b->stream.threads;
        rate /= clock_seconds() - start;
        if (rate > best) best = rate;
    }
    return best;
}

static size_t act_size(const struct bench *b) {
    return b->kernels->act == DTYPE_BF16 ? 2 : 4;
}

static void run_add(struct bench *b) {
    b->kernels->add(&b->stream, b->x[0], b->x[0], b->x[1], b->n);
}
static void run_swiglu(struct bench *b) {
    b->kernels->swiglu_forward(&b->stream, b->x[0], b->x[1], b->x[2], b->n);
}
static void run_swiglu_in_place(struct bench *b) {
    b->kernels->swiglu_forward(&b->stream, b->x[1], b->x[1], b->x[2], b->n);
}
static void run_swiglu_backward(struct bench *b) {
    b->kernels->swiglu_backward(&b->stream, b->x[1], b->x[2], b->x[0], b->x[1], b->x[2], b->n);
}
static void run_rmsnorm(struct bench *b) {
    b->kernels->rmsnorm_forward(&b->stream, b->x[0], NULL, b->x[1], (float *)(void *)b->x[3],
                                b->n / b->width, b->width, 1e-5f);
}
static void run_rmsnorm_backward(struct bench *b) {
    float *w = (float *)(void *)b->x[3];
    b->kernels->rmsnorm_backward(
        &b->stream, &(struct rmsnorm_backward_args){b->x[0], w + 100000, b->x[1], b->x[2], w,
                                                    w + 200000, b->n / b->width, b->width, true});
}
static void run_rope(struct bench *b) {
    b->kernels->rope(&b->stream, &(struct rope_args){.x = b->x[0],
                                                     .table = (float *)(void *)b->x[3],
                                                     .tokens = b->n / 768,
                                                     .heads = 12,
                                                     .head_dim = 64,
                                                     .rotary_dim = 64});
}
static void run_dropout(struct bench *b) {
    static int64_t ids[LARGE / 768]; /* all zero: the draw costs the same */
    b->kernels->dropout(&b->stream, &(struct dropout_args){.y = b->x[0],
                                                           .x = b->x[1],
                                                           .row_id = ids,
                                                           .rows = b->n / 768,
                                                           .width = 768,
                                                           .whole = 768,
                                                           .seed = 1,
                                                           .domain = 2,
                                                           .p = 0.1f});
}
static void run_accumulate(struct bench *b) {
    b->kernels->accumulate_f32(&b->stream, (float *)(void *)b->x[0], (float *)(void *)b->x[1],
                               b->n);
}
static void run_sum_squares(struct bench *b) {
    double sum = 0.0;
    b->kernels->sum_squares(&b->stream, &sum, (float *)(void *)b->x[0], b->n);
}
static void run_adamw(struct bench *b) {
    b->kernels->adamw(&b->stream, &(struct adamw_args){.w = (float *)(void *)b->x[0],
                                                       .m = (float *)(void *)b->x[1],
                                                       .v = (float *)(void *)b->x[2],
                                                       .grad = (float *)(void *)b->x[3],
                                                       .n = b->n,
                                                       .lr = 1e-9,
                                                       .beta1 = 0.9,
                                                       .beta2 = 0.95,
                                                       .eps = 1e-8,
                                                       .step = 10,
                                                       .grad_scale = 1.0f});
}
static void run_cross_entropy(struct bench *b) {
    int32_t targets[1024] = {0};
    struct cross_entropy_row rows[1024];
    b->kernels->cross_entropy_forward(&b->stream, rows, (float *)(void *)b->x[1], targets, 0,
                                      b->n / 32000, 32000);
}
static void run_cross_entropy_backward(struct bench *b) {
    int32_t targets[1024] = {0};
    float weight[1024] = {0};
    struct cross_entropy_row rows[1024];
    for (int i = 0; i < 1024; i++) rows[i] = (struct cross_entropy_row){1.0f, 1.0f, 0.0f};
    b->kernels->cross_entropy_backward(&b->stream, b->x[0], (float *)(void *)b->x[1], rows, targets,
                                       weight, 0, b->n / 32000, 32000);
}
static void run_embedding(struct bench *b) {
    int32_t tokens[1024];
    for (int i = 0; i < 1024; i++) tokens[i] = (i * 7919) % 20000;
    struct weight w = {LAYOUT_ROWS_F32, LARGE / 768, 768, b->x[1]};
    b->kernels->embedding_forward(&b->stream, b->x[0], tokens, &w, 0, w.rows, 1024);
}

/* Memory-bound: act and f32 elements read and written for each of n. */
static const struct memory_bench {
    const char *name;
    void (*run)(struct bench *);
    int act, f32;
    int64_t step; /* n of a training step */
} memory_benches[] = {
    {"add", run_add, 3, 0, STEP},
    {"swiglu_forward", run_swiglu, 3, 0, 4 * STEP},
    {"swiglu_forward in place", run_swiglu_in_place, 3, 0, 4 * STEP},
    {"swiglu_backward", run_swiglu_backward, 5, 0, 4 * STEP},
    {"rmsnorm_forward", run_rmsnorm, 2, 0, STEP},
    {"rmsnorm_backward", run_rmsnorm_backward, 4, 0, STEP},
    {"rope", run_rope, 2, 0, STEP},
    {"dropout", run_dropout, 2, 0, STEP},
    {"accumulate_f32", run_accumulate, 0, 3, STEP},
    {"sum_squares", run_sum_squares, 0, 1, STEP},
    {"adamw", run_adamw, 0, 7, STEP},
    {"cross_entropy_forward", run_cross_entropy, 0, 1, 128 * 32000},
    {"cross_entropy_backward", run_cross_entropy_backward, 1, 1, 128 * 32000},
    {"embedding_forward", run_embedding, 1, 1, STEP},
};

static void report_memory(struct bench *b, const struct memory_bench *m) {
    const int64_t sizes[] = {m->step, LARGE / 96000 * 96000};
    for (int i = 0; i < 2; i++) {
        if (i == 1 && m->run == run_embedding) continue;
        b->n = sizes[i];
        b->width = 768;
        double bytes = (double)b->n * ((double)m->act * (double)act_size(b) + 4.0 * m->f32);
        double seconds = seconds_of(m->run, b);
        printf("%-24s %-5s %8.3f ms  %6.1f GB/s  %3.0f%% of copy\n", m->name, i ? "large" : "step",
               1e3 * seconds, 1e-9 * bytes / seconds, 100.0 * bytes / seconds / b->copy);
    }
}

/* ---- attention ---- */

struct attention_bench {
    int sequences, tokens, past, kv_heads, group, head_dim;
    bool paged, bf16;
};

static struct {
    struct attention_shape shape;
    struct segments segments;
    struct kv_source kv;
    int32_t start[65], past[64];
} attention;

static void run_attention(struct bench *b) {
    b->kernels->attention_forward(
        &b->stream, &(struct attention_forward_args){b->x[3], NULL, b->x[0], &attention.kv,
                                                     &attention.segments, attention.shape});
}

static void run_attention_backward(struct bench *b) {
    char *half = b->x[3] + LARGE * 2;
    struct attention_backward_args args = {.dq = b->x[3],
                                           .dk = b->x[3] + LARGE,
                                           .dv = half,
                                           .scratch = (float *)(void *)half + LARGE / 4,
                                           .dout = b->x[0],
                                           .q = b->x[0],
                                           .k = b->x[1],
                                           .v = b->x[2],
                                           .o = b->x[0],
                                           .lse = (float *)(void *)(half + LARGE),
                                           .segments = &attention.segments,
                                           .shape = attention.shape};
    b->kernels->attention_backward(&b->stream, &args);
}

static void report_attention(struct bench *b, const struct attention_bench *c) {
    int heads = c->kv_heads * c->group, page_size = 64;
    attention.shape = (struct attention_shape){heads, c->kv_heads, c->head_dim, 0, 0.1f};
    attention.segments = (struct segments){c->sequences, attention.start, attention.past};
    for (int i = 0; i < c->sequences; i++) {
        attention.start[i + 1] = attention.start[i] + c->tokens;
        attention.past[i] = c->past;
    }
    int pages = (c->past + c->tokens + page_size - 1) / page_size;
    int32_t *table = malloc((size_t)(pages * c->sequences) * sizeof *table);
    for (int i = 0; i < pages * c->sequences; i++) table[i] = i;
    attention.kv = (struct kv_source){
        b->x[1],   b->x[2], c->bf16 ? DTYPE_BF16 : DTYPE_F32, c->paged ? table : NULL,
        page_size, pages};
    double pairs = (double)c->sequences * heads * c->tokens *
                   ((double)c->past + 0.5 * (double)(c->tokens + 1));
    double flops = 4.0 * pairs * c->head_dim, seconds = seconds_of(run_attention, b);
    double bytes = 2.0 * c->sequences * (c->past + c->tokens) * c->kv_heads * c->head_dim;
    bytes *= c->bf16 ? 2.0 : 4.0;
    printf(
        "attention B %d x T %d past %d, %d/%d heads x %d%s: %.3f ms  %.1f GFLOP/s %.0f%% of FMA  "
        "KV %.1f GB/s %.0f%% of read\n",
        c->sequences, c->tokens, c->past, heads, c->kv_heads, c->head_dim,
        !c->paged ? ""
        : c->bf16 ? " bf16 pages"
                  : " f32 pages",
        1e3 * seconds, 1e-9 * flops / seconds, 100.0 * flops / seconds / b->peak,
        1e-9 * bytes / seconds, 100.0 * bytes / seconds / b->read);
    if (!c->paged) {
        seconds = seconds_of(run_attention_backward, b);
        printf("  backward: %.3f ms  %.1f GFLOP/s %.0f%% of FMA\n", 1e3 * seconds,
               2.5e-9 * flops / seconds, 250.0 * flops / seconds / b->peak);
    }
    free(table);
}

static const struct attention_bench attention_benches[] = {
    {4, 256, 0, 12, 1, 64, false, false}, {1, 1024, 0, 12, 1, 64, false, false},
    {1, 2048, 0, 8, 4, 64, false, false}, {1, 512, 0, 8, 4, 128, false, false},
    {1, 512, 1536, 8, 4, 64, true, true}, {8, 1, 1023, 8, 4, 64, true, true},
    {8, 1, 1023, 8, 4, 64, true, false},  {8, 1, 1023, 12, 1, 64, true, false},
    {8, 1, 1023, 12, 1, 64, true, true},  {1, 1, 8191, 8, 4, 128, true, true},
};

int main(int argc, char **argv) {
    struct bench b = {0};
    setvbuf(stdout, NULL, _IOLBF, 0); /* lines as they come, through a pipe too */
    stream_open_cpu(&b.stream, argc > 1 ? atoi(argv[1]) : 0);
    enum dtype act = argc > 3 && strcmp(argv[3], "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
    if (kernels_cpu(&b.kernels, argc > 2 ? argv[2] : NULL, act) != STATUS_OK) {
        fprintf(stderr, "%s\n", status_message());
        return 1;
    }
    for (int i = 0; i < 4; i++) {
        b.x[i] = aligned_alloc(1 << 21, (size_t)LARGE * 4);
        if (!b.x[i]) return 1;
        for (int64_t e = 0; e < LARGE; e++) {
            float value = 0.1f + rng_unit((uint32_t)e * 2654435761u);
            if (act == DTYPE_BF16) /* finite when read as either */
                value = bf16_to_f32(f32_to_bf16(value)) + 0x1p-9f;
            memcpy(b.x[i] + 4 * e, &value, 4);
        }
    }
    b.copy = 2.0 * LARGE * 4 / seconds_of(run_copy, &b);
    b.read = 4.0 * LARGE * 4 / seconds_of(run_read, &b);
    b.peak = measure_peak(&b);
    printf("%s %s, %d threads: copy %.1f GB/s, read %.1f GB/s, FMA %.0f GFLOP/s\n", b.kernels->name,
           dtype_info(act)->name, b.stream.threads, 1e-9 * b.copy, 1e-9 * b.read, 1e-9 * b.peak);
    for (size_t i = 0; i < sizeof memory_benches / sizeof *memory_benches; i++)
        report_memory(&b, &memory_benches[i]);
    for (size_t i = 0; i < sizeof attention_benches / sizeof *attention_benches; i++)
        report_attention(&b, &attention_benches[i]);
    for (int i = 0; i < 4; i++) free(b.x[i]);
    return 0;
}
