/* Training speed on this machine: tokens/s of a Llama shape with random weights, on random tokens.
 *
 *     bench_train [--layers 12 --hidden 768 --heads 12 --kv-heads 12 --ffn 3072 --vocab 32000]
 *                 [--batch 4 --context 256 --threads 0 --steps 5 --warmup 2 --table auto]
 *                 [--lora] [--bf16] [--nf4] [--lora-rank 16]      (--nf4: a base for --lora)
 *
 * A step is forward, backward, clip and AdamW; its median over --steps is one JSON line, with
 *   gflops      6 N' (LoRA 4 N') + 12 L H D s/2 a token, N' without the embedding look-up
 *   fma_ratio   that over the FMA peak measured in the same run
 *   matmul_ratio the products' own FLOPs over their own seconds and the peak
 *   cpu_share   CPU time over wall time and threads: below 1 the machine was busy with other things
 *   seconds     of the median step by kind of op, from timing functions around the op table
 *   step_seconds of every timed step, shortest first
 *   parameters, trained  of the model, and how many of them (or of the adapter) a step updates
 * Its peer is tests/peers/bench_torch_train.py (the same shapes; its LoRA is on q, k, v, o too). */
#define _GNU_SOURCE
#include "core/packed_batch.h"
#include "core/workspace.h"
#include "kernels/base/clock.h"
#include "parallel/data_parallel.h"
#include "train/optimizer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(enum status status) {
    if (status == STATUS_OK) return;
    fprintf(stderr, "bench_train: %s\n", status_message());
    exit(1);
}

/* --- timing around the op table --------------------------------------------------------------- */

enum kind {
    MATMUL_FORWARD,
    MATMUL_INPUT,
    MATMUL_WEIGHT,
    ATTENTION_FORWARD,
    ATTENTION_BACKWARD,
    ELEMENTWISE,
    LOSS,
    OPTIMIZER,
    KINDS
};
static const char *const kind_names[KINDS] = {"matmul_forward",
                                              "matmul_input_gradient",
                                              "matmul_weight_gradient",
                                              "attention_forward",
                                              "attention_backward",
                                              "elementwise",
                                              "loss",
                                              "optimizer"};

/* An op table's functions can reach nothing but a global. */
static struct {
    const struct kernels *inner;
    double seconds[KINDS];
    double matmul_flops;
} profile;

static void add(enum kind kind, double start) {
    profile.seconds[kind] += clock_seconds() - start;
}

static void matmul(enum kind kind, double start, int64_t tokens, const struct weight *w) {
    add(kind, start);
    profile.matmul_flops += 2.0 * (double)tokens * (double)w->rows * (double)w->cols;
}

