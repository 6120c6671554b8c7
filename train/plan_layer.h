/* Seconds that a rank spends on one layer, and on the head, for one microbatch. */
#ifndef STRATA_TRAIN_PLAN_LAYER_H
#define STRATA_TRAIN_PLAN_LAYER_H

#include "train/plan_time.h"

struct plan_cost {
    double forward, input, weight; /* input, weight: of backward; communication included */
    double tensor;                 /* of it, communication that nothing hides */
};

/* What all of them need. */
struct plan_place {
    const struct plan_device *device;
    const struct plan_model *model;
    const struct plan_habits *habits;
    const struct plan_layout *layout;
    struct cost_network network;
    double tokens; /* of a microbatch, on a rank */
    double tp;     /* ranks that share a layer */
};

/* Parameters of a rank: of a layer's matrices, of embedding or head, and what it trains of a
 * layer. */
double plan_local_layer(const struct plan_place *place);
double plan_local_words(const struct plan_place *place);
double plan_local_trained(const struct plan_place *place);

struct plan_cost plan_layer_cost(const struct plan_place *place);

/* Logits, loss and their gradients: all in `input` and `weight`, as the loss is made when its
 * backward begins. */
struct plan_cost plan_head_cost(const struct plan_place *place);

/* Bytes of a microbatch's message between stages. */
double plan_message_bytes(const struct plan_place *place);

#endif
