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
 * and o / sum at the end, the four lanes' sums added in pairs. There is one chain over all blocks
 * and no merge of partial results, so nothing depends on how a decode is split: decode shares out
 * the scores by keys and the values by columns. A block that a row does not see leaves it as it is
 * (f = 1, p = 0), so neighbours in a tile, chunks and windows change nothing either.
 *
 * A CTA takes 64 or 128 rows (token, head of the group) of one key head; each of its 4 warps 16 or
 * 32 of them. One tile of keys and one of values: the next keys arrive during softmax and P V, the
 * values during Q K^T and softmax. */
#include "kernels/gpu/attention_tile.h"
#include "kernels/gpu/cuda_ops.h"
#include "kernels/gpu/launch.h"

/* The rows of one warp: two a lane in each 16. */
template <int D, int M> struct warp_rows {
    float o[M][D / 8][4];
    struct softmax_row row[M][2];
};

/* Rows that have seen nothing. */
template <int D, int M>
static __device__ __forceinline__ void start_rows(struct warp_rows<D, M> &w) {
#pragma unroll
    for (int i = 0; i < 2 * M; i++) {
        w.row[i / 2][i % 2].max = -INFINITY;
        w.row[i / 2][i % 2].sum = 0.0f;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            w.o[i / 2][n][i % 2 * 2] = w.o[i / 2][n][i % 2 * 2 + 1] = 0.0f;
    }
}

/* Rounds the rows to act, or adds them to the sums of parts. `row` is the warp's first. */
template <int D, int M>
static __device__ __forceinline__ void
finish_rows(const struct warp_rows<D, M> &w, const struct forward_job &f,
            const struct attention_part &part, int kv_head, int32_t row, int32_t rows) {
    const int lane = gpu_lane(), head_dim = f.job.head_dim;
#pragma unroll
    for (int i = 0; i < 2 * M; i++) {
        const struct softmax_row &stats = w.row[i / 2][i % 2];
        const float sum = sum_of_four(stats.sum), inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
        const float lse = softmax_lse(stats.max, sum, f.job.scale);
        const int32_t own = row + i * 8 + lane / 4;
        const bool there = own < rows;
        const int64_t query = query_of(f.job, part, kv_head, there ? own : 0);
        struct shares shares = {0.0f, 1.0f};
        if (f.sums) shares = join_part(&f.lse[query], there, lane % 4 == 0, lse);
        if (!there) continue;
        if (!f.sums && f.lse && lane % 4 == 0) f.lse[query] = lse;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            const int column = n * 8 + lane % 4 * 2;
            const float low = w.o[i / 2][n][i % 2 * 2] * inverse;
            const float high = w.o[i / 2][n][i % 2 * 2 + 1] * inverse;
            float *sums = f.sums + query * head_dim + column;
            if (!f.sums)
                store_pair((struct bf16 *)f.o + query * head_dim, column, head_dim, low, high);
            else if (column < head_dim)
                sums[0] = fmaf(sums[0], shares.before, low * shares.now);
            if (f.sums && column + 1 < head_dim)
                sums[1] = fmaf(sums[1], shares.before, high * shares.now);
        }
    }
}

/* -infinity for the keys of the block from `key` that the warp's rows don't see; `seen` is the
 * first row's. It lies in shared memory lest the registers of four rows' bounds live through the
 * loop. */
