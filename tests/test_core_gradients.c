/* The backward of whole models against central finite differences of a float64 reference: every
 * weight tensor of tiny random Llama, Mistral, Qwen2 and Qwen3 shapes, tied and untied. All
 * elements of a tensor are compared together, along random directions, and a sample of them each.
 */
#include "tests/fixture.h"
#include "tests/forward_f64.h"

#include "kernels/base/rng.h"

enum {
    SEQUENCES = 5,
    TOKENS = 37,
    VOCAB = 41,
    WINDOW = 4,
    DIRECTIONS = 2,
    SAMPLES = 24 /* elements of a tensor that are compared each; all of a smaller one */
};
static const int lengths[SEQUENCES] = {13, 1, 7, 11, 5};

static const struct shape {
    const char *name;
    enum model_family family;
    bool tied, qkv_bias, all_biases, qk_norm;
    int64_t window;
} shapes[] = {
    {.name = "llama", .family = FAMILY_LLAMA},
    {.name = "llama tied", .family = FAMILY_LLAMA, .tied = true},
    {.name = "llama with biases", .family = FAMILY_LLAMA, .qkv_bias = true, .all_biases = true},
    {.name = "mistral", .family = FAMILY_MISTRAL, .window = WINDOW},
    {.name = "mistral tied", .family = FAMILY_MISTRAL, .window = WINDOW, .tied = true},
    {.name = "qwen2", .family = FAMILY_QWEN2, .qkv_bias = true},
    {.name = "qwen2 tied", .family = FAMILY_QWEN2, .qkv_bias = true, .tied = true},
    {.name = "qwen3", .family = FAMILY_QWEN3, .qk_norm = true},
    {.name = "qwen3 tied", .family = FAMILY_QWEN3, .qk_norm = true, .tied = true},
};

static float normal(uint64_t domain, int64_t index) {
    struct rng_block random = rng_draw(11, RNG_TEST, domain, (uint64_t)index);
    return rng_normal(random.word[0], random.word[1]);
}

/* Norms about 1, biases and matrices about 0, none of them special. */
static void fill_param(const struct param *param, int64_t index) {
    int64_t count = param->w.rows * param->w.cols;
    bool norm = weight_is_vector(param->id) && weight_table[param->id].when != WHEN_QKV_BIAS &&
                weight_table[param->id].when != WHEN_O_BIAS &&
                weight_table[param->id].when != WHEN_MLP_BIAS;
    float *values = malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++)
        values[i] = (norm ? 1.0f : 0.0f) + 0.25f * normal((uint64_t)index, i);
    weight_pack(&param->w, 0, param->w.rows, values);
    free(values);
}

static void make_model(struct model *model, const struct shape *shape) {
    struct model_config config = {.family = shape->family,
                                  .vocab = VOCAB,
                                  .hidden = 24,
                                  .ffn = 36,
                                  .layers = 2,
                                  .heads = 4,
                                  .kv_heads = 2,
                                  .head_dim = 10,
                                  .norm_eps = 1e-5f,
                                  .max_context = 64,
                                  .window = shape->window,
                                  .rope = {.theta = 10000.0},
                                  .tied = shape->tied,
                                  .qkv_bias = shape->qkv_bias,
                                  .o_bias = shape->all_biases,
                                  .mlp_bias = shape->all_biases,
                                  .qk_norm = shape->qk_norm,
                                  .bos = -1};
    for (int i = 0; i < config.layers; i++) config.sliding[i] = shape->window > 0;
    assert_ok(model_create(model, &config, NULL, LAYOUT_PANEL_F32));
    for (int i = 0; i < model->param_count; i++)
        if (model->params[i].w.data) fill_param(&model->params[i], i);
}

static void make_network(struct network_f64 *n, const struct model *model) {
    const struct model_config *c = &model->config;
    *n = (struct network_f64){.layers = c->layers,
                              .width = (int)c->hidden,
                              .inner = (int)c->ffn,
                              .heads = c->heads,
                              .kv_heads = c->kv_heads,
                              .head = c->head_dim,
                              .vocab = (int)c->vocab,
                              .base = c->rope.theta,
                              .epsilon = (double)c->norm_eps};
    for (int i = 0; i < c->layers; i++) n->window[i] = c->sliding[i] ? (int)c->window : 0;
    for (int p = 0; p < model->param_count; p++) {
        const struct param *param = &model->params[p];
        if (!param->w.data) continue;
        int64_t count = param->w.rows * param->w.cols;
        float *values = malloc((size_t)count * sizeof *values);
        double *wide = malloc((size_t)count * sizeof *wide);
        param_read(values, param, 0, param->w.rows);
        for (int64_t i = 0; i < count; i++) wide[i] = (double)values[i];
        n->weight[param->layer + 1][param->id] = wide;
        free(values);
    }
}

