#include "serve/logprobs.h"

#include <math.h>

double logits_log_sum(const float *logits, int32_t vocab) {
    float max = logits[0];
    for (int32_t i = 1; i < vocab; i++)
        if (logits[i] > max) max = logits[i];
    double sum = 0.0;
    for (int32_t i = 0; i < vocab; i++) sum += exp((double)logits[i] - (double)max);
    return (double)max + log(sum);
}

int32_t logits_top(struct token_chance *top, int32_t count, const float *logits, double log_sum,
                   int32_t vocab) {
    int32_t held = 0;
    if (count <= 0) return 0;
    for (int32_t i = 0; i < vocab; i++) {
        if (held == count && !(logits[i] > logits[top[held - 1].id])) continue;
        int32_t at = held < count ? held++ : held - 1;
        for (; at > 0 && logits[i] > logits[top[at - 1].id]; at--) top[at] = top[at - 1];
        top[at].id = i;
    }
    for (int32_t i = 0; i < held; i++) top[i].logprob = logits_logprob(logits, log_sum, top[i].id);
    return held;
}
