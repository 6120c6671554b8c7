#include "train/options.h"

#include "parallel/schedule.h"

#include <string.h>

#define FIELD(type, name) offsetof(struct type, name)
#define ROWS(rows) (int)(sizeof(rows) / sizeof *(rows))

static const char *const dtype_words[] = {"fp32", "bf16", NULL};
static const char *const weights_words[] = {"auto", "fp32", "bf16", "nf4", "stored", NULL};
static const char *const mode_words[] = {"full", "lora", NULL};
static const char *const schedule_words[] = {"cosine", "wsd", "linear", "constant", NULL};
const char *const train_recompute_words[] = {"none", "selective", "full", NULL};
const char *const train_optimizer_words[] = {"adamw", "adamw8bit", NULL};
const char *const train_offload_words[] = {"none", "optimizer", NULL};
static const char *const nonfinite_words[] = {"stop", "skip", NULL};
static const char *const backend_words[] = {"auto", "mpi", "nccl", NULL};
static const char *const zero_words[] = {"0", "1", "2", "3", "auto", NULL};
static const char *const resume_words[] = {"auto", "never", NULL};

static const struct config_row model_rows[] = {
    {"path", CONFIG_STRING, FIELD(model_options, path), "",
     .help =
         "weights to start from: a directory, .safetensors or .gguf; empty starts from random weights"},
    {"config", CONFIG_STRING, FIELD(model_options, config), "",
     .help = "config.json of a model that starts from random weights"},
    {"tokenizer", CONFIG_STRING, FIELD(model_options, tokenizer), "",
     .help = "tokenizer that made the token files; empty looks beside the model"},
    {"dtype", CONFIG_ENUM, FIELD(model_options, dtype), "fp32", .words = dtype_words,
     .help = "weights and activations; bf16 keeps fp32 master weights"},
    {"weights", CONFIG_ENUM, FIELD(model_options, weights), "auto", .words = weights_words,
     .help =
         "what a frozen base (train.mode lora) is kept in: auto (as dtype), fp32, bf16, nf4 (QLoRA) or stored (a "
         "file's quantized blocks as they are)"},
    {"init_std", CONFIG_DOUBLE, FIELD(model_options, init_std), "0.02", .low = 1e-6, .high = 1,
     .help = "standard deviation of random weights"},
};

