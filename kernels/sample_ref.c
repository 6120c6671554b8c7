/* Sampling in plain loops: sort, cut, draw. */
#include "kernels/base/rng.h"
#include "kernels/ops.h"

#include <math.h>

/* scratch = the logits with penalties and biases applied. */
static void adjust(const struct sample_args *a) {
    const struct sample_params *p = &a->params;
    for (int32_t i = 0; i < a->vocab; i++) a->scratch[i] = a->logits[i];
    for (int32_t i = 0; i < a->seen_count; i++) {
        const struct sample_seen *seen = &a->seen[i];
        float logit = a->scratch[seen->token];
        if (seen->anywhere)
            logit = logit > 0.0f ? logit / p->repetition_penalty : logit * p->repetition_penalty;
        if (seen->generated > 0) logit -= p->presence_penalty;
        logit -= p->frequency_penalty * (float)seen->generated;
        a->scratch[seen->token] = logit + seen->bias;
    }
}

/* The id of the highest value, the lower on a tie; -1 when no draw is possible. */
static int32_t highest(const float *values, int32_t count) {
    int32_t best = -1;
    for (int32_t i = 0; i < count; i++) {
        if (isnan(values[i]) || values[i] == INFINITY) return -1;
        if (values[i] > -INFINITY && (best < 0 || values[i] > values[best])) best = i;
    }
    return best;
}

/* The order of candidates: higher value first, lower id first on a tie. */
static bool comes_before(const float *values, int32_t left, int32_t right) {
    if (values[left] != values[right]) return values[left] > values[right];
    return left < right;
}

static void sift_down(int32_t *heap, int32_t at, int32_t count, const float *values) {
    for (;;) {
        int32_t child = 2 * at + 1;
        if (child >= count) return;
        if (child + 1 < count && comes_before(values, heap[child], heap[child + 1])) child++;
        if (!comes_before(values, heap[at], heap[child])) return;
        int32_t swap = heap[at];
        heap[at] = heap[child];
        heap[child] = swap;
        at = child;
    }
}

/* Heapsort: ids in the order of candidates. */
static void sort_ids(int32_t *ids, int32_t count, const float *values) {
    for (int32_t i = 0; i < count; i++) ids[i] = i;
    for (int32_t i = count / 2 - 1; i >= 0; i--) sift_down(ids, i, count, values);
    for (int32_t last = count - 1; last > 0; last--) {
        int32_t swap = ids[0];
        ids[0] = ids[last];
        ids[last] = swap;
        sift_down(ids, 0, last, values);
    }
}

/* How many candidates of the sorted ids stay: top-k, then top-p of what is left, then min-p. */
static int32_t count_kept(const struct sample_args *a) {
    const struct sample_params *p = &a->params;
    int32_t kept = p->top_k > 0 && p->top_k < a->vocab ? p->top_k : a->vocab;
    double total = 0.0, sum = 0.0;
    for (int32_t i = 0; i < kept; i++) total += (double)a->scratch[a->scratch_ids[i]];
    if (p->top_p < 1.0f) {
        int32_t count = 0;
        while (count < kept && (count == 0 || sum < (double)p->top_p * total))
            sum += (double)a->scratch[a->scratch_ids[count++]];
        kept = count;
    }
    while (kept > 1 && a->scratch[a->scratch_ids[kept - 1]] < p->min_p) kept--;
    return kept;
}

/* The first id whose cumulative probability exceeds the drawn number; rounding can leave none, then
 * the last one possible. */
static int32_t draw(const struct sample_args *a) {
    struct rng_block block = rng_draw(a->params.seed, RNG_SAMPLE, 0, (uint64_t)a->position);
    double unit = (double)(((uint64_t)block.word[0] << 21) | (block.word[1] >> 11)) * 0x1p-53;
    double total = 0.0, sum = 0.0;
    int32_t last = 0;
    for (int32_t i = 0; i < a->vocab; i++) total += (double)a->scratch[i];
    for (int32_t i = 0; i < a->vocab; i++) {
        sum += (double)a->scratch[i];
        if (a->scratch[i] > 0.0f) last = i;
        if (a->scratch[i] > 0.0f && sum > unit * total) return i;
    }
    return last;
}

static int32_t choose(const struct sample_args *a) {
    int32_t best = highest(a->logits, a->vocab);
    if (best < 0) return -1;
    adjust(a);
    best = highest(a->scratch, a->vocab);
    if (best < 0 || a->params.temperature <= 0.0f) return best;
    float max = a->scratch[best];
    for (int32_t i = 0; i < a->vocab; i++)
        a->scratch[i] = expf((a->scratch[i] - max) / a->params.temperature);
    sort_ids(a->scratch_ids, a->vocab, a->scratch);
    for (int32_t i = count_kept(a); i < a->vocab; i++) a->scratch[a->scratch_ids[i]] = 0.0f;
    return draw(a);
}

void VARIANT(sample_ref)(struct stream *s, const struct sample_args *a) {
    (void)s;
    *a->token = choose(a);
    if (!a->logprob) return;
    *a->logprob = -INFINITY;
    if (*a->token < 0) return;
    double max = (double)a->logits[highest(a->logits, a->vocab)], sum = 0.0;
    for (int32_t i = 0; i < a->vocab; i++) sum += exp((double)a->logits[i] - max);
    *a->logprob = (float)((double)a->logits[*a->token] - max - log(sum));
}
