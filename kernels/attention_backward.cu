/* Attention backward for bf16 activations, deterministic: FlashAttention-2 (arXiv:2307.08691) in
 * two passes that each own what they write, so that nothing is added across CTAs.
 *
 *     delta = rowsum(do * o)             a warp a row
 *     keys:     a CTA a tile of 64 keys and key head walks the rows (token, head of the group) that
 *               see it, ascending:  p^T = exp2(k q^T * slope - lse * log2(e)),
 *               dv += bf16(p^T) do,  ds^T = p^T * (v do^T - delta),  dk += bf16(ds^T) q
 *     queries:  a CTA a tile of 64 rows walks its keys, ascending: dq += bf16(ds) k
 *
 * dk and dq are multiplied by the scale at the end. The scores are made twice, which costs 7
 * products where one pass with sums across CTAs has 5, and buys one order whatever runs beside it.
 */
#include "kernels/gpu/attention_tile.h"
#include "kernels/gpu/cuda_ops.h"
#include "kernels/gpu/launch.h"

enum { DELTA_WARPS = 8, DELTA_THREADS = 32 * DELTA_WARPS };

template <class A>
static __global__ void __launch_bounds__(DELTA_THREADS)
    sum_rows(float *delta, const A *dout, const A *o, int64_t rows, int32_t head_dim) {
    const int64_t row = (int64_t)blockIdx.x * DELTA_WARPS + gpu_warp();
    if (row >= rows) return;
    float sum = 0.0f;
    for (int64_t i = row * head_dim + gpu_lane(); i < (row + 1) * head_dim; i += GPU_WARP)
        sum = fmaf(to_f32(dout[i]), to_f32(o[i]), sum);
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(GPU_ALL_LANES, sum, step);
    if (gpu_lane() == 0) delta[row] = sum;
}

/* Adds to, or overwrites, 16 rows of gradients; `row` is the lane's first, `end` their end. */
template <int N>
static __device__ __forceinline__ void
store_gradients(const float (&d)[N / 8][4], void *to, float *sums, bool add,
                const struct row_map &map, int32_t head_dim, int32_t row, int32_t end,
                int32_t column, float scale) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (row + 8 * half >= end) continue;
        const int64_t at = row_at(map, row + 8 * half);
#pragma unroll
        for (int n = 0; n < N / 8; n++) {
            const int32_t own = column + n * 8 + gpu_lane() % 4 * 2;
            const float low = d[n][2 * half] * scale, high = d[n][2 * half + 1] * scale;
            if (!sums) store_pair((struct bf16 *)to + at, own, head_dim, low, high);
            if (sums && own < head_dim) sums[at + own] = (add ? sums[at + own] : 0.0f) + low;
            if (sums && own + 1 < head_dim)
                sums[at + own + 1] = (add ? sums[at + own + 1] : 0.0f) + high;
        }
    }
}

/* Beside the tiles in shared memory. Where rows lie is there lest it fill registers in the loops.
 */
struct backward_notes {
    struct row_notes row[TILE_ROWS]; /* of queries */
    struct row_map queries, keys;
};

/* Tiles of 64 rows. */
struct backward_tiles {
    struct bf16 *q, *dout, *k, *v;
    struct backward_notes *notes;
};

template <int D>
static __device__ __forceinline__ struct backward_tiles tiles_at(struct bf16 *shared) {
    constexpr int TILE = TILE_ROWS * (D + TILE_PAD);
    return backward_tiles{shared, shared + TILE, shared + 2 * TILE, shared + 3 * TILE,
                          (struct backward_notes *)(shared + 4 * TILE)};
}

template <int D> static size_t bytes_of_tiles(void) {
    return sizeof(struct bf16) * 4 * TILE_ROWS * (D + TILE_PAD) + sizeof(struct backward_notes);
}

/* The warp's 16 keys and their gradients in D / SPLIT columns. */
template <int N> struct key_rows { float dk[1][N / 8][4], dv[1][N / 8][4]; };