static const struct config_row train_rows[] = {
    {"out", CONFIG_STRING, FIELD(train_options, out), NULL,
     .help = "directory of the run: checkpoints, metrics, results"},
    {"mode", CONFIG_ENUM, FIELD(train_options, mode), "full", .words = mode_words,
     .help = "train all weights, or a LoRA adapter"},
    {"steps", CONFIG_INT, FIELD(train_options, steps), "0", .low = 0, .high = 1e9,
     .help = "optimizer steps; 0 counts them from train.epochs"},
    {"epochs", CONFIG_DOUBLE, FIELD(train_options, epochs), "1", .low = 1e-6, .high = 1e6,
     .help = "passes over the data, where train.steps is 0"},
    {"global_batch", CONFIG_INT, FIELD(train_options, global_batch), "8", .low = 1, .high = 1e7,
     .help = "sequences of an optimizer step, over all ranks"},
    {"micro_batch", CONFIG_INT, FIELD(train_options, micro_batch), "0", .low = 0, .high = 1e6,
     .help = "sequences that a rank runs at once; 0 runs its whole share; accumulation follows"},
    {"lr", CONFIG_DOUBLE, FIELD(train_options, lr), "1e-4", .low = 0, .high = 10,
     .help = "peak learning rate"},
    {"min_lr", CONFIG_DOUBLE, FIELD(train_options, min_lr), "0", .low = 0, .high = 10,
     .help = "learning rate that cosine, wsd and linear fall to"},
    {"schedule", CONFIG_ENUM, FIELD(train_options, schedule), "cosine", .words = schedule_words,
     .help = "learning rate after the warm-up"},
    {"warmup", CONFIG_INT, FIELD(train_options, warmup), "0", .low = 0, .high = 1e9,
     .help = "steps of linear warm-up"},
    {"decay_fraction", CONFIG_DOUBLE, FIELD(train_options, decay_fraction), "0.2", .low = 0,
     .high = 1, .help = "wsd: the last part of the run, in which the rate falls"},
    {"optimizer", CONFIG_ENUM, FIELD(train_options, optimizer), "adamw",
     .words = train_optimizer_words,
     .help = "adamw, or adamw8bit: moments of large matrices in 8 bits, a quarter of the memory"},
    {"offload", CONFIG_ENUM, FIELD(train_options, offload), "none", .words = train_offload_words,
     .help =
         "optimizer: its state lies in the host's memory, and passes through two small buffers; "
         "needs parallel.sync_every 1"},
    {"offload_path", CONFIG_STRING, FIELD(train_options, offload_path), "",
     .help = "with train.offload: a directory; the state lies in a file there, not in memory"},
    {"beta1", CONFIG_DOUBLE, FIELD(train_options, beta1), "0.9", .low = 0, .high = 0.99999,
     .help = "AdamW"},
    {"beta2", CONFIG_DOUBLE, FIELD(train_options, beta2), "0.95", .low = 0, .high = 0.999999,
     .help = "AdamW"},
    {"eps", CONFIG_DOUBLE, FIELD(train_options, eps), "1e-8", .low = 1e-20, .high = 1,
     .help = "AdamW"},
    {"weight_decay", CONFIG_DOUBLE, FIELD(train_options, weight_decay), "0.1", .low = 0, .high = 10,
     .help = "AdamW, on matrices; norms and biases have none"},
    {"clip", CONFIG_DOUBLE, FIELD(train_options, clip), "1", .low = 0, .high = 1e9,
     .help = "largest global gradient norm; 0 never clips"},
    {"on_nonfinite", CONFIG_ENUM, FIELD(train_options, on_nonfinite), "stop",
     .words = nonfinite_words,
     .help = "a loss or gradient that isn't finite: end the run, or skip the optimizer step"},
    {"spike_factor", CONFIG_DOUBLE, FIELD(train_options, spike_factor), "0", .low = 0, .high = 1e9,
     .help = "skip a step whose gradient norm is above this many medians of the last 64 norms; 0 "
             "skips none"},
    {"max_skipped", CONFIG_INT, FIELD(train_options, max_skipped), "10", .low = 1, .high = 1e9,
     .help = "steps that may be skipped in a row; one more ends the run"},
    {"rewind_after", CONFIG_INT, FIELD(train_options, rewind_after), "0", .low = 0, .high = 1e6,
     .help = "when the loss was too high for so many steps, go back to the checkpoint before them "
             "and leave their data out; 0 never does"},
    {"rewind_factor", CONFIG_DOUBLE, FIELD(train_options, rewind_factor), "1.5", .low = 1,
     .high = 1e6, .help = "a loss above this many medians of the last 64 is too high"},
    {"recompute", CONFIG_ENUM, FIELD(train_options, recompute), "none",
     .words = train_recompute_words,
     .help =
         "activations: keep them; selective makes the feed-forward's gate and up, and normed and "
         "rotated heads, again; full keeps each layer's input alone"},
    {"seed", CONFIG_INT, FIELD(train_options, seed), "1", .low = 0, .high = 1e15,
     .help = "of weights and dropout"},
    {"log_every", CONFIG_INT, FIELD(train_options, log_every), "1", .low = 1, .high = 1e9,
     .help = "steps between log lines"},
    {"tensorboard", CONFIG_BOOL, FIELD(train_options, tensorboard), "true",
     .help = "write event files for TensorBoard into train.out/tensorboard"},
    {"trace_step", CONFIG_INT, FIELD(train_options, trace_step), "0", .low = 0, .high = 1e9,
     .help = "write what every rank did in this step, and when, to train.out/trace-step-N.json; "
             "0 = none"},
    {"slow_rank_every", CONFIG_INT, FIELD(train_options, slow_rank_every), "50", .low = 0,
     .high = 1e9,
     .help = "steps between comparisons of how long ranks computed; one that stays 10% above the "
             "median is named in a warning; 0 never compares"},
    {"validate_every", CONFIG_INT, FIELD(train_options, validate_every), "0", .low = 0, .high = 1e9,
     .help = "steps between validations; 0 validates at the end alone"},
    {"checkpoint_every", CONFIG_INT, FIELD(train_options, checkpoint_every), "0", .low = -1,
     .high = 1e9,
     .help =
         "steps between checkpoints; 0 writes one at the end, -1 none unless a signal stops the "
         "run or a validation is the best so far"},
    {"checkpoint_async", CONFIG_BOOL, FIELD(train_options, checkpoint_async), "true",
     .help =
         "train on while a checkpoint is written: a step waits for a copy of what is saved, for "
         "which a rank keeps memory; where that is not there, and at the end, for the disk"},
    {"keep", CONFIG_INT, FIELD(train_options, keep), "2", .low = 1, .high = 1e6,
     .help = "checkpoints to keep, besides the best"},
    {"resume", CONFIG_ENUM, FIELD(train_options, resume), "auto", .words = resume_words,
     .help = "go on from the newest checkpoint in train.out, or never"},
    {"threads", CONFIG_INT, FIELD(train_options, threads), "0", .low = 0, .high = 4096,
     .help =
         "CPU threads of a rank; 0 takes its share of the cores; more than its share of the CPUs "
         "needs OMP_WAIT_POLICY=passive in the environment"},
    {"instructions", CONFIG_STRING, FIELD(train_options, instructions), "auto",
     .help = "op table: auto, avx512_bf16, avx512, avx2 or reference"},
    {"export", CONFIG_BOOL, FIELD(train_options, export_model), "true",
     .help =
         "write the result for others at the end: a PEFT adapter, or safetensors with config and tokenizer"},
};

