#include "train/diagnose.h"

#include "core/sequence.h"
#include "kernels/base/units.h"
#include "train/stages.h"

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

static bool quantized_finite(const struct weight *w) {
    float values[256];
    for (int64_t row = 0; row < w->rows; row++)
        for (int64_t first = 0; first < w->cols; first += 256) {
            int64_t count = min_i64(256, w->cols - first);
            weight_read(values, w, row, first, count);
            if (!floats_finite(values, count)) return false;
        }
    return true;
}

static bool weight_finite(const struct weight *w) {
    if (layout_is_quantized(w->layout)) return quantized_finite(w);
    int64_t elements = weight_elements(w->layout, w->rows, w->cols);
    return layout_is_bf16(w->layout) ? halves_finite(w->data, elements)
                                     : floats_finite(w->data, elements);
}

enum { NAME_BYTES = 384 };

/* A tensor that isn't finite and its place in the order of computation: PLACE_LAYERS + l for layer
 * l, PLACE_NONE when there is none. The lowest place of all ranks is the one to tell. */
enum {
    PLACE_WEIGHTS,
    PLACE_LAYERS,
    PLACE_LOGITS = 1 << 20,
    PLACE_GRADIENTS, /* and then as many layers as backward has gone down */
    PLACE_NONE = 1 << 22
};
struct finding {
    int32_t place;
    char name[NAME_BYTES];
};

/* Sharded ones are brought, whatever this rank found before: the others do the same. */
static void find_weight(struct trainer *t, struct finding *finding, const struct param *params,
                        int count) {
    for (int i = 0; i < count; i++) {
        if (!params[i].w.data) continue;
        sharded_bring(&t->sharded, &params[i]);
        if (finding->place == PLACE_WEIGHTS || weight_finite(&params[i].w)) continue;
        finding->place = PLACE_WEIGHTS;
        snprintf(finding->name, NAME_BYTES, "weight %s", params[i].name);
    }
}

/* The tensors of a block in the order they are computed; of what is recomputed only the last
 * layer's own is left, so the others are told by what they hand on. */
static void find_in_layer(const struct trainer *t, struct finding *finding,
                          const struct stage_acts *stage, int layer, int64_t tokens) {
    const struct model_config *c = &t->model.local;
    const struct block_acts *acts = &stage->blocks[layer];
    int64_t q = tokens * c->heads * c->head_dim, kv = tokens * c->kv_heads * c->head_dim;
    int64_t stream = sequence_part(&t->ws.exec, tokens).count * c->hidden;
    bool dear = stage->keep >= ACTS_DEAR, all = stage->keep == ACTS_ALL;
    const struct {
        const char *name;
        const void *values;
        int64_t count;
    } tensors[] = {{layer == 0 ? "embeddings" : "input", acts->x, stream},
                   {"queries",
                    all    ? acts->q
                    : dear ? acts->q_raw
                           : NULL,
                    q},
                   {"keys",
                    all    ? acts->k
                    : dear ? acts->k_raw
                           : NULL,
                    kv},
                   {"values", dear ? acts->v : NULL, kv},
                   {"attention output", dear ? acts->o : NULL, q},
                   {"residual stream after attention", dear ? acts->mid : NULL, stream},
                   {"gate", all ? acts->gate : NULL, tokens * c->ffn},
                   {"up projection", all ? acts->up : NULL, tokens * c->ffn},
                   {"output", acts->out, stream}};
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        if (!tensors[i].values || acts_finite(t, tensors[i].values, tensors[i].count)) continue;
        finding->place = PLACE_LAYERS + layer;
        snprintf(finding->name, NAME_BYTES, "%s of layer %d", tensors[i].name, layer);
        return;
    }
}

static void find_in_part(struct trainer *t, const struct model *part, const struct stage_acts *acts,
                         int64_t tokens, void *context) {
    struct finding *finding = context;
    for (int layer = part->shard.first_layer; layer < part->shard.end_layer; layer++)
        if (finding->place > PLACE_LAYERS + layer) find_in_layer(t, finding, acts, layer, tokens);
}

