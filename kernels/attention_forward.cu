/* Attention forward for bf16 activations: FlashAttention-2 (arXiv:2307.08691) by mma.sync, and the
 * entry points of the forward.
 *
 * What a row's bits are made of, the same here and in attention_paged.cu: its keys in blocks of
 * ATTENTION_BLOCK aligned to absolute positions, ascending, and in a block
 *
 *     s     = q k^T                      k16 steps over ascending columns of the head
 *     max'  = max(max, s)                of the keys that it sees: the order is free
 *     p     = exp2(fma(s, slope, -max' * slope)), slope = scale * log2(e); 0 for other keys
 *     f     = exp2((max - max') * slope)
 *     sum   = fma(sum, f, p + ...)       lane by lane: 16 keys each of a block, ascending
 *     o     = o * f + bf16(p) v          k16 steps over ascending keys
 *
 * and o / sum at the end, the four lanes' sums added in pairs. There is one chain over all blocks and
 * no merge of partial results, so nothing depends on how a decode is split: decode shares out the
 * scores by keys and the values by columns. A block that a row does not see leaves it as it is
 * (f = 1, p = 0), so neighbours in a tile, chunks and windows change nothing either.
 *
 * A CTA takes 64 or 128 rows (token, head of the group) of one key head; each of its 4 warps 16 or
 * 32 of them. One tile of keys and one of values: the next keys arrive during softmax and P V, the
 * values during Q K^T and softmax. */
#include "kernels/gpu/attention_tile.h"
#include "kernels/gpu/launch.h"

struct forward_job {
    struct attention_job job;
    struct kv_source kv;
    void *o;     /* bf16, of sequences */
    float *sums; /* o of parts, else NULL */
    float *lse;
    const void *q;
};

/* The rows of one warp: two a lane in each 16. */
template <int D, int M> struct warp_rows {
    float o[M][D / 8][4];
    struct softmax_row row[M][2];
};

/* Rows of parts go on with what they have seen so far as with one key of weight 1 and value o. */
template <int D, int M>
static __device__ void start_rows(struct warp_rows<D, M> &w, const struct forward_job &f,
                                  const struct attention_part &part, int kv_head, int32_t row,
                                  int32_t rows) {
    const int lane = threadIdx.x % 32, head_dim = f.job.head_dim;
#pragma unroll
    for (int i = 0; i < 2 * M; i++) {
        struct softmax_row &stats = w.row[i / 2][i % 2];
        stats.max = -INFINITY;
        stats.sum = 0.0f;
        int32_t own = row + i * 8 + lane / 4;
        bool go_on = f.sums && own < rows;
        int64_t query = go_on ? query_of(f.job, part, kv_head, own) : 0;
        float lse = go_on ? f.lse[query] : -INFINITY;
        go_on = go_on && lse != -INFINITY;
        if (go_on) stats.max = lse / f.job.scale;
        if (go_on && lane % 4 == 0) stats.sum = 1.0f;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int column = n * 8 + lane % 4 * 2 + e;
                bool there = go_on && column < head_dim;
                w.o[i / 2][n][i % 2 * 2 + e] = there ? f.sums[query * head_dim + column] : 0.0f;
            }
        }
    }
}

template <int D, int M>
static __device__ void finish_rows(struct warp_rows<D, M> &w, const struct forward_job &f,
                                   const struct attention_part &part, int kv_head, int32_t row,
                                   int32_t rows) {
    const int lane = threadIdx.x % 32, head_dim = f.job.head_dim;
#pragma unroll
    for (int i = 0; i < 2 * M; i++) {
        const struct softmax_row &stats = w.row[i / 2][i % 2];
        float sum = sum_of_four(stats.sum), inverse = 1.0f / sum;
        int32_t own = row + i * 8 + lane / 4;
        if (own >= rows || (f.sums && sum == 0.0f)) continue;
        int64_t query = query_of(f.job, part, kv_head, own);
        if (f.lse && lane % 4 == 0) f.lse[query] = softmax_lse(stats.max, sum, f.job.scale);
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            int column = n * 8 + lane % 4 * 2;
            float low = w.o[i / 2][n][i % 2 * 2] * inverse;
            float high = w.o[i / 2][n][i % 2 * 2 + 1] * inverse;
            if (f.sums) {
                float *to = f.sums + query * head_dim + column;
                if (column < head_dim) to[0] = low;
                if (column + 1 < head_dim) to[1] = high;
            } else {
                store_pair((struct bf16 *)f.o + query * head_dim, column, head_dim, low, high);
            }
        }
    }
}