static const struct config_row lora_rows[] = {
    {"rank", CONFIG_INT, FIELD(lora_options, rank), "16", .low = 1, .high = 4096,
     .help = "R of the factors A (R, in) and B (out, R)"},
    {"alpha", CONFIG_DOUBLE, FIELD(lora_options, alpha), "32", .low = 0, .high = 1e6,
     .help = "scale is alpha / rank"},
    {"dropout", CONFIG_DOUBLE, FIELD(lora_options, dropout), "0", .low = 0, .high = 0.99,
     .help = "on the adapter's input"},
    {"rslora", CONFIG_BOOL, FIELD(lora_options, rslora), "false",
     .help = "scale is alpha / sqrt(rank)"},
    {"targets", CONFIG_LIST, FIELD(lora_options, targets),
     "[q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]",
     .help = "modules that get an adapter"},
    {"init_from", CONFIG_STRING, FIELD(lora_options, init_from), "",
     .help = "a PEFT directory to start from; its settings replace those above"},
};

static const struct config_row parallel_rows[] = {
    {"tp", CONFIG_INT, FIELD(parallel_options, tp), "1", .low = 1, .high = 1024,
     .help = "tensor parallel: ranks that share each layer"},
    {"cp", CONFIG_INT, FIELD(parallel_options, cp), "1", .low = 1, .high = 1024,
     .help =
         "context parallel: ranks that share the tokens of each microbatch, for long sequences; "
         "keys and values go round among them"},
    {"dp", CONFIG_INT, FIELD(parallel_options, dp), "0", .low = 0, .high = 1e6,
     .help =
         "data parallel: replicas, each with its share of the batch; 0 takes the ranks that the "
         "others leave"},
    {"pp", CONFIG_INT, FIELD(parallel_options, pp), "1", .low = 1, .high = 512,
     .help = "pipeline parallel: stages of layers"},
    {"order", CONFIG_STRING, FIELD(parallel_options, order), "tp-cp-dp-pp",
     .help = "which ranks are neighbours, and so on one node: the first axis's"},
    {"backend", CONFIG_ENUM, FIELD(parallel_options, backend), "auto", .words = backend_words,
     .help = "what moves tensors between ranks: auto takes nccl on GPUs and mpi on CPUs"},
    {"watchdog", CONFIG_DOUBLE, FIELD(parallel_options, watchdog), "600", .low = 0, .high = 1e6,
     .help = "seconds that one collective may take: then the job ends, and a line names the rank "
             "that holds it up; 0 waits for ever"},
    {"sequence", CONFIG_BOOL, FIELD(parallel_options, sequence), "true",
     .help =
         "where tp is above 1: sequence parallel, its ranks split the tokens between the products "
         "of a layer; the same result with less memory"},
    {"schedule", CONFIG_ENUM, FIELD(parallel_options, schedule), "1f1b",
     .words = pipeline_schedule_words,
     .help =
         "order of the microbatches in a pipeline; zb-h1 leaves gradients of weights for when a "
         "stage would wait"},
    {"chunks", CONFIG_INT, FIELD(parallel_options, chunks), "1", .low = 1, .high = SHARD_MAX_RUNS,
     .help = "runs of layers that a stage holds, with schedule interleaved"},
    {"layers", CONFIG_LIST, FIELD(parallel_options, layers), "",
     .help = "layers of each part of the pipeline, pp * chunks numbers in the model's order; empty "
             "balances them by cost"},
    {"zero", CONFIG_ENUM, FIELD(parallel_options, zero), "auto", .words = zero_words,
     .help =
         "what replicas share instead of each having all of it: 0 nothing, 1 optimizer state, 2 "
         "gradients too, 3 weights too; auto is 1 where replicas sum gradients in every step"},
    {"sync_every", CONFIG_INT, FIELD(parallel_options, sync_every), "1", .low = 1, .high = 1e6,
     .help =
         "for slow links: replicas take so many steps alone, then one outer step over their mean "
         "(DiLoCo); 1 sums gradients in every step"},
    {"outer_lr", CONFIG_DOUBLE, FIELD(parallel_options, outer_lr), "0.7", .low = 0, .high = 10,
     .help = "learning rate of the outer step, where sync_every is above 1"},
    {"outer_momentum", CONFIG_DOUBLE, FIELD(parallel_options, outer_momentum), "0.9", .low = 0,
     .high = 0.9999, .help = "Nesterov momentum of the outer step"},
};

