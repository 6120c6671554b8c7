/* Fast attention, backward. With q' = q * scale, p = exp(q' . k - lse), delta = rowsum(do * o) and
 * ds = p * (do . v - delta):
 *     dv = p^T do,  dk = ds^T q',  dq = ds k * scale
 *
 * One (sequence, key head) walks its blocks of keys; each block walks the chunks of query rows that
 * see it, and dk, dv of a block stay in scratch. dq is summed over blocks where it lies when
 * activations are fp32; rounding to bf16 at every block would lose it, so there a second pass walks
 * the blocks for each chunk of rows (7 products a pair instead of 5). */
#include "kernels/attention_tile.h"
#include "kernels/ops.h"
#include "kernels/threads.h"

#include <assert.h>

struct backward_scratch {
    _Alignas(64) float k_columns[BLOCK_FLOATS], v_columns[BLOCK_FLOATS], k_rows[BLOCK_FLOATS];
    _Alignas(64) float dk[BLOCK_FLOATS], dv[BLOCK_FLOATS];
    _Alignas(64) float q[CHUNK_FLOATS], dout[CHUNK_FLOATS], dq[CHUNK_FLOATS];
    _Alignas(64) float p[CHUNK_ROWS * ATTENTION_BLOCK], ds[CHUNK_ROWS * ATTENTION_BLOCK];
};

/* The (sequence, key head) at work. */
struct item {
    const struct attention_backward_args *args;
    struct head_rows keys, values;
    int32_t start, tokens;
    int kv_head, group, head_dim, width;
    struct backward_scratch *scratch;
};

/* Rows (token, head of the group) first .. first + rows - 1 of the item. */
struct chunk {
    int64_t first;
    int rows;
};

static const bool dq_in_memory = sizeof(act_t) == sizeof(float);

static int64_t query_of(const struct item *t, int64_t row) {
    int64_t token = t->start + row / t->group;
    return token * t->args->shape.heads + t->kv_head * t->group + row % t->group;
}

static void zero_floats(float *x, int64_t count) {
    for (int64_t i = 0; i < count; i += V16_LANES) v16_store(x + i, v16_zero());
}

static int rows_in_tile(int row, int rows) {
    return rows - row < TILE_ROWS ? rows - row : TILE_ROWS;
}

/* The key after the last one that the row sees, within the block at `key`; <= 0 for none. */
static int visible_end(const struct item *t, int64_t row, int64_t key) {
    int64_t end = row / t->group - key + 1;
    return end < ATTENTION_BLOCK ? (int)end : ATTENTION_BLOCK;
}

static int visible_begin(const struct item *t, int64_t row, int64_t key) {
    int64_t begin = first_visible_key(&t->args->shape, row / t->group) - key;
    return begin > 0 ? (int)begin : 0;
}

static void load_chunk(const struct item *t, const struct chunk *c) {
    const struct attention_backward_args *a = t->args;
    for (int r = 0; r < c->rows; r++) {
        int64_t at = query_of(t, c->first + r) * t->head_dim;
        load_row(t->scratch->q + r * t->width, (const act_t *)a->q + at, t->head_dim,
                 a->shape.scale);
        load_row(t->scratch->dout + r * t->width, (const act_t *)a->dout + at, t->head_dim, 1.0f);
    }
}

/* p and ds of one row from its scores and its do . v, zero where the row does not see a key. */
static void gradient_row(float *p, float *ds, int begin, int end, float lse, float delta) {
    v16 base = v16_splat(lse), shift = v16_splat(delta);
    for (int j = 0; j < ATTENTION_BLOCK; j += V16_LANES) {
        v16 weight = v16_exp(v16_sub(v16_load(p + j), base));
        v16_store(ds + j, v16_mul(weight, v16_sub(v16_load(ds + j), shift)));
        v16_store(p + j, weight);
    }
    for (int j = 0; j < ATTENTION_BLOCK; j++) {
        if (j == begin) j = end;
        if (j < ATTENTION_BLOCK) p[j] = ds[j] = 0.0f;
    }
}

