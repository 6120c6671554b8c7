/* Decode over long histories for bf16 activations, and the writing of keys and values into pages.
 *
 * A decode has few rows (tokens x heads of the group <= 16) and many keys, so its keys must be
 * shared out over CTAs; yet a row's bits must be those of attention_forward.cu, whose sums are one
 * chain over the blocks of keys (its head has the formulas). What can be shared out without cutting
 * that chain:
 *
 *   decode_scores   by keys: a CTA takes SPLIT keys of one sequence and key head, a warp a block of
 *                   64. Scores and each block's greatest score go to scratch (fp32; 4 bytes a row
 * and key beside 4 bytes a column of keys and values read). decode_values   by columns of the head:
 * a CTA takes COLUMNS of the values and walks all blocks. The maximum up to a block is the greatest
 * of the blocks' greatest ones, exactly, so four warps make the weights of four blocks at once;
 * then each warp carries the chain of its 8 columns through them.
 *
 * No partial results of o are merged, and the split changes no bit. */
#include "kernels/gpu/attention_tile.h"
#include "kernels/gpu/cuda_ops.h"
#include "kernels/gpu/launch.h"

enum {
    WARPS = 4,
    SPLIT = WARPS * ATTENTION_BLOCK,
    COLUMNS = WARPS * 8,
    COLUMN_PITCH = COLUMNS + TILE_PAD,
    STAGES = 3 /* of values on their way: 32 KB a CTA */
};

struct decode_job {
    struct forward_job f;
    float *scores;        /* (sequences, key heads, blocks, rows, 64) */
    float *greatest;      /* (sequences, key heads, blocks, rows) */
    int32_t blocks, rows; /* at most, of any sequence */
};

/* The sequence and key head of a CTA. */
struct decode {
    struct attention_part part;
    int kv_head;
    int32_t rows, first_key, end, blocks; /* keys from a multiple of 64 to `end`, in blocks */
    int64_t first_block;                  /* in scratch */
};

static __device__ __forceinline__ bool take_decode(struct decode &d, const struct decode_job &job) {
    const struct attention_job &shape = job.f.job;
    const int32_t sequence = (int32_t)blockIdx.z;
    d.part = part_of(shape, sequence);
    if (!is_decode(shape, d.part)) return false;
    d.kv_head = (int)blockIdx.y;
    d.rows = d.part.queries * shape.group;
    d.end = d.part.keys;
    d.first_key = keys_of_row(shape, d.part, 0).first / ATTENTION_BLOCK * ATTENTION_BLOCK;
    d.blocks = tiles_of_rows(d.end - d.first_key, ATTENTION_BLOCK);
    d.first_block = ((int64_t)sequence * shape.kv_heads + d.kv_head) * job.blocks;
    return true;
}

/* The scores of the warp's block, those of keys that a row does not see -infinity. */
static __device__ __forceinline__ void
keep_scores(const struct decode_job &job, const struct decode &d, int32_t block, float (&s)[8][4]) {
    const int lane = gpu_lane();
    const int32_t key = d.first_key + block * ATTENTION_BLOCK;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int32_t row = lane / 4 + 8 * half;
        const struct keys_seen seen = keys_of_row(job.f.job, d.part, row);
        const int64_t at = (d.first_block + block) * job.rows + row;
#pragma unroll
        for (int n = 0; n < 8; n++) {
            const int column = n * 8 + lane % 4 * 2;
            float *own = &s[n][2 * half];
            for (int e = 0; e < 2; e++)
                if (key + column + e < seen.first || key + column + e > seen.last)
                    own[e] = -INFINITY;
            if (row >= d.rows) continue;
            *(float2 *)(job.scores + at * ATTENTION_BLOCK + column) = make_float2(own[0], own[1]);
        }
        float greatest = softmax_greatest(s, half);
        if (row < d.rows && lane % 4 == 0) job.greatest[at] = greatest;
    }
}

