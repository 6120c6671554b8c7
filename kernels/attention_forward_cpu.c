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

/* Rows first_row .. first_row + rows - 1 of a sequence, for each of `heads` key heads; row = token
 * * group + head of the group. A decode takes several heads at once, so that tokens' keys are read
 * from memory as they lie; a prefill one, with many rows. In scratch, rows of a head follow those
 * of the head before. */
struct chunk {
    const struct attention_forward_args *args;
    int32_t sequence;
    int kv_head, heads, group, rows;
    int64_t first_row;
};

static int64_t position_of(const struct chunk *c, int row) {
    return c->args->segments->past[c->sequence] + (c->first_row + row) / c->group;
}

/* The number among all (N, H) of a row in scratch. */
static int64_t query_of(const struct chunk *c, int slot) {
    int64_t row = c->first_row + slot % c->rows;
    int64_t token = c->args->segments->start[c->sequence] + row / c->group;
    return token * c->args->shape.heads + (c->kv_head + slot / c->rows) * c->group + row % c->group;
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

/* The tile of rows from `row` of a head, whose first row is `base` in scratch, against the packed
 * block of keys from `key`. */
static void forward_tile(const struct chunk *c, struct forward_scratch *w, int base, int row,
                         int64_t key) {
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
                             .a = w->q + (base + row) * width,
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
                    last < ATTENTION_BLOCK ? (int)last : ATTENTION_BLOCK - 1,
                    &w->max[base + row + r], &w->sum[base + row + r],
                    w->o + (base + row + r) * width, width);
    }
    struct product outputs = {.c = w->o + (base + row) * width,
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

static void start_rows(const struct chunk *c, struct forward_scratch *w) {
    int head_dim = c->args->shape.head_dim, width = padded(head_dim);
    for (int slot = 0; slot < c->heads * c->rows; slot++) {
        load_row(w->q + slot * width, (const act_t *)c->args->q + query_of(c, slot) * head_dim,
                 head_dim, c->args->shape.scale);
        for (int d = 0; d < width; d += V16_LANES) v16_store(w->o + slot * width + d, v16_zero());
        w->max[slot] = -INFINITY;
        w->sum[slot] = 0.0f;
    }
}

static void finish_rows(const struct chunk *c, const struct forward_scratch *w) {
    int head_dim = c->args->shape.head_dim, width = padded(head_dim);
    for (int slot = 0; slot < c->heads * c->rows; slot++) {
        int64_t query = query_of(c, slot);
        store_row((act_t *)c->args->o + query * head_dim, w->o + slot * width, head_dim,
                  v16_splat(w->sum[slot]));
        if (c->args->lse) c->args->lse[query] = w->max[slot] + logf(w->sum[slot]);
    }
}

/* Of the next block of keys, the share of tokens that goes with `head`; all heads of the chunk. */
__attribute__((always_inline)) static inline void prefetch_share(const struct head_rows *rows,
                                                                 const struct chunk *c, int64_t key,
                                                                 int64_t end, int head) {
    int64_t first = key + ATTENTION_BLOCK + ATTENTION_BLOCK * head / c->heads;
    int64_t last = key + ATTENTION_BLOCK + ATTENTION_BLOCK * (head + 1) / c->heads;
    prefetch_rows(rows, first, last < end ? last : end, c->heads);
}

static void forward_chunk(const struct chunk *c) {
    const struct attention_forward_args *a = c->args;
    struct forward_scratch scratch;
    start_rows(c, &scratch);
    struct head_rows keys =
        head_rows_of(a->kv->k, a->kv, a->segments, c->sequence, &a->shape, c->kv_head);
    struct head_rows values =
        head_rows_of(a->kv->v, a->kv, a->segments, c->sequence, &a->shape, c->kv_head);
    int64_t end = position_of(c, c->rows - 1) + 1;
    int64_t key = first_visible_key(&a->shape, position_of(c, 0));
    for (key -= key % ATTENTION_BLOCK; key < end; key += ATTENTION_BLOCK) {
        int count = end - key < ATTENTION_BLOCK ? (int)(end - key) : ATTENTION_BLOCK;
        for (int head = 0; head < c->heads; head++) {
            struct head_rows head_keys = keys, head_values = values;
            head_keys.first += head * a->shape.head_dim;
            head_values.first += head * a->shape.head_dim;
            prefetch_share(&keys, c, key, end, head);
            pack_columns(scratch.keys, &head_keys, key, count);
            prefetch_share(&values, c, key, end, head);
            pack_rows(scratch.values, &head_values, key, count, 1.0f);
            for (int row = 0; row < c->rows; row += TILE_ROWS)
                forward_tile(c, &scratch, head * c->rows, row, key);
        }
    }
    finish_rows(c, &scratch);
}

/* Item `item` of a sequence: which key heads and rows. False when the sequence has fewer items. */
static bool chunk_of(struct chunk *c, const struct attention_forward_args *a, int32_t sequence,
                     int64_t item, int most_heads) {
    const struct attention_shape *shape = &a->shape;
    int most_rows = chunk_rows(shape->head_dim);
    int64_t tokens = a->segments->start[sequence + 1] - a->segments->start[sequence];
    *c = (struct chunk){.args = a, .sequence = sequence, .group = shape->heads / shape->kv_heads};
    int64_t rows = tokens * c->group;
    if (rows == 0) return false;
    int heads = rows < most_rows ? most_rows / (int)rows : 1;
    if (heads > most_heads) heads = most_heads;
    int shares = (shape->kv_heads + heads - 1) / heads;
    c->kv_head = (int)(item % shares) * heads;
    c->heads = shape->kv_heads - c->kv_head < heads ? shape->kv_heads - c->kv_head : heads;
    c->first_row = item / shares * most_rows;
    if (c->first_row >= rows) return false;
    c->rows = (int)(rows - c->first_row < most_rows ? rows - c->first_row : most_rows);
    return true;
}

void VARIANT(attention_forward_cpu)(struct stream *s, const struct attention_forward_args *a) {
    const struct attention_shape *shape = &a->shape;
    const struct segments *segments = a->segments;
    assert(shape->head_dim <= ATTENTION_MAX_HEAD_DIM && shape->heads % shape->kv_heads == 0);
    int64_t longest = 0, work = 0, heads = shape->kv_heads;
    for (int32_t i = 0; i < segments->count; i++) {
        int64_t tokens = segments->start[i + 1] - segments->start[i];
        work += tokens * (segments->past[i] + tokens) * shape->heads * shape->head_dim;
        if (tokens > longest) longest = tokens;
    }
    int most_rows = chunk_rows(shape->head_dim), threads = threads_for(s, work, 1 << 17);
    int64_t items = heads * ((longest * shape->heads / heads + most_rows - 1) / most_rows);
    int most_heads = (int)((segments->count * heads + 2 * threads - 1) / (2 * threads));
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
    for (int64_t i = 0; i < segments->count * items; i++) {
        struct chunk c;
        if (chunk_of(&c, a, (int32_t)(i / items), i % items, most_heads)) forward_chunk(&c);
    }
}