void run_options_tables(struct run_options *options, struct config_table tables[RUN_TABLES]) {
    tables[0] = (struct config_table){"model", model_rows, ROWS(model_rows), &options->model};
    tables[1] = (struct config_table){"data", loader_rows, loader_row_count, &options->data};
    tables[2] = (struct config_table){"train", train_rows, ROWS(train_rows), &options->train};
    tables[3] = (struct config_table){"lora", lora_rows, ROWS(lora_rows), &options->lora};
    tables[4] =
        (struct config_table){"parallel", parallel_rows, ROWS(parallel_rows), &options->parallel};
}

static enum status check_rewind(const struct train_options *train) {
    if (train->rewind_after == 0) return STATUS_OK;
    if (train->checkpoint_every <= 0)
        return status_fail(STATUS_CONFIG, "train.rewind_after needs train.checkpoint_every");
    if ((double)(train->keep - 1) * (double)train->checkpoint_every >= (double)train->rewind_after)
        return STATUS_OK;
    return status_fail(STATUS_CONFIG,
                       "train.keep %lld with train.checkpoint_every %lld keeps no checkpoint older "
                       "than train.rewind_after %lld steps: raise train.keep",
                       (long long)train->keep, (long long)train->checkpoint_every,
                       (long long)train->rewind_after);
}