/* -infinity for the keys of the block from `key` that the warp's rows don't see; `seen` is the first
 * row's. It lies in shared memory lest the registers of four rows' bounds live through the loop. */
template <int M>
static __device__ __forceinline__ void mask_scores(float (&s)[M][8][4],
                                                   const struct keys_seen *seen, int32_t key) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 2 * M; i++) {
        struct keys_seen row = seen[i * 8 + lane / 4];
        int32_t first = row.first - key - lane % 4 * 2, last = row.last - key - lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < 8; n++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float &own = s[i / 2][n][i % 2 * 2 + e];
                own = n * 8 + e < first || n * 8 + e > last ? -INFINITY : own;
            }
        }
    }
}

/* s becomes p; o and sums are rescaled where a row's maximum grew. */
template <int D, int M>
static __device__ __forceinline__ void softmax_block(struct warp_rows<D, M> &w,
                                                     float (&s)[M][8][4], float slope) {
#pragma unroll
    for (int i = 0; i < 2 * M; i++) {
        struct softmax_row &stats = w.row[i / 2][i % 2];
        float max = fmaxf(stats.max, softmax_greatest(s[i / 2], i % 2));
        float factor = softmax_factor(stats.max, max, slope);
        stats.sum = fmaf(stats.sum, factor, softmax_weights(s[i / 2], i % 2, max, slope));
        stats.max = max;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            w.o[i / 2][n][i % 2 * 2] *= factor;
            w.o[i / 2][n][i % 2 * 2 + 1] *= factor;
        }
    }
}

/* The CTA's tiles in shared memory. */
struct forward_tiles {
    struct bf16 *q, *k, *v;
    struct keys_seen *seen; /* of each row of q */
};

/* The CTA's rows, from `row` of the part's queries, against its keys. */
template <int D, int M>
static __device__ __forceinline__ void
walk_keys(struct warp_rows<D, M> &w, const struct forward_tiles &tiles, const struct forward_job &f,
          const struct attention_part &part, int kv_head, int32_t row, int32_t rows) {
    constexpr int PITCH = D + TILE_PAD, TILE = 64 * M, STEP = ATTENTION_BLOCK;
    const struct attention_job &job = f.job;
    const int warp_row = (int)threadIdx.x / 32 * 16 * M;
    const struct keys_seen top = keys_of_row(job, part, row);
    const struct keys_seen bottom = keys_of_row(job, part, min(row + TILE, rows) - 1);
    const struct row_map map = map_cache(job, f.kv, part, kv_head);
    const int32_t end = bottom.last + 1;
    int32_t key = top.first / STEP * STEP;
    __syncthreads(); /* the keys of a part before are done with */
    if (threadIdx.x < TILE) tiles.seen[threadIdx.x] = keys_of_row(job, part, row + threadIdx.x);
    if (key < end) copy_rows<D>(tiles.k, PITCH, STEP, job, f.kv.k, map, key, end, 0);
    gpu_copy_commit();
    for (; key < end; key += STEP) {
        gpu_copy_wait<0>();
        __syncthreads(); /* keys are here; the values before are done with */
        copy_rows<D>(tiles.v, PITCH, STEP, job, f.kv.v, map, key, end, 0);
        gpu_copy_commit();
        float s[M][8][4];
        multiply_rows<D, M>(s, tiles.q + warp_row * PITCH, tiles.k);
        __syncthreads(); /* the keys are done with */
        if (key + STEP < end)
            copy_rows<D>(tiles.k, PITCH, STEP, job, f.kv.k, map, key + STEP, end, 0);
        gpu_copy_commit();
        if (key < bottom.first || key + STEP - 1 > top.last)
            mask_scores<M>(s, tiles.seen + warp_row, key);
        softmax_block<D, M>(w, s, job.scale * LOG2_E);
        uint32_t p[M][TILE_STEPS][4];
#pragma unroll
        for (int m = 0; m < M; m++) pack_rows(p[m], s[m]);
        gpu_copy_wait<1>();
        __syncthreads(); /* the values are here */
        multiply_columns<D, PITCH, M>(w.o, p, tiles.v);
    }
}