static void t_matmul_forward(struct stream *s, const struct matmul_forward_args *args) {
    double start = clock_seconds();
    profile.inner->matmul_forward(s, args);
    matmul(MATMUL_FORWARD, start, args->tokens, args->w);
}
static void t_matmul_input(struct stream *s, const struct matmul_backward_input_args *args) {
    double start = clock_seconds();
    profile.inner->matmul_backward_input(s, args);
    matmul(MATMUL_INPUT, start, args->tokens, args->w);
}
static void t_matmul_weight(struct stream *s, const struct matmul_backward_weight_args *args) {
    double start = clock_seconds();
    profile.inner->matmul_backward_weight(s, args);
    matmul(MATMUL_WEIGHT, start, args->tokens, args->dw);
}
static void t_attention_forward(struct stream *s, const struct attention_forward_args *args) {
    double start = clock_seconds();
    profile.inner->attention_forward(s, args);
    add(ATTENTION_FORWARD, start);
}
static void t_attention_backward(struct stream *s, const struct attention_backward_args *args) {
    double start = clock_seconds();
    profile.inner->attention_backward(s, args);
    add(ATTENTION_BACKWARD, start);
}
static void t_rmsnorm_forward(struct stream *s, void *y, float *rstd, const void *x, const float *w,
                              int64_t rows, int64_t width, float eps) {
    double start = clock_seconds();
    profile.inner->rmsnorm_forward(s, y, rstd, x, w, rows, width, eps);
    add(ELEMENTWISE, start);
}
static void t_rmsnorm_backward(struct stream *s, const struct rmsnorm_backward_args *args) {
    double start = clock_seconds();
    profile.inner->rmsnorm_backward(s, args);
    add(ELEMENTWISE, start);
}
static void t_rope(struct stream *s, const struct rope_args *args) {
    double start = clock_seconds();
    profile.inner->rope(s, args);
    add(ELEMENTWISE, start);
}
static void t_add(struct stream *s, void *y, const void *a, const void *b, int64_t n) {
    double start = clock_seconds();
    profile.inner->add(s, y, a, b, n);
    add(ELEMENTWISE, start);
}
static void t_scale(struct stream *s, void *y, float scale, int64_t n) {
    double start = clock_seconds();
    profile.inner->scale(s, y, scale, n);
    add(ELEMENTWISE, start);
}
static void t_swiglu_forward(struct stream *s, void *y, const void *gate, const void *up,
                             int64_t n) {
    double start = clock_seconds();
    profile.inner->swiglu_forward(s, y, gate, up, n);
    add(ELEMENTWISE, start);
}
static void t_swiglu_backward(struct stream *s, void *dgate, void *dup, const void *dy,
                              const void *gate, const void *up, int64_t n) {
    double start = clock_seconds();
    profile.inner->swiglu_backward(s, dgate, dup, dy, gate, up, n);
    add(ELEMENTWISE, start);
}
static void t_embedding_forward(struct stream *s, void *y, const int32_t *tokens,
                                const struct weight *w, int64_t first, int64_t vocab,
                                int64_t count) {
    double start = clock_seconds();
    profile.inner->embedding_forward(s, y, tokens, w, first, vocab, count);
    add(ELEMENTWISE, start);
}
static void t_embedding_backward(struct stream *s, const struct weight *dw, const int32_t *tokens,
                                 const void *dy, int64_t first, int64_t count) {
    double start = clock_seconds();
    profile.inner->embedding_backward(s, dw, tokens, dy, first, count);
    add(ELEMENTWISE, start);
}
static void t_loss_forward(struct stream *s, struct cross_entropy_row *rows, const float *logits,
                           const int32_t *targets, int64_t first, int64_t tokens, int64_t vocab) {
    double start = clock_seconds();
    profile.inner->cross_entropy_forward(s, rows, logits, targets, first, tokens, vocab);
    add(LOSS, start);
}
static void t_loss_backward(struct stream *s, void *dlogits, const float *logits,
                            const struct cross_entropy_row *rows, const int32_t *targets,
                            const float *weight, int64_t first, int64_t tokens, int64_t vocab) {
    double start = clock_seconds();
    profile.inner->cross_entropy_backward(s, dlogits, logits, rows, targets, weight, first, tokens,
                                          vocab);
    add(LOSS, start);
}

static struct kernels timed(const struct kernels *inner) {
    profile.inner = inner;
    struct kernels table = *inner;
    table.matmul_forward = t_matmul_forward;
    table.matmul_backward_input = t_matmul_input;
    table.matmul_backward_weight = t_matmul_weight;
    table.attention_forward = t_attention_forward;
    table.attention_backward = t_attention_backward;
    table.rmsnorm_forward = t_rmsnorm_forward;
    table.rmsnorm_backward = t_rmsnorm_backward;
    table.rope = t_rope;
    table.add = t_add;
    table.scale = t_scale;
    table.swiglu_forward = t_swiglu_forward;
    table.swiglu_backward = t_swiglu_backward;
    table.embedding_forward = t_embedding_forward;
    table.embedding_backward = t_embedding_backward;
    table.cross_entropy_forward = t_loss_forward;
    table.cross_entropy_backward = t_loss_backward;
    return table;
}

/* --- the run ---------------------------------------------------------------------------------- */

struct options {
    int64_t layers, hidden, heads, kv_heads, ffn, vocab, batch, context, threads, steps, warmup,
        rank;
    const char *table;
    bool lora, bf16, nf4;
};

