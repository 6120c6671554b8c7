/* What the attention kernels share: which rows a CTA works on, tiles of rows copied to shared
 * memory, and products of such tiles by mma.sync. Private to kernels/attention_*.cu.
 *
 * Queries are packed: row = token * group + head of the group, for the `group` query heads that read
 * one key head, so that a tile of rows reads its keys once for all of them. */
#ifndef STRATA_KERNELS_GPU_ATTENTION_TILE_H
#define STRATA_KERNELS_GPU_ATTENTION_TILE_H

#include "kernels/attention.h"
#include "kernels/gpu/gpu.h"
#include "kernels/gpu/softmax.h"

#include <limits.h>

enum {
    TILE_ROWS = 64,     /* rows of a tile of keys, and of queries unless said otherwise */
    TILE_PAD = 8,       /* elements behind each row: rows lie an odd number of 16 bytes apart */
    TILE_STEPS = 64 / 16, /* k16 steps over a tile's rows */
    DECODE_ROWS = 16
};

/* Sequences against all their keys, or parts (segments' arrays NULL). By value to kernels. */
struct attention_job {
    const int32_t *start, *past;        /* of segments, or NULL */
    const struct attention_part *parts; /* or NULL */
    int32_t count;                      /* of either */
    bool skip_decodes;                  /* short sequences are attention_decode's */
    int32_t heads, kv_heads, head_dim, group;
    int32_t window; /* 0 = all */
    float scale;
    bool vector; /* rows can be copied in 16 bytes */
};

/* The queries of a packed sequence are a part that has all keys up to theirs. */
static inline __host__ __device__ struct attention_part part_of(const struct attention_job &job,
                                                                int32_t i) {
    if (job.parts) return job.parts[i];
    int32_t start = job.start[i], tokens = job.start[i + 1] - start, past = job.past[i];
    return attention_part{i, start, tokens, start, past + tokens, past};
}

/* Few rows that go on from earlier keys: one 16-row tile of attention_decode. */
static inline __host__ __device__ bool is_decode(const struct attention_job &job,
                                                 const struct attention_part &part) {
    int32_t rows = part.queries * job.group;
    return !job.parts && part.past > 0 && rows > 0 && rows <= DECODE_ROWS;
}

enum tiles_of { TILES_OF_QUERIES, TILES_OF_KEYS };

/* Rows of the run that begins with part i; 0 where an earlier part began it. */
static inline __host__ __device__ int32_t rows_of_run(const struct attention_job &job, int32_t i,
                                                      enum tiles_of what) {
    struct attention_part part = part_of(job, i);
    if (job.parts && what == TILES_OF_QUERIES)
        if (i > 0 && job.parts[i - 1].query == part.query && job.parts[i - 1].queries > 0) return 0;
    if (job.parts && what == TILES_OF_KEYS)
        for (int32_t j = i - 1; j >= 0 && job.parts[j].document == part.document; j--)
            if (job.parts[j].key == part.key) return 0;
    if (what == TILES_OF_KEYS) return part.keys;
    return job.skip_decodes && is_decode(job, part) ? 0 : part.queries * job.group;
}

/* The next part after i of the same run; -1 for none. */
static inline __device__ int32_t next_of_run(const struct attention_job &job, int32_t i,
                                             enum tiles_of what) {
    if (!job.parts) return -1;
    const struct attention_part own = job.parts[i];
    for (int32_t j = i + 1; j < job.count && job.parts[j].document == own.document; j++) {
        const struct attention_part &other = job.parts[j];
        if (what == TILES_OF_QUERIES ? other.query == own.query : other.key == own.key) return j;
    }
    return -1;
}

static inline __host__ __device__ int32_t tiles_of_rows(int32_t rows, int32_t tile) {
    return (rows + tile - 1) / tile;
}

/* How many tiles there are: the grid's x. */
static inline int32_t count_tiles(const struct attention_job &job, enum tiles_of what,
                                  int32_t tile) {
    int32_t tiles = 0;
    for (int32_t i = 0; i < job.count; i++)
        tiles += tiles_of_rows(rows_of_run(job, i, what), tile);
    return tiles;
}

struct tile_place {
    int32_t part, row; /* the first part of the run; the tile's first row in it */
};

/* Tile number `index` of those that count_tiles counts. By whole warps. */
static inline __device__ struct tile_place find_tile(const struct attention_job &job,
                                                     enum tiles_of what, int32_t tile,
                                                     int32_t index) {
    const int lane = gpu_lane();
    int32_t before = 0;
    for (int32_t base = 0; base < job.count; base += 32) {
        int32_t i = base + lane;
        int32_t own = i < job.count ? tiles_of_rows(rows_of_run(job, i, what), tile) : 0, sum = own;
        for (int step = 1; step < 32; step *= 2) {
            int32_t other = __shfl_up_sync(GPU_ALL_LANES, sum, step);
            if (lane >= step) sum += other;
        }
        uint32_t beyond = __ballot_sync(GPU_ALL_LANES, before + sum > index);
        if (beyond) {
            int owner = __ffs((int)beyond) - 1;
            int32_t first = __shfl_sync(GPU_ALL_LANES, before + sum - own, owner);
            return tile_place{base + owner, (index - first) * tile};
        }
        before += __shfl_sync(GPU_ALL_LANES, sum, 31);
    }
    return tile_place{-1, 0};
}

