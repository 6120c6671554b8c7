/* Attention in plain loops: scores are recomputed wherever they are needed, and a query's keys are
 * walked in order, so nothing depends on chunks or pages. */
#include "kernels/ops.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* One sequence's keys (or values) of one head. */
struct rows {
    const void *data;
    enum dtype dtype;
    int64_t first, stride; /* elements to the head's part of a row; of a row */
    const int32_t *pages;  /* NULL when contiguous */
    int32_t page_size;
};

static struct rows rows_of(const void *data, const struct kv_source *kv, int64_t sequence,
                           int64_t first_token, const struct attention_shape *shape, int kv_head) {
    struct rows rows = {.data = data,
                        .dtype = sizeof(act_t) == 2 ? DTYPE_BF16 : DTYPE_F32,
                        .stride = (int64_t)shape->kv_heads * shape->head_dim,
                        .first = (int64_t)kv_head * shape->head_dim};
    if (kv->page_table) {
        rows.dtype = kv->dtype;
        rows.pages = kv->page_table + sequence * kv->max_pages;
        rows.page_size = kv->page_size;
    } else {
        rows.first += first_token * rows.stride;
    }
    return rows;
}

static float row_element(const struct rows *rows, int64_t key, int column) {
    int64_t row = key;
    if (rows->pages)
        row = (int64_t)rows->pages[key / rows->page_size] * rows->page_size + key % rows->page_size;
    int64_t at = rows->first + row * rows->stride + column;
    if (rows->dtype == DTYPE_BF16) return bf16_to_f32(((const uint16_t *)rows->data)[at]);
    return ((const float *)rows->data)[at];
}

static float score_of(const act_t *q, const struct rows *keys, int64_t key,
                      const struct attention_shape *shape) {
    float sum = 0.0f;
    for (int i = 0; i < shape->head_dim; i++) sum += act_load(q[i]) * row_element(keys, key, i);
    return sum * shape->scale;
}

static int64_t first_key(const struct attention_shape *shape, int64_t position) {
    return shape->window > 0 && position >= shape->window ? position - shape->window + 1 : 0;
}

/* Softmax under way: out = sum of exp(score - max) * value, sum = sum of exp(score - max). */
struct softmax {
    float max, sum, out[ATTENTION_MAX_HEAD_DIM];
};

/* Takes keys [first, end) in. */
static void forward_row(struct softmax *row, const act_t *q, const struct rows *keys,
                        const struct rows *values, const struct attention_shape *shape,
                        int64_t first, int64_t end) {
    float max = row->max;
    for (int64_t j = first; j < end; j++) max = fmaxf(max, score_of(q, keys, j, shape));
    float factor = row->sum > 0.0f ? expf(row->max - max) : 0.0f;
    row->max = max;
    row->sum *= factor;
    for (int i = 0; i < shape->head_dim; i++) row->out[i] *= factor;
    for (int64_t j = first; j < end; j++) {
        float p = expf(score_of(q, keys, j, shape) - max);
        row->sum += p;
        for (int i = 0; i < shape->head_dim; i++) row->out[i] += p * row_element(values, j, i);
    }
}

void VARIANT(attention_forward_ref)(struct stream *s, const struct attention_forward_args *a) {
    (void)s;
    const struct attention_shape *shape = &a->shape;
    assert(shape->head_dim <= ATTENTION_MAX_HEAD_DIM && shape->heads % shape->kv_heads == 0);
    int group = shape->heads / shape->kv_heads;
    for (int32_t i = 0; i < a->segments->count; i++) {
        int32_t start = a->segments->start[i], end = a->segments->start[i + 1];
        for (int32_t token = start; token < end; token++) {
            int64_t position = (int64_t)a->segments->past[i] + token - start;
            for (int h = 0; h < shape->heads; h++) {
                int64_t at = (int64_t)token * shape->heads + h;
                struct rows keys = rows_of(a->kv->k, a->kv, i, start, shape, h / group);
                struct rows values = rows_of(a->kv->v, a->kv, i, start, shape, h / group);
                struct softmax row = {.max = -INFINITY};
                forward_row(&row, (const act_t *)a->q + at * shape->head_dim, &keys, &values, shape,
                            first_key(shape, position), position + 1);
                act_t *o = (act_t *)a->o + at * shape->head_dim;
                for (int d = 0; d < shape->head_dim; d++) o[d] = act_store(row.out[d] / row.sum);
                if (a->lse) a->lse[at] = row.max + logf(row.sum);
            }
        }
    }
}

/* The key after the last one of a part that its query number `token` sees; may be negative. */
static int64_t end_key(const struct attention_part *part, int64_t token) {
    int64_t position = part->past + token;
    return position < part->keys ? position + 1 : part->keys;
}

