/* Sampling in plain loops: sort, cut, draw. */
#include "kernels/ops.h"
#include "kernels/sample_adjust.h"

#include <math.h>

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
    while (a->scratch[a->scratch_ids[kept - 1]] < fminf(p->min_p, 1.0f)) kept--;
    return kept;
}

/* The first id whose cumulative probability exceeds the drawn number; rounding can leave none, then
 * the last one possible. */
static int32_t draw(const struct sample_args *a) {
    double unit = sample_unit(a), total = 0.0, sum = 0.0;
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
    for (int32_t i = 0; i < a->vocab; i++) a->scratch[i] = a->logits[i];
    sample_adjust(a);
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