/* The CTA's keys against 64 rows that lie in shared memory. */
template <int D, int SPLIT>
static __device__ __forceinline__ void take_rows(struct key_rows<D / SPLIT> &w,
                                                 const struct backward_tiles &tiles, int32_t key,
                                                 float slope) {
    constexpr int PITCH = D + TILE_PAD;
    const int lane = gpu_lane(), own = gpu_warp() % 4 * 16, column = gpu_warp() / 4 * (D / SPLIT);
    float s[1][8][4], dp[1][8][4];
    multiply_rows<D, 1>(s, tiles.k + own * PITCH, tiles.q);
    multiply_rows<D, 1>(dp, tiles.v + own * PITCH, tiles.dout);
#pragma unroll
    for (int n = 0; n < 8; n++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const struct row_notes row = tiles.notes->row[n * 8 + lane % 4 * 2 + e];
#pragma unroll
            for (int half = 0; half < 2; half++)
                make_gradient(s[0][n][2 * half + e], dp[0][n][2 * half + e], row,
                              key + own + lane / 4 + 8 * half, slope);
        }
    }
    uint32_t p[1][TILE_STEPS][4], ds[1][TILE_STEPS][4];
    pack_rows(p[0], s[0]);
    pack_rows(ds[0], dp[0]);
    multiply_columns<D / SPLIT, PITCH, 1>(w.dv, p, tiles.dout + column);
    multiply_columns<D / SPLIT, PITCH, 1>(w.dk, ds, tiles.q + column);
}

/* The CTA's keys, from `key` to `end`, against the queries of one part. */
template <int D, int SPLIT>
static __device__ __forceinline__ void
walk_queries(struct key_rows<D / SPLIT> &w, const struct backward_tiles &tiles,
             const struct backward_job &b, const struct attention_part &part, int kv_head,
             int32_t key, int32_t end) {
    constexpr int PITCH = D + TILE_PAD;
    int32_t row, last;
    rows_of_keys(b.job, part, key, end, &row, &last);
    __syncthreads(); /* the rows of a part before are done with */
    if (threadIdx.x == 0) tiles.notes->queries = map_queries(b.job, part.query, kv_head);
    for (row -= row % TILE_ROWS; row <= last; row += TILE_ROWS) {
        __syncthreads(); /* the rows before are done with */
        copy_rows<D>(tiles.q, PITCH, TILE_ROWS, b.job, b.q, tiles.notes->queries, row, last + 1, 0);
        copy_rows<D>(tiles.dout, PITCH, TILE_ROWS, b.job, b.dout, tiles.notes->queries, row,
                     last + 1, 0);
        gpu_copy_commit();
        if (threadIdx.x < TILE_ROWS)
            tiles.notes->row[threadIdx.x] =
                note_row(b, part, kv_head, row + (int)threadIdx.x, last + 1);
        gpu_copy_wait<0>();
        __syncthreads();
        take_rows<D, SPLIT>(w, tiles, key, b.job.scale * LOG2_E);
    }
}

/* SPLIT warps share 16 keys, each with columns of its own, where registers would not hold all. */
template <int D, int SPLIT>
static __global__ void __launch_bounds__(128 * SPLIT) backward_keys(const struct backward_job b) {
    constexpr int PITCH = D + TILE_PAD, COLUMNS = D / SPLIT;
    GPU_DYNAMIC_SHARED(struct bf16, shared);
    const struct backward_tiles tiles = tiles_at<D>(shared);
    const int kv_head = (int)blockIdx.y;
    const struct tile_place place = find_tile(b.job, TILES_OF_KEYS, TILE_ROWS, (int32_t)blockIdx.x);
    struct attention_part part = part_of(b.job, place.part);
    if (threadIdx.x == 0) tiles.notes->keys = map_keys(b.job, part.key, kv_head);
    __syncthreads();
    const int32_t key = place.row, keys = part.keys, end = min(key + (int)TILE_ROWS, keys);
    copy_rows<D>(tiles.k, PITCH, TILE_ROWS, b.job, b.k, tiles.notes->keys, key, keys, 0);
    copy_rows<D>(tiles.v, PITCH, TILE_ROWS, b.job, b.v, tiles.notes->keys, key, keys, 0);
    gpu_copy_commit();
    struct key_rows<COLUMNS> w = {};
    for (int32_t i = place.part; i >= 0; i = next_of_run(b.job, i, TILES_OF_KEYS)) {
        part = part_of(b.job, i);
        walk_queries<D, SPLIT>(w, tiles, b, part, kv_head, key, end);
    }
    gpu_copy_wait<0>();
    const int32_t row = key + gpu_warp() % 4 * 16 + gpu_lane() / 4;
    const int32_t column = gpu_warp() / 4 * COLUMNS;
    store_gradients<COLUMNS>(w.dk[0], b.dk, b.dk_sums, false, tiles.notes->keys, b.job.head_dim,
                             row, end, column, b.job.scale);
    store_gradients<COLUMNS>(w.dv[0], b.dv, b.dv_sums, false, tiles.notes->keys, b.job.head_dim,
                             row, end, column, 1.0f);
}