static void forward_part_row(const struct attention_part_forward_args *a,
                             const struct attention_part *part, int32_t token, int head) {
    const struct attention_shape *shape = &a->shape;
    const struct kv_source contiguous = {.page_table = NULL};
    int64_t at = (int64_t)(part->query + token) * shape->heads + head;
    int kv_head = head / (shape->heads / shape->kv_heads);
    struct rows keys = rows_of(a->k, &contiguous, 0, part->key, shape, kv_head);
    struct rows values = rows_of(a->v, &contiguous, 0, part->key, shape, kv_head);
    int64_t first = first_key(shape, part->past + token), end = end_key(part, token);
    if (first >= end) return;
    float *o = a->o + at * shape->head_dim;
    struct softmax row = {.max = a->lse[at], .sum = a->lse[at] == -INFINITY ? 0.0f : 1.0f};
    for (int d = 0; d < shape->head_dim; d++) row.out[d] = o[d];
    forward_row(&row, (const act_t *)a->q + at * shape->head_dim, &keys, &values, shape, first,
                end);
    for (int d = 0; d < shape->head_dim; d++) o[d] = row.out[d] / row.sum;
    a->lse[at] = row.max + logf(row.sum);
}

void VARIANT(attention_part_forward_ref)(struct stream *s,
                                         const struct attention_part_forward_args *a) {
    (void)s;
    assert(a->shape.head_dim <= ATTENTION_MAX_HEAD_DIM && a->shape.heads % a->shape.kv_heads == 0);
    int64_t rows = a->first ? a->tokens * a->shape.heads : 0;
    for (int64_t i = 0; i < rows; i++) a->lse[i] = -INFINITY;
    for (int64_t i = 0; i < rows * a->shape.head_dim; i++) a->o[i] = 0.0f;
    for (int32_t i = 0; i < a->count; i++)
        for (int32_t token = 0; token < a->parts[i].queries; token++)
            for (int h = 0; h < a->shape.heads; h++) forward_part_row(a, &a->parts[i], token, h);
}

/* p = exp(score - lse) and ds = p * (do . v - rowsum(do * o)) * scale of one (query, key). */
struct pair {
    float p, ds;
};

static struct pair pair_of(const struct attention_backward_args *a, int64_t query, int64_t key) {
    int head_dim = a->shape.head_dim;
    const act_t *q = (const act_t *)a->q + query * head_dim;
    const act_t *dout = (const act_t *)a->dout + query * head_dim;
    const act_t *k = (const act_t *)a->k + key * head_dim;
    const act_t *v = (const act_t *)a->v + key * head_dim;
    float score = 0.0f, dp = 0.0f;
    for (int i = 0; i < head_dim; i++) {
        score += act_load(q[i]) * act_load(k[i]);
        dp += act_load(dout[i]) * act_load(v[i]);
    }
    float p = expf(score * a->shape.scale - a->lse[query]);
    return (struct pair){p, p * (dp - a->scratch[query]) * a->shape.scale};
}

static void backward_query(const struct attention_backward_args *a, int32_t start, int32_t token,
                           int head) {
    const struct attention_shape *shape = &a->shape;
    int64_t query = (int64_t)token * shape->heads + head;
    int kv_head = head / (shape->heads / shape->kv_heads);
    float sum[ATTENTION_MAX_HEAD_DIM] = {0};
    for (int64_t j = first_key(shape, token - start); j <= token - start; j++) {
        int64_t key = (start + j) * shape->kv_heads + kv_head;
        float ds = pair_of(a, query, key).ds;
        for (int i = 0; i < shape->head_dim; i++)
            sum[i] += ds * act_load(((const act_t *)a->k)[key * shape->head_dim + i]);
    }
    act_t *dq = (act_t *)a->dq + query * shape->head_dim;
    for (int i = 0; i < shape->head_dim; i++) dq[i] = act_store(sum[i]);
}

static void backward_key(const struct attention_backward_args *a, int32_t start, int32_t end,
                         int32_t token, int kv_head) {
    const struct attention_shape *shape = &a->shape;
    int group = shape->heads / shape->kv_heads, head_dim = shape->head_dim;
    int64_t key = (int64_t)token * shape->kv_heads + kv_head;
    float dk[ATTENTION_MAX_HEAD_DIM] = {0}, dv[ATTENTION_MAX_HEAD_DIM] = {0};
    for (int32_t reader = token; reader < end; reader++) {
        if (first_key(shape, reader - start) > token - start) break;
        for (int g = 0; g < group; g++) {
            int64_t query = (int64_t)reader * shape->heads + kv_head * group + g;
            struct pair pair = pair_of(a, query, key);
            for (int i = 0; i < head_dim; i++) {
                dk[i] += pair.ds * act_load(((const act_t *)a->q)[query * head_dim + i]);
                dv[i] += pair.p * act_load(((const act_t *)a->dout)[query * head_dim + i]);
            }
        }
    }
    for (int i = 0; i < head_dim; i++) {
        ((act_t *)a->dk)[key * head_dim + i] = act_store(dk[i]);
        ((act_t *)a->dv)[key * head_dim + i] = act_store(dv[i]);
    }
}