template <int M>
static __device__ __forceinline__ void mask_scores(float (&s)[M][8][4],
                                                   const struct keys_seen *seen, int32_t key) {
    const int lane = gpu_lane();
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
static __device__ __forceinline__ void softmax_block(struct warp_rows<D, M> &w, float (&s)[M][8][4],
                                                     float slope) {
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

/* What changes with the part only; in shared memory, lest it fill registers throughout the loop. */
struct forward_notes {
    struct row_map keys;
    struct keys_seen top, bottom; /* by the first row and the last */
    int32_t end;                  /* after the last key that any row sees */
    struct keys_seen seen[128];   /* by each row */
};

/* The CTA's tiles in shared memory. */
struct forward_tiles {
    struct bf16 *q, *k, *v;
    struct forward_notes *notes;
};

static __device__ __forceinline__ void note_part(struct forward_notes *notes,
                                                 const struct forward_job &f,
                                                 const struct attention_part &part, int kv_head,
                                                 int32_t first_row, int32_t last_row) {
    notes->seen[threadIdx.x] = keys_of_row(f.job, part, first_row + (int)threadIdx.x);
    if (threadIdx.x > 0) return;
    notes->keys = map_cache(f.job, f.kv, part, kv_head);
    notes->top = keys_of_row(f.job, part, first_row);
    notes->bottom = keys_of_row(f.job, part, last_row);
    notes->end = notes->bottom.last + 1;
}

/* The CTA's rows, which begin with row `row` of the part's queries, against its keys. */
template <int D, int M>
static __device__ __forceinline__ void
walk_keys(struct warp_rows<D, M> &w, const struct forward_tiles &tiles, const struct forward_job &f,
          const struct attention_part &part, int kv_head, int32_t row, int32_t rows) {
    constexpr int PITCH = D + TILE_PAD, STEP = ATTENTION_BLOCK;
    const struct forward_notes *notes = tiles.notes;
    const int warp_row = gpu_warp() * 16 * M;
    __syncthreads(); /* the keys of a part before are done with */
    note_part(tiles.notes, f, part, kv_head, row, min(row + 64 * M, rows) - 1);
    __syncthreads();
    int32_t key = notes->top.first / STEP * STEP;
    copy_rows<D>(tiles.k, PITCH, STEP, f.job, f.kv.k, notes->keys, key, notes->end, 0);
    gpu_copy_commit();
    for (; key < notes->end; key += STEP) {
        gpu_copy_wait<0>();
        __syncthreads(); /* keys are here; the values before are done with */
        copy_rows<D>(tiles.v, PITCH, STEP, f.job, f.kv.v, notes->keys, key, notes->end, 0);
        gpu_copy_commit();
        float s[M][8][4];
        multiply_rows<D, M>(s, tiles.q + warp_row * PITCH, tiles.k);
        __syncthreads(); /* the keys are done with */
        if (key + STEP < notes->end)
            copy_rows<D>(tiles.k, PITCH, STEP, f.job, f.kv.k, notes->keys, key + STEP, notes->end,
                         0);
        gpu_copy_commit();
        if (key < notes->bottom.first || key + STEP - 1 > notes->top.last)
            mask_scores<M>(s, notes->seen + warp_row, key);
        softmax_block<D, M>(w, s, f.job.scale * LOG2_E);
        uint32_t p[M][TILE_STEPS][4];
#pragma unroll
        for (int m = 0; m < M; m++) pack_rows(p[m], s[m]);
        gpu_copy_wait<1>();
        __syncthreads(); /* the values are here */
        multiply_columns<D, PITCH, M>(w.o, p, tiles.v);
    }
    gpu_copy_wait<0>();
}

template <int D, int M>
static __global__ void __launch_bounds__(128) forward_tile(const struct forward_job f) {
    constexpr int PITCH = D + TILE_PAD, TILE = 64 * M;
    GPU_DYNAMIC_SHARED(struct bf16, shared);
    const struct forward_tiles tiles = {
        shared, shared + TILE * PITCH, shared + (TILE + ATTENTION_BLOCK) * PITCH,
        (struct forward_notes *)(shared + (TILE + 2 * ATTENTION_BLOCK) * PITCH)};
    const int kv_head = (int)blockIdx.y;
    const int32_t index = (int32_t)(gridDim.x - 1 - blockIdx.x); /* the longest rows first */
    const struct tile_place place = find_tile(f.job, TILES_OF_QUERIES, TILE, index);
    struct attention_part part = part_of(f.job, place.part);
    const int32_t rows = part.queries * f.job.group;
    struct warp_rows<D, M> w;
    start_rows(w);
    copy_rows<D>(tiles.q, PITCH, TILE, f.job, f.q, map_queries(f.job, part.query, kv_head),
                 place.row, rows, 0);
    for (int32_t i = place.part; i >= 0; i = next_of_run(f.job, i, TILES_OF_QUERIES)) {
        part = part_of(f.job, i);
        walk_keys(w, tiles, f, part, kv_head, place.row, rows);
    }
    finish_rows(w, f, part, kv_head, place.row + gpu_warp() * 16 * M, rows);
}

template <int D, int M> static void launch_tiles(struct stream *s, const struct forward_job &f) {
    const int32_t tiles = count_tiles(f.job, TILES_OF_QUERIES, 64 * M);
    const size_t bytes = sizeof(struct bf16) * (64 * M + 2 * ATTENTION_BLOCK) * (D + TILE_PAD) +
                         sizeof(struct forward_notes);
    gpu_launch(s, "attention_forward",
               gpu_grid{.blocks = dim3((unsigned)tiles, (unsigned)f.job.kv_heads),
                        .threads = 128,
                        .shared = bytes},
               forward_tile<D, M>, f);
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

static void forward_bf16(struct stream *s, const struct forward_job &f) {
    const int dim = f.job.head_dim;
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

static void forward_all(struct stream *s, struct forward_job &f, enum dtype act) {
    if (!head_fits(s, "attention_forward", f.job)) return;
    if (act == DTYPE_F32) return attention_plain_forward(s, f);
    const void *tensors[] = {f.q, f.kv.k, f.kv.v};
    f.job.vector = rows_align(f.job.head_dim, tensors, 3);
    f.job.skip_decodes = !f.sums;
    forward_bf16(s, f);
    if (!f.sums) attention_decode(s, f);
}

template <class A>
static void attention_forward(struct stream *s, const struct attention_forward_args *a) {
    struct forward_job f = {};
    f.job = attention_job_of(&a->shape);
    f.job.start = a->segments->start;
    f.job.past = a->segments->past;
    f.job.count = a->segments->count;
    f.kv = *a->kv;
    f.o = a->o;
    f.lse = a->lse;
    f.q = a->q;
    forward_all(s, f, act_of<A>());
}

static __global__ void __launch_bounds__(256) see_nothing(float *lse, int64_t rows) {
    int64_t row = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (row < rows) lse[row] = -INFINITY;
}

template <class A>
static void attention_part_forward(struct stream *s, const struct attention_part_forward_args *a) {
    struct forward_job f = {};
    f.job = attention_job_of(&a->shape);
    f.job.parts = a->parts;
    f.job.count = a->count;
    f.kv.k = (void *)a->k;
    f.kv.v = (void *)a->v;
    f.sums = a->o;
    f.lse = a->lse;
    f.q = a->q;
    const int64_t rows = a->first ? a->tokens * a->shape.heads : 0;
    stream_fill(s, a->o, 0, (size_t)(rows * a->shape.head_dim) * sizeof *a->o);
    gpu_launch(s, "attention_part_forward",
               gpu_grid{.blocks = dim3((unsigned)((rows + 255) / 256)), .threads = 256},
               see_nothing, a->lse, rows);
    forward_all(s, f, act_of<A>());
}

template <class A> static void fill(struct kernels *table) {
    table->attention_forward = attention_forward<A>;
    table->attention_part_forward = attention_part_forward<A>;
}

void cuda_attention_forward(struct kernels *table) {
    if (table->act == DTYPE_BF16)
        fill<struct bf16>(table);
    else
        fill<float>(table);
}
