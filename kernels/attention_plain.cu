/* Attention for fp32 activations, both ways: tiles in shared memory and chains of fused
 * multiply-adds, no tensor cores. 128 threads: thread (y, x) of 8 x 16 has 4 rows, y * 4 .., and of
 * these the scores of columns x and x + 16 of a tile of 32, and the columns x, x + 16, .. of the
 * head.
 *
 * Forward, what a row's bits are made of: its keys in blocks of 32 aligned to absolute positions,
 * ascending. A score is one chain over the head's columns, o one chain over the keys; the sum goes
 * lane by lane through the blocks, its 16 lanes added in a tree at the end. A key that a row does
 * not see weighs 0, and a block without any leaves the row as it is. The same kernel serves
 * training, prefill and decode. */
#include "kernels/gpu/attention_rows.h"
#include "kernels/gpu/launch.h"

enum { PLAIN = 32, PLAIN_THREADS = 128, ROWS_EACH = 4, LANES = 16, WEIGHT_PITCH = PLAIN + 1 };

/* The columns of a head that a thread has, and the distance of rows in shared memory: odd. */
__host__ __device__ constexpr int plain_columns(int d) {
    return d / LANES;
}
__host__ __device__ constexpr int plain_pitch(int d) {
    return d + 1;
}

/* 32 rows to shared memory as fp32; absent rows and columns are zeros. */
template <int D>
static __device__ __forceinline__ void
load_plain(float *tile, const struct attention_job &job, const void *data, bool narrow,
           const struct row_map &map, int32_t row, int32_t end) {
    for (int i = (int)threadIdx.x; i < PLAIN * D; i += PLAIN_THREADS) {
        const int r = i / D, c = i % D;
        float value = 0.0f;
        if (row + r < end && c < job.head_dim) {
            const int64_t at = row_at(map, row + r) + c;
            value = narrow ? to_f32(((const struct bf16 *)data)[at]) : ((const float *)data)[at];
        }
        tile[r * plain_pitch(D) + c] = value;
    }
}

/* s = a b^T of the thread's rows of a and columns (rows of b). */
template <int D>
static __device__ __forceinline__ void multiply_plain(float (&s)[ROWS_EACH][2], const float *a,
                                                      const float *b) {
    const int y = (int)threadIdx.x / LANES * ROWS_EACH, x = (int)threadIdx.x % LANES;
#pragma unroll
    for (int r = 0; r < ROWS_EACH; r++) s[r][0] = s[r][1] = 0.0f;
#pragma unroll 4
    for (int d = 0; d < D; d++) {
        const float low = b[x * plain_pitch(D) + d], high = b[(x + LANES) * plain_pitch(D) + d];
#pragma unroll
        for (int r = 0; r < ROWS_EACH; r++) {
            const float own = a[(y + r) * plain_pitch(D) + d];
            s[r][0] = fmaf(own, low, s[r][0]);
            s[r][1] = fmaf(own, high, s[r][1]);
        }
    }
}

/* o += p b, p (32, 32) in shared memory, b 32 rows. */
template <int D>
static __device__ __forceinline__ void gather_plain(float (&o)[ROWS_EACH][plain_columns(D)],
                                                    const float *p, const float *b) {
    const int y = (int)threadIdx.x / LANES * ROWS_EACH, x = (int)threadIdx.x % LANES;
#pragma unroll 2
    for (int k = 0; k < PLAIN; k++) {
#pragma unroll
        for (int c = 0; c < plain_columns(D); c++) {
            const float value = b[k * plain_pitch(D) + x + c * LANES];
#pragma unroll
            for (int r = 0; r < ROWS_EACH; r++)
                o[r][c] = fmaf(p[(y + r) * WEIGHT_PITCH + k], value, o[r][c]);
        }
    }
}

/* The thread's numbers of a (32, 32) matrix to shared memory, for its warp to read. */
static __device__ __forceinline__ void share_plain(float *p, const float (&s)[ROWS_EACH][2]) {
    const int y = (int)threadIdx.x / LANES * ROWS_EACH, x = (int)threadIdx.x % LANES;
    __syncwarp();
#pragma unroll
    for (int r = 0; r < ROWS_EACH; r++) {
        p[(y + r) * WEIGHT_PITCH + x] = s[r][0];
        p[(y + r) * WEIGHT_PITCH + x + LANES] = s[r][1];
    }
    __syncwarp();
}

template <int D> struct plain_rows {
    float o[ROWS_EACH][plain_columns(D)];
    struct softmax_row row[ROWS_EACH];
};