struct bench {
    struct options o;
    struct model model;
    struct adapter adapter;
    const struct adapter *trained;
    struct kernels kernels;
    struct workspace ws;
    struct param **params;
    int param_count;
    struct comm self;
    struct dp dp;
    struct optimizer optimizer;
    struct sharded_weights sharded; /* none: weights are whole */
    struct arena gradients, state;
    struct packed_batch packed;
    struct adapter_span span;
    void *d_hidden;
};

static struct options parse(int argc, char **argv) {
    struct options o = {12, 768, 12, 12, 3072,   32000, 4,     256,
                        0,  5,   2,  16, "auto", false, false, false};
    const struct {
        const char *name;
        int64_t *value;
    } rows[] = {{"--layers", &o.layers},     {"--hidden", &o.hidden},   {"--heads", &o.heads},
                {"--kv-heads", &o.kv_heads}, {"--ffn", &o.ffn},         {"--vocab", &o.vocab},
                {"--batch", &o.batch},       {"--context", &o.context}, {"--threads", &o.threads},
                {"--steps", &o.steps},       {"--warmup", &o.warmup},   {"--lora-rank", &o.rank}};
    for (int i = 1; i < argc; i++) {
        bool known = true, last = i + 1 == argc;
        size_t row = 0, count = sizeof rows / sizeof *rows;
        while (row < count && strcmp(argv[i], rows[row].name) != 0) row++;
        if (row < count && !last)
            *rows[row].value = atoll(argv[++i]);
        else if (strcmp(argv[i], "--table") == 0 && !last)
            o.table = argv[++i];
        else if (strcmp(argv[i], "--lora") == 0)
            o.lora = true;
        else if (strcmp(argv[i], "--bf16") == 0)
            o.bf16 = true;
        else if (strcmp(argv[i], "--nf4") == 0)
            o.nf4 = true;
        else
            known = false;
        if (known) continue;
        fprintf(stderr, "bench_train: unknown argument %s\n", argv[i]);
        exit(2);
    }
    return o;
}

static void open_model(struct bench *b) {
    const struct options *o = &b->o;
    struct model_config config = {.family = FAMILY_LLAMA,
                                  .vocab = o->vocab,
                                  .hidden = o->hidden,
                                  .ffn = o->ffn,
                                  .layers = (int)o->layers,
                                  .heads = (int)o->heads,
                                  .kv_heads = (int)o->kv_heads,
                                  .head_dim = (int)(o->hidden / o->heads),
                                  .norm_eps = 1e-5f,
                                  .max_context = o->context,
                                  .rope = {.theta = 10000.0}};
    check(model_create(&b->model, &config, NULL,
                       o->nf4    ? LAYOUT_NF4
                       : o->bf16 ? LAYOUT_PANEL_BF16
                                 : LAYOUT_PANEL_F32));
    model_init_random(&b->model, 1, 0.02f, 1);
    if (!o->lora) return;
    struct adapter_config lora = {.rank = (int)o->rank, .alpha = 2.0 * (double)o->rank};
    lora.targets[WEIGHT_Q] = lora.targets[WEIGHT_K] = true;
    lora.targets[WEIGHT_V] = lora.targets[WEIGHT_O] = true;
    check(adapter_create(&b->adapter, "adapter", &b->model, &lora, 1));
    b->trained = &b->adapter;
}

static void list_params(struct bench *b) {
    struct param *params = b->trained ? b->adapter.params : b->model.params;
    int count = b->trained ? b->adapter.param_count : b->model.param_count;
    b->params = calloc((size_t)count, sizeof *b->params);
    for (int i = 0; b->params && i < count; i++)
        if (params[i].w.data) b->params[b->param_count++] = &params[i];
}

