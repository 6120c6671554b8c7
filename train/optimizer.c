#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum status optimizer_plan(struct optimizer *optimizer, struct param *const *params, int count,
                           struct arena *arena) {
    *optimizer = (struct optimizer){.count = count};
    optimizer->slots = calloc((size_t)count + 1, sizeof *optimizer->slots);
    if (!optimizer->slots) return status_fail(STATUS_MEMORY, "no memory for the optimizer's list");
    for (int i = 0; i < count; i++) {
        struct optimizer_slot *slot = &optimizer->slots[i];
        const struct weight *w = &params[i]->w;
        enum layout layout = layout_of_gradient(w->layout);
        size_t bytes = weight_bytes(layout, w->rows, w->cols);
        slot->param = params[i];
        slot->elements = weight_elements(layout, w->rows, w->cols);
        slot->m = arena_push(arena, bytes);
        slot->v = arena_push(arena, bytes);
        slot->master = w->layout == layout ? w->data : arena_push(arena, bytes);
    }
    return STATUS_OK;
}

void optimizer_free(struct optimizer *optimizer) {
    free(optimizer->slots);
    memset(optimizer, 0, sizeof *optimizer);
}

static bool has_master(const struct optimizer_slot *slot) {
    return (void *)slot->master != slot->param->w.data;
}

struct weight optimizer_view(const struct optimizer_slot *slot, float *values) {
    const struct weight *w = &slot->param->w;
    return (struct weight){layout_of_gradient(w->layout), w->rows, w->cols, values};
}

void optimizer_start(const struct optimizer *optimizer, struct stream *stream) {
    for (int i = 0; i < optimizer->count; i++) {
        const struct optimizer_slot *slot = &optimizer->slots[i];
        if (has_master(slot)) weight_widen(stream, slot->master, &slot->param->w);
    }
}

void optimizer_refresh(const struct optimizer *optimizer, struct stream *stream) {
    for (int i = 0; i < optimizer->count; i++) {
        const struct optimizer_slot *slot = &optimizer->slots[i];
        if (has_master(slot)) weight_round(stream, &slot->param->w, slot->master);
    }
}

double optimizer_square_sum(const struct optimizer *optimizer, const struct exec *exec) {
    double sum = 0.0;
    for (int i = 0; i < optimizer->count; i++)
        if (optimizer->slots[i].param->primary)
            exec->k->sum_squares(exec->stream, &sum, optimizer->slots[i].param->grad.data,
                                 optimizer->slots[i].elements);
    comm_all_reduce(exec->tp, exec->stream, &sum, 1, DTYPE_F64, COMM_SUM);
    return sum;
}

void optimizer_update(const struct optimizer *optimizer, const struct exec *exec,
                      const struct optimizer_step *step) {
    for (int i = 0; i < optimizer->count; i++) {
        const struct optimizer_slot *slot = &optimizer->slots[i];
        const struct adamw_args args = {.w = slot->master,
                                        .m = slot->m,
                                        .v = slot->v,
                                        .grad = slot->param->grad.data,
                                        .n = slot->elements,
                                        .lr = step->lr,
                                        .beta1 = step->beta1,
                                        .beta2 = step->beta2,
                                        .eps = step->eps,
                                        .decay = slot->param->decays ? step->weight_decay : 0.0,
                                        .step = step->step,
                                        .grad_scale = step->grad_scale};
        exec->k->adamw(exec->stream, &args);
    }
    optimizer_refresh(optimizer, exec->stream);
}
