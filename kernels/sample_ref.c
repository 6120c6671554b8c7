/* Sampling in plain loops: adjust, cut, draw. */
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

/* The best id is the heap's root. */
static void sift_down(int32_t *heap, int32_t at, int32_t count, const float *values) {
    for (;;) {
        int32_t child = 2 * at + 1;
        if (child >= count) return;
        if (child + 1 < count && comes_before(values, heap[child + 1], heap[child])) child++;
        if (!comes_before(values, heap[child], heap[at])) return;
        int32_t swap = heap[at];
        heap[at] = heap[child];
        heap[child] = swap;
        at = child;
    }
}

static void make_heap(int32_t *ids, int32_t count, const float *values) {
    for (int32_t i = 0; i < count; i++) ids[i] = i;
    for (int32_t i = count / 2 - 1; i >= 0; i--) sift_down(ids, i, count, values);
}

/* The best of the heap's `count` ids, which it leaves: behind the heap lie the ones taken before.
 */
static int32_t pop_best(int32_t *ids, int32_t count, const float *values) {
    int32_t best = ids[0];
    ids[0] = ids[count - 1];
    ids[count - 1] = best;
    sift_down(ids, 0, count - 1, values);
    return best;
}

/* Sum of the candidates that top-k leaves: in their order, or of all in the order of ids. */
static double kept_sum(const struct sample_args *a, int32_t top) {
    double total = 0.0;
    int32_t left = a->vocab;
    for (int32_t i = 0; i < top; i++)
        total += (double)(top < a->vocab ? a->scratch[pop_best(a->scratch_ids, left--, a->scratch)]
                                         : a->scratch[i]);
    return total;
}

/* Zeroes what top-k, then top-p of what is left, then min-p cut off. Candidates leave a heap best
 * first, only as many as are kept: a full sort of the vocabulary would cost more than the rest. */
static void cut(const struct sample_args *a) {
    const struct sample_params *p = &a->params;
    int32_t top = p->top_k > 0 && p->top_k < a->vocab ? p->top_k : a->vocab;
    if (top == a->vocab && p->top_p >= 1.0f && p->min_p <= 0.0f) return;
    make_heap(a->scratch_ids, a->vocab, a->scratch);
    double wanted = (double)p->top_p * kept_sum(a, top), sum = 0.0;
    if (top < a->vocab) make_heap(a->scratch_ids, a->vocab, a->scratch);
    int32_t kept = 0;
    while (kept < top) {
        float best = a->scratch[a->scratch_ids[0]];
        if (kept > 0 && (best < p->min_p || (p->top_p < 1.0f && sum >= wanted))) break;
        pop_best(a->scratch_ids, a->vocab - kept++, a->scratch);
        sum += (double)best;
    }
    for (int32_t i = 0; i < a->vocab - kept; i++) a->scratch[a->scratch_ids[i]] = 0.0f;
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
    cut(a);
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
