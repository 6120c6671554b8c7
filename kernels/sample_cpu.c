/* Fast sampling. The vocabulary is only walked in vectors: for the maximum, the exponentials, the
 * sums. The set that top-k, top-p and min-p keep is a prefix of the candidates in order (higher
 * probability first, lower id on a tie), so it is found by selection among the few that can belong
 * to it, and is then known by its last member: everything before that in order is in. */
#include "kernels/ops.h"
#include "kernels/sample_adjust.h"
#include "kernels/simd_math.h"

#include <float.h>
#include <math.h>
#include <string.h>

static v16 load_or_lowest(const float *row, int64_t left) {
    if (left >= V16_LANES) return v16_load(row);
    float lanes[V16_LANES];
    for (int i = 0; i < V16_LANES; i++) lanes[i] = i < left ? row[i] : -INFINITY;
    return v16_load(lanes);
}

/* The highest of the row; NAN when it holds a NaN or +infinity. */
static float row_maximum(const float *row, int32_t count) {
    v16 max = v16_splat(-INFINITY), most = v16_splat(FLT_MAX);
    uint32_t fine = 0xffff;
    for (int32_t i = 0; i < count; i += V16_LANES) {
        v16 x = load_or_lowest(row + i, count - i);
        fine &= v16_mask_ge(most, x);
        max = v16_max(x, max);
    }
    return fine == 0xffff ? v16_max_lane(max) : NAN;
}

/* The first id that holds `value`, which the row does. */
static int32_t first_of(const float *row, float value) {
    int32_t i = 0;
    while (row[i] != value) i++;
    return i;
}

/* scratch = exp((scratch - max) / temperature); returns the sum. */
static double exponentials(const struct sample_args *a, float max) {
    v16 base = v16_splat(max), temperature = v16_splat(a->params.temperature);
    v16_double sum = v16_double_zero();
    for (int32_t i = 0; i < a->vocab; i += V16_LANES) {
        v16 x = load_or_lowest(a->scratch + i, a->vocab - i);
        v16 p = v16_exp(v16_div(v16_sub(x, base), temperature));
        sum = v16_double_add(sum, p);
        v16_store_part(a->scratch + i, p, a->vocab - i);
    }
    return v16_double_sum(sum);
}

/* scratch_ids = the ids with probability of at least `least` (above 0); returns their number and
 * adds up their mass. */
static int32_t gather(const struct sample_args *a, float least, double *mass) {
    v16 bound = v16_splat(least);
    int32_t count = 0;
    *mass = 0.0;
    for (int32_t i = 0; i < a->vocab; i += V16_LANES) {
        uint32_t mask = v16_mask_ge(v16_load_part(a->scratch + i, a->vocab - i), bound);
        for (; mask; mask &= mask - 1) {
            int32_t id = i + __builtin_ctz(mask);
            *mass += (double)a->scratch[id];
            a->scratch_ids[count++] = id;
        }
    }
    return count;
}

static bool comes_before(const float *p, int32_t left, int32_t right) {
    return p[left] != p[right] ? p[left] > p[right] : left < right;
}

static void swap_ids(int32_t *ids, int32_t i, int32_t j) {
    int32_t kept = ids[i];
    ids[i] = ids[j];
    ids[j] = kept;
}

/* Moves the members of [low, high) that come before the one at `pivot` to the front and the pivot
 * behind them; returns its place. */
static int32_t partition(const float *p, int32_t *ids, int32_t low, int32_t high, int32_t pivot) {
    int32_t end = low;
    swap_ids(ids, pivot, high - 1);
    for (int32_t i = low; i < high - 1; i++)
        if (comes_before(p, ids[i], ids[high - 1])) swap_ids(ids, i, end++);
    swap_ids(ids, end, high - 1);
    return end;
}

/* The size of the shortest prefix in order, of ids [0, count), that reaches `target`: in members,
 * or in mass. The ids are rearranged so that the prefix comes first. Quickselect; the pivot is
 * spread by a multiplicative hash, so that no order of probabilities makes it slow. */
static int32_t select_prefix(const float *p, int32_t *ids, int32_t count, double target,
                             bool by_mass) {
    int32_t low = 0, high = count;
    double before = 0.0; /* of [0, low) */
    while (low < high) {
        uint32_t spread = ((uint32_t)low + (uint32_t)high) * 2654435761u;
        int32_t pivot = low + (int32_t)(((uint64_t)spread * (uint64_t)(high - low)) >> 32);
        pivot = partition(p, ids, low, high, pivot);
        double sum = before;
        for (int32_t i = low; i < pivot; i++) sum += by_mass ? (double)p[ids[i]] : 1.0;
        if (sum >= target) {
            high = pivot;
            continue;
        }
        before = sum + (by_mass ? (double)p[ids[pivot]] : 1.0);
        low = pivot + 1;
        if (before >= target) return low;
    }
    return low > 0 ? low : 1;
}

