/* Which optimizer steps to leave out, and when to go back: judged by the figures of each step,
 * which are the same on every rank. Pure; what it remembers is part of a checkpoint, so a run that
 * goes on judges as one that never stopped. */
#ifndef STRATA_TRAIN_GUARD_H
#define STRATA_TRAIN_GUARD_H

#include <stdbool.h>
#include <stdint.h>

/* The last GUARD_WINDOW figures; a median counts from GUARD_LEAST of them on. */
enum { GUARD_WINDOW = 64, GUARD_LEAST = 16 };
struct guard_window {
    int count, next;
    double values[GUARD_WINDOW];
};

struct guard {
    struct guard_window norms;  /* of gradients, all finite ones */
    struct guard_window losses; /* finite ones that were not too high */
    int64_t skipped;            /* steps in a row */
    int64_t total_skipped;
    int64_t high; /* steps in a row whose loss was too high */
};

struct guard_limits {
    double norm_factor; /* a norm above this many medians is a spike; 0 = none is */
    double loss_factor; /* a loss above this many medians is too high */
};

enum guard_verdict { GUARD_TAKE, GUARD_NONFINITE, GUARD_SPIKE };

/* The word of metrics.jsonl and log lines: "nonfinite", "spike". */
const char *guard_verdict_name(enum guard_verdict verdict);

/* Judges a step, then remembers it. A loss or norm that isn't finite is GUARD_NONFINITE, and such a
 * loss too high. */
enum guard_verdict guard_judge(struct guard *guard, const struct guard_limits *limits, double loss,
                               double norm);

/* The lower one of two in the middle; NaN when there are fewer than GUARD_LEAST. */
double guard_median(const struct guard_window *window);

/* The guard as numbers, and back. A count that isn't GUARD_NUMBERS, or numbers that can't be, leave
 * a new guard: false. */
enum { GUARD_NUMBERS = 3 + 2 * (2 + GUARD_WINDOW) };
void guard_save(const struct guard *guard, double numbers[GUARD_NUMBERS]);
bool guard_load(struct guard *guard, const double *numbers, int64_t count);

#endif
