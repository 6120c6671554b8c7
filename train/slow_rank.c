#include "train/slow_rank.h"

#include "kernels/base/median.h"

/* Seconds a token; 0 when nobody has any. */
static double median_pace(const struct slow_rank_window *windows, const int *group, int ranks,
                          int wanted, double *scratch) {
    int count = 0;
    for (int i = 0; i < ranks; i++)
        if (group[i] == wanted && windows[i].tokens > 0.0)
            scratch[count++] = windows[i].seconds / windows[i].tokens;
    if (count == 0) return 0.0;
    return median(scratch, count, MEDIAN_LOWER);
}

static void judge(struct slow_rank_verdict *verdict, int *times,
                  const struct slow_rank_window *window, double pace) {
    double usual = pace * window->tokens;
    bool slow = window->tokens > 0.0 && window->seconds > SLOW_RANK_FACTOR * usual &&
                window->seconds - usual >= SLOW_RANK_SECONDS;
    *times = !slow ? 0 : *times < SLOW_RANK_WINDOWS ? *times + 1 : SLOW_RANK_WINDOWS + 1;
    *verdict = (struct slow_rank_verdict){*times == SLOW_RANK_WINDOWS, usual};
}

int slow_rank_judge(struct slow_rank_verdict *verdicts, int *times,
                    const struct slow_rank_window *windows, const int *group, int ranks,
                    double *scratch) {
    int told = 0, groups = 0;
    for (int i = 0; i < ranks; i++) groups = group[i] >= groups ? group[i] + 1 : groups;
    for (int g = 0; g < groups; g++) {
        double pace = median_pace(windows, group, ranks, g, scratch);
        for (int i = 0; i < ranks; i++) {
            if (group[i] != g) continue;
            judge(&verdicts[i], &times[i], &windows[i], pace);
            told += verdicts[i].tell;
        }
    }
    return told;
}