template <int D>
static __global__ void __launch_bounds__(32 * WARPS) decode_scores(const struct decode_job job) {
    constexpr int PITCH = D + TILE_PAD;
    GPU_DYNAMIC_SHARED(struct bf16, q);
    struct bf16 *k = q + DECODE_ROWS * PITCH;
    const struct attention_job &shape = job.f.job;
    struct decode d;
    if (!take_decode(d, job)) return;
    const int32_t key = d.first_key + (int32_t)blockIdx.x * SPLIT;
    if (key >= d.end) return;
    copy_rows<D>(q, PITCH, DECODE_ROWS, shape, job.f.q, map_queries(shape, d.part.query, d.kv_head),
                 0, d.rows, 0);
    copy_rows<D>(k, PITCH, SPLIT, shape, job.f.kv.k, map_cache(shape, job.f.kv, d.part, d.kv_head),
                 key, d.end, 0);
    gpu_copy_commit();
    gpu_copy_wait<0>();
    __syncthreads();
    const int32_t block = (int32_t)blockIdx.x * WARPS + gpu_warp();
    if (block >= d.blocks) return;
    float s[1][8][4];
    multiply_rows<D, 1>(s, q, k + gpu_warp() * ATTENTION_BLOCK * PITCH);
    keep_scores(job, d, block, s[0]);
}

/* The weights of WARPS blocks, in shared memory: as left operands, and what the chain needs. */
struct weights {
    uint32_t p[WARPS][TILE_STEPS][GPU_WARP][4];
    float factor[WARPS][DECODE_ROWS];
    float sum[WARPS][2][GPU_WARP];
};

/* The warp's block of the four from `first`; max: of the lane's two rows up to that block, then up
 * to the last of the four. */
static __device__ __forceinline__ void make_weights(struct weights *w, const struct decode_job &job,
                                                    const struct decode &d, int32_t first,
                                                    float (&max)[2]) {
    const int lane = gpu_lane(), own = gpu_warp();
    const float slope = job.f.job.scale * LOG2_E;
    float s[8][4];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int32_t row = lane / 4 + 8 * half;
        float before = max[half], upto = -INFINITY;
#pragma unroll
        for (int i = 0; i < WARPS; i++) {
            if (i == own) before = max[half];
            bool there = first + i < d.blocks && row < d.rows;
            int64_t at = (d.first_block + first + i) * job.rows + row;
            if (there) max[half] = fmaxf(max[half], job.greatest[at]);
            if (i == own) upto = max[half];
        }
        bool there = first + own < d.blocks && row < d.rows;
        int64_t at = (d.first_block + first + own) * job.rows + row;
#pragma unroll
        for (int n = 0; n < 8; n++) {
            float2 pair = make_float2(-INFINITY, -INFINITY);
            const float *from = job.scores + at * ATTENTION_BLOCK + n * 8 + lane % 4 * 2;
            if (there) pair = *(const float2 *)from;
            s[n][2 * half] = pair.x;
            s[n][2 * half + 1] = pair.y;
        }
        float factor = softmax_factor(before, upto, slope);
        if (lane % 4 == 0) w->factor[own][row] = factor;
        w->sum[own][half][lane] = softmax_weights(s, half, upto, slope);
    }
    uint32_t p[TILE_STEPS][4];
    pack_rows(p, s);
#pragma unroll
    for (int k = 0; k < TILE_STEPS; k++)
        *(uint4 *)w->p[own][k][lane] = make_uint4(p[k][0], p[k][1], p[k][2], p[k][3]);
}

/* Carries 8 columns and the sum through `blocks` blocks; v is the first block's, at the columns. */
static __device__ __forceinline__ void carry_chain(float (&o)[4], float (&sum)[2],
                                                   const struct weights *w, const struct bf16 *v,
                                                   int blocks) {
    const int lane = gpu_lane();
    for (int i = 0; i < blocks; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float factor = w->factor[i][lane / 4 + 8 * half];
            sum[half] = fmaf(sum[half], factor, w->sum[i][half][lane]);
            o[2 * half] *= factor;
            o[2 * half + 1] *= factor;
        }
#pragma unroll
        for (int k = 0; k < TILE_STEPS; k += 2) {
            uint32_t fragment[4];
            gpu_ldmatrix_x4_trans(fragment,
                                  v + (i * ATTENTION_BLOCK + k * 16 + lane) * COLUMN_PITCH);
            gpu_mma_bf16(o, w->p[i][k][lane], fragment);
            gpu_mma_bf16(o, w->p[i][k + 1][lane], fragment + 2);
        }
    }
}