/* The thread's part of the online softmax of one block of keys; s becomes p. */
template <int D>
static __device__ __forceinline__ void
soften_plain(struct plain_rows<D> &w, float (&s)[ROWS_EACH][2], const struct keys_seen *seen,
             int32_t key, float slope) {
    const int x = (int)threadIdx.x % LANES;
#pragma unroll
    for (int r = 0; r < ROWS_EACH; r++) {
        struct softmax_row &row = w.row[r];
        if (key + x < seen[r].first || key + x > seen[r].last) s[r][0] = -INFINITY;
        if (key + x + LANES < seen[r].first || key + x + LANES > seen[r].last) s[r][1] = -INFINITY;
        float max = fmaxf(s[r][0], s[r][1]);
        for (int step = LANES / 2; step > 0; step /= 2)
            max = fmaxf(max, __shfl_xor_sync(GPU_ALL_LANES, max, step));
        max = fmaxf(row.max, max);
        const float factor = softmax_factor(row.max, max, slope), base = softmax_base(max);
        for (int i = 0; i < 2; i++) s[r][i] = gpu_exp2((s[r][i] - base) * slope);
        row.sum = fmaf(row.sum, factor, s[r][0] + s[r][1]);
        row.max = max;
#pragma unroll
        for (int c = 0; c < plain_columns(D); c++) w.o[r][c] *= factor;
    }
}

/* The rows' results, or, of parts, their share in what the rows had seen before. */
template <int D>
static __device__ __forceinline__ void
finish_plain(const struct plain_rows<D> &w, const struct forward_job &f,
             const struct attention_part &part, int kv_head, int32_t first, int32_t rows) {
    const int y = (int)threadIdx.x / LANES * ROWS_EACH, x = (int)threadIdx.x % LANES;
#pragma unroll
    for (int r = 0; r < ROWS_EACH; r++) {
        float sum = w.row[r].sum;
        for (int step = LANES / 2; step > 0; step /= 2)
            sum += __shfl_xor_sync(GPU_ALL_LANES, sum, step);
        const float lse = softmax_lse(w.row[r].max, sum, f.job.scale);
        const bool there = first + y + r < rows;
        const int64_t query = query_of(f.job, part, kv_head, there ? first + y + r : 0);
        struct shares shares = {0.0f, 1.0f};
        if (f.sums) shares = join_part(&f.lse[query], there, x == 0, lse);
        if (!there) continue;
        if (!f.sums && f.lse && x == 0) f.lse[query] = lse;
        float *to = (f.sums ? f.sums : (float *)f.o) + query * f.job.head_dim;
#pragma unroll
        for (int c = 0; c < plain_columns(D); c++) {
            if (x + c * LANES >= f.job.head_dim) continue;
            float own = sum == 0.0f ? 0.0f : w.o[r][c] / sum;
            if (f.sums) own = fmaf(to[x + c * LANES], shares.before, own * shares.now);
            to[x + c * LANES] = own;
        }
    }
}

template <int D>
static __global__ void __launch_bounds__(PLAIN_THREADS) plain_forward(const struct forward_job f) {
    constexpr int TILE = PLAIN * plain_pitch(D);
    GPU_DYNAMIC_SHARED(float, q);
    float *k = q + TILE, *v = k + TILE, *p = v + TILE;
    const int kv_head = (int)blockIdx.y, y = (int)threadIdx.x / LANES * ROWS_EACH;
    const struct tile_place place =
        find_tile(f.job, TILES_OF_QUERIES, PLAIN, (int32_t)(gridDim.x - 1 - blockIdx.x));
    struct attention_part part = part_of(f.job, place.part);
    const int32_t rows = part.queries * f.job.group;
    struct plain_rows<D> w = {};
    for (int r = 0; r < ROWS_EACH; r++) w.row[r].max = -INFINITY;
    load_plain<D>(q, f.job, f.q, false, map_queries(f.job, part.query, kv_head), place.row, rows);
    for (int32_t i = place.part; i >= 0; i = next_of_run(f.job, i, TILES_OF_QUERIES)) {
        part = part_of(f.job, i);
        const struct row_map map = map_cache(f.job, f.kv, part, kv_head);
        const bool narrow = f.kv.page_table && !map.wide;
        struct keys_seen seen[ROWS_EACH];
        for (int r = 0; r < ROWS_EACH; r++) seen[r] = keys_of_row(f.job, part, place.row + y + r);
        const int32_t last_row = min(place.row + (int)PLAIN, rows) - 1;
        const int32_t end = keys_of_row(f.job, part, last_row).last + 1;
        int32_t key = keys_of_row(f.job, part, place.row).first / PLAIN * PLAIN;
        for (; key < end; key += PLAIN) {
            __syncthreads(); /* the keys before are done with */
            load_plain<D>(k, f.job, f.kv.k, narrow, map, key, end);
            load_plain<D>(v, f.job, f.kv.v, narrow, map, key, end);
            __syncthreads();
            float s[ROWS_EACH][2];
            multiply_plain<D>(s, q, k);
            soften_plain(w, s, seen, key, f.job.scale * LOG2_E);
            share_plain(p, s);
            gather_plain<D>(w.o, p, v);
        }
    }
    finish_plain(w, f, part, kv_head, place.row, rows);
}