/* scratch p and ds of the chunk against the packed block at `key`. */
static void gradient_of_scores(const struct item *t, const struct chunk *c, int64_t key) {
    struct backward_scratch *w = t->scratch;
    for (int pass = 0; pass < 2; pass++) {
        for (int row = 0; row < c->rows; row += TILE_ROWS) {
            int rows = rows_in_tile(row, c->rows);
            int end = visible_end(t, c->first + row + rows - 1, key);
            if (end <= 0) continue;
            struct product scores = {.c = (pass ? w->ds : w->p) + row * ATTENTION_BLOCK,
                                     .c_row = ATTENTION_BLOCK,
                                     .a = (pass ? w->dout : w->q) + row * t->width,
                                     .a_row = t->width,
                                     .a_k = 1,
                                     .b = pass ? w->v_columns : w->k_columns,
                                     .b_row = ATTENTION_BLOCK,
                                     .rows = rows,
                                     .vectors = (end + V16_LANES - 1) / V16_LANES,
                                     .k = t->head_dim};
            product(&scores);
        }
    }
    for (int r = 0; r < c->rows; r++) {
        int64_t query = query_of(t, c->first + r);
        int begin = visible_begin(t, c->first + r, key), end = visible_end(t, c->first + r, key);
        if (begin >= end) begin = end = ATTENTION_BLOCK;
        gradient_row(w->p + r * ATTENTION_BLOCK, w->ds + r * ATTENTION_BLOCK, begin, end,
                     t->args->lse[query], t->args->scratch[query]);
    }
}

/* The chunk's rows that see keys key + j .. key + j + keys - 1: [begin, end). */
static struct chunk rows_seeing(const struct item *t, const struct chunk *c, int64_t key,
                                int keys) {
    int64_t begin = key * t->group - c->first, end = c->rows;
    if (t->args->shape.window > 0) {
        int64_t reach = (key + keys - 1 + t->args->shape.window) * t->group - c->first;
        if (reach < end) end = reach;
    }
    if (begin < 0) begin = 0;
    return (struct chunk){begin, end > begin ? (int)(end - begin) : 0};
}

/* dv += p^T do, dk += ds^T q' for `count` keys of the block at `key`. */
static void add_to_keys(const struct item *t, const struct chunk *c, int64_t key, int count) {
    struct backward_scratch *w = t->scratch;
    for (int pass = 0; pass < 2; pass++) {
        for (int j = 0; j < count; j += TILE_ROWS) {
            int keys = rows_in_tile(j, count);
            struct chunk seen = rows_seeing(t, c, key + j, keys);
            struct product sums = {.c = (pass ? w->dk : w->dv) + j * t->width,
                                   .c_row = t->width,
                                   .a = (pass ? w->ds : w->p) + seen.first * ATTENTION_BLOCK + j,
                                   .a_row = 1,
                                   .a_k = ATTENTION_BLOCK,
                                   .b = (pass ? w->q : w->dout) + seen.first * t->width,
                                   .b_row = t->width,
                                   .rows = keys,
                                   .vectors = t->width / V16_LANES,
                                   .k = seen.rows,
                                   .accumulate = true};
            if (seen.rows > 0) product(&sums);
        }
    }
}

/* scratch dq += ds k * scale */
static void add_to_queries(const struct item *t, const struct chunk *c, int64_t key) {
    struct backward_scratch *w = t->scratch;
    for (int row = 0; row < c->rows; row += TILE_ROWS) {
        int rows = rows_in_tile(row, c->rows);
        int begin = visible_begin(t, c->first + row, key);
        int end = visible_end(t, c->first + row + rows - 1, key);
        if (begin >= end) continue;
        struct product sums = {.c = w->dq + row * t->width,
                               .c_row = t->width,
                               .a = w->ds + row * ATTENTION_BLOCK + begin,
                               .a_row = ATTENTION_BLOCK,
                               .a_k = 1,
                               .b = w->k_rows + begin * t->width,
                               .b_row = t->width,
                               .rows = rows,
                               .vectors = t->width / V16_LANES,
                               .k = end - begin,
                               .accumulate = true};
        product(&sums);
    }
}

static void load_dq(const struct item *t, const struct chunk *c) {
    for (int r = 0; r < c->rows; r++)
        load_row(t->scratch->dq + r * t->width,
                 (const act_t *)t->args->dq + query_of(t, c->first + r) * t->head_dim, t->head_dim,
                 1.0f);
}

static void store_dq(const struct item *t, const struct chunk *c) {
    for (int r = 0; r < c->rows; r++)
        store_row((act_t *)t->args->dq + query_of(t, c->first + r) * t->head_dim,
                  t->scratch->dq + r * t->width, t->head_dim, v16_splat(1.0f));
}

/* Packs the block at `key`; returns its number of keys. */
static int pack_block(const struct item *t, int64_t key) {
    struct backward_scratch *w = t->scratch;
    int count = t->tokens - key < ATTENTION_BLOCK ? (int)(t->tokens - key) : ATTENTION_BLOCK;
    pack_columns(w->k_columns, &t->keys, key, count);
    pack_columns(w->v_columns, &t->values, key, count);
    pack_rows(w->k_rows, &t->keys, key, count, t->args->shape.scale);
    return count;
}

