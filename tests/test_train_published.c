/* Predicted against published speed: docs/plan.md holds the table that this makes, the constants
 * are what a fit on three rows gives, and of the others two thirds are within 5 points of MFU.
 *     test_train_published            compares
 *     test_train_published --table    prints the table */
#define _GNU_SOURCE
#include "tests/check.h"
#include "tests/published.h"
#include "train/plan_fit.h"

enum { FITTED = 3, POINTS = 5, MOST_TEXT = 1 << 14 };

/* The middle row of each of Megatron-LM's tables, and the first of Llama 3's. */
static const char *const fitted_rows[FITTED] = {"70B", "39B", "8,192 GPUs"};

static bool is_fitted(const struct published_run *run) {
    for (int i = 0; i < FITTED; i++)
        if (strcmp(run->name, fitted_rows[i]) == 0) return true;
    return false;
}

static double predict(const struct published_run *run) {
    double mfu;
    assert_ok(published_predict(run, plan_device_find(run->device), &mfu));
    return mfu;
}

static void write_table(FILE *out) {
    int near = 0, others = 0;
    fprintf(out,
            "| table | run | GPUs | tp x cp x pp x dp | published MFU | predicted MFU | points |\n"
            "| --- | --- | --- | --- | --- | --- | --- |\n");
    for (int i = 0; i < published_run_count; i++) {
        const struct published_run *run = &published_runs[i];
        double points = 100.0 * (predict(run) - run->mfu);
        bool fitted = is_fitted(run);
        fprintf(out, "| %s | %s%s | %d | %d x %d x %d x %d | %.1f%% | %.1f%% | %+.1f |\n",
                run->source, run->name, fitted ? " (fitted)" : "",
                run->tp * run->cp * run->pp * run->dp, run->tp, run->cp, run->pp, run->dp,
                100.0 * run->mfu, 100.0 * predict(run), points);
        others += !fitted;
        near += !fitted && fabs(points) <= POINTS;
    }
    fprintf(out, "\nOf the %d rows that nothing was fitted on, %d are within %d points.\n", others,
            near, POINTS);
}

static void table_text(char text[MOST_TEXT]) {
    FILE *out = fmemopen(text, MOST_TEXT, "w");
    assert_non_null(out);
    write_table(out);
    fclose(out);
}

static void test_document_has_the_table(void **state) {
    (void)state;
    static char table[MOST_TEXT], document[1 << 16];
    table_text(table);
    FILE *file = fopen("docs/plan.md", "r");
    assert_non_null(file);
    document[fread(document, 1, sizeof document - 1, file)] = 0;
    fclose(file);
    if (!strstr(document, table))
        fail_msg("docs/plan.md is out of date: test_train_published --table prints\n%s", table);
}

static void test_two_thirds_are_near(void **state) {
    (void)state;
    int near = 0, others = 0;
    for (int i = 0; i < published_run_count; i++) {
        const struct published_run *run = &published_runs[i];
        if (is_fitted(run)) continue;
        others++;
        near += fabs(predict(run) - run->mfu) <= POINTS / 100.0;
    }
    assert_int_equal(others, published_run_count - FITTED);
    assert_true(3 * near >= 2 * others);
}

/* The fit: three rates, the second device's half being the first's. */
struct trial {
    struct plan_device h100, a100;
};

static enum status compare(void *context, double *logs) {
    struct trial *trial = context;
    int n = 0;
    trial->a100.product_half = trial->h100.product_half;
    for (int i = 0; i < published_run_count; i++) {
        const struct published_run *run = &published_runs[i];
        double mfu;
        if (!is_fitted(run)) continue;
        TRY(published_predict(run, *run->device == 'a' ? &trial->a100 : &trial->h100, &mfu));
        logs[n++] = log(run->mfu / mfu);
    }
    return STATUS_OK;
}

static void test_constants_are_the_fit(void **state) {
    (void)state;
    const struct plan_device *h100 = plan_device_find("h100"), *a100 = plan_device_find("a100");
    struct trial trial = {*h100, *a100};
    trial.h100.product_fraction = trial.a100.product_fraction = 0.7;
    trial.h100.product_half = 150.0;
    const struct plan_fit fit = {.rate_count = 3,
                                 .measurement_count = FITTED,
                                 .rates = {{&trial.h100.product_fraction, 0.3, 1.0},
                                           {&trial.a100.product_fraction, 0.3, 1.0},
                                           {&trial.h100.product_half, 1.0, 2000.0}},
                                 .compare = compare,
                                 .context = &trial,
                                 .weight = 0.05};
    assert_ok(plan_fit(&fit));
    print_message("product_fraction h100 %.4f a100 %.4f, product_half %.2f\n",
                  trial.h100.product_fraction, trial.a100.product_fraction,
                  trial.h100.product_half);
    assert_true(fabs(trial.h100.product_fraction / h100->product_fraction - 1.0) < 0.005);
    assert_true(fabs(trial.a100.product_fraction / a100->product_fraction - 1.0) < 0.005);
    assert_true(fabs(trial.h100.product_half / h100->product_half - 1.0) < 0.02);
    assert_true(h100->product_half == a100->product_half);
    assert_true(plan_device_find("h200")->product_fraction == h100->product_fraction);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "--table") == 0) {
        write_table(stdout);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_document_has_the_table),
        cmocka_unit_test(test_two_thirds_are_near),
        cmocka_unit_test(test_constants_are_the_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