/* dq of 32 rows against all their keys. */
template <int D>
static __global__ void __launch_bounds__(PLAIN_THREADS) plain_queries(const struct backward_job b) {
    constexpr int TILE = PLAIN * plain_pitch(D);
    GPU_DYNAMIC_SHARED(float, q);
    float *dout = q + TILE, *k = dout + TILE, *v = k + TILE, *ds = v + TILE;
    const int kv_head = (int)blockIdx.y;
    const int y = (int)threadIdx.x / LANES * ROWS_EACH, x = (int)threadIdx.x % LANES;
    const struct tile_place place = find_tile(b.job, TILES_OF_QUERIES, PLAIN, (int)blockIdx.x);
    struct attention_part part = part_of(b.job, place.part);
    const int32_t rows = part.queries * b.job.group;
    const struct row_map queries = map_queries(b.job, part.query, kv_head);
    float dq[ROWS_EACH][plain_columns(D)] = {};
    load_plain<D>(q, b.job, b.q, false, queries, place.row, rows);
    load_plain<D>(dout, b.job, b.dout, false, queries, place.row, rows);
    for (int32_t i = place.part; i >= 0; i = next_of_run(b.job, i, TILES_OF_QUERIES)) {
        part = part_of(b.job, i);
        const struct row_map map = map_keys(b.job, part.key, kv_head);
        struct row_notes notes[ROWS_EACH];
        for (int r = 0; r < ROWS_EACH; r++)
            notes[r] = note_row(b, part, kv_head, place.row + y + r, rows);
        const int32_t last_row = min(place.row + (int)PLAIN, rows) - 1;
        const int32_t end = keys_of_row(b.job, part, last_row).last + 1;
        int32_t key = keys_of_row(b.job, part, place.row).first / PLAIN * PLAIN;
        for (; key < end; key += PLAIN) {
            __syncthreads(); /* the keys before are done with */
            load_plain<D>(k, b.job, b.k, false, map, key, end);
            load_plain<D>(v, b.job, b.v, false, map, key, end);
            __syncthreads();
            float s[ROWS_EACH][2], dp[ROWS_EACH][2];
            multiply_plain<D>(s, q, k);
            multiply_plain<D>(dp, dout, v);
            for (int r = 0; r < ROWS_EACH; r++)
                for (int e = 0; e < 2; e++)
                    make_gradient(s[r][e], dp[r][e], notes[r], key + x + e * LANES,
                                  b.job.scale * LOG2_E);
            share_plain(ds, dp);
            gather_plain<D>(dq, ds, k);
        }
    }
    for (int r = 0; r < ROWS_EACH; r++) {
        if (place.row + y + r >= rows) continue;
        float *to = (b.dq_sums ? b.dq_sums : (float *)b.dq) + row_at(queries, place.row + y + r);
#pragma unroll
        for (int c = 0; c < plain_columns(D); c++)
            if (x + c * LANES < b.job.head_dim)
                to[x + c * LANES] = (b.dq_sums ? to[x + c * LANES] : 0.0f) + dq[r][c] * b.job.scale;
    }
}

