#include "train/diagnose.h"

#include <math.h>
#include <stdio.h>

static bool floats_finite(const float *values, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(values[i])) return false;
    return true;
}

static bool halves_finite(const uint16_t *values, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(bf16_to_f32(values[i]))) return false;
    return true;
}

static bool acts_finite(const struct trainer *t, const void *values, int64_t count) {
    return t->kernels->act == DTYPE_BF16 ? halves_finite(values, count)
                                         : floats_finite(values, count);
}

static bool weight_finite(const struct weight *w) {
    int64_t elements = weight_elements(w->layout, w->rows, w->cols);
    return w->layout == LAYOUT_PANEL_BF16 ? halves_finite(w->data, elements)
                                          : floats_finite(w->data, elements);
}

static const char *bad_weight(const struct param *params, int count) {
    for (int i = 0; i < count; i++)
        if (params[i].w.data && !weight_finite(&params[i].w)) return params[i].name;
    return NULL;
}

/* The last microbatch's residual stream is still there. */
static const char *bad_activation(const struct trainer *t, char name[64]) {
    const struct loader_batch *last = &t->micro[t->micro_count - 1];
    int64_t count = last->tokens * t->model.config.hidden;
    if (!acts_finite(t, t->ws.acts.blocks[0].x, count)) return "embeddings";
    for (int layer = 0; layer < t->model.config.layers; layer++)
        if (!acts_finite(t, t->ws.acts.blocks[layer].out, count)) {
            snprintf(name, 64, "output of layer %d", layer);
            return name;
        }
    return NULL;
}

static const char *bad_gradient(const struct trainer *t, char name[256]) {
    for (int i = 0; i < t->param_count; i++)
        if (!weight_finite(&t->params[i]->grad)) {
            snprintf(name, 256, "gradient of %s", t->params[i]->name);
            return name;
        }
    return NULL;
}

enum status diagnose_nonfinite(const struct trainer *t, const struct step_report *report) {
    char activation[64], gradient[256];
    const char *name = bad_weight(t->model.params, t->model.param_count);
    if (!name && t->trained) name = bad_weight(t->adapter.params, t->adapter.param_count);
    if (!name) name = bad_activation(t, activation);
    if (!name && isfinite(report->loss)) name = bad_gradient(t, gradient);
    if (!name) name = "logits";
    return status_fail(STATUS_NUMERIC,
                       "step %lld: loss %g, gradient norm %g: the first tensor that is not finite "
                       "is %s",
                       (long long)report->step, report->loss, report->gradient_norm, name);
}
