#include "train/guard.h"

#include "kernels/base/median.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *guard_verdict_name(enum guard_verdict verdict) {
    static const char *const names[] = {"taken", "nonfinite", "spike"};
    return names[verdict];
}

double guard_median(const struct guard_window *window) {
    double sorted[GUARD_WINDOW];
    if (window->count < GUARD_LEAST) return NAN;
    memcpy(sorted, window->values, sizeof sorted);
    return median(sorted, window->count, MEDIAN_LOWER);
}

static void remember(struct guard_window *window, double value) {
    window->values[window->next] = value;
    window->next = (window->next + 1) % GUARD_WINDOW;
    if (window->count < GUARD_WINDOW) window->count++;
}

/* False while there is no median. */
static bool above(const struct guard_window *window, double factor, double value) {
    return factor > 0.0 && value > factor * guard_median(window);
}

static enum guard_verdict verdict_of(const struct guard *guard, const struct guard_limits *limits,
                                     double loss, double norm) {
    if (!isfinite(loss) || !isfinite(norm)) return GUARD_NONFINITE;
    return above(&guard->norms, limits->norm_factor, norm) ? GUARD_SPIKE : GUARD_TAKE;
}

enum guard_verdict guard_judge(struct guard *guard, const struct guard_limits *limits, double loss,
                               double norm) {
    enum guard_verdict verdict = verdict_of(guard, limits, loss, norm);
    bool high = !isfinite(loss) || above(&guard->losses, limits->loss_factor, loss);
    if (isfinite(norm)) remember(&guard->norms, norm);
    if (!high) remember(&guard->losses, loss);
    guard->high = high ? guard->high + 1 : 0;
    guard->skipped = verdict == GUARD_TAKE ? 0 : guard->skipped + 1;
    guard->total_skipped += verdict != GUARD_TAKE;
    return verdict;
}

static double *save_window(double *next, const struct guard_window *window) {
    *next++ = window->count;
    *next++ = window->next;
    memcpy(next, window->values, sizeof window->values);
    return next + GUARD_WINDOW;
}

void guard_save(const struct guard *guard, double numbers[GUARD_NUMBERS]) {
    double *next = numbers;
    *next++ = (double)guard->skipped;
    *next++ = (double)guard->total_skipped;
    *next++ = (double)guard->high;
    save_window(save_window(next, &guard->norms), &guard->losses);
}

/* A whole number from 0 to `most`. */
static bool read_count(double number, double most, int64_t *count) {
    if (!(number >= 0.0 && number <= most)) return false;
    *count = (int64_t)number;
    return (double)*count == number;
}

static bool load_window(const double *numbers, struct guard_window *window) {
    int64_t count, next;
    if (!read_count(numbers[0], GUARD_WINDOW, &count) ||
        !read_count(numbers[1], GUARD_WINDOW - 1, &next))
        return false;
    window->count = (int)count;
    window->next = (int)next;
    memcpy(window->values, numbers + 2, sizeof window->values);
    return true;
}

bool guard_load(struct guard *guard, const double *numbers, int64_t count) {
    struct guard loaded = {0};
    *guard = loaded;
    if (count != GUARD_NUMBERS || !read_count(numbers[0], 1e15, &loaded.skipped) ||
        !read_count(numbers[1], 1e15, &loaded.total_skipped) ||
        !read_count(numbers[2], 1e15, &loaded.high) || !load_window(numbers + 3, &loaded.norms) ||
        !load_window(numbers + 5 + GUARD_WINDOW, &loaded.losses))
        return false;
    *guard = loaded;
    return true;
}