static enum status check_offload(const struct run_options *options) {
    bool offloads = options->train.offload != OFFLOAD_NONE;
    if (*options->train.offload_path && !offloads)
        return status_fail(STATUS_CONFIG, "train.offload_path needs train.offload optimizer");
    if (offloads && options->parallel.sync_every > 1)
        return status_fail(STATUS_CONFIG,
                           "parallel.sync_every %lld needs train.offload none: replicas that train "
                           "alone sum the state itself",
                           (long long)options->parallel.sync_every);
    return STATUS_OK;
}

enum status run_options_check(const struct run_options *options) {
    const struct train_options *train = &options->train;
    bool has_path = *options->model.path, has_config = *options->model.config;
    if (!*train->out) return status_fail(STATUS_CONFIG, "train.out is empty: name a directory");
    if (has_path == has_config)
        return status_fail(STATUS_CONFIG,
                           "exactly one of model.path (trained weights) and model.config (random "
                           "weights) must be given");
    if (train->mode == TRAIN_LORA && !has_path)
        return status_fail(STATUS_CONFIG, "train.mode lora needs model.path: an adapter on random "
                                          "weights learns nothing");
    if (train->mode != TRAIN_LORA && options->model.weights != WEIGHTS_AUTO)
        return status_fail(STATUS_CONFIG,
                           "model.weights %s is for a frozen base: it needs "
                           "train.mode lora",
                           weights_words[options->model.weights]);
    if (options->data.train.count == 0)
        return status_fail(STATUS_CONFIG, "data.train names no token file");
    if (train->validate_every > 0 && options->data.validation.count == 0)
        return status_fail(STATUS_CONFIG, "train.validate_every needs data.validation");
    const struct parallel_options *parallel = &options->parallel;
    if (parallel->chunks > 1 && parallel->schedule != PIPELINE_INTERLEAVED)
        return status_fail(STATUS_CONFIG,
                           "parallel.chunks %lld needs parallel.schedule interleaved",
                           (long long)parallel->chunks);
    TRY(check_rewind(train));
    if (parallel->pp > 1 && parallel->schedule == PIPELINE_ZB_H1 &&
        train->recompute == RECOMPUTE_FULL)
        return status_fail(
            STATUS_CONFIG,
            "parallel.schedule zb-h1 keeps activations for gradients of weights that "
            "come later: train.recompute must be none or selective");
    TRY(check_offload(options));
    if (options->parallel.sync_every > 1 && options->parallel.zero > 0 &&
        options->parallel.zero != ZERO_AUTO)
        return status_fail(STATUS_CONFIG,
                           "parallel.sync_every %lld needs parallel.zero 0: replicas that train "
                           "alone share nothing",
                           (long long)options->parallel.sync_every);
    if (train->min_lr > train->lr)
        return status_fail(STATUS_CONFIG, "train.min_lr %g is above train.lr %g", train->min_lr,
                           train->lr);
    return STATUS_OK;
}

int run_options_zero(const struct run_options *options, int ranks) {
    const struct parallel_options *o = &options->parallel;
    if (o->zero != ZERO_AUTO) return o->zero;
    return ranks / (o->tp * o->pp) > 1 && o->sync_every == 1 ? 1 : 0;
}

enum status run_options_adapter(const struct lora_options *options, struct adapter_config *config) {
    *config = (struct adapter_config){.rank = (int)options->rank,
                                      .alpha = options->alpha,
                                      .dropout = options->dropout,
                                      .rslora = options->rslora};
    if (options->targets.count == 0)
        return status_fail(STATUS_CONFIG, "lora.targets names no module");
    for (int64_t i = 0; i < options->targets.count; i++) {
        enum weight_id id = weight_find_module(options->targets.items[i]);
        if (id == WEIGHT_NONE || !weight_table[id].lora_target)
            return status_fail(STATUS_CONFIG,
                               "lora.targets: '%s' is not one of q_proj, k_proj, v_proj, o_proj, "
                               "gate_proj, up_proj, down_proj",
                               options->targets.items[i]);
        config->targets[id] = true;
    }
    return STATUS_OK;
}
