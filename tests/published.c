#include "tests/published.h"

#include <string.h>

#define MEGATRON "Megatron-LM, H100"
#define SC21 "Megatron-LM, A100"
#define LLAMA "Llama 3 405B"

/* TFLOP/s a GPU over the peak of bf16 without sparsity. */
#define H100(tflops) ((tflops) / 989.4)
#define A100(tflops) ((tflops) / 312.0)

/* Megatron-LM's README (github.com/NVIDIA/Megatron-LM, sizes 1.7B to 462B); Narayanan et al.,
 * arXiv:2104.04473, table 1; Grattafiori et al., arXiv:2407.21783, table 4. */
const struct published_run published_runs[] = {
    {MEGATRON, "1.7B", "h100", 2048, 24, 16, 1, 1, 1, 48, 4096, 192, 1, 1, H100(408.8)},
    {MEGATRON, "7.1B", "h100", 4096, 30, 32, 2, 1, 1, 48, 4096, 192, 1, 1, H100(465.9)},
    {MEGATRON, "16B", "h100", 6144, 32, 48, 4, 1, 1, 48, 4096, 192, 1, 1, H100(489.1)},
    {MEGATRON, "32B", "h100", 7168, 48, 56, 8, 1, 1, 48, 4096, 192, 1, 1, H100(459.6)},
    {MEGATRON, "70B", "h100", 8192, 84, 64, 8, 1, 2, 48, 4096, 384, 1, 3, H100(419.7)},
    {MEGATRON, "119B", "h100", 10240, 92, 80, 8, 1, 4, 48, 4096, 768, 1, 1, H100(420.5)},
    {MEGATRON, "177B", "h100", 12288, 96, 96, 8, 1, 6, 48, 4096, 1152, 1, 8, H100(432.8)},
    {MEGATRON, "314B", "h100", 16384, 96, 128, 8, 1, 8, 48, 4096, 1536, 1, 6, H100(474.4)},
    {MEGATRON, "462B", "h100", 18432, 112, 144, 8, 1, 16, 48, 4096, 3072, 1, 7, H100(459.9)},
    {SC21, "1.7B", "a100", 2304, 24, 24, 1, 1, 1, 32, 2048, 512, 16, 1, A100(137)},
    {SC21, "3.6B", "a100", 3072, 30, 32, 2, 1, 1, 32, 2048, 512, 8, 1, A100(138)},
    {SC21, "7.5B", "a100", 4096, 36, 32, 4, 1, 1, 32, 2048, 512, 8, 1, A100(142)},
    {SC21, "18B", "a100", 6144, 40, 48, 8, 1, 1, 32, 2048, 1024, 4, 1, A100(135)},
    {SC21, "39B", "a100", 8192, 48, 64, 8, 1, 2, 32, 2048, 1536, 4, 1, A100(138)},
    {SC21, "76B", "a100", 10240, 60, 80, 8, 1, 4, 32, 2048, 1792, 2, 1, A100(140)},
    {SC21, "146B", "a100", 12288, 80, 96, 8, 1, 8, 24, 2048, 2304, 2, 2, A100(148)},
    {SC21, "310B", "a100", 16384, 96, 128, 8, 1, 16, 15, 2048, 2160, 1, 2, A100(155)},
    {SC21, "530B", "a100", 20480, 105, 128, 8, 1, 35, 9, 2048, 2520, 1, 1, A100(163)},
    {SC21, "1T", "a100", 25600, 128, 160, 8, 1, 64, 6, 2048, 3072, 1, 1, A100(163)},
    {LLAMA, "8,192 GPUs", "h100", 16384, 126, 128, 8, 1, 16, 64, 8192, 2048, 1, 4, 0.43},
    {LLAMA, "16,384 GPUs", "h100", 16384, 126, 128, 8, 1, 16, 128, 8192, 2048, 1, 4, 0.41},
    {LLAMA, "cp 16", "h100", 16384, 126, 128, 8, 16, 16, 8, 131072, 128, 1, 4, 0.38},
};
const int published_run_count = sizeof published_runs / sizeof *published_runs;

