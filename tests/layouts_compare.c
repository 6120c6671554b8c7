#include "tests/layouts.h"

/* Largest relative differences: of any step's loss, and the validation loss; gradient norm; of any
 * tensor's first gradient and final values (by the tensor's norm). */
struct limits {
    double losses, norms, gradients, weights;
};

static struct limits limits_of(const struct layout_case *row, const struct layout_leg *legs) {
    static const struct limits fp32 = {1e-6, 1e-6, 1e-6, 1e-6};
    static const struct limits cut = {1e-6, 1e-6, 2e-6, 2e-6};
    /* Softmax in parts rounds otherwise than in one, as other instructions do: by those one rank
     * differs by up to 2.1e-6 of qwen2's key biases, whose gradients nearly cancel. */
    static const struct limits parts = {1e-6, 1e-6, 4e-6, 2e-6};
    static const struct limits bf16 = {1e-3, 1e-2, 4e-2, 1e-3};
    if (strstr(row->training, "dtype=bf16")) return bf16;
    const struct limits *limits = &fp32;
    for (int first = 0; first < LAYOUT_STEPS; first = legs++->end) {
        if (strstr(legs->layout, "cp=")) return parts;
        if (strstr(legs->layout, "tp=")) limits = &cut;
    }
    return *limits;
}

void layout_result_free(struct layout_result *result) {
    for (int i = 0; i < result->count; i++) {
        free(result->tensors[i].gradient);
        free(result->tensors[i].weights);
    }
    free(result->tensors);
    *result = (struct layout_result){0};
}

/* m after one step is (1 - beta1) * clip_scale * gradient. */
static void unscale(float *values, int64_t count, const struct run_options *options, double norm) {
    double clip = options->train.clip;
    double scale = (1.0 - options->train.beta1) * (clip > 0.0 && norm > clip ? clip / norm : 1.0);
    for (int64_t i = 0; i < count; i++) values[i] = (float)((double)values[i] / scale);
}

static void read_tensors(const struct layout_run *run, const struct layout_result *result,
                         int64_t step, const char *kind, bool weights) {
    struct checkpoint_slab *slabs = calloc((size_t)result->count, sizeof *slabs);
    char(*names)[CHECKPOINT_NAME_BYTES] = calloc((size_t)result->count, sizeof *names);
    char path[512];
    struct comm self;
    struct checkpoint_state state;
    assert_non_null(slabs);
    assert_non_null(names);
    for (int i = 0; i < result->count; i++) {
        const struct param *param = run->trainer.params[i];
        float *values = weights ? result->tensors[i].weights : result->tensors[i].gradient;
        snprintf(names[i], sizeof names[i], "%s/%s", kind, param->name);
        slabs[i] = (struct checkpoint_slab){
            .name = names[i],
            .rows = param->w.rows,
            .cols = param->w.cols,
            .values = {LAYOUT_ROWS_F32, param->w.rows, param->w.cols, values}};
    }
    comm_open_self(&self, "self");
    snprintf(path, sizeof path, "%s/checkpoints", run->options.train.out);
    assert_ok(checkpoint_load(&self, path, step, &state, slabs, result->count));
    free(state.config);
    free(slabs);
    free(names);
}

