#include "train/schedule.h"

#include <math.h>

double schedule_rate(const struct train_options *options, int64_t step, int64_t steps) {
    double lr = options->lr, fall = options->lr - options->min_lr;
    double done = (double)(step - 1), warmup = (double)options->warmup;
    if (done < warmup) return lr * done / warmup;
    double t = (done - warmup) / ((double)steps - warmup);
    switch ((enum train_schedule)options->schedule) {
    case SCHEDULE_COSINE:
        return lr - fall * (1.0 - cos(3.141592653589793 * t)) / 2.0;
    case SCHEDULE_LINEAR:
        return lr - fall * t;
    case SCHEDULE_WSD: {
        double decay = options->decay_fraction * (double)steps;
        double left = (double)steps - done;
        return left >= decay ? lr : lr - fall * (1.0 - left / decay);
    }
    case SCHEDULE_CONSTANT:
        break;
    }
    return lr;
}