static __device__ __forceinline__ void finish_decode(const struct decode_job &job,
                                                     const struct decode &d, int column,
                                                     const float (&o)[4], const float (&sum)[2],
                                                     const float (&max)[2]) {
    const struct attention_job &shape = job.f.job;
    const int lane = gpu_lane();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int32_t row = lane / 4 + 8 * half;
        const float total = sum_of_four(sum[half]), inverse = 1.0f / total;
        if (row >= d.rows) continue;
        const int64_t query = query_of(shape, d.part, d.kv_head, row);
        struct bf16 *to = (struct bf16 *)job.f.o + query * shape.head_dim;
        store_pair(to, column + lane % 4 * 2, shape.head_dim, o[2 * half] * inverse,
                   o[2 * half + 1] * inverse);
        if (job.f.lse && column == 0 && lane % 4 == 0)
            job.f.lse[query] = softmax_lse(max[half], total, shape.scale);
    }
}

static __global__ void __launch_bounds__(32 * WARPS) decode_values(const struct decode_job job) {
    GPU_DYNAMIC_SHARED(struct weights, weights);
    struct bf16 *v = (struct bf16 *)(weights + 1);
    const struct attention_job &shape = job.f.job;
    const int column = (int)blockIdx.x * COLUMNS, own = gpu_warp() * 8;
    struct decode d;
    if (!take_decode(d, job)) return;
    const struct row_map map = map_cache(shape, job.f.kv, d.part, d.kv_head);
    float o[4] = {}, sum[2] = {}, max[2] = {-INFINITY, -INFINITY};
    int32_t asked = 0; /* blocks that are on their way */
    for (int32_t round = 1 - STAGES; round * WARPS < d.blocks; round++) {
        if (asked < d.blocks)
            copy_rows<COLUMNS>(v + asked / WARPS % STAGES * SPLIT * COLUMN_PITCH, COLUMN_PITCH,
                               SPLIT, shape, job.f.kv.v, map, d.first_key + asked * ATTENTION_BLOCK,
                               d.end, column);
        gpu_copy_commit();
        asked += WARPS;
        if (round < 0) continue;
        const int32_t first = round * WARPS;
        make_weights(weights, job, d, first, max);
        gpu_copy_wait<STAGES - 1>();
        __syncthreads(); /* values and weights are here */
        const struct bf16 *values = v + round % STAGES * SPLIT * COLUMN_PITCH + own;
        carry_chain(o, sum, weights, values, min((int)WARPS, d.blocks - first));
        __syncthreads(); /* they are done with */
    }
    gpu_copy_wait<0>();
    finish_decode(job, d, column + own, o, sum, max);
}

template <int D>
static void launch_scores(struct stream *s, const struct decode_job &job, dim3 blocks) {
    const size_t bytes = sizeof(struct bf16) * ((int)DECODE_ROWS + SPLIT) * (D + TILE_PAD);
    gpu_launch(s, "attention_decode scores",
               gpu_grid{.blocks = blocks, .threads = 32 * WARPS, .shared = bytes}, decode_scores<D>,
               job);
}

static void launch_values(struct stream *s, const struct decode_job &job, dim3 blocks) {
    const size_t bytes =
        sizeof(struct weights) + sizeof(struct bf16) * STAGES * SPLIT * COLUMN_PITCH;
    gpu_launch(s, "attention_decode values",
               gpu_grid{.blocks = blocks, .threads = 32 * WARPS, .shared = bytes}, decode_values,
               job);
}

