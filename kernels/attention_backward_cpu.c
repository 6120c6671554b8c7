/* Fast attention, backward. With q' = q * scale, p = exp(q' . k - lse), delta = rowsum(do * o) and
 * ds = p * (do . v - delta):
 *     dv = p^T do,  dk = ds^T q',  dq = ds k * scale
 *
 * One (sequence, key head) walks its blocks of keys; each block walks the chunks of query rows that
 * see it, and dk, dv of a block stay in scratch. dq is summed over blocks where it lies when it is
 * fp32 there; rounding to bf16 at every block would lose it, so there a second pass walks
 * the blocks for each chunk of rows (7 products a pair instead of 5). */
#include "kernels/attention_tile.h"
#include "kernels/ops.h"
#include "kernels/threads.h"

#include <assert.h>
#include <string.h>

struct backward_scratch {
    _Alignas(64) float k_columns[BLOCK_FLOATS], v_columns[BLOCK_FLOATS], k_rows[BLOCK_FLOATS];
    _Alignas(64) float dk[BLOCK_FLOATS], dv[BLOCK_FLOATS];
    _Alignas(64) float q[CHUNK_FLOATS], dout[CHUNK_FLOATS], dq[CHUNK_FLOATS];
    _Alignas(64) float p[CHUNK_ROWS * ATTENTION_BLOCK], ds[CHUNK_ROWS * ATTENTION_BLOCK];
};

/* Either sequences against their own keys, or parts. */
struct job {
    const struct segments *segments;    /* or NULL */
    const struct attention_part *parts; /* or NULL */
    int32_t count;                      /* of either */
    float *dq;                          /* summed where it lies; NULL: rounded to dq_act */
    void *dq_act, *dk, *dv;             /* act, of sequences */
    float *dk_sums, *dv_sums;           /* of parts */
    float *delta;                       /* (N, H) */
    const void *dout, *q, *k, *v, *o;
    const float *lse;
    struct attention_shape shape;
};

/* The (sequence, or part, and key head) at work. */
struct item {
    const struct job *job;
    struct attention_part part;
    struct head_rows keys, values;
    int kv_head, group, head_dim, width;
    struct backward_scratch *scratch;
};

/* Rows (token, head of the group) first .. first + rows - 1 of the item. */
struct chunk {
    int64_t first;
    int rows;
};

static int64_t query_of(const struct item *t, int64_t row) {
    int64_t token = t->part.query + row / t->group;
    return token * t->job->shape.heads + t->kv_head * t->group + row % t->group;
}

static void zero_floats(float *x, int64_t count) {
    for (int64_t i = 0; i < count; i += V16_LANES) v16_store(x + i, v16_zero());
}

static int rows_in_tile(int row, int rows) {
    return rows - row < TILE_ROWS ? rows - row : TILE_ROWS;
}

static int64_t position_of(const struct item *t, int64_t row) {
    return t->part.past + row / t->group;
}

/* The key after the last one that the row sees, within the block at `key`; <= 0 for none. */
static int visible_end(const struct item *t, int64_t row, int64_t key) {
    int64_t position = position_of(t, row);
    int64_t end = (position < t->part.keys ? position + 1 : t->part.keys) - key;
    return end < ATTENTION_BLOCK ? (int)end : ATTENTION_BLOCK;
}

static int visible_begin(const struct item *t, int64_t row, int64_t key) {
    int64_t begin = first_visible_key(&t->job->shape, position_of(t, row)) - key;
    return begin <= 0 ? 0 : begin < ATTENTION_BLOCK ? (int)begin : ATTENTION_BLOCK;
}

static void load_chunk(const struct item *t, const struct chunk *c) {
    const struct job *a = t->job;
    for (int r = 0; r < c->rows; r++) {
        int64_t at = query_of(t, c->first + r) * t->head_dim;
        load_row(t->scratch->q + r * t->width, (const act_t *)a->q + at, t->head_dim,
                 a->shape.scale);
        load_row(t->scratch->dout + r * t->width, (const act_t *)a->dout + at, t->head_dim, 1.0f);
    }
}

/* p and ds of one row from its scores and its do . v, zero for keys that the row does not see. */
static void gradient_row(float *p, float *ds, uint64_t mask, float lse, float delta) {
    v16 base = v16_splat(lse), shift = v16_splat(delta);
    for (int j = 0; j < ATTENTION_BLOCK; j += V16_LANES, mask >>= V16_LANES) {
        uint32_t seen = (uint32_t)mask & 0xffff;
        v16 weight = v16_exp(v16_sub(v16_load(p + j), base));
        v16 gradient = v16_mul(weight, v16_sub(v16_load(ds + j), shift));
        v16_store(ds + j, v16_select(seen, gradient, v16_zero()));
        v16_store(p + j, v16_select(seen, weight, v16_zero()));
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
        uint64_t mask = begin < end ? slots_between(begin, end - 1) : 0;
        gradient_row(w->p + r * ATTENTION_BLOCK, w->ds + r * ATTENTION_BLOCK, mask,
                     t->job->lse[query], t->job->delta[query]);
    }
}

