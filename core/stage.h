/* The one loop over the layers: all of a model, or those of a pipeline stage. */
#ifndef STRATA_CORE_STAGE_H
#define STRATA_CORE_STAGE_H

#include "core/block.h"
#include "core/head.h"

enum acts_keep {
    ACTS_NONE,  /* inference: every layer uses the same memory */
    ACTS_INPUT, /* full recomputation: only each layer's input is kept */
    ACTS_DEAR,  /* selective: all but what is cheap to compute again (core/block.h) */
    ACTS_ALL
};

/* How activations are laid out. */
struct acts_plan {
    int64_t tokens; /* at most */
    enum acts_keep keep;
    bool weights_later; /* and, from ACTS_DEAR on, what gradients need that are made later */
    /* What layers share, of activations that are not in use at the same time; NULL for their own.
     */
    const struct block_acts *work;
};

struct stage_acts {
    enum acts_keep keep;
    int64_t capacity;                           /* tokens */
    struct block_acts blocks[MODEL_MAX_LAYERS]; /* those of the model's layers are set */
    struct block_acts work;                     /* what layers share unless all is kept */
    float *rope_table;                          /* (N, D/2, 2) */
    void *input;  /* (M, C) where the stage's input belongs, if it does not embed */
    void *hidden; /* (M, C) output of the last layer; set by stage_forward */
};

/* Lays out activations in `arena` (which may be counting). */
void stage_acts_push(struct stage_acts *acts, struct arena *arena, const struct exec *exec,
                     const struct model *model, const struct acts_plan *plan);

/* Makes (N, C) `input` the stage's input instead of the one that was laid out; borrowed. */
void stage_acts_set_input(struct stage_acts *acts, const struct model *model, void *input);

/* Scratch bytes that a forward (and backward, with loss) of `tokens` tokens needs at most, found by
 * running the same code on nothing; M as in core/block.h. `model` and `adapter` (or NULL) may be
 * described on a counting arena. logit_rows: how many rows head_logits is asked for at once.
 * context: ranks that share a batch, of which `tokens` are this one's (core/context.h). */
size_t stage_scratch_bytes(const struct model *model, const struct adapter *adapter, enum dtype act,
                           int64_t tokens, int64_t logit_rows, bool backward, bool sequence,
                           int context);

/* Embeds, or takes acts->input where the embedding is not here, and runs the model's layers;
 * acts->hidden is the last one's output. */
void stage_forward(const struct exec *exec, const struct model *model, const struct batch *batch,
                   struct stage_acts *acts);

/* Called when the gradients of a layer (or of -1: embedding; L: head and final norm) are complete.
 */
typedef void stage_layer_done(void *context, int layer);

/* d (M, C): in the gradient of acts->hidden, out that of acts->input where the embedding is not
 * here. Gradients += into the trained parameters. `done` may be NULL. Where the embedding is here,
 * it stops below the lowest layer that has anything to train. */
void stage_backward(const struct exec *exec, const struct model *model, const struct batch *batch,
                    struct stage_acts *acts, void *d, stage_layer_done *done, void *context);

/* What a stage_backward of a batch with weights_later left: the gradients of the blocks' matrices.
 * `done` as there; that call had none. */
void stage_backward_weights(const struct exec *exec, const struct model *model,
                            const struct batch *batch, struct stage_acts *acts,
                            stage_layer_done *done, void *context);

#endif
