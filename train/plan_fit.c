#include "train/plan_fit.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 60 };
#define STEP 1e-4
#define SMALL 1e-12

struct search {
    const struct plan_fit *fit;
    int rows;                                     /* measurements, then guesses */
    double guess[PLAN_FIT_MAX], at[PLAN_FIT_MAX]; /* logarithms */
    double *values, *moved, *slopes;              /* (rows), (rows), (rows, rates) */
};

static enum status residuals(struct search *s, const double *at, double *values) {
    const struct plan_fit *fit = s->fit;
    for (int i = 0; i < fit->rate_count; i++) {
        const struct plan_rate *rate = &fit->rates[i];
        *rate->value = fmin(fmax(exp(at[i]), rate->low), rate->high);
        values[fit->measurement_count + i] = fit->weight * (log(*rate->value) - s->guess[i]);
    }
    return fit->compare(fit->context, values);
}

static double square(const struct search *s, const double *values) {
    double sum = 0.0;
    for (int i = 0; i < s->rows; i++) sum += values[i] * values[i];
    return sum;
}

static enum status find_slopes(struct search *s) {
    int n = s->fit->rate_count;
    double at[PLAN_FIT_MAX];
    for (int j = 0; j < n; j++) {
        memcpy(at, s->at, sizeof at);
        double top = log(s->fit->rates[j].high), step = at[j] + STEP > top ? -STEP : STEP;
        at[j] += step;
        TRY(residuals(s, at, s->moved));
        for (int i = 0; i < s->rows; i++)
            s->slopes[i * n + j] = (s->moved[i] - s->values[i]) / step;
    }
    return STATUS_OK;
}

/* Gaussian elimination; the matrix is positive definite. x holds the right side. */
static void solve(int n, double a[PLAN_FIT_MAX][PLAN_FIT_MAX], double *x) {
    for (int k = 0; k < n; k++)
        for (int i = k + 1; i < n; i++) {
            double factor = a[i][k] / a[k][k];
            for (int j = k; j < n; j++) a[i][j] -= factor * a[k][j];
            x[i] -= factor * x[k];
        }
    for (int k = n - 1; k >= 0; k--) {
        for (int j = k + 1; j < n; j++) x[k] -= a[k][j] * x[j];
        x[k] /= a[k][k];
    }
}

static void find_step(const struct search *s, double damping, double *step) {
    int n = s->fit->rate_count;
    double a[PLAN_FIT_MAX][PLAN_FIT_MAX] = {{0}};
    for (int j = 0; j < n; j++) {
        step[j] = 0.0;
        for (int i = 0; i < s->rows; i++) step[j] -= s->slopes[i * n + j] * s->values[i];
        for (int k = 0; k < n; k++)
            for (int i = 0; i < s->rows; i++)
                a[j][k] += s->slopes[i * n + j] * s->slopes[i * n + k];
        a[j][j] += damping * (a[j][j] + SMALL);
    }
    solve(n, a, step);
}

/* One round; *damping grows until the step helps. False in *moved when none does. */
static enum status improve(struct search *s, double *damping, bool *moved) {
    double best = square(s, s->values), step[PLAN_FIT_MAX], at[PLAN_FIT_MAX];
    *moved = false;
    TRY(find_slopes(s));
    for (; *damping < 1e9 && !*moved; *damping *= 8.0) {
        find_step(s, *damping, step);
        for (int j = 0; j < s->fit->rate_count; j++) {
            const struct plan_rate *rate = &s->fit->rates[j];
            at[j] = fmin(fmax(s->at[j] + step[j], log(rate->low)), log(rate->high));
        }
        TRY(residuals(s, at, s->moved));
        if (!(square(s, s->moved) < best * (1.0 - SMALL))) continue;
        *moved = true;
        memcpy(s->at, at, sizeof at);
        memcpy(s->values, s->moved, (size_t)s->rows * sizeof *s->values);
    }
    *damping = fmax(1e-6, *damping / 64.0);
    return STATUS_OK;
}

static enum status search(struct search *s) {
    bool moved = true;
    double damping = 1e-3;
    TRY(residuals(s, s->at, s->values));
    for (int i = 0; i < ROUNDS && moved; i++) TRY(improve(s, &damping, &moved));
    return residuals(s, s->at, s->values); /* leaves the rates there */
}

enum status plan_fit(const struct plan_fit *fit) {
    assert(fit->rate_count > 0 && fit->rate_count <= PLAN_FIT_MAX && fit->weight > 0.0);
    struct search s = {.fit = fit, .rows = fit->measurement_count + fit->rate_count};
    size_t rows = (size_t)s.rows;
    for (int i = 0; i < fit->rate_count; i++) s.guess[i] = s.at[i] = log(*fit->rates[i].value);
    s.values = calloc(rows * (2 + (size_t)fit->rate_count), sizeof *s.values);
    if (!s.values) return status_fail(STATUS_MEMORY, "no memory to fit %d rates", fit->rate_count);
    s.moved = s.values + rows;
    s.slopes = s.moved + rows;
    enum status status = search(&s);
    free(s.values);
    return status;
}
