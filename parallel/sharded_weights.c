#include "parallel/sharded_weights.h"
#include "kernels/base/units.h"
#include "parallel/data_parallel.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static size_t round_up(size_t value, size_t unit) {
    return (value + unit - 1) / unit * unit;
}

static size_t element_bytes(const struct param *param) {
    return layout_is_bf16(param->w.layout) ? sizeof(uint16_t) : sizeof(float);
}

static size_t share_bytes(const struct sharded_weights *sharded, const struct sharded_unit *unit) {
    return unit->bytes / (size_t)sharded->shares;
}

/* The layer as stage_forward counts them. */
static int unit_layer(const struct model *model, const struct param *param) {
    if (param->layer >= 0) return param->layer;
    return param->id == WEIGHT_EMBED ? -1 : model->config.layers;
}

static enum status check_cut(const struct param *param) {
    if (param->w.layout != LAYOUT_PANEL_BF16 || param->w.cols % 2 == 0) return STATUS_OK;
    return status_fail(STATUS_UNSUPPORTED,
                       "parallel.zero 3 can't cut %s in bf16: it has %lld columns, an odd number",
                       param->name, (long long)param->w.cols);
}

/* The matrices of one layer, behind those of the units before. */
static enum status list_unit(struct sharded_weights *sharded, const struct model *model, int layer,
                             int *listed) {
    struct sharded_unit unit = {.layer = layer, .first = *listed};
    size_t cut = ARENA_ALIGN;
    for (int i = 0; i < model->param_count; i++) {
        struct param *param = &model->params[i];
        if (!param->w.data || weight_is_vector(param->id) || unit_layer(model, param) != layer)
            continue;
        TRY(check_cut(param));
        cut = DP_CUT * element_bytes(param);
        sharded->params[*listed] = param;
        sharded->offsets[(*listed)++] = unit.bytes;
        unit.bytes += round_up(weight_bytes(param->w.layout, param->w.rows, param->w.cols), cut);
    }
    unit.last = *listed;
    unit.bytes = round_up(unit.bytes, cut * (size_t)sharded->shares);
    if (unit.last > unit.first) sharded->units[sharded->unit_count++] = unit;
    return STATUS_OK;
}

/* Which buffer: two for the layers, one for the ends, which are never needed together. */
enum { BUFFERS = 3 };
static int buffer_of(const struct model *model, const struct sharded_unit *unit) {
    bool end = unit->layer < 0 || unit->layer == model->config.layers;
    return end ? 2 : unit->layer % 2;
}

static void push_units(struct sharded_weights *sharded, struct model *model, struct arena *arena) {
    size_t largest[BUFFERS] = {0};
    char *buffers[BUFFERS];
    for (int u = 0; u < sharded->unit_count; u++) {
        struct sharded_unit *unit = &sharded->units[u];
        unit->share = arena_push(arena, share_bytes(sharded, unit));
        size_t *most = &largest[buffer_of(model, unit)];
        if (unit->bytes > *most) *most = unit->bytes;
    }
    for (int i = 0; i < BUFFERS; i++) buffers[i] = arena_push(arena, largest[i]);
    for (int u = 0; u < sharded->unit_count; u++) {
        struct sharded_unit *unit = &sharded->units[u];
        unit->buffer = buffers[buffer_of(model, unit)];
        for (int i = unit->first; i < unit->last; i++)
            sharded->params[i]->w.data = unit->buffer + sharded->offsets[i];
    }
}

static void push_vectors(struct model *model, struct arena *arena) {
    for (int i = 0; i < model->param_count; i++) {
        struct weight *w = &model->params[i].w;
        if (w->data && weight_is_vector(model->params[i].id))
            w->data = arena_push(arena, weight_bytes(w->layout, w->rows, w->cols));
    }
}

