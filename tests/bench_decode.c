/* Decoding speed of a 1 B Llama shape with random bf16 weights, against the read bandwidth measured
 * in the same run.
 *
 *     bench_decode [BATCH [THREADS [CONTEXT [LAYERS [ACT]]]]]
 *
 * 1, all cores, 128 tokens, 22 layers, bf16 activations (or fp32) where they are not given.
 *
 * A step is one token of each of BATCH sequences over paged keys and values, logits included. One
 * JSON line: tok/s and bytes of weights touched a second, the read bandwidth and FMA peak of the
 * same run, and the ratios to them. A memory's bandwidth moves by half from one second to the next
 * where others share it, so steps and reads of a buffer take turns, and the median of the ones is
 * held against the median of the others; the FMA peak is the better of before and after. */
#define _GNU_SOURCE
#include "core/workspace.h"
#include "kernels/base/clock.h"
#include "kernels/base/median.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TURNS = 24, PAGE = 64, READ_MIB = 1024 };

static void check(enum status status) {
    if (status == STATUS_OK) return;
    fprintf(stderr, "bench_decode: %s\n", status_message());
    exit(1);
}

/* A buffer that no cache holds. */
struct reader {
    size_t count;
    uint64_t *data;
};

static struct reader reader_open(void) {
    struct reader reader = {.count = (size_t)READ_MIB << 17};
    reader.data = aligned_alloc(64, reader.count * sizeof *reader.data);
    if (!reader.data) check(status_fail(STATUS_MEMORY, "no memory for the bandwidth's buffer"));
    memset(reader.data, 1, reader.count * sizeof *reader.data);
    return reader;
}

/* Bytes/s of summing it once. */
static double read_once(const struct reader *reader, int threads) {
    const uint64_t *data = reader->data;
    uint64_t total = 0;
    double start = clock_seconds();
#pragma omp parallel for simd num_threads(threads) reduction(+ : total)
    for (size_t i = 0; i < reader->count; i++) total += data[i];
    double seconds = clock_seconds() - start;
    volatile uint64_t sink = total; /* keeps the sums alive */
    (void)sink;
    return (double)(reader->count * sizeof *data) / seconds;
}

struct step {
    struct model model;
    struct workspace ws;
    struct batch batch;
    struct kv_pages_view pages;
    int32_t *ids, *positions, *start, *past, *table, *rows;
    float *logits;
};

static void make_batch(struct step *s, int32_t sequences, int32_t context) {
    const struct model_config *c = &s->model.config;
    size_t n = (size_t)sequences;
    int32_t pages = context / PAGE + 1;
    s->ids = calloc(n, sizeof *s->ids);
    s->positions = calloc(n, sizeof *s->positions);
    s->start = calloc(n + 1, sizeof *s->start);
    s->past = calloc(n, sizeof *s->past);
    s->rows = calloc(n, sizeof *s->rows);
    s->table = calloc(n * (size_t)pages, sizeof *s->table);
    s->logits = calloc(n * (size_t)c->vocab, sizeof *s->logits);
    enum dtype dtype = s->ws.exec.k->act;
    size_t layer =
        dtype_bytes(dtype, n * (size_t)pages * PAGE * (size_t)(c->kv_heads * c->head_dim));
    s->pages = (struct kv_pages_view){.k = calloc((size_t)c->layers, layer),
                                      .v = calloc((size_t)c->layers, layer),
                                      .layer_bytes = layer,
                                      .dtype = dtype,
                                      .page_table = s->table,
                                      .page_size = PAGE,
                                      .max_pages = pages};
    if (!s->pages.k || !s->pages.v || !s->logits)
        check(status_fail(STATUS_MEMORY, "no memory for keys and values"));
    for (int32_t i = 0; i < sequences; i++) {
        s->ids[i] = 17 * i + 5;
        s->positions[i] = s->past[i] = context;
        s->start[i + 1] = i + 1;
        s->rows[i] = i;
        for (int32_t p = 0; p < pages; p++) s->table[i * pages + p] = i * pages + p;
    }
    s->batch = (struct batch){.tokens = sequences,
                              .ids = s->ids,
                              .positions = s->positions,
                              .segments = {sequences, s->start, s->past},
                              .kv = &s->pages};
}