static void make_batch(struct packed_batch *packed) {
    int32_t ids[TOKENS];
    assert_ok(packed_batch_create(packed, TOKENS, SEQUENCES));
    for (int i = 0; i < TOKENS; i++)
        ids[i] = (int32_t)(rng_draw(3, RNG_TEST, 0, (uint64_t)i).word[0] % VOCAB);
    for (int i = 0, at = 0; i < SEQUENCES; at += lengths[i++])
        packed_batch_add(packed, ids + at, lengths[i], 1.0f / (float)(TOKENS - SEQUENCES));
    assert_int_equal(packed->batch.tokens, TOKENS);
}

static double mean_loss(const struct network_f64 *network, const struct packed_batch *packed) {
    double sum = 0.0;
    for (int i = 0; i < SEQUENCES; i++)
        sum += network_f64_loss(network, packed->ids + packed->start[i], lengths[i]);
    return sum / (TOKENS - SEQUENCES);
}

/* (f(w + h) - f(w - h)) / 2h: h^2 and the rounding of f over h are both some 1e-10. */
static double finite_difference(const struct network_f64 *network, double *w,
                                const struct packed_batch *packed) {
    const double h = 1e-5, before = *w;
    *w = before + h;
    double above = mean_loss(network, packed);
    *w = before - h;
    double below = mean_loss(network, packed);
    *w = before;
    return (above - below) / (2.0 * h);
}

/* The slope along a direction of +1 and -1 alone, so that no element's error can hide in it. */
static double directional_difference(const struct network_f64 *network, double *w,
                                     const signed char *direction, int64_t count,
                                     const struct packed_batch *packed) {
    const double h = 3e-5 / sqrt((double)count);
    double loss[2];
    for (int side = 0; side < 2; side++) {
        double step = side ? -h : h;
        for (int64_t i = 0; i < count; i++) w[i] += step * direction[i];
        loss[side] = mean_loss(network, packed);
        for (int64_t i = 0; i < count; i++) w[i] -= step * direction[i];
    }
    return (loss[0] - loss[1]) / (2.0 * h);
}

/* Which element a sample is: each of a small tensor, of a large one any. */
static int64_t sampled_element(int64_t sample, int64_t samples, int64_t count) {
    if (samples == count) return sample;
    return (int64_t)(rng_draw(5, RNG_TEST, (uint64_t)count, (uint64_t)sample).word[0] %
                     (uint64_t)count);
}

/* What every table and way to keep activations made of one parameter's gradient. */
enum { RUNS = 4 };
static const struct {
    const char *table;
    enum acts_keep keep;
} runs[RUNS] = {
    {"reference", ACTS_ALL}, {"reference", ACTS_INPUT}, {"auto", ACTS_ALL}, {"auto", ACTS_INPUT}};

static void check_param(const char *shape, const struct param *param, float *const got[RUNS],
                        const struct network_f64 *network, const struct packed_batch *packed) {
    int64_t count = param->w.rows * param->w.cols;
    int64_t samples = count <= SAMPLES ? count : SAMPLES;
    double norm = 0.0, difference[RUNS] = {0.0};
    for (int64_t s = 0; s < samples; s++) {
        int64_t i = sampled_element(s, samples, count);
        if (param->id == WEIGHT_EMBED) /* a row that is looked up, so that untied ones count */
            i = packed->ids[s % TOKENS] * param->w.cols + i % param->w.cols;
        double want =
            finite_difference(network, &network->weight[param->layer + 1][param->id][i], packed);
        norm += want * want;
        for (int run = 0; run < RUNS; run++) difference[run] += pow((double)got[run][i] - want, 2);
    }
    norm = sqrt(norm);
    if (!(norm > 1e-6)) fail_msg("%s %s: a gradient of %g shows nothing", shape, param->name, norm);
    for (int run = 0; run < RUNS; run++)
        if (!(sqrt(difference[run]) <= 1e-4 * norm))
            fail_msg("%s %s: %s %d differs by %g of norm %g", shape, param->name, runs[run].table,
                     runs[run].keep, sqrt(difference[run]), norm);
}