/* The chunk's rows that see keys key + j .. key + j + keys - 1: [begin, end). */
static struct chunk rows_seeing(const struct item *t, const struct chunk *c, int64_t key,
                                int keys) {
    int64_t begin = (key - t->part.past) * t->group - c->first, end = c->rows;
    if (t->job->shape.window > 0) {
        int64_t last = key + keys - 1 + t->job->shape.window - t->part.past;
        int64_t reach = last * t->group - c->first;
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
        load_floats(t->scratch->dq + r * t->width,
                    t->job->dq + query_of(t, c->first + r) * t->head_dim, t->head_dim);
}

static void store_dq(const struct item *t, const struct chunk *c) {
    for (int r = 0; r < c->rows; r++) {
        int64_t at = query_of(t, c->first + r) * t->head_dim;
        const float *from = t->scratch->dq + r * t->width;
        if (t->job->dq)
            store_floats(t->job->dq + at, from, t->head_dim);
        else
            store_row((act_t *)t->job->dq_act + at, from, t->head_dim, v16_splat(1.0f));
    }
}

/* Where the gradient of key number `key` of the item lies. */
static int64_t key_at(const struct item *t, int64_t key) {
    return ((t->part.key + key) * t->job->shape.kv_heads + t->kv_head) * t->head_dim;
}

/* Parts go on from what earlier ones of the call gave the keys. */
static void start_keys(const struct item *t, int64_t key, int count) {
    struct backward_scratch *w = t->scratch;
    if (!t->job->dk_sums) {
        zero_floats(w->dk, (int64_t)count * t->width);
        zero_floats(w->dv, (int64_t)count * t->width);
        return;
    }
    for (int j = 0; j < count; j++) {
        int64_t at = key_at(t, key + j);
        load_floats(w->dk + j * t->width, t->job->dk_sums + at, t->head_dim);
        load_floats(w->dv + j * t->width, t->job->dv_sums + at, t->head_dim);
    }
}

static void finish_keys(const struct item *t, int64_t key, int count) {
    const struct job *job = t->job;
    v16 one = v16_splat(1.0f);
    for (int j = 0; j < count; j++) {
        int64_t at = key_at(t, key + j);
        const float *dk = t->scratch->dk + j * t->width, *dv = t->scratch->dv + j * t->width;
        if (job->dk_sums) {
            store_floats(job->dk_sums + at, dk, t->head_dim);
            store_floats(job->dv_sums + at, dv, t->head_dim);
        } else {
            store_row((act_t *)job->dk + at, dk, t->head_dim, one);
            store_row((act_t *)job->dv + at, dv, t->head_dim, one);
        }
    }
}

/* Packs the block at `key`; returns its number of keys. */
static int pack_block(const struct item *t, int64_t key) {
    struct backward_scratch *w = t->scratch;
    int64_t left = t->part.keys - key;
    int count = left < ATTENTION_BLOCK ? (int)left : ATTENTION_BLOCK;
    pack_columns(w->k_columns, &t->keys, key, count);
    pack_columns(w->v_columns, &t->values, key, count);
    pack_rows(w->k_rows, &t->keys, key, count, t->job->shape.scale);
    return count;
}

/* dk and dv of one block of keys, and its part of dq where that is summed in memory. */
static void backward_block(const struct item *t, int64_t key) {
    int64_t count = t->part.keys - key, first = key - t->part.past, last = t->part.queries - 1;
    if (count > ATTENTION_BLOCK) count = ATTENTION_BLOCK;
    if (first < 0) first = 0;
    if (t->job->shape.window > 0) {
        int64_t reach = key + count - 2 + t->job->shape.window - t->part.past;
        if (reach < last) last = reach;
    }
    if (t->job->dk_sums && first > last) return; /* nobody sees it, and it is 0 already */
    pack_block(t, key);
    start_keys(t, key, (int)count);
    int most = chunk_rows(t->head_dim);
    for (int64_t row = first * t->group; row < (last + 1) * t->group; row += most) {
        int64_t left = (last + 1) * t->group - row;
        struct chunk c = {row, left < most ? (int)left : most};
        load_chunk(t, &c);
        gradient_of_scores(t, &c, key);
        add_to_keys(t, &c, key, (int)count);
        if (!t->job->dq) continue;
        load_dq(t, &c);
        add_to_queries(t, &c, key);
        store_dq(t, &c);
    }
    finish_keys(t, key, (int)count);
}

/* dq of one chunk of rows over all blocks that it sees. */
static void backward_queries(const struct item *t, const struct chunk *c) {
    zero_floats(t->scratch->dq, (int64_t)c->rows * t->width);
    load_chunk(t, c);
    int64_t key = first_visible_key(&t->job->shape, position_of(t, c->first));
    int64_t last = position_of(t, c->first + c->rows - 1);
    for (key -= key % ATTENTION_BLOCK; key <= last; key += ATTENTION_BLOCK) {
        pack_block(t, key);
        gradient_of_scores(t, c, key);
        add_to_queries(t, c, key);
    }
    store_dq(t, c);
}

static struct attention_part part_of(const struct job *job, int32_t i) {
    return job->parts ? job->parts[i] : part_of_sequence(job->segments, i);
}

static void backward_part(const struct job *job, int32_t number, int kv_head,
                          struct backward_scratch *scratch) {
    const struct kv_source contiguous = {.page_table = NULL};
    const struct attention_shape *shape = &job->shape;
    const struct attention_part part = part_of(job, number);
    struct item t = {.job = job,
                     .part = part,
                     .keys = head_rows_of(job->k, &contiguous, &part, shape, kv_head),
                     .values = head_rows_of(job->v, &contiguous, &part, shape, kv_head),
                     .kv_head = kv_head,
                     .group = shape->heads / shape->kv_heads,
                     .head_dim = shape->head_dim,
                     .width = padded(shape->head_dim),
                     .scratch = scratch};
    int most = chunk_rows(t.head_dim);
    int64_t rows = job->dq ? 0 : (int64_t)part.queries * t.group;
    for (int64_t row = 0; row < rows; row += most) {
        struct chunk c = {row, rows - row < most ? (int)(rows - row) : most};
        backward_queries(&t, &c);
    }
    for (int64_t key = 0; key < part.keys; key += ATTENTION_BLOCK) backward_block(&t, key);
}

/* A sequence; or all parts of a document, if this is the first of them. */
static void backward_item(const struct job *job, int32_t first, int kv_head) {
    struct backward_scratch scratch;
    const struct attention_part *parts = job->parts;
    if (parts && first > 0 && parts[first - 1].document == parts[first].document) return;
    int32_t end = first + 1;
    while (parts && end < job->count && parts[end].document == parts[first].document) end++;
    for (int32_t i = first; i < end; i++) backward_part(job, i, kv_head, &scratch);
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

/* rowsum(do * o) of queries [0, queries), and dq = 0 where it is summed in memory. */
static void start_queries(const struct job *job, int64_t queries) {
    int head_dim = job->shape.head_dim;
#pragma omp for schedule(static)
    for (int64_t query = 0; query < queries; query++) {
        int64_t at = query * head_dim;
        job->delta[query] =
            delta_of((const act_t *)job->dout + at, (const act_t *)job->o + at, head_dim);
        if (job->dq) memset(job->dq + at, 0, (size_t)head_dim * sizeof *job->dq);
    }
}

static void backward_all(struct stream *s, const struct job *job, int64_t queries) {
    const struct attention_shape *shape = &job->shape;
    assert(shape->head_dim <= ATTENTION_MAX_HEAD_DIM && shape->heads % shape->kv_heads == 0);
    int64_t work = 0;
    for (int32_t i = 0; i < job->count; i++) {
        struct attention_part part = part_of(job, i);
        work += (int64_t)part.queries * part.keys * shape->heads * shape->head_dim;
    }
    int threads = threads_for(s, work, 1 << 17);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        start_queries(job, queries);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < (int64_t)job->count * shape->kv_heads; i++)
            backward_item(job, (int32_t)(i / shape->kv_heads), (int)(i % shape->kv_heads));
    }
}