/* The keys of a part that a row sees: first > last for none. */
struct keys_seen {
    int32_t first, last;
};

static inline __device__ struct keys_seen keys_of_row(const struct attention_job &job,
                                                      const struct attention_part &part,
                                                      int32_t row) {
    int32_t position = part.past + row / job.group;
    int32_t first = job.window > 0 && position >= job.window ? position - job.window + 1 : 0;
    return keys_seen{first, position < part.keys ? position : part.keys - 1};
}

/* Where rows of head_dim elements lie in a tensor: row r at first + (pages ? pages[r / period] :
 * r / period) * outer + r % period * inner. */
struct row_map {
    bool wide; /* fp32 in memory */
    int32_t period;
    const int32_t *pages;
    int64_t first, outer, inner;
};

static inline __device__ int64_t row_at(const struct row_map &map, int32_t row) {
    if (row < map.period && !map.pages) return map.first + row * map.inner;
    int32_t outer = row / map.period, inner = row - outer * map.period;
    if (map.pages) outer = map.pages[outer];
    return map.first + outer * map.outer + inner * map.inner;
}

/* Rows (token, head of the group) of a part's queries, in a tensor (N, H, D). */
static inline __device__ struct row_map map_queries(const struct attention_job &job, int32_t query,
                                                    int kv_head) {
    int64_t token = (int64_t)job.heads * job.head_dim;
    int64_t first = query * token + (int64_t)kv_head * job.group * job.head_dim;
    if (job.group == 1) return row_map{false, INT_MAX, NULL, first, 0, token};
    return row_map{false, job.group, NULL, first, token, job.head_dim};
}

/* Packed keys (N, Hkv, D) from row `key`. */
static inline __device__ struct row_map map_keys(const struct attention_job &job, int32_t key,
                                                 int kv_head) {
    int64_t token = (int64_t)job.kv_heads * job.head_dim;
    int64_t first = key * token + (int64_t)kv_head * job.head_dim;
    return row_map{false, INT_MAX, NULL, first, 0, token};
}

/* Keys or values in pages, or packed where kv.page_table is NULL. */
static inline __device__ struct row_map map_cache(const struct attention_job &job,
                                                  const struct kv_source &kv,
                                                  const struct attention_part &part, int kv_head) {
    if (!kv.page_table) return map_keys(job, part.key, kv_head);
    int64_t token = (int64_t)job.kv_heads * job.head_dim;
    return row_map{kv.dtype == DTYPE_F32,
                   kv.page_size,
                   kv.page_table + (int64_t)part.document * kv.max_pages,
                   (int64_t)kv_head * job.head_dim,
                   kv.page_size * token,
                   token};
}

/* Eight elements; zeros where absent. There after the copies' wait, or at once. */
static inline __device__ void copy_eight(struct bf16 *to, const void *data, bool wide, bool vector,
                                         int64_t at, int32_t present) {
    const struct bf16 *narrow = (const struct bf16 *)data;
    if (vector && !wide) {
        gpu_copy_async16(to, narrow + at, present > 0);
        return;
    }
    for (int e = 0; e < 8; e++) {
        if (e >= present)
            to[e] = from_f32<struct bf16>(0.0f);
        else
            to[e] = wide ? from_f32<struct bf16>(((const float *)data)[at + e]) : narrow[at + e];
    }
}

/* Rows [row, row + count) of `data`, WIDTH columns from `column`, to a tile of rows `pitch` apart;
 * those from `end` on, and columns from head_dim on, are zeros. */
template <int WIDTH>
static __device__ __forceinline__ void copy_rows(struct bf16 *tile, int pitch, int count,
                                                 const struct attention_job &job, const void *data,
                                                 const struct row_map &map, int32_t row,
                                                 int32_t end, int column) {
#pragma unroll 1
    for (int i = (int)threadIdx.x; i < count * (WIDTH / 8); i += (int)blockDim.x) {
        int r = i / (WIDTH / 8), c = i % (WIDTH / 8) * 8;
        int32_t present = row + r < end ? job.head_dim - column - c : 0;
        int64_t at = present > 0 ? row_at(map, row + r) + column + c : 0;
        copy_eight(tile + r * pitch + c, data, map.wide, job.vector, at, present);
    }
}

/* s (16 rows a tile of M, 64) = a b^T, both of rows of D: each element one chain of k16 steps over
 * ascending columns. `a` is the warp's first row. */
