/* What the fast attention is built of: blocks of keys copied into fp32 scratch (transposed for the
 * scores, padded rows for the values), and products of small tiles in registers. Private to
 * kernels/attention_*_cpu.c. */
#ifndef STRATA_KERNELS_ATTENTION_TILE_H
#define STRATA_KERNELS_ATTENTION_TILE_H

#include "kernels/attention.h"
#include "kernels/simd_math.h"

#include <stdbool.h>

enum {
    TILE_ROWS = 6, /* accumulators: 6 rows of 4 zmm, or of 2 ymm */
#if defined(__AVX512F__)
    TILE_VECTORS = 4,
#else
    TILE_VECTORS = 1,
#endif
    CHUNK_ROWS = 96,                 /* query rows that share a packed block of keys */
    CHUNK_FLOATS = CHUNK_ROWS * 128, /* fewer rows for heads wider than 128 */
    BLOCK_FLOATS = ATTENTION_BLOCK * ATTENTION_MAX_HEAD_DIM
};

/* Row length in scratch: whole vectors, the padding zero. */
static inline int padded(int head_dim) {
    return (head_dim + V16_LANES - 1) / V16_LANES * V16_LANES;
}

/* Query rows a chunk: (token, head of the group) pairs, a multiple of TILE_ROWS. */
static inline int chunk_rows(int head_dim) {
    int rows = CHUNK_FLOATS / padded(head_dim) / TILE_ROWS * TILE_ROWS;
    return rows < CHUNK_ROWS ? rows : CHUNK_ROWS;
}

static inline int64_t first_visible_key(const struct attention_shape *shape, int64_t position) {
    return shape->window > 0 && position >= shape->window ? position - shape->window + 1 : 0;
}

/* One bit for each slot of a block in [first, last]; either may lie outside, first <= last. */
static inline uint64_t slots_between(int64_t first, int64_t last) {
    uint64_t from = first > 0 ? ~0ull << first : ~0ull;
    uint64_t to = last < ATTENTION_BLOCK - 1 ? ~0ull >> (ATTENTION_BLOCK - 1 - last) : ~0ull;
    return from & to;
}

/* The keys (or values) of one sequence and head. */
struct head_rows {
    const void *data;
    bool bf16;
    int head_dim;
    int64_t first, stride; /* elements to key 0's row of this head; from row to row */
    const int32_t *pages;  /* NULL: contiguous */
    int32_t page_size;
};

/* The queries of a packed sequence against all keys up to theirs. */
static inline struct attention_part part_of_sequence(const struct segments *segments,
                                                     int32_t sequence) {
    int32_t start = segments->start[sequence], tokens = segments->start[sequence + 1] - start;
    int32_t past = segments->past[sequence];
    return (struct attention_part){sequence, start, tokens, start, past + tokens, past};
}

/* pages are those of sequence number part->document */
static inline struct head_rows head_rows_of(const void *data, const struct kv_source *kv,
                                            const struct attention_part *part,
                                            const struct attention_shape *shape, int kv_head) {
    struct head_rows rows = {.data = data,
                             .bf16 = sizeof(act_t) == sizeof(uint16_t),
                             .head_dim = shape->head_dim,
                             .first = (int64_t)kv_head * shape->head_dim,
                             .stride = (int64_t)shape->kv_heads * shape->head_dim};
    if (kv->page_table) {
        rows.bf16 = kv->dtype == DTYPE_BF16;
        rows.pages = kv->page_table + (int64_t)part->document * kv->max_pages;
        rows.page_size = kv->page_size;
    } else {
        rows.first += part->key * rows.stride;
    }
    return rows;
}

/* Where 16 keys from `key` (a multiple of 16) lie one stride apart: pages hold whole sixteens. */
static inline int64_t sixteen_at(const struct head_rows *rows, int64_t key) {
    if (!rows->pages) return rows->first + key * rows->stride;
    int64_t page = rows->pages[key / rows->page_size];
    return rows->first + (page * rows->page_size + key % rows->page_size) * rows->stride;
}

static inline v16 load_element(const struct head_rows *rows, int64_t at, int count) {
    if (!rows->bf16) return v16_load_part((const float *)rows->data + at, count);
    const uint16_t *from = (const uint16_t *)rows->data + at;
    if (count >= V16_LANES) return v16_load_bf16(from);
    uint16_t lanes[V16_LANES] = {0};
    for (int i = 0; i < count; i++) lanes[i] = from[i];
    return v16_load_bf16(lanes);
}

/* Asks for rows [key, end) of `heads` heads from this one on. Hardware does not foresee the next
 * page, nor a head's rows, which lie a token apart. Inlined by force: GCC 12 takes a function that
 * only prefetches for one without effect and drops the call. */
__attribute__((always_inline)) static inline void
prefetch_rows(const struct head_rows *rows, int64_t key, int64_t end, int heads) {
    int64_t size = rows->bf16 ? 2 : 4, bytes = size * heads * rows->head_dim;
    for (; key < end; key++) {
        int64_t at = sixteen_at(rows, key - key % V16_LANES) + key % V16_LANES * rows->stride;
        const char *row = (const char *)rows->data + at * size;
        for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(row + byte, 0, 2);
    }
}

