/* Corrects a few rates so that predictions come close to measurements: the least sum of squares of
 * log(predicted / measured), and of log(rate / guess) times a weight that settles what the
 * measurements leave open. Levenberg-Marquardt over logarithms. */
#ifndef STRATA_TRAIN_PLAN_FIT_H
#define STRATA_TRAIN_PLAN_FIT_H

#include "kernels/base/status.h"
#include <stdbool.h>

enum { PLAN_FIT_MAX = 8 };

struct plan_rate {
    double *value;    /* in: the guess; out: fitted */
    double low, high; /* above 0 */
};

struct plan_fit {
    int rate_count, measurement_count;
    struct plan_rate rates[PLAN_FIT_MAX];
    /* logs (measurement_count) = log(predicted / measured) at the present values of the rates. */
    enum status (*compare)(void *context, double *logs);
    void *context;
    double weight; /* of a guess, where a measurement weighs 1; above 0 */
};

/* Leaves the rates at the best values. STATUS_MEMORY, or what compare returned. */
enum status plan_fit(const struct plan_fit *fit);

#endif
