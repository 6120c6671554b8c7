#include "train/schedule.h"

#include <math.h>

double schedule_rate(const struct train_options *options, int64_t step, int64_t steps) {
    double lr = options->lr, fall = options->lr - options->min_lr;
    if (step <= options->warmup) return lr * (double)step / (double)options->warmup;
    double length = (double)(steps - options->warmup);
    double t = length > 0.0 ? (double)(step - options->warmup) / length : 1.0;
    switch ((enum train_schedule)options->schedule) {
    case SCHEDULE_COSINE:
        return lr - fall * (1.0 - cos(3.141592653589793 * t)) / 2.0;
    case SCHEDULE_LINEAR:
        return lr - fall * t;
    case SCHEDULE_WSD: {
        double decay = options->decay_fraction * (double)steps;
        double left = (double)(steps - step);
        return left >= decay ? lr : lr - fall * (1.0 - left / decay);
    }
    case SCHEDULE_CONSTANT:
        break;
    }
    return lr;
}