/* to (16, ATTENTION_BLOCK) = 16 x 16 elements from `at`, transposed. */
static inline void pack_square(float *to, const struct head_rows *rows, int64_t at) {
    v16 square[V16_LANES];
    if (rows->bf16) {
        const uint16_t *from = (const uint16_t *)rows->data + at;
#pragma GCC unroll 16
        for (int i = 0; i < V16_LANES; i++) square[i] = v16_load_bf16(from + i * rows->stride);
    } else {
        const float *from = (const float *)rows->data + at;
#pragma GCC unroll 16
        for (int i = 0; i < V16_LANES; i++) square[i] = v16_load(from + i * rows->stride);
    }
    v16_transpose(square);
#pragma GCC unroll 16
    for (int i = 0; i < V16_LANES; i++) v16_store(to + i * ATTENTION_BLOCK, square[i]);
}

/* The same where only `present` rows of `width` elements are there; absent rows give zeros. */
static inline void pack_part(float *to, const struct head_rows *rows, int64_t at, int present,
                             int width) {
    v16 square[V16_LANES];
    for (int i = 0; i < V16_LANES; i++)
        square[i] = i < present ? load_element(rows, at + i * rows->stride, width) : v16_zero();
    v16_transpose(square);
    for (int i = 0; i < V16_LANES && i < width; i++) v16_store(to + i * ATTENTION_BLOCK, square[i]);
}

/* out (head_dim, ATTENTION_BLOCK): keys [key, key + count) as columns; a started sixteen of columns
 * is filled up with zeros. */
static inline void pack_columns(float *out, const struct head_rows *rows, int64_t key, int count) {
    for (int group = 0; group < count; group += V16_LANES) {
        int64_t at = sixteen_at(rows, key + group);
        for (int d = 0; d < rows->head_dim; d += V16_LANES) {
            float *to = out + d * ATTENTION_BLOCK + group;
            if (count - group >= V16_LANES && rows->head_dim - d >= V16_LANES)
                pack_square(to, rows, at + d);
            else
                pack_part(to, rows, at + d, count - group, rows->head_dim - d);
        }
    }
}

/* out (count, padded): keys [key, key + count) as rows, times scale. */
static inline void pack_rows(float *out, const struct head_rows *rows, int64_t key, int count,
                             float scale) {
    int width = padded(rows->head_dim);
    v16 factor = v16_splat(scale);
    for (int group = 0; group < count; group += V16_LANES) {
        int64_t at = sixteen_at(rows, key + group);
        for (int j = group; j < count && j < group + V16_LANES; j++, at += rows->stride)
            for (int d = 0; d < width; d += V16_LANES)
                v16_store(out + j * width + d,
                          v16_mul(load_element(rows, at + d, rows->head_dim - d), factor));
    }
}

/* One row of activations to fp32 scratch, times scale, padded; and back. */
static inline void load_row(float *out, const act_t *from, int head_dim, float scale) {
    v16 factor = v16_splat(scale);
    for (int d = 0; d < head_dim; d += V16_LANES)
        v16_store(out + d, v16_mul(v16_load_act_part(from + d, head_dim - d), factor));
}

static inline void store_row(act_t *to, const float *from, int head_dim, v16 divisor) {
    for (int d = 0; d < head_dim; d += V16_LANES)
        v16_store_act_part(to + d, v16_div(v16_load(from + d), divisor), head_dim - d);
}

/* The same of fp32 in memory. */
static inline void load_floats(float *out, const float *from, int head_dim) {
    for (int d = 0; d < head_dim; d += V16_LANES)
        v16_store(out + d, v16_load_part(from + d, head_dim - d));
}

static inline void store_floats(float *to, const float *from, int head_dim) {
    for (int d = 0; d < head_dim; d += V16_LANES)
        v16_store_part(to + d, v16_load(from + d), head_dim - d);
}

/* c (rows, columns) [+]= a b, each element one chain of fused multiply-adds over k. a may be read
 * transposed: element (r, k) is a[r * a_row + k * a_k]. */
struct product {
    float *c;
    const float *a, *b;
    int c_row, a_row, a_k, b_row; /* strides */
    int rows, vectors, k;         /* rows <= TILE_ROWS; columns = vectors * 16 */
    bool accumulate;
};

__attribute__((always_inline)) static inline void tile_product(const struct product *t, int rows,
                                                               int vectors, int column) {
    v16 sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            sum[r][v] =
                t->accumulate ? v16_load(t->c + r * t->c_row + column + v * V16_LANES) : v16_zero();
    }
    const float *a = t->a, *b = t->b + column;
    for (int k = 0; k < t->k; k++, a += t->a_k, b += t->b_row) {
        v16 right[TILE_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) right[v] = v16_load(b + v * V16_LANES);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            v16 left = v16_splat(a[r * t->a_row]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sum[r][v] = v16_fma(left, right[v], sum[r][v]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            v16_store(t->c + r * t->c_row + column + v * V16_LANES, sum[r][v]);
    }
}

__attribute__((always_inline)) static inline void product_columns(const struct product *t,
                                                                  int rows) {
    int v = 0;
    for (; v + TILE_VECTORS <= t->vectors; v += TILE_VECTORS)
        tile_product(t, rows, TILE_VECTORS, v * V16_LANES);
#if defined(__AVX512F__)
    if (v + 2 <= t->vectors) {
        tile_product(t, rows, 2, v * V16_LANES);
        v += 2;
    }
    if (v < t->vectors) tile_product(t, rows, 1, v * V16_LANES);
#endif
}

static void product(const struct product *t) {
    switch (t->rows) {
    case 1:
        product_columns(t, 1);
        break;
    case 2:
        product_columns(t, 2);
        break;
    case 3:
        product_columns(t, 3);
        break;
    case 4:
        product_columns(t, 4);
        break;
    case 5:
        product_columns(t, 5);
        break;
    default:
        product_columns(t, TILE_ROWS);
        break;
    }
}

#endif