/* The last member, in order, of those kept. */
static int32_t last_kept(const struct sample_args *a, double total) {
    const struct sample_params *params = &a->params;
    bool by_count = params->top_k > 0 && params->top_k < a->vocab, by_mass = params->top_p < 1.0f;
    int32_t count = 0;
    double mass = 0.0;
    /* Those of at least 2^-6 of the highest are often enough; then ever more. */
    for (float least = 0x1p-6f;; least *= 0x1p-6f) {
        bool all = least < 0x1p-30f;
        count = gather(a, all ? FLT_MIN : least, &mass);
        bool reaches = (!by_count || count >= params->top_k) &&
                       (!by_mass || mass >= (double)params->top_p * total);
        if (all || reaches) break;
    }
    if (by_count) count = select_prefix(a->scratch, a->scratch_ids, count, params->top_k, false);
    if (by_mass) {
        if (by_count) total = 0.0;
        for (int32_t i = 0; by_count && i < count; i++)
            total += (double)a->scratch[a->scratch_ids[i]];
        count =
            select_prefix(a->scratch, a->scratch_ids, count, (double)params->top_p * total, true);
    }
    int32_t last = a->scratch_ids[0];
    for (int32_t i = 1; i < count; i++)
        if (comes_before(a->scratch, last, a->scratch_ids[i])) last = a->scratch_ids[i];
    return last;
}

/* Zeroes the probabilities in [first, end) below `least`; returns the sum of the others. */
static double cut(float *p, int32_t first, int32_t end, float least) {
    v16 bound = v16_splat(least);
    v16_double sum = v16_double_zero();
    for (int32_t i = first; i < end; i += V16_LANES) {
        v16 x = v16_load_part(p + i, end - i);
        x = v16_zero_below(x, x, bound);
        sum = v16_double_add(sum, x);
        v16_store_part(p + i, x, end - i);
    }
    return v16_double_sum(sum);
}

/* Zeroes what top-k, top-p and min-p drop; returns the sum of what stays. */
static double truncate_row(const struct sample_args *a, double total) {
    const struct sample_params *params = &a->params;
    float least = params->min_p, tied_end = 0.0f;
    int32_t end = a->vocab;
    bool cuts = (params->top_k > 0 && params->top_k < a->vocab) || params->top_p < 1.0f;
    if (!cuts && least <= 0.0f) return total;
    if (least > 1.0f) least = 1.0f; /* the highest stays */
    if (cuts) {
        int32_t last = last_kept(a, total);
        if (a->scratch[last] >= least) { /* beyond `last`, its equals are out */
            least = a->scratch[last];
            end = last + 1;
            tied_end = nextafterf(least, INFINITY);
        }
    }
    return cut(a->scratch, 0, end, least) + cut(a->scratch, end, a->vocab, tied_end);
}

static double sum_of(const float *p, int32_t first, int32_t end) {
    v16_double sum = v16_double_zero();
    for (int32_t i = first; i < end; i += V16_LANES)
        sum = v16_double_add(sum, v16_load_part(p + i, end - i));
    return v16_double_sum(sum);
}

/* The first id whose cumulative probability exceeds unit * total: by blocks, then within one. */
static int32_t draw(const struct sample_args *a, double total) {
    enum { BLOCK = 1024 };
    double target = sample_unit(a) * total, sum = 0.0;
    int32_t last = 0;
    for (int32_t first = 0; first < a->vocab; first += BLOCK) {
        int32_t end = a->vocab - first < BLOCK ? a->vocab : first + BLOCK;
        double after = sum + sum_of(a->scratch, first, end);
        if (!(after > target) && end < a->vocab) {
            if (after > sum) last = first;
            sum = after;
            continue;
        }
        for (int32_t i = first; i < end; i++) {
            sum += (double)a->scratch[i];
            if (a->scratch[i] > 0.0f && sum > target) return i;
        }
    }
    /* Rounding left none: the last one possible, at or after the last block that held any. */
    for (int32_t i = last; i < a->vocab; i++)
        if (a->scratch[i] > 0.0f) last = i;
    return last;
}

static int32_t choose(const struct sample_args *a) {
    float max = row_maximum(a->logits, a->vocab);
    if (isnan(max) || max == -INFINITY) return -1;
    if (a->seen_count == 0 && a->params.temperature <= 0.0f) return first_of(a->logits, max);
    memcpy(a->scratch, a->logits, (size_t)a->vocab * sizeof *a->scratch);
    if (a->seen_count > 0) {
        sample_adjust(a);
        max = row_maximum(a->scratch, a->vocab);
        if (isnan(max) || max == -INFINITY) return -1;
    }
    if (a->params.temperature <= 0.0f) return first_of(a->scratch, max);
    double total = exponentials(a, max);
    return draw(a, truncate_row(a, total));
}

void VARIANT(sample_cpu)(struct stream *s, const struct sample_args *a) {
    (void)s;
    *a->token = choose(a);
    if (!a->logprob) return;
    *a->logprob = -INFINITY;
    if (*a->token < 0) return;
    float max = row_maximum(a->logits, a->vocab);
    v16_double sum = v16_double_zero();
    for (int32_t i = 0; i < a->vocab; i += V16_LANES) {
        v16 x = load_or_lowest(a->logits + i, a->vocab - i);
        sum = v16_double_add(sum, v16_exp(v16_sub(x, v16_splat(max))));
    }
    double above = (double)a->logits[*a->token] - (double)max;
    *a->logprob = (float)(above - log(v16_double_sum(sum)));
}