template <int D, int M>
static __device__ __forceinline__ void multiply_rows(float (&s)[M][8][4], const struct bf16 *a,
                                                     const struct bf16 *b) {
    const int lane = gpu_lane(), pitch = D + TILE_PAD;
    const struct bf16 *from_a = a + lane % 16 * pitch + lane / 16 * 8;
    const struct bf16 *from_b = b + (lane % 8 + lane / 16 * 8) * pitch + lane / 8 % 2 * 8;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < 8; n++) s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0.0f;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t fragment_a[M][4];
#pragma unroll
        for (int m = 0; m < M; m++)
            gpu_ldmatrix_x4(fragment_a[m], from_a + m * 16 * pitch + k * 16);
#pragma unroll
        for (int n = 0; n < 4; n++) {
            uint32_t fragment_b[4];
            gpu_ldmatrix_x4(fragment_b, from_b + n * 16 * pitch + k * 16);
#pragma unroll
            for (int m = 0; m < M; m++) {
                gpu_mma_bf16(s[m][2 * n], fragment_a[m], fragment_b);
                gpu_mma_bf16(s[m][2 * n + 1], fragment_a[m], fragment_b + 2);
            }
        }
    }
}

/* A 16 x 64 accumulator rounded to bf16, as the left operand of a product over the 64. */
static __device__ __forceinline__ void pack_rows(uint32_t (&p)[TILE_STEPS][4],
                                                 const float (&s)[8][4]) {
#pragma unroll
    for (int k = 0; k < TILE_STEPS; k++) {
        p[k][0] = gpu_pack_bf16(s[2 * k][0], s[2 * k][1]);
        p[k][1] = gpu_pack_bf16(s[2 * k][2], s[2 * k][3]);
        p[k][2] = gpu_pack_bf16(s[2 * k + 1][0], s[2 * k + 1][1]);
        p[k][3] = gpu_pack_bf16(s[2 * k + 1][2], s[2 * k + 1][3]);
    }
}

/* o (16 rows a tile of M, N) += p b over the 64 rows of b, in k16 steps over ascending rows. `b` is
 * the first of the N columns. */
template <int N, int PITCH, int M>
static __device__ __forceinline__ void multiply_columns(float (&o)[M][N / 8][4],
                                                        const uint32_t (&p)[M][TILE_STEPS][4],
                                                        const struct bf16 *b) {
    const int lane = gpu_lane();
    const struct bf16 *from = b + lane % 16 * PITCH + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < TILE_STEPS; k++) {
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            uint32_t fragment[4];
            gpu_ldmatrix_x4_trans(fragment, from + k * 16 * PITCH + n * 16);
#pragma unroll
            for (int m = 0; m < M; m++) {
                gpu_mma_bf16(o[m][2 * n], p[m][k], fragment);
                gpu_mma_bf16(o[m][2 * n + 1], p[m][k], fragment + 2);
            }
        }
    }
}

/* Two neighbouring elements of a row of head_dim, as far as they are there. */
static __device__ __forceinline__ void store_pair(struct bf16 *row, int column, int head_dim,
                                                  float low, float high) {
    if (column + 1 < head_dim && head_dim % 2 == 0) {
        *(uint32_t *)(row + column) = gpu_pack_bf16(low, high);
        return;
    }
    if (column < head_dim) row[column] = from_f32<struct bf16>(low);
    if (column + 1 < head_dim) row[column + 1] = from_f32<struct bf16>(high);
}

static inline struct attention_job attention_job_of(const struct attention_shape *shape) {
    struct attention_job job = {};
    job.heads = shape->heads;
    job.kv_heads = shape->kv_heads;
    job.head_dim = shape->head_dim;
    job.group = shape->heads / shape->kv_heads;
    job.window = shape->window > INT_MAX / 2 ? 0 : (int32_t)shape->window;
    job.scale = shape->scale;
    return job;
}

/* The number in (N, H) of a row of a part's queries. */
static inline __device__ int64_t query_of(const struct attention_job &job,
                                          const struct attention_part &part, int kv_head,
                                          int32_t row) {
    int64_t token = part.query + row / job.group;
    return token * job.heads + kv_head * job.group + row % job.group;
}

/* A forward of either kind. By value to kernels. */
struct forward_job {
    struct attention_job job;
    struct kv_source kv;
    void *o;     /* act, of sequences */
    float *sums; /* o of parts, else NULL */
    float *lse;
    const void *q;
};

/* The short sequences of a batch whose other sequences skip_decodes leaves; bf16. */
void attention_decode(struct stream *s, const struct forward_job &f);

/* Whether rows of these tensors can be copied in 16 bytes. */
static inline bool rows_align(int head_dim, const void *const *tensors, int count) {
    bool aligned = head_dim % 8 == 0;
    for (int i = 0; i < count; i++) aligned = aligned && (uintptr_t)tensors[i] % 16 == 0;
    return aligned;
}

#endif
