/* Fast attention, forward. A chunk of query rows, (token, head of the group) pairs of one sequence
 * and key head, walks the blocks of keys; in a block, tiles of TILE_ROWS rows make their scores,
 * their part of the softmax and their part of the output.
 *
 * Why the bits depend on the row's position alone: a score is one chain over head_dim; a block's
 * maximum and sum fold 64 slots in one order, slots outside the row's keys being -infinity and 0;
 * the output is one chain over the row's keys in order, since a masked key adds 0 * v to it. What
 * tile, chunk or page a row shares changes none of these. */
#include "kernels/attention_tile.h"
#include "kernels/ops.h"
#include "kernels/threads.h"

#include <assert.h>
#include <math.h>

struct forward_scratch {
    _Alignas(64) float keys[BLOCK_FLOATS], values[BLOCK_FLOATS];
    _Alignas(64) float q[CHUNK_FLOATS], o[CHUNK_FLOATS];
    _Alignas(64) float p[TILE_ROWS * ATTENTION_BLOCK];
    float max[CHUNK_ROWS], sum[CHUNK_ROWS];
};

/* Rows first_row .. first_row + rows - 1 of a sequence; row = token * group + head of the group. */
struct chunk {
    const struct attention_forward_args *args;
    int32_t sequence;
    int kv_head, group, rows;
    int64_t first_row;
};

static int64_t position_of(const struct chunk *c, int row) {
    return c->args->segments->past[c->sequence] + (c->first_row + row) / c->group;
}

/* The row's number among all (N, H). */
static int64_t query_of(const struct chunk *c, int row) {
    int64_t at = c->first_row + row;
    int64_t token = c->args->segments->start[c->sequence] + at / c->group;
    return token * c->args->shape.heads + c->kv_head * c->group + at % c->group;
}

/* Online softmax of one row in one block: p = exp(s - max) in place for slots [low, high], 0
 * elsewhere; the row's sum and output so far are rescaled when its maximum grows. */
static void softmax_row(float *p, int low, int high, float *max, float *sum, float *o, int width) {
    for (int j = 0; j < low; j++) p[j] = -INFINITY;
    for (int j = high + 1; j < ATTENTION_BLOCK; j++) p[j] = -INFINITY;
    v16 slots[4];
    for (int v = 0; v < 4; v++) slots[v] = v16_load(p + v * V16_LANES);
    float highest = v16_max_lane(v16_max(v16_max(slots[0], slots[1]), v16_max(slots[2], slots[3])));
    if (!(highest <= *max)) {
        v16 factor = v16_exp(v16_splat(*max - highest));
        *sum *= v16_first(factor);
        for (int d = 0; d < width; d += V16_LANES)
            v16_store(o + d, v16_mul(v16_load(o + d), factor));
        *max = highest;
    }
    v16 base = v16_splat(*max);
    for (int v = 0; v < 4; v++) {
        slots[v] = v16_exp(v16_sub(slots[v], base));
        v16_store(p + v * V16_LANES, slots[v]);
    }
    *sum += v16_sum(v16_add(v16_add(slots[0], slots[1]), v16_add(slots[2], slots[3])));
}

/* The tile of rows from `row` against the packed block of keys from `key`. */
static void forward_tile(const struct chunk *c, struct forward_scratch *w, int row, int64_t key) {
    const struct attention_shape *shape = &c->args->shape;
    int rows = c->rows - row < TILE_ROWS ? c->rows - row : TILE_ROWS;
    int width = padded(shape->head_dim);
    int64_t low = first_visible_key(shape, position_of(c, row)) - key;
    int64_t high = position_of(c, row + rows - 1) - key;
    if (low < 0) low = 0;
    if (high >= ATTENTION_BLOCK) high = ATTENTION_BLOCK - 1;
    if (low > high) return;
    struct product scores = {.c = w->p,
                             .c_row = ATTENTION_BLOCK,
                             .a = w->q + row * width,
                             .a_row = width,
                             .a_k = 1,
                             .b = w->keys,
                             .b_row = ATTENTION_BLOCK,
                             .rows = rows,
                             .vectors = (int)high / V16_LANES + 1,
                             .k = shape->head_dim};
    product(&scores);
    for (int r = 0; r < rows; r++) {
        int64_t position = position_of(c, row + r);
        int64_t first = first_visible_key(shape, position) - key, last = position - key;
        float *p = w->p + r * ATTENTION_BLOCK;
        if (last < 0 || first >= ATTENTION_BLOCK) { /* this row sees none of the block */
            for (int v = 0; v < ATTENTION_BLOCK; v += V16_LANES) v16_store(p + v, v16_zero());
            continue;
        }
        softmax_row(p, first < 0 ? 0 : (int)first,
                    last < ATTENTION_BLOCK ? (int)last : ATTENTION_BLOCK - 1, &w->max[row + r],
                    &w->sum[row + r], w->o + (row + r) * width, width);
    }
    struct product outputs = {.c = w->o + row * width,
                              .c_row = width,
                              .a = w->p + low,
                              .a_row = ATTENTION_BLOCK,
                              .a_k = 1,
                              .b = w->values + low * width,
                              .b_row = width,
                              .rows = rows,
                              .vectors = width / V16_LANES,
                              .k = (int)(high - low) + 1,
                              .accumulate = true};
    product(&outputs);
}

