/* Where a rank stands in the pipeline: its layers, its parts of the model, and how a microbatch
 * goes through them. One stage is all of the model. */
#ifndef STRATA_TRAIN_STAGES_H
#define STRATA_TRAIN_STAGES_H

#include "train/trainer.h"

/* The part of a model that the rank at `place` holds. STATUS_CONFIG when the layers can't be cut as
 * parallel.layers or the number of stages asks. */
enum status stages_shard(const struct run_options *options, const struct mesh *mesh,
                         const struct mesh_place *place, const struct model_config *config,
                         struct shard *shard);

/* trainer->parts: a view of the model for each of my chunks. STATUS_MEMORY. */
enum status stages_view(struct trainer *trainer);

/* The pipeline of my stage for micro_count microbatches, its buffers pushed to `arena`, which may
 * be counting. */
enum status stages_plan(struct trainer *trainer, struct arena *arena);

/* Whether gradients of weights are made in actions of their own. */
bool stages_weights_later(const struct trainer *trainer);

/* Gives the pipeline its communicators and the inputs of the workspace. */
void stages_connect(struct trainer *trainer);

/* One walk of microbatches through the stages. */
struct stages_walk {
    struct trainer *trainer;
    const struct loader_batch *batches; /* (micro_count) */
    bool training;                      /* dropout applies */
    double loss;                        /* out: += the losses of the last stage; else untouched */
    /* Sees what each forward left behind, unless NULL. */
    void (*visit)(struct trainer *trainer, const struct model *part, const struct stage_acts *acts,
                  int64_t tokens, void *context);
    void *context;
};

/* Forward and backward; gradients are added up, and those of a layer start to be reduced after its
 * last microbatch. Failures stick to the stream. Collective over the stages. */
void stages_train(struct stages_walk *walk);

/* Forward alone. */
void stages_forward(struct stages_walk *walk);

/* Adds up the gradients of a tied embedding, which lies on both end stages; after they were reduced
 * over replicas. Both ranks then hold the same bits. */
void stages_sum_tied(struct trainer *trainer);

#endif
