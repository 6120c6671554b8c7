/* What opening a run is made of. Opening and planning go through the same parts, so that they can't
 * disagree on shapes and bytes. */
#ifndef STRATA_TRAIN_TRAINER_PARTS_H
#define STRATA_TRAIN_TRAINER_PARTS_H

#include "train/trainer.h"

/* Where rank `rank` of `ranks` stands: t->mesh and t->place. */
enum status trainer_place(struct trainer *t, int rank, int ranks);

/* Data-parallel replicas do not sum gradients (parallel.sync_every); those of a replica's context-
 * parallel ranks are. */
static inline bool trainer_steps_alone(const struct trainer *t) {
    return t->options->parallel.sync_every > 1;
}

/* Of activations. */
enum dtype trainer_dtype(const struct trainer *t);
int trainer_zero(const struct trainer *t);
bool trainer_splits_sequence(const struct trainer *t);

/* Of model.path or model.config, for data.sequence_length. */
enum status trainer_read_config(const struct run_options *options, struct model_config *config);

/* Agreed on before communicators are split by it. Collective. */
enum status trainer_open_tensor_parallel(struct trainer *t);

/* At t->place: its weights, or their shapes on an arena that only counts. */
enum status trainer_open_model(struct trainer *t);
enum status trainer_describe_model(struct trainer *t, struct arena *weights);

/* Nothing unless train.mode is lora. */
enum status trainer_open_adapter(struct trainer *t);
enum status trainer_describe_adapter(struct trainer *t, struct arena *factors);

/* The parameters that get gradients and optimizer state: all of the model's, or the adapter's. */
enum status trainer_list_trained(struct trainer *t);

/* Tokenizer and token files, held against the model. */
enum status trainer_open_data(struct trainer *t);
void trainer_plan_steps(struct trainer *t);

/* Says what is allowed and seldom meant: a warm-up longer than the run, an adapter's rank above
 * what its matrices can use (PEFT allows it too). */
void trainer_warn(const struct trainer *t);

/* A rank's share of the global batch, cut into microbatches; sized for the largest share. */
enum status trainer_plan_microbatches(struct trainer *t);

/* Bytes of batches, gradients, optimizer state and snapshot. */
enum status trainer_count_arenas(struct trainer *t, struct trainer_memory *memory);

/* `parts` must live as long; the pipeline is planned. */
struct workspace_plan trainer_plan_workspace(const struct trainer *t,
                                             struct workspace_parts *parts);

/* Most tokens of a microbatch on a rank. */
int64_t trainer_micro_tokens(const struct trainer *t);

/* What the library takes while it sums `gradients` bytes over replicas. */
size_t trainer_sums_bytes(const struct trainer *t, size_t gradients);

/* All arenas, and what lies in them. Collective. */
enum status trainer_open_memory(struct trainer *t);

#endif