static void find_activation(struct trainer *t, struct finding *finding) {
    struct stages_walk walk = {.trainer = t,
                               .batches = t->micro,
                               .training = true,
                               .visit = find_in_part,
                               .context = finding};
    stages_forward(&walk);
}

/* Backward comes to the last of the parameters first. */
static void find_gradient(const struct trainer *t, struct finding *finding) {
    int layers = t->model.config.layers;
    for (int i = t->optimizer.count - 1; i >= 0 && finding->place > PLACE_LOGITS; i--) {
        const struct optimizer_slot *slot = &t->optimizer.slots[i];
        const struct param *param = slot->param;
        if (floats_finite(slot->piece.grad, slot->piece.count)) continue;
        bool embedding = param->id == WEIGHT_EMBED;
        int layer = param->layer >= 0 ? param->layer : embedding ? -1 : layers;
        if (PLACE_GRADIENTS + layers - layer >= finding->place) continue;
        finding->place = PLACE_GRADIENTS + layers - layer;
        snprintf(finding->name, NAME_BYTES, "gradient of %s", param->name);
    }
}

static struct finding find(struct trainer *t, double loss) {
    struct finding finding = {.place = PLACE_NONE, .name = "the sum over ranks"};
    find_weight(t, &finding, t->model.params, t->model.param_count);
    if (t->trained) find_weight(t, &finding, t->adapter.params, t->adapter.param_count);
    find_activation(t, &finding); /* in any case: who share layers or stages run together */
    if (finding.place > PLACE_LOGITS && !isfinite(loss)) {
        finding.place = PLACE_LOGITS;
        snprintf(finding.name, NAME_BYTES, "logits");
    }
    find_gradient(t, &finding);
    return finding;
}

/* The rank of the lowest key (at least 0, below 2^32), and what it found. */
static enum status settle(struct trainer *t, int64_t key, const char *name,
                          struct diagnosis *diagnosis) {
    struct comm *world = &t->parallel->world;
    int64_t first = key * world->size + world->rank;
    comm_all_reduce(world, &t->ws.stream, &first, 1, DTYPE_I64, COMM_MIN);
    *diagnosis = (struct diagnosis){.rank = (int)(first % world->size)};
    snprintf(diagnosis->tensor, sizeof diagnosis->tensor, "%s", name);
    comm_broadcast(world, &t->ws.stream, diagnosis->tensor, sizeof diagnosis->tensor, DTYPE_U8,
                   diagnosis->rank);
    return stream_check(&t->ws.stream);
}

enum status diagnose_nonfinite(struct trainer *t, double loss, struct diagnosis *diagnosis) {
    struct finding finding = find(t, loss);
    /* what the forward found wrong is in the finding; a lost peer is met again */
    if (t->ws.stream.status != STATUS_PEER) stream_check(&t->ws.stream);
    return settle(t, finding.place, finding.name, diagnosis);
}

/* Of a tensor's gradient, over the ranks that share it. Collective over them. */
static double square_sum(struct trainer *t, const struct param *param) {
    struct dp_piece piece = dp_piece(&t->dp, param);
    double sum = 0.0;
    t->kernels->sum_squares(&t->ws.stream, &sum, piece.grad, piece.count);
    dp_sum_shares(&t->dp, &sum, 1);
    return sum;
}

enum status diagnose_largest(struct trainer *t, struct diagnosis *diagnosis) {
    const struct comm *world = &t->parallel->world;
    double largest = -1.0, over_ranks;
    char name[NAME_BYTES] = "";
    for (int i = 0; i < t->param_count; i++) {
        double sum = square_sum(t, t->params[i]);
        if (!(sum > largest)) continue;
        largest = sum;
        snprintf(name, sizeof name, "gradient of %s", t->params[i]->name);
    }
    over_ranks = largest;
    comm_all_reduce(&t->parallel->world, &t->ws.stream, &over_ranks, 1, DTYPE_F64, COMM_MAX);
    return settle(t, largest < over_ranks ? world->size : 0, name, diagnosis);
}