/* rowsum(do * o) of the first `queries` of (N, H) */
static void sum_rows(const struct attention_backward_args *a, int64_t queries) {
    int head_dim = a->shape.head_dim;
    assert(head_dim <= ATTENTION_MAX_HEAD_DIM && a->shape.heads % a->shape.kv_heads == 0);
    for (int64_t query = 0; query < queries; query++) {
        float sum = 0.0f;
        for (int64_t i = query * head_dim; i < (query + 1) * head_dim; i++)
            sum += act_load(((const act_t *)a->dout)[i]) * act_load(((const act_t *)a->o)[i]);
        a->scratch[query] = sum;
    }
}

/* Adds what one query and the keys that it sees give each other. */
static void backward_part_row(const struct attention_part_backward_args *sums,
                              const struct attention_backward_args *a,
                              const struct attention_part *part, int32_t token, int head) {
    const struct attention_shape *shape = &a->shape;
    int64_t query = (int64_t)(part->query + token) * shape->heads + head;
    int64_t end = end_key(part, token);
    for (int64_t j = first_key(shape, part->past + token); j < end; j++) {
        int64_t key = (part->key + j) * shape->kv_heads + head / (shape->heads / shape->kv_heads);
        struct pair pair = pair_of(a, query, key);
        for (int i = 0; i < shape->head_dim; i++) {
            int64_t q = query * shape->head_dim + i, k = key * shape->head_dim + i;
            sums->dq[q] += pair.ds * act_load(((const act_t *)a->k)[k]);
            sums->dk[k] += pair.ds * act_load(((const act_t *)a->q)[q]);
            sums->dv[k] += pair.p * act_load(((const act_t *)a->dout)[q]);
        }
    }
}

void VARIANT(attention_part_backward_ref)(struct stream *s,
                                          const struct attention_part_backward_args *a) {
    (void)s;
    const struct attention_backward_args pairs = {.scratch = a->scratch,
                                                  .dout = a->dout,
                                                  .q = a->q,
                                                  .k = a->k,
                                                  .v = a->v,
                                                  .o = a->o,
                                                  .lse = a->lse,
                                                  .shape = a->shape};
    int64_t queries = a->first ? a->tokens * a->shape.heads : 0;
    int64_t keys = a->keys * a->shape.kv_heads;
    sum_rows(&pairs, queries);
    for (int64_t i = 0; i < queries * a->shape.head_dim; i++) a->dq[i] = 0.0f;
    for (int64_t i = 0; i < keys * a->shape.head_dim; i++) a->dk[i] = a->dv[i] = 0.0f;
    for (int32_t i = 0; i < a->count; i++)
        for (int32_t token = 0; token < a->parts[i].queries; token++)
            for (int h = 0; h < a->shape.heads; h++)
                backward_part_row(a, &pairs, &a->parts[i], token, h);
}

void VARIANT(attention_backward_ref)(struct stream *s, const struct attention_backward_args *a) {
    (void)s;
    const struct attention_shape *shape = &a->shape;
    const int32_t *starts = a->segments->start;
    sum_rows(a, (int64_t)starts[a->segments->count] * shape->heads);
    for (int32_t i = 0; i < a->segments->count; i++) {
        for (int32_t token = starts[i]; token < starts[i + 1]; token++) {
            for (int h = 0; h < shape->heads; h++) backward_query(a, starts[i], token, h);
            for (int h = 0; h < shape->kv_heads; h++)
                backward_key(a, starts[i], starts[i + 1], token, h);
        }
    }
}

static void write_row(const struct kv_source *kv, void *pages, int64_t row, const act_t *from,
                      int64_t width) {
    if (kv->dtype == DTYPE_BF16) {
        uint16_t *to = (uint16_t *)pages + row * width;
        for (int64_t i = 0; i < width; i++) to[i] = f32_to_bf16(act_load(from[i]));
    } else {
        float *to = (float *)pages + row * width;
        for (int64_t i = 0; i < width; i++) to[i] = act_load(from[i]);
    }
}

void VARIANT(kv_write_ref)(struct stream *s, const struct kv_source *kv, const void *k,
                           const void *v, const struct segments *segments, int kv_heads,
                           int head_dim) {
    (void)s;
    int64_t width = (int64_t)kv_heads * head_dim;
    for (int32_t i = 0; i < segments->count; i++) {
        const int32_t *pages = kv->page_table + (int64_t)i * kv->max_pages;
        for (int32_t token = segments->start[i]; token < segments->start[i + 1]; token++) {
            int32_t key = segments->past[i] + token - segments->start[i];
            int64_t row = (int64_t)pages[key / kv->page_size] * kv->page_size + key % kv->page_size;
            write_row(kv, kv->k, row, (const act_t *)k + token * width, width);
            write_row(kv, kv->v, row, (const act_t *)v + token * width, width);
        }
    }
}
