/* Everything a run file may say (docs/config.md lists it). One struct a prefix; the rows that give
 * names, defaults and bounds are in options.c. Strings are owned by the tables (config_free). */
#ifndef STRATA_TRAIN_OPTIONS_H
#define STRATA_TRAIN_OPTIONS_H

#include "core/adapter.h"
#include "core/config.h"
#include "data/loader.h"

struct model_options {
    char *path;      /* weights: a directory or file; "" to start from random weights */
    char *config;    /* config.json of a model to start from random weights */
    char *tokenizer; /* "" = beside the model */
    int dtype;       /* enum option_dtype */
    int weights;     /* enum option_weights */
    double init_std;
};

enum option_dtype { OPTION_FP32, OPTION_BF16 };
enum option_weights { WEIGHTS_AUTO, WEIGHTS_FP32, WEIGHTS_BF16, WEIGHTS_NF4, WEIGHTS_STORED };

enum train_mode { TRAIN_FULL, TRAIN_LORA };
enum train_schedule { SCHEDULE_COSINE, SCHEDULE_WSD, SCHEDULE_LINEAR, SCHEDULE_CONSTANT };
enum train_optimizer { OPTIMIZER_ADAMW, OPTIMIZER_ADAMW8 };
enum train_offload { OFFLOAD_NONE, OFFLOAD_OPTIMIZER };
enum train_recompute { RECOMPUTE_NONE, RECOMPUTE_SELECTIVE, RECOMPUTE_FULL };
/* Each ends with NULL. */
extern const char *const train_optimizer_words[], *const train_offload_words[],
                                                      *const train_recompute_words[];
enum train_nonfinite { NONFINITE_STOP, NONFINITE_SKIP };
enum train_resume { RESUME_AUTO, RESUME_NEVER };

struct train_options {
    char *out; /* the run's directory */
    int mode, schedule, recompute, resume, optimizer, offload;
    char *offload_path; /* "": in memory */
    int64_t steps;
    double epochs; /* used when steps is 0 */
    int64_t global_batch, micro_batch;
    double lr, min_lr, beta1, beta2, eps, weight_decay, clip;
    int64_t warmup;
    double decay_fraction; /* WSD: the last part of the run */
    int64_t seed;
    int64_t log_every, validate_every, checkpoint_every, keep;
    int64_t threads;
    char *instructions; /* op table */
    bool export_model;
    bool tensorboard;
    bool checkpoint_async;
    int64_t trace_step; /* 0 = none */
    int64_t slow_rank_every;
    int on_nonfinite;
    int64_t max_skipped;
    double spike_factor;
    int64_t rewind_after; /* 0 = never */
    double rewind_factor;
};

struct lora_options {
    int64_t rank;
    double alpha, dropout;
    bool rslora;
    struct config_list targets;
    char *init_from; /* a PEFT directory */
};

enum { ZERO_AUTO = 4 }; /* after the levels */

/* How the ranks share the work (parallel/mesh.h). */
struct parallel_options {
    int64_t tp, cp, dp, pp; /* dp = 0: what the others leave */
    char *order;            /* of the axes, neighbours first */
    int backend;            /* enum parallel_backend */
    double watchdog;        /* seconds; 0: none */
    bool sequence;          /* core/sequence.h, where tp is above 1 */
    int schedule;           /* enum schedule_kind */
    int64_t chunks;         /* layer ranges a stage holds */
    int zero;               /* what the replicas share (parallel/data_parallel.h), or ZERO_AUTO */
    int64_t sync_every;     /* steps that replicas take alone (train/outer.h); 1: none */
    double outer_lr, outer_momentum;
    struct config_list layers; /* of each part, in the model's order; empty: balanced */
};

struct run_options {
    struct model_options model;
    struct loader_options data;
    struct train_options train;
    struct lora_options lora;
    struct parallel_options parallel;
};

enum { RUN_TABLES = 5 };

/* Points `tables` at the parts of `options`. */
void run_options_tables(struct run_options *options, struct config_table tables[RUN_TABLES]);

/* What bounds alone can't say: which keys need each other. STATUS_CONFIG names the key. */
enum status run_options_check(const struct run_options *options);

/* The level of parallel.zero in a job of so many ranks; an automatic one where replicas (cp times
 * dp) are several: each then updates its share of the weights, in a dp-th of the time. */
int run_options_zero(const struct run_options *options, int ranks);

/* The adapter that lora.* describes. */
enum status run_options_adapter(const struct lora_options *options, struct adapter_config *config);

#endif