/* dk and dv of one block of keys, and its part of dq where that is summed in memory. */
static void backward_block(const struct item *t, int64_t key) {
    struct backward_scratch *w = t->scratch;
    int count = pack_block(t, key), most = chunk_rows(t->head_dim);
    int64_t last = t->tokens - 1;
    if (t->args->shape.window > 0 && key + count - 2 + t->args->shape.window < last)
        last = key + count - 2 + t->args->shape.window;
    zero_floats(w->dk, (int64_t)count * t->width);
    zero_floats(w->dv, (int64_t)count * t->width);
    for (int64_t row = key * t->group; row < (last + 1) * t->group; row += most) {
        int64_t left = (last + 1) * t->group - row;
        struct chunk c = {row, left < most ? (int)left : most};
        load_chunk(t, &c);
        gradient_of_scores(t, &c, key);
        add_to_keys(t, &c, key, count);
        if (!dq_in_memory) continue;
        load_dq(t, &c);
        add_to_queries(t, &c, key);
        store_dq(t, &c);
    }
    for (int j = 0; j < count; j++) {
        int64_t at = ((t->start + key + j) * t->args->shape.kv_heads + t->kv_head) * t->head_dim;
        store_row((act_t *)t->args->dk + at, w->dk + j * t->width, t->head_dim, v16_splat(1.0f));
        store_row((act_t *)t->args->dv + at, w->dv + j * t->width, t->head_dim, v16_splat(1.0f));
    }
}

/* dq of one chunk of rows over all blocks that it sees. */
static void backward_queries(const struct item *t, const struct chunk *c) {
    zero_floats(t->scratch->dq, (int64_t)c->rows * t->width);
    load_chunk(t, c);
    int64_t key = first_visible_key(&t->args->shape, c->first / t->group);
    int64_t last = (c->first + c->rows - 1) / t->group;
    for (key -= key % ATTENTION_BLOCK; key <= last; key += ATTENTION_BLOCK) {
        pack_block(t, key);
        gradient_of_scores(t, c, key);
        add_to_queries(t, c, key);
    }
    store_dq(t, c);
}

static void backward_item(const struct attention_backward_args *a, int32_t sequence, int kv_head) {
    struct backward_scratch scratch;
    const struct kv_source contiguous = {.page_table = NULL};
    const struct attention_shape *shape = &a->shape;
    struct item t = {.args = a,
                     .keys = head_rows_of(a->k, &contiguous, a->segments, sequence, shape, kv_head),
                     .values =
                         head_rows_of(a->v, &contiguous, a->segments, sequence, shape, kv_head),
                     .start = a->segments->start[sequence],
                     .tokens = a->segments->start[sequence + 1] - a->segments->start[sequence],
                     .kv_head = kv_head,
                     .group = shape->heads / shape->kv_heads,
                     .head_dim = shape->head_dim,
                     .width = padded(shape->head_dim),
                     .scratch = &scratch};
    int most = chunk_rows(t.head_dim);
    int64_t rows = (int64_t)t.tokens * t.group;
    for (int64_t row = 0; row < rows; row += most) {
        struct chunk c = {row, rows - row < most ? (int)(rows - row) : most};
        if (!dq_in_memory) {
            backward_queries(&t, &c);
        } else {
            zero_floats(scratch.dq, (int64_t)c.rows * t.width);
            store_dq(&t, &c);
        }
    }
    for (int64_t key = 0; key < t.tokens; key += ATTENTION_BLOCK) backward_block(&t, key);
}

/* rowsum(do * o) */
static float delta_of(const act_t *dout, const act_t *o, int head_dim) {
    v16 sum = v16_zero();
    int d = 0;
    for (; d + V16_LANES <= head_dim; d += V16_LANES)
        sum = v16_fma(v16_load_act(dout + d), v16_load_act(o + d), sum);
    if (d < head_dim)
        sum = v16_fma(v16_load_act_part(dout + d, head_dim - d),
                      v16_load_act_part(o + d, head_dim - d), sum);
    return v16_sum(sum);
}

void VARIANT(attention_backward_cpu)(struct stream *s, const struct attention_backward_args *a) {
    const struct attention_shape *shape = &a->shape;
    const struct segments *segments = a->segments;
    assert(shape->head_dim <= ATTENTION_MAX_HEAD_DIM && shape->heads % shape->kv_heads == 0);
    int64_t work = 0, queries = (int64_t)segments->start[segments->count] * shape->heads;
    for (int32_t i = 0; i < segments->count; i++) {
        int64_t tokens = segments->start[i + 1] - segments->start[i];
        work += tokens * tokens * shape->heads * shape->head_dim;
    }
    int threads = threads_for(s, work, 1 << 17);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t query = 0; query < queries; query++)
            a->scratch[query] =
                delta_of((const act_t *)a->dout + query * shape->head_dim,
                         (const act_t *)a->o + query * shape->head_dim, shape->head_dim);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < (int64_t)segments->count * shape->kv_heads; i++)
            backward_item(a, (int32_t)(i / shape->kv_heads), (int)(i % shape->kv_heads));
    }
}
