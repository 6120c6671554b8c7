/* What the attention kernels share: the job, which rows a CTA works on, where they lie, and which
 * keys they see. Private to kernels/attention_*.cu.
 *
 * Queries are packed: row = token * group + head of the group, for the `group` query heads that
 * read one key head, so that a tile of rows reads its keys once for all of them. */
#ifndef STRATA_KERNELS_GPU_ATTENTION_ROWS_H
#define STRATA_KERNELS_GPU_ATTENTION_ROWS_H

#include "kernels/gpu/gpu.h"
#include "kernels/gpu/host.h"
#include "kernels/gpu/softmax.h"

#include <limits.h>

enum { DECODE_ROWS = 16, CUDA_MAX_HEAD_DIM = 256 };

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
    for (int32_t i = 0; i < job.count; i++) tiles += tiles_of_rows(rows_of_run(job, i, what), tile);
    return tiles;
}

struct tile_place {
    int32_t part, row; /* the first part of the run; the tile's first row in it */
};

/* Tile number `index` of those that count_tiles counts. By whole warps. */
static inline __device__ struct tile_place
find_tile(const struct attention_job &job, enum tiles_of what, int32_t tile, int32_t index) {
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

static inline __host__ __device__ struct keys_seen
keys_of_row(const struct attention_job &job, const struct attention_part &part, int32_t row) {
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

/* What a row of parts had seen before this call counts `before`, as shares of 1; its new o `now`.
 */
struct shares {
    float before, now;
};

/* The row's softmax over what it had seen and what it has seen now; one of its lanes keeps their
 * lse. By whole warps; a row is there or not. */
static __device__ __forceinline__ struct shares join_part(float *lse, bool there, bool keeps,
                                                          float lse_now) {
    float lse_before = there ? *lse : -INFINITY, max = fmaxf(lse_before, lse_now);
    __syncwarp(); /* all lanes of the row have read it */
    if (!there || max == -INFINITY) return shares{0.0f, 0.0f};
    float before = gpu_exp2((lse_before - max) * LOG2_E), now = gpu_exp2((lse_now - max) * LOG2_E);
    float inverse = 1.0f / (before + now);
    if (keeps) *lse = fmaf(LN_2, gpu_log2(before + now), max);
    return shares{before * inverse, now * inverse};
}

/* A backward of either kind. By value to kernels. */
struct backward_job {
    struct attention_job job;
    const void *dout, *q, *k, *v, *o;
    const float *lse;
    float *delta;
    void *dq, *dk, *dv;                 /* act, of sequences */
    float *dq_sums, *dk_sums, *dv_sums; /* of parts, else NULL */
    int64_t rows;                       /* N * H */
};

/* What a row of queries needs beside its vectors. */
struct row_notes {
    float lse2, delta; /* lse * log2(e) */
    struct keys_seen seen;
};

static __device__ __forceinline__ struct row_notes note_row(const struct backward_job &b,
                                                            const struct attention_part &part,
                                                            int kv_head, int32_t row,
                                                            int32_t rows) {
    if (row >= rows) return row_notes{0.0f, 0.0f, {1, 0}};
    int64_t query = query_of(b.job, part, kv_head, row);
    return row_notes{b.lse[query] * LOG2_E, b.delta[query], keys_of_row(b.job, part, row)};
}

/* s becomes p, dp becomes ds without its scale; 0 for pairs that don't see each other. */
static __device__ __forceinline__ void
make_gradient(float &s, float &dp, const struct row_notes &row, int32_t key, float slope) {
    const bool sees = key >= row.seen.first && key <= row.seen.last;
    s = sees ? gpu_exp2(fmaf(s, slope, -row.lse2)) : 0.0f;
    dp = sees ? s * (dp - row.delta) : 0.0f;
}

/* The rows of a part that see any of the keys [key, end). */
static __device__ __forceinline__ void rows_of_keys(const struct attention_job &job,
                                                    const struct attention_part &part, int32_t key,
                                                    int32_t end, int32_t *first, int32_t *last) {
    int32_t token = key > part.past ? key - part.past : 0, tokens = part.queries;
    if (job.window > 0) tokens = min(tokens, end - 1 + job.window - part.past);
    *first = token * job.group;
    *last = tokens * job.group - 1;
}

/* The short sequences of a batch whose other sequences skip_decodes leaves; bf16. */
void attention_decode(struct stream *s, const struct forward_job &f);

/* fp32 activations. Backward: without delta. */
void attention_plain_forward(struct stream *s, const struct forward_job &f);
void attention_plain_backward(struct stream *s, const struct backward_job &b);

template <class A> constexpr enum dtype act_of(void) {
    return sizeof(A) == sizeof(float) ? DTYPE_F32 : DTYPE_BF16;
}

static inline bool head_fits(struct stream *s, const char *op, const struct attention_job &job) {
    if (job.head_dim > CUDA_MAX_HEAD_DIM)
        stream_fail(s, STATUS_UNSUPPORTED, op, "heads are %d wide, and a GPU's at most %d",
                    job.head_dim, (int)CUDA_MAX_HEAD_DIM);
    return job.head_dim <= CUDA_MAX_HEAD_DIM;
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

#endif