static void forward_chunk(const struct chunk *c) {
    const struct attention_forward_args *a = c->args;
    const struct attention_shape *shape = &a->shape;
    int head_dim = shape->head_dim, width = padded(head_dim);
    struct forward_scratch scratch;
    for (int r = 0; r < c->rows; r++) {
        load_row(scratch.q + r * width, (const act_t *)a->q + query_of(c, r) * head_dim, head_dim,
                 shape->scale);
        for (int d = 0; d < width; d += V16_LANES) v16_store(scratch.o + r * width + d, v16_zero());
        scratch.max[r] = -INFINITY;
        scratch.sum[r] = 0.0f;
    }
    struct head_rows keys =
        head_rows_of(a->kv->k, a->kv, a->segments, c->sequence, shape, c->kv_head);
    struct head_rows values =
        head_rows_of(a->kv->v, a->kv, a->segments, c->sequence, shape, c->kv_head);
    int64_t last = position_of(c, c->rows - 1);
    int64_t key = first_visible_key(shape, position_of(c, 0)) / ATTENTION_BLOCK * ATTENTION_BLOCK;
    for (; key <= last; key += ATTENTION_BLOCK) {
        int count = last - key < ATTENTION_BLOCK ? (int)(last - key) + 1 : ATTENTION_BLOCK;
        pack_columns(scratch.keys, &keys, key, count);
        pack_rows(scratch.values, &values, key, count, 1.0f);
        for (int row = 0; row < c->rows; row += TILE_ROWS) forward_tile(c, &scratch, row, key);
    }
    for (int r = 0; r < c->rows; r++) {
        int64_t query = query_of(c, r);
        store_row((act_t *)a->o + query * head_dim, scratch.o + r * width, head_dim,
                  v16_splat(scratch.sum[r]));
        if (a->lse) a->lse[query] = scratch.max[r] + logf(scratch.sum[r]);
    }
}

void VARIANT(attention_forward_cpu)(struct stream *s, const struct attention_forward_args *a) {
    const struct attention_shape *shape = &a->shape;
    const struct segments *segments = a->segments;
    assert(shape->head_dim <= ATTENTION_MAX_HEAD_DIM && shape->heads % shape->kv_heads == 0);
    int group = shape->heads / shape->kv_heads, rows = chunk_rows(shape->head_dim);
    int64_t longest = 0, work = 0;
    for (int32_t i = 0; i < segments->count; i++) {
        int64_t tokens = segments->start[i + 1] - segments->start[i];
        work += tokens * (segments->past[i] + tokens) * shape->heads * shape->head_dim;
        if (tokens > longest) longest = tokens;
    }
    int64_t chunks = (longest * group + rows - 1) / rows, heads = shape->kv_heads;
    int threads = threads_for(s, work, 1 << 16);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
    for (int64_t i = 0; i < segments->count * heads * chunks; i++) {
        struct chunk c = {.args = a,
                          .sequence = (int32_t)(i / (heads * chunks)),
                          .kv_head = (int)(i / chunks % heads),
                          .group = group,
                          .first_row = i % chunks * rows};
        int64_t left =
            (int64_t)(segments->start[c.sequence + 1] - segments->start[c.sequence]) * group -
            c.first_row;
        c.rows = (int)(left < rows ? left : rows);
        if (c.rows > 0) forward_chunk(&c);
    }
}