static double step_once(struct step *s) {
    double start = clock_seconds();
    stage_forward(&s->ws.exec, &s->model, &s->batch, &s->ws.acts);
    head_logits(&s->ws.exec, &s->model, s->logits, s->ws.acts.hidden, s->rows, s->batch.tokens);
    check(stream_check(&s->ws.stream));
    return clock_seconds() - start;
}

/* Medians of a step's seconds and of a read's bytes/s, in turns. */
static void take_turns(struct step *step, int threads, double *seconds, double *read) {
    double steps[TURNS], reads[TURNS];
    struct reader reader = reader_open();
    for (int i = 0; i < TURNS; i++) {
        reads[i] = read_once(&reader, threads);
        steps[i] = step_once(step);
    }
    free(reader.data);
    *seconds = median(steps, TURNS, MEDIAN_MEAN);
    *read = median(reads, TURNS, MEDIAN_MEAN);
}

int main(int argc, char **argv) {
    int sequences = argc > 1 ? atoi(argv[1]) : 1, context = argc > 3 ? atoi(argv[3]) : 128;
    struct stream probe;
    stream_open_cpu(&probe, argc > 2 ? atoi(argv[2]) : 0);
    struct model_config config = {.family = FAMILY_LLAMA,
                                  .vocab = 32000,
                                  .hidden = 2048,
                                  .ffn = 5632,
                                  .layers = argc > 4 ? atoi(argv[4]) : 22,
                                  .heads = 32,
                                  .kv_heads = 4,
                                  .head_dim = 64,
                                  .norm_eps = 1e-5f,
                                  .max_context = 2048,
                                  .rope = {.theta = 10000.0, .factor = 1.0}};
    struct step step = {0};
    const struct kernels *kernels;
    enum dtype act = argc > 5 && strcmp(argv[5], "fp32") == 0 ? DTYPE_F32 : DTYPE_BF16;
    check(kernels_cpu(&kernels, "auto", act));
    check(model_create(&step.model, &config, NULL, LAYOUT_PANEL_BF16));
    model_init_random(&step.model, 1, 0.02f, probe.threads);
    const struct workspace_plan plan = {
        .tokens = sequences, .logit_rows = sequences, .keep = ACTS_NONE};
    check(workspace_open(&step.ws, &step.model, kernels, probe.threads, NULL, &plan));
    make_batch(&step, sequences, context);
    double read, seconds, peak = kernels->peak_fma(probe.threads);
    take_turns(&step, probe.threads, &seconds, &read);
    peak = fmax(peak, kernels->peak_fma(probe.threads));
    double weights =
        2.0 * (double)(model_config_parameters(&config) - config.vocab * config.hidden);
    printf(
        "{\"bench\": \"decode\", \"parameters\": %lld, \"batch\": %d, \"threads\": %d, "
        "\"context\": %d, \"activations\": \"%s\", \"instructions\": \"%s\", \"tok_per_s\": %.2f, \"weight_gb_per_s\": %.2f, "
        "\"read_gb_per_s\": %.2f, \"read_ratio\": %.3f, \"gflops\": %.1f, "
        "\"fma_gflops\": %.1f, \"fma_ratio\": %.3f}\n",
        (long long)model_config_parameters(&config), sequences, probe.threads, context,
        dtype_info(act)->name, kernels->name, sequences / seconds, weights / seconds * 1e-9,
        read * 1e-9, weights / seconds / read, weights * sequences / seconds * 1e-9, peak * 1e-9,
        weights * sequences / seconds / peak);
    return 0;
}