/* dk and dv of 32 keys by all rows that see them; here keys are rows, and rows columns. */
template <int D>
static __global__ void __launch_bounds__(PLAIN_THREADS) plain_keys(const struct backward_job b) {
    constexpr int TILE = PLAIN * plain_pitch(D);
    GPU_DYNAMIC_SHARED(float, q);
    float *dout = q + TILE, *k = dout + TILE, *v = k + TILE, *p = v + TILE;
    float *ds = p + PLAIN * WEIGHT_PITCH;
    const int kv_head = (int)blockIdx.y;
    const int y = (int)threadIdx.x / LANES * ROWS_EACH, x = (int)threadIdx.x % LANES;
    const struct tile_place place = find_tile(b.job, TILES_OF_KEYS, PLAIN, (int)blockIdx.x);
    struct attention_part part = part_of(b.job, place.part);
    const struct row_map map = map_keys(b.job, part.key, kv_head);
    const int32_t key = place.row, keys = part.keys, end = min(key + (int)PLAIN, keys);
    float dk[ROWS_EACH][plain_columns(D)] = {}, dv[ROWS_EACH][plain_columns(D)] = {};
    load_plain<D>(k, b.job, b.k, false, map, key, keys);
    load_plain<D>(v, b.job, b.v, false, map, key, keys);
    for (int32_t i = place.part; i >= 0; i = next_of_run(b.job, i, TILES_OF_KEYS)) {
        part = part_of(b.job, i);
        const struct row_map queries = map_queries(b.job, part.query, kv_head);
        int32_t row, last;
        rows_of_keys(b.job, part, key, end, &row, &last);
        for (row -= row % PLAIN; row <= last; row += PLAIN) {
            __syncthreads(); /* the rows before are done with */
            load_plain<D>(q, b.job, b.q, false, queries, row, last + 1);
            load_plain<D>(dout, b.job, b.dout, false, queries, row, last + 1);
            __syncthreads();
            float s[ROWS_EACH][2], dp[ROWS_EACH][2];
            multiply_plain<D>(s, k, q);
            multiply_plain<D>(dp, v, dout);
            for (int e = 0; e < 2; e++) {
                const struct row_notes notes =
                    note_row(b, part, kv_head, row + x + e * LANES, last + 1);
                for (int r = 0; r < ROWS_EACH; r++)
                    make_gradient(s[r][e], dp[r][e], notes, key + y + r, b.job.scale * LOG2_E);
            }
            share_plain(p, s);
            share_plain(ds, dp);
            gather_plain<D>(dv, p, dout);
            gather_plain<D>(dk, ds, q);
        }
    }
    for (int r = 0; r < ROWS_EACH; r++) {
        if (key + y + r >= keys) continue;
        const int64_t at = row_at(map, key + y + r);
        float *to_k = (b.dk_sums ? b.dk_sums : (float *)b.dk) + at;
        float *to_v = (b.dv_sums ? b.dv_sums : (float *)b.dv) + at;
#pragma unroll
        for (int c = 0; c < plain_columns(D); c++) {
            if (x + c * LANES >= b.job.head_dim) continue;
            to_k[x + c * LANES] = dk[r][c] * b.job.scale;
            to_v[x + c * LANES] = dv[r][c];
        }
    }
}

template <int D> static size_t plain_bytes(int tiles, int weights) {
    return sizeof(float) * (size_t)PLAIN *
           (size_t)(tiles * plain_pitch(D) + weights * WEIGHT_PITCH);
}

template <int D> static void launch_plain_forward(struct stream *s, const struct forward_job &f) {
    const unsigned tiles = (unsigned)count_tiles(f.job, TILES_OF_QUERIES, PLAIN);
    gpu_launch(s, "attention_forward",
               gpu_grid{.blocks = dim3(tiles, (unsigned)f.job.kv_heads),
                        .threads = PLAIN_THREADS,
                        .shared = plain_bytes<D>(3, 1)},
               plain_forward<D>, f);
}

void attention_plain_forward(struct stream *s, const struct forward_job &f) {
    if (f.job.head_dim <= 64)
        launch_plain_forward<64>(s, f);
    else if (f.job.head_dim <= 128)
        launch_plain_forward<128>(s, f);
    else
        launch_plain_forward<256>(s, f);
}

template <int D> static void launch_plain_backward(struct stream *s, const struct backward_job &b) {
    const unsigned heads = (unsigned)b.job.kv_heads;
    const unsigned keys = (unsigned)count_tiles(b.job, TILES_OF_KEYS, PLAIN);
    const unsigned queries = (unsigned)count_tiles(b.job, TILES_OF_QUERIES, PLAIN);
    gpu_launch(s, "attention_backward dk, dv",
               gpu_grid{.blocks = dim3(keys, heads),
                        .threads = PLAIN_THREADS,
                        .shared = plain_bytes<D>(4, 2)},
               plain_keys<D>, b);
    gpu_launch(s, "attention_backward dq",
               gpu_grid{.blocks = dim3(queries, heads),
                        .threads = PLAIN_THREADS,
                        .shared = plain_bytes<D>(4, 1)},
               plain_queries<D>, b);
}

void attention_plain_backward(struct stream *s, const struct backward_job &b) {
    if (b.job.head_dim <= 64)
        launch_plain_backward<64>(s, b);
    else if (b.job.head_dim <= 128)
        launch_plain_backward<128>(s, b);
    else
        launch_plain_backward<256>(s, b);
}