/* The CTA's rows against the keys of one part. */
template <int D>
static __device__ __forceinline__ void
gather_keys(float (&dq)[1][D / 8][4], const struct backward_tiles &tiles,
            const struct backward_job &b, const struct attention_part &part, int kv_head,
            int32_t row, int32_t rows) {
    constexpr int PITCH = D + TILE_PAD;
    const int lane = gpu_lane(), own = gpu_warp() * 16;
    const float slope = b.job.scale * LOG2_E;
    const struct row_map map = map_keys(b.job, part.key, kv_head);
    const int32_t end = keys_of_row(b.job, part, min(row + (int)TILE_ROWS, rows) - 1).last + 1;
    int32_t key = keys_of_row(b.job, part, row).first / TILE_ROWS * TILE_ROWS;
    __syncthreads(); /* the notes of a part before are done with */
    if (threadIdx.x < TILE_ROWS)
        tiles.notes->row[threadIdx.x] = note_row(b, part, kv_head, row + (int)threadIdx.x, rows);
    for (; key < end; key += TILE_ROWS) {
        __syncthreads(); /* the keys before are done with */
        copy_rows<D>(tiles.k, PITCH, TILE_ROWS, b.job, b.k, map, key, end, 0);
        copy_rows<D>(tiles.v, PITCH, TILE_ROWS, b.job, b.v, map, key, end, 0);
        gpu_copy_commit();
        gpu_copy_wait<0>();
        __syncthreads();
        float s[1][8][4], dp[1][8][4];
        multiply_rows<D, 1>(s, tiles.q + own * PITCH, tiles.k);
        multiply_rows<D, 1>(dp, tiles.dout + own * PITCH, tiles.v);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const struct row_notes notes = tiles.notes->row[own + lane / 4 + 8 * half];
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; e++)
                    make_gradient(s[0][n][e], dp[0][n][e], notes,
                                  key + n * 8 + lane % 4 * 2 + e % 2, slope);
        }
        uint32_t ds[1][TILE_STEPS][4];
        pack_rows(ds[0], dp[0]);
        multiply_columns<D, PITCH, 1>(dq, ds, tiles.k);
    }
}

template <int D>
static __global__ void __launch_bounds__(128) backward_queries(const struct backward_job b) {
    constexpr int PITCH = D + TILE_PAD;
    GPU_DYNAMIC_SHARED(struct bf16, shared);
    const struct backward_tiles tiles = tiles_at<D>(shared);
    const int kv_head = (int)blockIdx.y;
    const int32_t index = (int32_t)(gridDim.x - 1 - blockIdx.x); /* the longest rows first */
    const struct tile_place place = find_tile(b.job, TILES_OF_QUERIES, TILE_ROWS, index);
    struct attention_part part = part_of(b.job, place.part);
    const struct row_map map = map_queries(b.job, part.query, kv_head);
    const int32_t rows = part.queries * b.job.group;
    copy_rows<D>(tiles.q, PITCH, TILE_ROWS, b.job, b.q, map, place.row, rows, 0);
    copy_rows<D>(tiles.dout, PITCH, TILE_ROWS, b.job, b.dout, map, place.row, rows, 0);
    gpu_copy_commit();
    float dq[1][D / 8][4] = {};
    for (int32_t i = place.part; i >= 0; i = next_of_run(b.job, i, TILES_OF_QUERIES)) {
        part = part_of(b.job, i);
        gather_keys<D>(dq, tiles, b, part, kv_head, place.row, rows);
    }
    gpu_copy_wait<0>();
    store_gradients<D>(dq[0], b.dq, b.dq_sums, true, map, b.job.head_dim,
                       place.row + gpu_warp() * 16 + gpu_lane() / 4, rows, 0, b.job.scale);
}