static bool is(const struct published_run *run, const char *source) {
    return strcmp(run->source, source) == 0;
}

static void add(struct plan_model *model, double rows, double cols, enum weight_shard shard,
                double unit) {
    model->products[model->product_count++] =
        (struct plan_product){.rows = rows, .cols = cols, .row_unit = unit, .shard = shard};
}

/* Megatron's GPT: as many keys as queries, an MLP of two matrices. Llama: 8 key heads, three. */
static struct plan_model model_of(const struct published_run *run) {
    bool llama = is(run, LLAMA);
    double h = run->hidden, unit = h / run->heads, kv = llama ? 8.0 * unit : h;
    struct plan_model model = {.layers = run->layers,
                               .hidden = h,
                               .ffn = llama ? 53248.0 : 4.0 * h,
                               .vocab = llama           ? 128256.0
                                        : is(run, SC21) ? 51200.0
                                                        : 131072.0,
                               .q = h,
                               .kv = kv,
                               .heads = run->heads,
                               .gated = llama,
                               .tied = !llama};
    add(&model, h + 2.0 * kv, h, SHARD_ROWS, unit); /* one product for q, k and v */
    add(&model, h, h, SHARD_COLS, 1.0);
    add(&model, (llama ? 2.0 : 1.0) * model.ffn, h, SHARD_ROWS, 1.0);
    add(&model, h, model.ffn, SHARD_COLS, 1.0);
    return model;
}

/* SC21's equation 3, with and without the recomputed forward; Llama's 6 N and causal attention. */
static double flops_of(const struct published_run *run, const struct plan_model *m) {
    double tokens = (double)run->batch * run->length, s = run->length;
    if (is(run, LLAMA)) return tokens * plan_training_flops(m, s);
    double passes = is(run, SC21) ? 96.0 : 72.0, head = is(run, SC21) ? 16.0 : 12.0;
    return passes * tokens * m->layers * m->hidden * m->hidden *
           (1.0 + s / (6.0 * m->hidden) + m->vocab / (head * m->layers * m->hidden));
}

/* SC21 came before FlashAttention, sequence parallelism, the distributed optimizer and overlap. */
enum status published_predict(const struct published_run *run, const struct plan_device *device,
                              double *mfu) {
    bool early = is(run, SC21);
    struct plan_device used = *device;
    struct plan_habits habits = {.bf16 = true,
                                 .gradient_bytes = 4.0,
                                 .gathered_bytes = 2.0,
                                 .optimizer_bytes = 34.0,
                                 .clearing_bytes = 4.0,
                                 .gathers_hidden = true,
                                 .scores_stored = early};
    if (early) used.tensor_overlap = used.replica_overlap = 0.0;
    struct plan_layout layout = {.schedule = run->chunks > 1 ? PIPELINE_INTERLEAVED : PIPELINE_1F1B,
                                 .chunks = run->chunks,
                                 .zero = early ? 0 : 1,
                                 .sequence = !early,
                                 .recompute = early ? RECOMPUTE_FULL : RECOMPUTE_NONE,
                                 .length = run->length,
                                 .global_batch = run->batch,
                                 .micro_batch = run->micro_batch,
                                 .per_node = 8};
    const struct mesh_options degrees = {run->tp, run->cp, run->dp, run->pp, "tp-cp-dp-pp"};
    int ranks = run->tp * run->cp * run->dp * run->pp;
    TRY(mesh_create(&layout.mesh, ranks, &degrees));
    struct plan_model model = model_of(run);
    struct plan_time time;
    TRY(plan_time(&time, &used, &model, &habits, &layout));
    *mfu = flops_of(run, &model) / (time.seconds * ranks * plan_device_flops(device, true));
    return STATUS_OK;
}