void VARIANT(attention_backward_cpu)(struct stream *s, const struct attention_backward_args *a) {
    const struct segments *segments = a->segments;
    bool in_memory = sizeof(act_t) == sizeof(float);
    const struct job job = {.segments = segments,
                            .count = segments->count,
                            .dq = in_memory ? a->dq : NULL,
                            .dq_act = a->dq,
                            .dk = a->dk,
                            .dv = a->dv,
                            .delta = a->scratch,
                            .dout = a->dout,
                            .q = a->q,
                            .k = a->k,
                            .v = a->v,
                            .o = a->o,
                            .lse = a->lse,
                            .shape = a->shape};
    backward_all(s, &job, (int64_t)segments->start[segments->count] * a->shape.heads);
}

void VARIANT(attention_part_backward_cpu)(struct stream *s,
                                          const struct attention_part_backward_args *a) {
    const struct job job = {.parts = a->parts,
                            .count = a->count,
                            .dq = a->dq,
                            .dk_sums = a->dk,
                            .dv_sums = a->dv,
                            .delta = a->scratch,
                            .dout = a->dout,
                            .q = a->q,
                            .k = a->k,
                            .v = a->v,
                            .o = a->o,
                            .lse = a->lse,
                            .shape = a->shape};
    size_t bytes = (size_t)(a->keys * a->shape.kv_heads * a->shape.head_dim) * sizeof *a->dk;
    if (bytes > 0) memset(a->dk, 0, bytes);
    if (bytes > 0) memset(a->dv, 0, bytes);
    backward_all(s, &job, a->first ? a->tokens * a->shape.heads : 0);
}