enum status sharded_plan(struct sharded_weights *sharded, struct model *model, struct comm *comm,
                         struct stream *stream, struct arena *weights) {
    *sharded = (struct sharded_weights){
        .comm = comm, .stream = stream, .shares = comm->size, .mine = comm->rank};
    sharded->layers = model->config.layers;
    size_t room = (size_t)model->param_count;
    sharded->params = calloc(room, sizeof(struct param *));
    sharded->offsets = calloc(room, sizeof *sharded->offsets);
    sharded->units = calloc((size_t)model->config.layers + 2, sizeof *sharded->units);
    enum status status =
        sharded->params && sharded->offsets && sharded->units
            ? STATUS_OK
            : status_fail(STATUS_MEMORY, "no memory for a list of %zu parameters", room);
    int listed = 0;
    for (int layer = -1; layer <= model->config.layers && status == STATUS_OK; layer++)
        status = list_unit(sharded, model, layer, &listed);
    if (status != STATUS_OK) {
        sharded_free(sharded);
        return status;
    }
    push_units(sharded, model, weights);
    push_vectors(model, weights);
    return STATUS_OK;
}

void sharded_free(struct sharded_weights *sharded) {
    free(sharded->params);
    free(sharded->offsets);
    free(sharded->units);
    *sharded = (struct sharded_weights){0};
}

/* --- use ------------------------------------------------------------------------------------- */

/* What a layer computes with; a tied head with the embedding. */
static struct sharded_unit *find_unit(const struct sharded_weights *sharded, int layer) {
    for (int u = 0; u < sharded->unit_count; u++)
        if (sharded->units[u].layer == layer) return &sharded->units[u];
    return layer == sharded->layers && layer > 0 ? find_unit(sharded, -1) : NULL;
}

static int place_of(const struct sharded_unit *unit, const struct sharded_weights *sharded,
                    const struct param *param) {
    for (int i = unit->first; i < unit->last; i++)
        if (sharded->params[i] == param) return i;
    return -1;
}

struct sharded_unit *sharded_unit_of(const struct sharded_weights *sharded,
                                     const struct param *param) {
    for (int u = 0; u < sharded->unit_count; u++)
        if (place_of(&sharded->units[u], sharded, param) >= 0) return &sharded->units[u];
    return NULL;
}

void sharded_keep(struct sharded_weights *sharded, struct sharded_unit *unit) {
    size_t share = share_bytes(sharded, unit);
    memcpy(unit->share, unit->buffer + (size_t)sharded->mine * share, share);
}

static void finish(struct sharded_weights *sharded, struct sharded_unit *unit) {
    if (unit->started) comm_wait(sharded->comm, sharded->stream, &unit->request);
    unit->started = false;
}

/* Its buffer's last unit makes room. */
static void start(struct sharded_weights *sharded, struct sharded_unit *unit) {
    if (unit->here) return;
    for (int u = 0; u < sharded->unit_count; u++) {
        struct sharded_unit *other = &sharded->units[u];
        if (other->buffer != unit->buffer) continue;
        finish(sharded, other);
        other->here = false;
    }
    unit->here = unit->started = true;
    comm_start_all_gather(sharded->comm, sharded->stream, unit->buffer, unit->share,
                          (int64_t)share_bytes(sharded, unit), DTYPE_U8, &unit->request);
}

void sharded_begin(struct sharded_weights *sharded, int layer, bool backward) {
    struct sharded_unit *unit = find_unit(sharded, layer);
    if (backward && layer < 0) return; /* an embedding's backward reads no weights */
    if (unit) start(sharded, unit);
    if (unit) finish(sharded, unit);
    int next = backward ? layer - 1 : layer + 1;
    unit = next >= 0 ? find_unit(sharded, next) : NULL;
    if (unit) start(sharded, unit);
}

void sharded_bring(struct sharded_weights *sharded, const struct param *param) {
    struct sharded_unit *unit = sharded_unit_of(sharded, param);
    if (!unit) return;
    start(sharded, unit);
    finish(sharded, unit);
}

void sharded_forget(struct sharded_weights *sharded) {
    for (int u = 0; u < sharded->unit_count; u++) {
        finish(sharded, &sharded->units[u]);
        sharded->units[u].here = false;
    }
}

void *sharded_place(const struct sharded_weights *sharded, const struct param *param,
                    int64_t first) {
    const struct sharded_unit *unit = sharded_unit_of(sharded, param);
    if (!unit) return NULL;
    size_t begin = (size_t)sharded->mine * share_bytes(sharded, unit);
    size_t at =
        sharded->offsets[place_of(unit, sharded, param)] + (size_t)first * element_bytes(param);
    assert(at >= begin && at - begin < share_bytes(sharded, unit));
    return unit->share + (at - begin);
}
