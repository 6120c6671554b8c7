/* A training run: model or adapter, data, optimizer and the ranks that share them (data, tensor and
 * pipeline parallel), from start or checkpoint to the last step. */
#ifndef STRATA_TRAIN_TRAINER_H
#define STRATA_TRAIN_TRAINER_H

#include "core/workspace.h"
#include "data/loader.h"
#include "data/tokenizer.h"
#include "parallel/checkpoint_saving.h"
#include "parallel/context_parallel.h"
#include "parallel/data_parallel.h"
#include "parallel/mesh.h"
#include "parallel/parallel.h"
#include "parallel/pipeline.h"
#include "parallel/sharded_weights.h"
#include "parallel/tensor_parallel.h"
#include "train/guard.h"
#include "train/optimizer.h"
#include "train/options.h"
#include "train/outer.h"
#include "train/slow_rank.h"
#include "train/trace.h"

#include <signal.h>

/* Bytes of a rank by kind, as the layout functions count them: what a plan prints and the program
 * allocates. A process has its code, its libraries' buffers and the loader's tables besides. */
struct trainer_memory {
    size_t weights, adapter, gradients, optimizer, activations, scratch, batches, snapshot;
    size_t offloaded; /* optimizer state in the host's memory, or in a file of train.offload_path */
};

/* The kinds by name, as reports list them; without what is offloaded. */
struct trainer_memory_part {
    const char *name;
    size_t bytes;
};
enum { TRAINER_MEMORY_PARTS = 8 };
void trainer_memory_parts(const struct trainer_memory *memory,
                          struct trainer_memory_part parts[TRAINER_MEMORY_PARTS]);

struct trainer {
    const struct run_options *options;
    struct parallel *parallel;
    struct mesh mesh;
    struct mesh_place place; /* mine */
    struct mesh_comms comms;
    const struct kernels *kernels;
    int threads;

    struct tokenizer *tokenizer; /* NULL when none was found */
    struct model model;
    struct sharded_weights sharded; /* parallel.zero 3 */
    struct adapter adapter;         /* train.mode lora */
    const struct adapter *trained;  /* &adapter or NULL */
    int param_count;
    struct param **params;    /* what is trained, of this rank */
    int64_t trained_elements; /* of the whole model, without padding */

    struct tensor_parallel tensor;
    struct dp dp;
    struct optimizer optimizer;
    struct outer outer; /* parallel.sync_every above 1; else zeroed */
    struct workspace ws;
    struct exec_watch watch;
    struct arena gradients, optimizer_state, batches;
    struct arena offloaded;   /* optimizer state, with train.offload */
    struct model *parts;      /* (chunks) those of the model that a microbatch goes through */
    struct pipeline pipeline; /* how it does; one stage is a pipeline too */

    struct loader *train, *validation; /* validation: NULL when there is none */
    int micro_count;
    struct loader_batch *micro; /* (micro_count) of one step, my part of their tokens */
    struct context_cut *cuts;   /* (micro_count) which part that is */
    int64_t micro_sequences;    /* sequences of the largest */
    struct trace trace;
    struct {
        struct slow_rank_window mine; /* since the last comparison */
        double before;                /* trace.compute when the step began */
        int *times;                   /* (ranks), from the first comparison on */
    } slow;

    int64_t step, steps; /* done, in all */
    int64_t tokens;      /* trained on so far, all ranks */
    double best_loss;
    int64_t data_offset; /* samples that were left out when the run went back to a checkpoint */
    struct guard guard;
    int rewinds; /* since the last checkpoint of steps whose loss was not too high */
    struct {
        bool behind;                      /* they are written while it trains on */
        struct arena snapshot;            /* of what is saved; empty unless behind */
        struct checkpoint_saving *saving; /* NULL: none is in flight */
        double begun, blocked;            /* clock_seconds(); seconds that training waited for it */
    } saves;
    struct checkpoint_claim claim;     /* on the run's checkpoints, before any is read or written */
    const volatile sig_atomic_t *stop; /* set by a signal; NULL when nobody asks */
    bool stop_said;                    /* and the log has it */
};

/* What one step did; the same on every rank. */
struct step_report {
    int64_t step;
    double loss, gradient_norm, lr;
    int64_t tokens;             /* inputs of this step, all ranks */
    enum guard_verdict verdict; /* unless GUARD_TAKE the weights are as they were */
    bool rewind;                /* the loss has been too high for train.rewind_after steps */
    double seconds;
    bool stop; /* a rank was asked to stop, before or during the step */
};

/* Loads or makes everything and goes back to the newest checkpoint where there is one. Options are
 * borrowed. On failure all is freed. STATUS_MEMORY before anything is allocated when the ranks of a
 * host would together take more than memory_available. Collective. */
enum status trainer_open(struct trainer *trainer, const struct run_options *options,
                         struct parallel *parallel);
void trainer_close(struct trainer *trainer); /* may be called twice, and on a zeroed struct */

/* One optimizer step, or one that is skipped (train/safety.h). STATUS_NUMERIC names step and
 * tensor. Collective. */
enum status trainer_step(struct trainer *trainer, struct step_report *report);

/* Mean token loss over the whole validation set. STATUS_FORMAT when none of it has any weight.
 * Collective. */
enum status trainer_validate(struct trainer *trainer, double *loss);

/* Writes a checkpoint of the present step, and waits for it; `best` marks it. Collective. */
enum status trainer_checkpoint(struct trainer *trainer, bool best);

/* The global index of the next step's first sample. */
int64_t trainer_cursor(const struct trainer *trainer);

/* Bytes that are allocated. */
struct trainer_memory trainer_memory(const struct trainer *trainer);

/* The bytes that the rank of `ranks` that takes most would allocate (pipeline stages differ),
 * counted by the same code; no weight and no token is read, only configurations. */
enum status trainer_plan(const struct run_options *options, int ranks,
                         struct trainer_memory *memory);

/* The same of each stage: stages (parallel.pp). */
enum status trainer_plan_stages(const struct run_options *options, int ranks,
                                struct trainer_memory *stages);

/* The same of rank `rank`. */
enum status trainer_plan_rank(const struct run_options *options, int rank, int ranks,
                              struct trainer_memory *memory);

/* What the token files hold, and how many steps that makes. */
struct trainer_data {
    int64_t steps;
    int64_t sequences, tokens;                       /* an epoch; tokens as inputs */
    int64_t validation_sequences, validation_tokens; /* 0 where there is no validation */
    bool tokenizer_checked; /* false where no tokenizer is named or lies beside the model */
};

/* Opens tokenizer and token files as trainer_open does, with the same refusals; no weight is read,
 * and of an adapter to start from only names and shapes. */
enum status trainer_plan_data(const struct run_options *options, struct trainer_data *data);

/* The sum of what lies on the device; SIZE_MAX stands for all that is more. */
size_t trainer_memory_total(const struct trainer_memory *memory);

#endif