static void open_memory(struct bench *b) {
    const struct options *o = &b->o;
    const struct kernels *kernels;
    int64_t tokens = o->batch * o->context;
    check(kernels_cpu(&kernels, o->table, o->bf16 ? DTYPE_BF16 : DTYPE_F32));
    b->kernels = timed(kernels);
    const struct workspace_plan plan = {.tokens = tokens,
                                        .logit_rows = 1,
                                        .keep = ACTS_ALL,
                                        .backward = true,
                                        .adapter = b->trained};
    check(workspace_open(&b->ws, &b->model, &b->kernels, (int)o->threads, NULL, &plan));
    comm_open_self(&b->self, "world");
    list_params(b);
    for (int counting = 1; counting >= 0; counting--) {
        struct arena counted[2], *gradients = counting ? &counted[0] : &b->gradients;
        struct arena *state = counting ? &counted[1] : &b->state;
        if (counting) arena_count(gradients, "gradients");
        if (counting) arena_count(state, "optimizer");
        const struct dp_options buckets = {.comm = &b->self,
                                           .stream = &b->ws.stream,
                                           .layers = b->model.config.layers,
                                           .bucket_bytes = DP_BUCKET_BYTES,
                                           .tied = b->model.config.tied};
        check(dp_plan(&b->dp, &buckets, b->params, b->param_count, gradients));
        const struct optimizer_options options = {
            .dp = &b->dp, .sharded = &b->sharded, .params = b->params, .count = b->param_count};
        check(optimizer_plan(&b->optimizer, &options, state));
        if (!counting) continue;
        dp_free(&b->dp);
        optimizer_free(&b->optimizer);
        check(arena_create(&b->gradients, "gradients", gradients->peak));
        check(arena_create(&b->state, "optimizer", state->peak));
    }
    optimizer_start(&b->optimizer, &b->ws.stream);
    b->d_hidden = aligned_alloc(64, (size_t)(tokens * o->hidden) * sizeof(float));
    if (!b->d_hidden) exit(1);
}

/* Another batch of random tokens each step. */
static void fill_batch(struct bench *b, uint32_t *random) {
    const struct options *o = &b->o;
    int32_t *ids = malloc((size_t)o->context * sizeof *ids);
    if (!ids) exit(1);
    packed_batch_clear(&b->packed);
    for (int64_t s = 0; s < o->batch; s++) {
        for (int64_t i = 0; i < o->context; i++) {
            *random = *random * 1664525u + 1013904223u;
            ids[i] = (int32_t)((*random >> 8) % (uint32_t)o->vocab);
        }
        packed_batch_add(&b->packed, ids, o->context, 1.0f / (float)(o->batch * (o->context - 1)));
    }
    free(ids);
    b->span = (struct adapter_span){0, b->packed.batch.tokens, b->trained};
    b->packed.batch.spans = &b->span;
    b->packed.batch.span_count = b->trained ? 1 : 0;
    b->packed.batch.training = true;
}

static double run_step(struct bench *b, int64_t step) {
    double loss = 0.0;
    const struct batch *batch = &b->packed.batch;
    double start = clock_seconds();
    dp_zero(&b->dp);
    add(OPTIMIZER, start);
    stage_forward(&b->ws.exec, &b->model, batch, &b->ws.acts);
    head_loss(&b->ws.exec, &b->model, batch, b->ws.acts.hidden, b->d_hidden, &loss, NULL);
    stage_backward(&b->ws.exec, &b->model, batch, &b->ws.acts, b->d_hidden, dp_layer_done, &b->dp);
    dp_finish(&b->dp);
    start = clock_seconds();
    double norm = sqrt(optimizer_square_sum(&b->optimizer, &b->ws.exec));
    const struct optimizer_step update = {.lr = 1e-4,
                                          .beta1 = 0.9,
                                          .beta2 = 0.95,
                                          .eps = 1e-8,
                                          .weight_decay = 0.1,
                                          .step = step + 1,
                                          .grad_scale = norm > 1.0 ? (float)(1.0 / norm) : 1.0f};
    optimizer_update(&b->optimizer, &b->ws.exec, &update);
    add(OPTIMIZER, start);
    check(stream_check(&b->ws.stream));
    return loss;
}

/* --- the report ------------------------------------------------------------------------------- */

struct sample {
    double seconds, cpu, loss, matmul_flops, kinds[KINDS];
};

static int by_seconds(const void *a, const void *b) {
    double x = ((const struct sample *)a)->seconds, y = ((const struct sample *)b)->seconds;
    return (x > y) - (x < y);
}

