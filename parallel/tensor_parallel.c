#include "parallel/tensor_parallel.h"

#include "kernels/base/units.h"
#include "parallel/comm_nccl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { ALONE = 1 << 18 }; /* elements from which a gradient is summed where it lies */

enum status tensor_parallel_open(struct tensor_parallel *t, struct comm *tp,
                                 const struct model_config *config) {
    *t = (struct tensor_parallel){.tp = tp};
    int copies = config->kv_heads < tp->size ? tp->size / config->kv_heads : 1;
    return comm_open_split(&t->copies, tp, "tp copies", tp->rank / copies, tp->rank);
}

/* Whether each holder has a part of the gradient, and not the same whole. */
static bool in_parts(const struct param *param, bool sequence) {
    if (param->copies == 1) return false;
    switch (param->id) {
    case WEIGHT_ATTN_NORM:
    case WEIGHT_MLP_NORM:
    case WEIGHT_FINAL_NORM:
        return sequence;
    case WEIGHT_O_BIAS:
    case WEIGHT_DOWN_BIAS:
        return false;
    default:
        return true;
    }
}

static int64_t elements_of(const struct param *param) {
    return weight_elements(param->grad.layout, param->w.rows, param->w.cols);
}

/* Elements of the small parts of the layer that has most of them. */
static int64_t largest_layer(const struct tensor_parallel *t) {
    int64_t largest = 0;
    for (int layer = 0; layer <= t->layers; layer++) {
        int64_t sum = 0;
        for (int i = 0; i < t->count; i++) {
            const struct param *param = t->parts[i].param;
            int64_t elements = elements_of(param);
            if (param_completing_layer(param, t->layers) == layer && elements < ALONE)
                sum += elements;
        }
        largest = max_i64(largest, sum);
    }
    return largest;
}

enum status tensor_parallel_plan(struct tensor_parallel *t, struct stream *stream,
                                 struct param *const *params, int param_count, int layers,
                                 bool sequence, struct arena *arena) {
    free(t->parts);
    t->stream = stream;
    t->layers = layers;
    t->count = 0;
    t->parts = calloc((size_t)param_count + 1, sizeof *t->parts);
    if (!t->parts)
        return status_fail(STATUS_MEMORY, "no memory for a list of %d gradients", param_count);
    for (int i = 0; i < param_count; i++) {
        if (!in_parts(params[i], sequence)) continue;
        bool all = t->tp && params[i]->copies == t->tp->size;
        t->parts[t->count++] = (struct tensor_part){params[i], all ? t->tp : &t->copies, false};
    }
    t->buffer = arena_push(arena, (size_t)largest_layer(t) * sizeof *t->buffer);
    return STATUS_OK;
}

/* Between gradients and buffer; returns the elements. */
static int64_t copy_small(const struct tensor_parallel *t, const struct comm *comm, int layer,
                          bool back) {
    int64_t at = 0;
    for (int i = 0; i < t->count; i++) {
        const struct tensor_part *part = &t->parts[i];
        int64_t elements = elements_of(part->param);
        if (part->comm != comm || part->summed || elements >= ALONE ||
            param_completing_layer(part->param, t->layers) != layer)
            continue;
        float *gradient = part->param->grad.data, *place = t->buffer + at;
        memcpy(back ? gradient : place, back ? place : gradient, (size_t)elements * sizeof *place);
        at += elements;
    }
    return at;
}

static void sum_small(struct tensor_parallel *t, struct comm *comm, int layer) {
    int64_t elements = copy_small(t, comm, layer, false);
    if (elements == 0) return;
    comm_all_reduce_ordered(comm, t->stream, t->buffer, elements, DTYPE_F32);
    copy_small(t, comm, layer, true);
}

void tensor_parallel_layer_done(struct tensor_parallel *t, int layer) {
    sum_small(t, t->tp, layer);
    sum_small(t, &t->copies, layer);
    for (int i = 0; i < t->count; i++) {
        struct tensor_part *part = &t->parts[i];
        if (param_completing_layer(part->param, t->layers) != layer) continue;
        int64_t elements = elements_of(part->param);
        if (!part->summed && elements >= ALONE)
            comm_all_reduce_ordered(part->comm, t->stream, part->param->grad.data, elements,
                                    DTYPE_F32);
        part->summed = true;
    }
}

void tensor_parallel_reset(struct tensor_parallel *t, const struct shard *shard) {
    for (int i = 0; i < t->count; i++) {
        int layer = param_completing_layer(t->parts[i].param, t->layers);
        bool here = layer >= shard->first_layer && layer < shard->end_layer;
        if (here || (shard->head && layer == t->layers)) t->parts[i].summed = false;
    }
}

void tensor_parallel_finish(struct tensor_parallel *t) {
    for (int layer = t->layers; layer >= 0; layer--) tensor_parallel_layer_done(t, layer);
    for (int i = 0; i < t->count; i++) t->parts[i].summed = false;
}

void tensor_parallel_close(struct tensor_parallel *t) {
    comm_close(&t->copies);
    free(t->parts);
    *t = (struct tensor_parallel){0};
}