/* Opens the run on one rank, to know its tensors. */
void layout_read(const struct layout_site *site, const char *name, const struct layout_case *row,
                 struct layout_result *result) {
    static struct layout_run run;
    struct parallel alone = {.node_size = 1, .threads = 1, .node_cpus = 1};
    comm_open_self(&alone.world, "world");
    layout_open(&run, site, name, row, "", &alone);
    result->count = run.trainer.param_count;
    result->tensors = calloc((size_t)result->count, sizeof *result->tensors);
    assert_non_null(result->tensors);
    for (int i = 0; i < result->count; i++) {
        struct layout_tensor *tensor = &result->tensors[i];
        const struct param *param = run.trainer.params[i];
        snprintf(tensor->name, sizeof tensor->name, "%s", param->name);
        tensor->elements = param->w.rows * param->w.cols;
        tensor->gradient = calloc((size_t)tensor->elements, sizeof(float));
        tensor->weights = calloc((size_t)tensor->elements, sizeof(float));
    }
    read_tensors(&run, result, 1, "adam_m", false);
    read_tensors(&run, result, LAYOUT_STEPS, "weights", true);
    for (int i = 0; i < result->count; i++)
        unscale(result->tensors[i].gradient, result->tensors[i].elements, &run.options,
                result->norms[0]);
    layout_close(&run);
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

static double figure_difference(const double *a, const double *b) {
    double worst = 0.0;
    for (int i = 0; i < LAYOUT_STEPS; i++) {
        double d = fabs(a[i] - b[i]) / fabs(a[i]);
        worst = d > worst || isnan(d) ? d : worst;
    }
    return worst;
}

struct worst {
    double value;
    const char *name;
};

static void take(struct worst *worst, double value, const char *name) {
    if (value > worst->value || isnan(value)) *worst = (struct worst){value, name};
}

static void print_row(const struct layout_case *row, const struct layout_leg *legs) {
    char text[256];
    int length = snprintf(text, sizeof text, "%s, %s", row->model, row->training);
    for (int first = 0; first < LAYOUT_STEPS; first = legs++->end)
        length += snprintf(text + length, sizeof text - (size_t)length, "%s%d ranks%s%s",
                           first > 0 ? "; then " : ", ", legs->ranks, *legs->layout ? " " : "",
                           legs->layout);
    print_message("%-80s ", text);
}

static void check(const struct limits *limit, const struct layout_result *want,
                  const struct layout_result *got) {
    double losses = figure_difference(want->losses, got->losses);
    losses = fmax(losses, fabs(want->validation - got->validation) / want->validation);
    double norms = figure_difference(want->norms, got->norms);
    struct worst gradients = {0.0, "none"}, weights = {0.0, "none"};
    assert_int_equal(want->count, got->count);
    for (int i = 0; i < want->count; i++) {
        const struct layout_tensor *a = &want->tensors[i], *b = &got->tensors[i];
        take(&gradients, difference(a->gradient, b->gradient, a->elements), a->name);
        take(&weights, difference(a->weights, b->weights, a->elements), a->name);
    }
    print_message("loss %.4f -> %.4f  losses %.1e, norms %.1e, gradients %.1e, weights %.1e\n",
                  want->losses[0], want->losses[LAYOUT_STEPS - 1], losses, norms, gradients.value,
                  weights.value);
    if (losses <= limit->losses && norms <= limit->norms && gradients.value <= limit->gradients &&
        weights.value <= limit->weights)
        return;
    fail_msg("losses differ by %.2e, norms by %.2e, gradients by %.2e (%s), weights by %.2e (%s)",
             losses, norms, gradients.value, gradients.name, weights.value, weights.name);
}

void layout_compare_legs(const struct layout_site *site, const struct layout_case *row,
                         const struct layout_leg *legs) {
    static const struct layout_leg alone[] = {{1, LAYOUT_STEPS, ""}};
    struct layout_result want = {0}, got = {0};
    layout_train(site, "shared", row, legs, &got);
    layout_train(site, "alone", row, alone, &want);
    if (site->job->world.rank == 0) {
        const struct limits limits = limits_of(row, legs);
        layout_read(site, "shared", row, &got);
        layout_read(site, "alone", row, &want);
        print_row(row, legs);
        check(&limits, &want, &got);
    }
    layout_remove(site, "shared");
    layout_remove(site, "alone");
    layout_result_free(&want);
    layout_result_free(&got);
}

void layout_compare_all(struct parallel *job, const struct layout_case *rows, size_t count) {
    struct layout_site site;
    int ranks = job->world.size;
    layout_site_open(&site, job);
    for (size_t i = 0; i < count; i++) {
        const struct layout_leg legs[] = {{ranks, LAYOUT_STEPS, rows[i].layout}};
        if (rows[i].ranks == 0 || rows[i].ranks == ranks)
            layout_compare_legs(&site, &rows[i], legs);
    }
    layout_site_close(&site);
}
