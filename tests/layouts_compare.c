#include "tests/layouts.h"

static struct layout_limits limits_of(const struct layout_case *row,
                                      const struct layout_leg *legs) {
    static const struct layout_limits fp32 = {1e-6, 1e-6, 1e-6, 1e-6};
    static const struct layout_limits cut = {1e-6, 1e-6, 2e-6, 2e-6};
    /* Softmax in parts rounds otherwise than in one, as other instructions do: by those one rank
     * differs by up to 2.1e-6 of qwen2's key biases, whose gradients nearly cancel. */
    static const struct layout_limits parts = {1e-6, 1e-6, 4e-6, 2e-6};
    static const struct layout_limits bf16 = {1e-3, 1e-2, 4e-2, 1e-3};
    /* blocks of moments are the same in all layouts, but a sum's last bit may decide between two
     * codes, a hundredth of an element's moment apart */
    static const struct layout_limits bits8 = {1e-5, 1e-5, 1e-3, 1e-3};
    if (strstr(row->training, "dtype=bf16")) return bf16;
    if (strstr(row->training, "adamw8bit")) return bits8;
    const struct layout_limits *limits = &fp32;
    for (int first = 0; first < layout_steps(row); first = legs++->end) {
        if (strstr(legs->layout, "cp=")) return parts;
        if (strstr(legs->layout, "tp=")) limits = &cut;
    }
    return *limits;
}

/* |a - b| / |a| */
static double difference(const float *a, const float *b, int64_t count) {
    double norm = 0.0, sum = 0.0;
    for (int64_t i = 0; i < count; i++) {
        double d = (double)a[i] - (double)b[i];
        norm += (double)a[i] * (double)a[i];
        sum += d * d;
    }
    return sum == 0.0 ? 0.0 : sqrt(sum / norm);
}

static double figure_difference(const double *a, const double *b, int count) {
    double worst = 0.0;
    for (int i = 0; i < count; i++) {
        double d = a[i] == b[i] ? 0.0 : fabs(a[i] - b[i]) / fabs(a[i]);
        worst = d > worst || isnan(d) ? d : worst;
    }
    return worst;
}

static void take(double *worst, const char **where, double value, const char *name) {
    if (value > *worst || isnan(value)) *worst = value, *where = name;
}

static const struct layout_tensor *find(const struct layout_result *result, const char *name) {
    for (int i = 0; i < result->count; i++)
        if (strcmp(result->tensors[i].name, name) == 0) return &result->tensors[i];
    fail_msg("no rank has a part of %s", name);
    return NULL;
}

struct layout_differences layout_differences(const struct layout_result *want,
                                             const struct layout_result *got) {
    struct layout_differences found = {.gradient = "none", .weight = "none"};
    struct layout_limits *worst = &found.worst;
    const struct layout_figures *a = &want->figures, *b = &got->figures;
    double validation = figure_difference(&a->validation, &b->validation, 1);
    worst->losses = figure_difference(a->losses, b->losses, LAYOUT_MOST_STEPS);
    if (validation > worst->losses || isnan(validation)) worst->losses = validation;
    worst->norms = figure_difference(a->norms, b->norms, LAYOUT_MOST_STEPS);
    assert_int_equal(want->count, got->count);
    for (int i = 0; i < want->count; i++) {
        const struct layout_tensor *x = &want->tensors[i], *y = find(got, x->name);
        int64_t count = x->rows * x->cols;
        assert_true(x->rows == y->rows && x->cols == y->cols);
        take(&worst->gradients, &found.gradient, difference(x->gradient, y->gradient, count),
             x->name);
        take(&worst->weights, &found.weight, difference(x->weights, y->weights, count), x->name);
    }
    return found;
}

bool layout_within(const struct layout_limits *worst, const struct layout_limits *limits) {
    return worst->losses <= limits->losses && worst->norms <= limits->norms &&
           worst->gradients <= limits->gradients && worst->weights <= limits->weights;
}

static void print_row(const struct layout_case *row, const struct layout_leg *legs) {
    char text[256];
    int length = snprintf(text, sizeof text, "%s, %s", row->model, row->training);
    for (int first = 0; first < layout_steps(row); first = legs++->end)
        length += snprintf(text + length, sizeof text - (size_t)length, "%s%d ranks%s%s",
                           first > 0 ? "; then " : ", ", legs->ranks, *legs->layout ? " " : "",
                           legs->layout);
    print_message("%-80s ", text);
}

static void check(const struct layout_site *site, const struct layout_case *row,
                  const struct layout_leg *legs) {
    struct layout_result want, got;
    layout_read(site, "alone", &want);
    layout_read(site, "shared", &got);
    const struct layout_limits limits = limits_of(row, legs);
    const struct layout_differences found = layout_differences(&want, &got);
    print_row(row, legs);
    print_message("loss %.4f -> %.4f  losses %.1e, norms %.1e, gradients %.1e, weights %.1e\n",
                  want.figures.losses[0], want.figures.losses[layout_steps(row) - 1],
                  found.worst.losses, found.worst.norms, found.worst.gradients,
                  found.worst.weights);
    if (!layout_within(&found.worst, &limits))
        fail_msg("most differ a gradient of %s, a weight of %s", found.gradient, found.weight);
    layout_result_free(&want);
    layout_result_free(&got);
}

void layout_compare_legs(const struct layout_site *site, const struct layout_case *row,
                         const struct layout_leg *legs) {
    const struct layout_leg alone[] = {{1, layout_steps(row), ""}};
    layout_train(site, "shared", row, legs);
    layout_train(site, "alone", row, alone);
    if (site->job->world.rank == 0) check(site, row, legs);
    layout_remove(site, "shared");
    layout_remove(site, "alone");
}

void layout_compare_all(struct parallel *job, const struct layout_case *rows, size_t count) {
    struct layout_site site;
    int ranks = job->world.size;
    layout_site_open(&site, job);
    for (size_t i = 0; i < count; i++) {
        const struct layout_leg legs[] = {{ranks, layout_steps(&rows[i]), rows[i].layout}};
        if (rows[i].ranks == 0 || rows[i].ranks == ranks)
            layout_compare_legs(&site, &rows[i], legs);
    }
    layout_site_close(&site);
}