template <int D> static void launch_backward(struct stream *s, const struct backward_job &b) {
    constexpr int SPLIT = D > 128 ? 2 : 1;
    const unsigned heads = (unsigned)b.job.kv_heads;
    const unsigned keys = (unsigned)count_tiles(b.job, TILES_OF_KEYS, TILE_ROWS);
    const unsigned queries = (unsigned)count_tiles(b.job, TILES_OF_QUERIES, TILE_ROWS);
    const size_t bytes = bytes_of_tiles<D>();
    gpu_launch(s, "attention_backward dk, dv",
               gpu_grid{.blocks = dim3(keys, heads), .threads = 128 * SPLIT, .shared = bytes},
               backward_keys<D, SPLIT>, b);
    gpu_launch(s, "attention_backward dq",
               gpu_grid{.blocks = dim3(queries, heads), .threads = 128, .shared = bytes},
               backward_queries<D>, b);
}

static void backward_bf16(struct stream *s, struct backward_job &b) {
    const void *tensors[] = {b.dout, b.q, b.k, b.v};
    b.job.vector = rows_align(b.job.head_dim, tensors, 4);
    const int dim = b.job.head_dim;
    if (dim <= 64)
        launch_backward<64>(s, b);
    else if (dim <= 80)
        launch_backward<80>(s, b);
    else if (dim <= 96)
        launch_backward<96>(s, b);
    else if (dim <= 128)
        launch_backward<128>(s, b);
    else if (dim <= 192)
        launch_backward<192>(s, b);
    else
        launch_backward<256>(s, b);
}

template <class A> static void backward_all(struct stream *s, struct backward_job &b) {
    if (!head_fits(s, "attention_backward", b.job)) return;
    const int64_t blocks = (b.rows + DELTA_WARPS - 1) / DELTA_WARPS;
    gpu_launch(s, "attention_backward delta",
               gpu_grid{.blocks = dim3((unsigned)blocks), .threads = DELTA_THREADS}, sum_rows<A>,
               b.delta, (const A *)b.dout, (const A *)b.o, b.rows, b.job.head_dim);
    if (act_of<A>() == DTYPE_F32)
        attention_plain_backward(s, b);
    else
        backward_bf16(s, b);
}

/* What attention whole and in parts have in common. */
template <class Args> static struct backward_job job_of(const Args *a) {
    struct backward_job b = {};
    b.job = attention_job_of(&a->shape);
    b.dout = a->dout;
    b.q = a->q;
    b.k = a->k;
    b.v = a->v;
    b.o = a->o;
    b.lse = a->lse;
    b.delta = a->scratch;
    return b;
}

template <class A>
static void attention_backward(struct stream *s, const struct attention_backward_args *a) {
    struct backward_job b = job_of(a);
    b.job.start = a->segments->start;
    b.job.past = a->segments->past;
    b.job.count = a->segments->count;
    b.dq = a->dq;
    b.dk = a->dk;
    b.dv = a->dv;
    b.rows = (int64_t)a->segments->start[a->segments->count] * a->shape.heads;
    backward_all<A>(s, b);
}

template <class A>
static void attention_part_backward(struct stream *s,
                                    const struct attention_part_backward_args *a) {
    struct backward_job b = job_of(a);
    b.job.parts = a->parts;
    b.job.count = a->count;
    b.dq_sums = a->dq;
    b.dk_sums = a->dk;
    b.dv_sums = a->dv;
    b.rows = a->first ? a->tokens * a->shape.heads : 0;
    const size_t keys = (size_t)(a->keys * a->shape.kv_heads * a->shape.head_dim);
    stream_fill(s, a->dq, 0, (size_t)(b.rows * a->shape.head_dim) * sizeof *a->dq);
    stream_fill(s, a->dk, 0, keys * sizeof *a->dk);
    stream_fill(s, a->dv, 0, keys * sizeof *a->dv);
    backward_all<A>(s, b);
}

template <class A> static void fill(struct kernels *table) {
    table->attention_backward = attention_backward<A>;
    table->attention_part_backward = attention_part_backward<A>;
}

void cuda_attention_backward(struct kernels *table) {
    if (table->act == DTYPE_BF16)
        fill<struct bf16>(table);
    else
        fill<float>(table);
}