static int64_t trained_parameters(const struct bench *b) {
    int64_t count = 0;
    for (int i = 0; i < b->param_count; i++) count += b->params[i]->w.rows * b->params[i]->w.cols;
    return count;
}

static void report(const struct bench *b, struct sample *samples, double peak) {
    const struct options *o = &b->o;
    double first = samples[0].loss, last = samples[o->steps - 1].loss;
    qsort(samples, (size_t)o->steps, sizeof *samples, by_seconds);
    const struct sample *median = &samples[o->steps / 2];
    double rate = (double)(o->batch * o->context) / median->seconds, named = 0.0, products = 0.0;
    double flops =
        rate * model_config_training_flops(&b->model.config, o->context, b->trained != NULL);
    for (int k = MATMUL_FORWARD; k <= MATMUL_WEIGHT; k++) products += median->kinds[k];
    printf("{\"variant\":\"%s%s%s\",\"tokens_per_s\":%.1f,\"median_s\":%.4f,\"fastest_s\":%.4f,"
           "\"slowest_s\":%.4f,\"gflops\":%.1f,\"peak_gflops\":%.1f,\"fma_ratio\":%.3f,"
           "\"matmul_ratio\":%.3f,\"cpu_share\":%.2f,\"seconds\":{",
           o->lora ? "lora" : "full", o->bf16 ? "_bf16" : "", o->nf4 ? "_nf4" : "", rate,
           median->seconds, samples[0].seconds, samples[o->steps - 1].seconds, flops * 1e-9,
           peak * 1e-9, flops / peak, median->matmul_flops / products / peak,
           median->cpu / median->seconds / b->ws.stream.threads);
    for (int k = 0; k < KINDS; k++) {
        printf("\"%s\":%.4f,", kind_names[k], median->kinds[k]);
        named += median->kinds[k];
    }
    printf("\"other\":%.4f},\"step_seconds\":[", median->seconds - named);
    for (int64_t i = 0; i < o->steps; i++) printf("%s%.4f", i ? "," : "", samples[i].seconds);
    printf("],\"parameters\":%lld,\"trained\":%lld,",
           (long long)model_config_parameters(&b->model.config), (long long)trained_parameters(b));
    printf("\"steps\":%lld,\"first_loss\":%.4f,\"last_loss\":%.4f,"
           "\"shape\":\"L%lld C%lld H%lld F%lld V%lld B%lld T%lld\",\"threads\":%d,"
           "\"instructions\":\"%s\"}\n",
           (long long)o->steps, first, last, (long long)o->layers, (long long)o->hidden,
           (long long)o->heads, (long long)o->ffn, (long long)o->vocab, (long long)o->batch,
           (long long)o->context, b->ws.stream.threads, b->kernels.name);
}

int main(int argc, char **argv) {
    static struct bench b;
    uint32_t random = 1;
    b.o = parse(argc, argv);
    if (b.o.steps < 1 || b.o.context < 2) return 2;
    open_model(&b);
    open_memory(&b);
    check(packed_batch_create(&b.packed, b.o.batch * b.o.context, (int32_t)b.o.batch));
    struct sample *samples = calloc((size_t)b.o.steps, sizeof *samples);
    if (!samples) return 1;
    double peak = 0.0; /* measured between the steps: what else runs can only lower it */
    for (int64_t step = 0; step < b.o.warmup + b.o.steps; step++) {
        struct sample sample = {0};
        double burst = b.kernels.peak_fma(b.ws.stream.threads);
        if (burst > peak) peak = burst;
        fill_batch(&b, &random);
        memset(profile.seconds, 0, sizeof profile.seconds);
        profile.matmul_flops = 0.0;
        double start = clock_seconds(), cpu = cpu_seconds();
        sample.loss = run_step(&b, step);
        sample.seconds = clock_seconds() - start;
        sample.cpu = cpu_seconds() - cpu;
        sample.matmul_flops = profile.matmul_flops;
        memcpy(sample.kinds, profile.seconds, sizeof sample.kinds);
        if (step >= b.o.warmup) samples[step - b.o.warmup] = sample;
    }
    report(&b, samples, peak);
    return 0;
}