static void check_directions(const char *shape, const struct param *param, float *const got[RUNS],
                             const struct network_f64 *network, const struct packed_batch *packed) {
    int64_t count = param->w.rows * param->w.cols;
    signed char *direction = malloc((size_t)count);
    for (int k = 0; k < DIRECTIONS; k++) {
        for (int64_t i = 0; i < count; i++)
            direction[i] = rng_draw(6 + k, RNG_TEST, 0, (uint64_t)i).word[0] & 1 ? 1 : -1;
        double want = directional_difference(network, network->weight[param->layer + 1][param->id],
                                             direction, count, packed);
        for (int run = 0; run < RUNS; run++) {
            double slope = 0.0, square = 0.0;
            for (int64_t i = 0; i < count; i++) {
                slope += direction[i] * (double)got[run][i];
                square += (double)got[run][i] * (double)got[run][i];
            }
            if (!(fabs(slope - want) <= 1e-4 * sqrt(square)))
                fail_msg("%s %s: %s %d: slope %g along a direction, not %g; norm %g", shape,
                         param->name, runs[run].table, runs[run].keep, slope, want, sqrt(square));
        }
    }
    free(direction);
}

/* Gradients of every parameter by fp32 backward, (rows, cols) each; the loss too. */
static void run_backward(const struct shape *shape, int run, float **gradients, double *loss) {
    struct fixture f = {0};
    const struct kernels *kernels;
    const struct workspace_plan plan = {
        .tokens = TOKENS, .logit_rows = TOKENS, .keep = runs[run].keep, .backward = true};
    make_model(&f.model, shape);
    make_batch(&f.packed);
    assert_ok(kernels_cpu(&kernels, runs[run].table, DTYPE_F32));
    assert_ok(workspace_open(&f.ws, &f.model, kernels, 2, NULL, &plan));
    fixture_train(&f, f.model.params, f.model.param_count);
    float *d = calloc((size_t)(TOKENS * f.model.config.hidden), sizeof *d);
    *loss = 0.0;
    stage_forward(&f.ws.exec, &f.model, &f.packed.batch, &f.ws.acts);
    head_loss(&f.ws.exec, &f.model, &f.packed.batch, f.ws.acts.hidden, d, loss, NULL);
    stage_backward(&f.ws.exec, &f.model, &f.packed.batch, &f.ws.acts, d, NULL, NULL);
    assert_ok(stream_check(&f.ws.stream));
    free(d);
    for (int p = 0; p < f.model.param_count; p++) {
        const struct weight *grad = &f.model.params[p].grad;
        gradients[p] = NULL;
        if (!f.model.params[p].w.data) continue;
        gradients[p] = malloc((size_t)(grad->rows * grad->cols) * sizeof(float));
        weight_unpack(gradients[p], grad, 0, grad->rows);
    }
    fixture_close(&f);
}

static void check_shape(const struct shape *shape) {
    enum { MAX_PARAMS = 3 * WEIGHT_COUNT };
    static float *gradients[RUNS][MAX_PARAMS];
    struct model model;
    struct network_f64 network;
    struct packed_batch packed;
    make_model(&model, shape);
    assert_true(model.param_count <= MAX_PARAMS);
    make_network(&network, &model);
    make_batch(&packed);
    double want = mean_loss(&network, &packed);
    for (int run = 0; run < RUNS; run++) {
        double loss;
        run_backward(shape, run, gradients[run], &loss);
        if (!(fabs(loss - want) <= 1e-5)) fail_msg("%s: loss %g, want %g", shape->name, loss, want);
    }
    int tensors = 0;
    for (int p = 0; p < model.param_count; p++) {
        float *const got[RUNS] = {gradients[0][p], gradients[1][p], gradients[2][p],
                                  gradients[3][p]};
        if (got[0]) check_param(shape->name, &model.params[p], got, &network, &packed);
        if (got[0]) check_directions(shape->name, &model.params[p], got, &network, &packed);
        tensors += got[0] != NULL;
        for (int run = 0; run < RUNS; run++) free(got[run]);
    }
    assert_int_equal(tensors,
                     2 * 9 + 2 + !shape->tied +
                         2 * (3 * shape->qkv_bias + 4 * shape->all_biases + 2 * shape->qk_norm));
    packed_batch_free(&packed);
    network_f64_free(&network);
    model_free(&model);
}

static void test_every_gradient_is_the_slope_of_the_loss(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_shape(&shapes[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_gradient_is_the_slope_of_the_loss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
