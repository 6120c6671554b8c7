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
#include <string.h>

struct forward_scratch {
    _Alignas(64) float keys[BLOCK_FLOATS], values[BLOCK_FLOATS];
    _Alignas(64) float q[CHUNK_FLOATS], o[CHUNK_FLOATS];
    _Alignas(64) float p[TILE_ROWS * ATTENTION_BLOCK];
    float max[CHUNK_ROWS], sum[CHUNK_ROWS];
};

/* Either sequences against all their keys, or parts that go on from what their queries have seen.
 */
struct job {
    const struct segments *segments;    /* or NULL */
    const struct attention_part *parts; /* or NULL */
    int32_t count;                      /* of either */
    void *o;                            /* act, of sequences */
    float *sums;                        /* o of parts */
    float *lse;
    const void *q;
    const struct kv_source *kv;
    struct attention_shape shape;
};

static struct attention_part part_of(const struct job *job, int32_t i) {
    return job->parts ? job->parts[i] : part_of_sequence(job->segments, i);
}

/* How many parts have the queries of part i, if it is the first of them; else 0. */
static int32_t parts_of_queries(const struct job *job, int32_t i) {
    const struct attention_part *parts = job->parts;
    if (!parts) return 1;
    if (i > 0 && parts[i - 1].query == parts[i].query) return 0;
    int32_t end = i + 1;
    while (end < job->count && parts[end].query == parts[i].query) end++;
    return end - i;
}

/* Rows first_row .. first_row + rows - 1 of a run of queries, for each of `heads` key heads; row =
 * token * group + head of the group. A decode takes several heads at once, so that tokens' keys are
 * read from memory as they lie; a prefill one, with many rows. In scratch, rows of a head follow
 * those of the head before. */
struct chunk {
    const struct job *job;
    struct attention_part part; /* the one at work */
    int kv_head, heads, group, rows;
    int64_t first_row;
};

static int64_t position_of(const struct chunk *c, int row) {
    return c->part.past + (c->first_row + row) / c->group;
}

/* The last key that a row sees; below 0: none. */
static int64_t last_visible_key(const struct chunk *c, int row) {
    int64_t position = position_of(c, row);
    return position < c->part.keys ? position : c->part.keys - 1;
}

/* The number among all (N, H) of a row in scratch. */
static int64_t query_of(const struct chunk *c, int slot) {
    int64_t row = c->first_row + slot % c->rows;
    int64_t token = c->part.query + row / c->group;
    return token * c->job->shape.heads + (c->kv_head + slot / c->rows) * c->group + row % c->group;
}

/* Online softmax of one row in one block: p = exp(s - max) in place for the slots in the mask, 0
 * elsewhere; the row's sum and output so far are rescaled when its maximum grows. */