/* The most blocks and rows that any decode has; none: 0. */
static void measure_decodes(struct decode_job *job) {
    const struct attention_job &shape = job->f.job;
    for (int32_t i = 0; i < shape.count; i++) {
        struct attention_part part = part_of(shape, i);
        if (!is_decode(shape, part)) continue;
        int32_t first = keys_of_row(shape, part, 0).first / ATTENTION_BLOCK;
        int32_t blocks = tiles_of_rows(part.keys, ATTENTION_BLOCK) - first;
        int32_t rows = part.queries * shape.group;
        job->blocks = blocks > job->blocks ? blocks : job->blocks;
        job->rows = rows > job->rows ? rows : job->rows;
    }
}

void attention_decode(struct stream *s, const struct forward_job &f) {
    struct decode_job job = {};
    job.f = f;
    measure_decodes(&job);
    if (job.blocks == 0) return;
    const size_t count =
        (size_t)f.job.count * (size_t)f.job.kv_heads * (size_t)job.blocks * (size_t)job.rows;
    job.scores = (float *)device_scratch(s, sizeof(float) * count * (ATTENTION_BLOCK + 1));
    if (!job.scores) return;
    job.greatest = job.scores + count * ATTENTION_BLOCK;
    const unsigned heads = (unsigned)f.job.kv_heads, sequences = (unsigned)f.job.count;
    const dim3 scores((unsigned)tiles_of_rows(job.blocks, WARPS), heads, sequences);
    const int dim = f.job.head_dim;
    if (dim <= 64)
        launch_scores<64>(s, job, scores);
    else if (dim <= 80)
        launch_scores<80>(s, job, scores);
    else if (dim <= 96)
        launch_scores<96>(s, job, scores);
    else if (dim <= 128)
        launch_scores<128>(s, job, scores);
    else if (dim <= 192)
        launch_scores<192>(s, job, scores);
    else
        launch_scores<256>(s, job, scores);
    launch_values(s, job, dim3((unsigned)tiles_of_rows(dim, COLUMNS), heads, sequences));
}

/* A CTA writes one token's rows of all heads. */
template <class A, class C>
static __global__ void __launch_bounds__(128)
    write_token(const struct kv_source kv, const A *k, const A *v, const int32_t *start,
                const int32_t *past, int32_t count, int32_t width) {
    const int32_t token = (int32_t)blockIdx.x;
    int32_t sequence = -1;
    for (int32_t base = 0; sequence < 0 && base < count; base += GPU_WARP) {
        int32_t i = base + gpu_lane();
        bool own = i < count && start[i] <= token && token < start[i + 1];
        uint32_t owner = __ballot_sync(GPU_ALL_LANES, own);
        if (owner) sequence = base + __ffs((int)owner) - 1;
    }
    if (sequence < 0) return;
    const int32_t key = past[sequence] + token - start[sequence];
    const int64_t page = kv.page_table[(int64_t)sequence * kv.max_pages + key / kv.page_size];
    const int64_t row = (page * kv.page_size + key % kv.page_size) * width;
    for (int32_t i = (int32_t)threadIdx.x; i < width; i += (int32_t)blockDim.x) {
        ((C *)kv.k)[row + i] = from_f32<C>(to_f32(k[(int64_t)token * width + i]));
        ((C *)kv.v)[row + i] = from_f32<C>(to_f32(v[(int64_t)token * width + i]));
    }
}

template <class A>
static void kv_write(struct stream *s, const struct kv_source *kv, const void *k, const void *v,
                     const struct segments *segments, int kv_heads, int head_dim) {
    const unsigned tokens = (unsigned)segments->start[segments->count];
    void (*kernel)(const struct kv_source, const A *, const A *, const int32_t *, const int32_t *,
                   int32_t, int32_t) =
        kv->dtype == DTYPE_BF16 ? write_token<A, struct bf16> : write_token<A, float>;
    gpu_launch(s, "kv_write", gpu_grid{.blocks = dim3(tokens), .threads = 128}, kernel, *kv,
               (const A *)k, (const A *)v, segments->start, segments->past, segments->count,
               kv_heads * head_dim);
}

void cuda_kv_write(struct kernels *table) {
    table->kv_write = table->act == DTYPE_BF16 ? kv_write<struct bf16> : kv_write<float>;
}