template <int D, int M>
static __global__ void __launch_bounds__(128) forward_tile(const struct forward_job f) {
    constexpr int PITCH = D + TILE_PAD, TILE = 64 * M;
    GPU_DYNAMIC_SHARED(struct bf16, shared);
    const struct forward_tiles tiles = {
        shared, shared + TILE * PITCH, shared + (TILE + ATTENTION_BLOCK) * PITCH,
        (struct keys_seen *)(shared + (TILE + 2 * ATTENTION_BLOCK) * PITCH)};
    const int kv_head = (int)blockIdx.y;
    const int32_t index = (int32_t)(gridDim.x - 1 - blockIdx.x); /* the longest rows first */
    const struct tile_place place = find_tile(f.job, TILES_OF_QUERIES, TILE, index);
    struct attention_part part = part_of(f.job, place.part);
    const int32_t rows = part.queries * f.job.group;
    const int32_t row = place.row + (int)threadIdx.x / 32 * 16 * M;
    struct warp_rows<D, M> w;
    start_rows(w, f, part, kv_head, row, rows);
    copy_rows<D>(tiles.q, PITCH, TILE, f.job, f.q, map_queries(f.job, part.query, kv_head),
                 place.row, rows, 0);
    for (int32_t i = place.part; i >= 0; i = next_of_run(f.job, i, TILES_OF_QUERIES)) {
        part = part_of(f.job, i);
        walk_keys(w, tiles, f, part, kv_head, place.row, rows);
    }
    finish_rows(w, f, part, kv_head, row, rows);
}

template <int D, int M> static void launch_tiles(struct stream *s, const struct forward_job &f) {
    int32_t tiles = count_tiles(f.job, TILES_OF_QUERIES, 64 * M);
    if (tiles == 0) return;
    struct gpu_grid grid = {};
    grid.blocks = dim3((unsigned)tiles, (unsigned)f.job.kv_heads, 1);
    grid.threads = 128;
    grid.shared = sizeof(struct bf16) * (64 * M + 2 * ATTENTION_BLOCK) * (D + TILE_PAD) +
                  sizeof(struct keys_seen) * 64 * M;
    gpu_launch(s, "attention_forward", grid, forward_tile<D, M>, f);
}

/* Two tiles of rows a warp read keys from shared memory half as often; wide heads lack the
 * registers, short sequences the rows. */
template <int D> static void launch_forward(struct stream *s, const struct forward_job &f) {
    if constexpr (D <= 128) {
        int32_t most = 0;
        for (int32_t i = 0; i < f.job.count; i++) {
            int32_t rows = rows_of_run(f.job, i, TILES_OF_QUERIES);
            most = rows > most ? rows : most;
        }
        if (most > 64) return launch_tiles<D, 2>(s, f);
    }
    launch_tiles<D, 1>(s, f);
}

static void forward_bf16(struct stream *s, struct forward_job &f) {
    const void *tensors[] = {f.q, f.kv.k, f.kv.v};
    f.job.vector = rows_align(f.job.head_dim, tensors, 3);
    int dim = f.job.head_dim;
    if (dim <= 64)
        launch_forward<64>(s, f);
    else if (dim <= 80)
        launch_forward<80>(s, f);
    else if (dim <= 96)
        launch_forward<96>(s, f);
    else if (dim <= 128)
        launch_forward<128>(s, f);
    else if (dim <= 192)
        launch_forward<192>(s, f);
    else
        launch_forward<256>(s, f);
}