static void softmax_row(float *p, uint64_t mask, float *max, float *sum, float *o, int width) {
    v16 slots[4], lowest = v16_splat(-INFINITY);
    for (int v = 0; v < 4; v++)
        slots[v] = v16_select((uint32_t)(mask >> (v * V16_LANES)) & 0xffff,
                              v16_load(p + v * V16_LANES), lowest);
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
    const struct attention_shape *shape = &c->job->shape;
    int rows = c->rows - row < TILE_ROWS ? c->rows - row : TILE_ROWS;
    int width = padded(shape->head_dim);
    int64_t low = first_visible_key(shape, position_of(c, row)) - key;
    int64_t high = last_visible_key(c, row + rows - 1) - key;
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
        int64_t first = first_visible_key(shape, position_of(c, row + r)) - key;
        int64_t last = last_visible_key(c, row + r) - key;
        float *p = w->p + r * ATTENTION_BLOCK;
        if (last < 0 || first >= ATTENTION_BLOCK ||
            first > last) { /* this row sees none of the block */
            for (int v = 0; v < ATTENTION_BLOCK; v += V16_LANES) v16_store(p + v, v16_zero());
            continue;
        }
        int slot = base + row + r;
        softmax_row(p, slots_between(first, last), &w->max[slot], &w->sum[slot],
                    w->o + slot * width, width);
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

/* What a row has seen so far goes on as one key of weight 1 and value o. */
static void go_on(const struct job *job, int64_t query, float *o, float *max, float *sum) {
    load_floats(o, job->sums + query * job->shape.head_dim, job->shape.head_dim);
    *max = job->lse[query];
    *sum = *max == -INFINITY ? 0.0f : 1.0f;
}

static void start_rows(const struct chunk *c, struct forward_scratch *w) {
    const struct job *job = c->job;
    int head_dim = job->shape.head_dim, width = padded(head_dim);
    for (int slot = 0; slot < c->heads * c->rows; slot++) {
        int64_t query = query_of(c, slot);
        load_row(w->q + slot * width, (const act_t *)job->q + query * head_dim, head_dim,
                 job->shape.scale);
        for (int d = 0; d < width; d += V16_LANES) v16_store(w->o + slot * width + d, v16_zero());
        w->max[slot] = -INFINITY;
        w->sum[slot] = 0.0f;
        if (job->sums) go_on(job, query, w->o + slot * width, &w->max[slot], &w->sum[slot]);
    }
}

/* A row of a part may have seen nothing yet. */
static void keep_row(const struct job *job, int64_t query, float *o, float max, float sum) {
    int head_dim = job->shape.head_dim;
    job->lse[query] = sum == 0.0f ? -INFINITY : max + logf(sum);
    if (sum == 0.0f) return;
    for (int d = 0; d < head_dim; d += V16_LANES)
        v16_store(o + d, v16_div(v16_load(o + d), v16_splat(sum)));
    store_floats(job->sums + query * head_dim, o, head_dim);
}

static void finish_rows(const struct chunk *c, struct forward_scratch *w) {
    const struct job *job = c->job;
    int head_dim = job->shape.head_dim, width = padded(head_dim);
    for (int slot = 0; slot < c->heads * c->rows; slot++) {
        int64_t query = query_of(c, slot);
        if (job->sums) {
            keep_row(job, query, w->o + slot * width, w->max[slot], w->sum[slot]);
            continue;
        }
        store_row((act_t *)job->o + query * head_dim, w->o + slot * width, head_dim,
                  v16_splat(w->sum[slot]));
        if (job->lse) job->lse[query] = w->max[slot] + logf(w->sum[slot]);
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

/* The chunk's rows against the keys of its part. */
static void walk_keys(const struct chunk *c, struct forward_scratch *scratch) {
    const struct job *job = c->job;
    struct head_rows keys = head_rows_of(job->kv->k, job->kv, &c->part, &job->shape, c->kv_head);
    struct head_rows values = head_rows_of(job->kv->v, job->kv, &c->part, &job->shape, c->kv_head);
    int64_t end = last_visible_key(c, c->rows - 1) + 1;
    int64_t key = first_visible_key(&job->shape, position_of(c, 0));
    for (key -= key % ATTENTION_BLOCK; key < end; key += ATTENTION_BLOCK) {
        int count = end - key < ATTENTION_BLOCK ? (int)(end - key) : ATTENTION_BLOCK;
        for (int head = 0; head < c->heads; head++) {
            struct head_rows head_keys = keys, head_values = values;
            head_keys.first += head * job->shape.head_dim;
            head_values.first += head * job->shape.head_dim;
            prefetch_share(&keys, c, key, end, head);
            pack_columns(scratch->keys, &head_keys, key, count);
            prefetch_share(&values, c, key, end, head);
            pack_rows(scratch->values, &head_values, key, count, 1.0f);
            for (int row = 0; row < c->rows; row += TILE_ROWS)
                forward_tile(c, scratch, head * c->rows, row, key);
        }
    }
}

/* Item `item` of the run of queries that begins with part `first`: which key heads and rows. False
 * when it has fewer items. */
static bool chunk_of(struct chunk *c, const struct job *job, int32_t first, int64_t item,
                     int most_heads) {
    const struct attention_shape *shape = &job->shape;
    int most_rows = chunk_rows(shape->head_dim);
    *c = (struct chunk){
        .job = job, .part = part_of(job, first), .group = shape->heads / shape->kv_heads};
    int64_t rows = (int64_t)c->part.queries * c->group;
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

static void forward_item(const struct job *job, int32_t first, int64_t item, int most_heads) {
    struct forward_scratch scratch;
    struct chunk c;
    int32_t parts = parts_of_queries(job, first);
    if (parts == 0 || !chunk_of(&c, job, first, item, most_heads)) return;
    start_rows(&c, &scratch);
    for (int32_t i = 0; i < parts; i++) {
        c.part = part_of(job, first + i);
        walk_keys(&c, &scratch);
    }
    finish_rows(&c, &scratch);
}

static void forward_all(struct stream *s, const struct job *job) {
    const struct attention_shape *shape = &job->shape;
    assert(shape->head_dim <= ATTENTION_MAX_HEAD_DIM && shape->heads % shape->kv_heads == 0);
    int64_t longest = 0, work = 0, heads = shape->kv_heads;
    for (int32_t i = 0; i < job->count; i++) {
        struct attention_part part = part_of(job, i);
        work += (int64_t)part.queries * part.keys * shape->heads * shape->head_dim;
        if (part.queries > longest) longest = part.queries;
    }
    int most_rows = chunk_rows(shape->head_dim), threads = threads_for(s, work, 1 << 17);
    int64_t items = heads * ((longest * shape->heads / heads + most_rows - 1) / most_rows);
    int most_heads = (int)((job->count * heads + 2 * threads - 1) / (2 * threads));
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
    for (int64_t i = 0; i < job->count * items; i++)
        forward_item(job, (int32_t)(i / items), i % items, most_heads);
}

void VARIANT(attention_forward_cpu)(struct stream *s, const struct attention_forward_args *a) {
    const struct job job = {.segments = a->segments,
                            .count = a->segments->count,
                            .o = a->o,
                            .lse = a->lse,
                            .q = a->q,
                            .kv = a->kv,
                            .shape = a->shape};
    forward_all(s, &job);
}

void VARIANT(attention_part_forward_cpu)(struct stream *s,
                                         const struct attention_part_forward_args *a) {
    const struct kv_source kv = {.k = (void *)(uintptr_t)a->k, .v = (void *)(uintptr_t)a->v};
    const struct job job = {.parts = a->parts,
                            .count = a->count,
                            .sums = a->o,
                            .lse = a->lse,
                            .q = a->q,
                            .kv = &kv,
                            .shape = a->shape};
    int64_t rows = a->first ? a->tokens * a->shape.heads : 0;
    if (rows > 0) memset(a->o, 0, (size_t)(rows * a->shape.head_dim) * sizeof *a->o);
    for (int64_t i = 0; i < rows; i++) a->lse[i] = -INFINITY;
    forward_all(s, &job);
}
