#define _GNU_SOURCE
#include "tests/attention_fixture.h"

void attention_set_lengths(struct attention_fixture *f, const int *lengths, int count) {
    for (int i = 0; i < count; i++) f->start[i + 1] = f->start[i] + lengths[i];
    f->segments = (struct segments){count, f->start, f->past};
    f->queries = (size_t)f->start[count] * (size_t)f->shape.heads;
    f->q_count = f->queries * (size_t)f->shape.head_dim;
    f->kv_count = (size_t)f->start[count] * (size_t)(f->shape.kv_heads * f->shape.head_dim);
}

struct attention_shape attention_shape_of(int kv_heads, int group, int head_dim, int window) {
    return (struct attention_shape){kv_heads * group, kv_heads, head_dim, window,
                                    1.0f / sqrtf((float)head_dim)};
}

void attention_random_fixture(struct attention_fixture *f, struct random *random, int head_dim) {
    static const int groups[] = {1, 2, 3, 4, 7, 8, 16};
    int window = random_int(random, 0, 2) == 0 ? random_int(random, 1, 150) : 0;
    int group = groups[random_int(random, 0, 6)];
    *f = (struct attention_fixture){
        .shape = attention_shape_of(random_int(random, 1, 3), group, head_dim, window)};
    int lengths[MAX_SEQUENCES], count = random_int(random, 1, MAX_SEQUENCES);
    for (int i = 0; i < count; i++)
        lengths[i] = i == 0 ? random_int(random, 1, 170) : random_int(random, 0, 20);
    attention_set_lengths(f, lengths, count);
}

struct attention_tensors attention_tensors_new(const struct kernels *kernels,
                                               const struct attention_fixture *f,
                                               struct random *random) {
    return (struct attention_tensors){.q = new_normal_act(kernels, random, f->q_count, 1.0f),
                                      .k = new_normal_act(kernels, random, f->kv_count, 1.0f),
                                      .v = new_normal_act(kernels, random, f->kv_count, 1.0f),
                                      .dout = new_normal_act(kernels, random, f->q_count, 1.0f),
                                      .o = new_bytes(act_bytes(kernels, f->q_count)),
                                      .dq = new_bytes(act_bytes(kernels, f->q_count)),
                                      .dk = new_bytes(act_bytes(kernels, f->kv_count)),
                                      .dv = new_bytes(act_bytes(kernels, f->kv_count)),
                                      .lse = new_bytes(f->queries * sizeof(float)),
                                      .scratch = new_bytes(f->queries * sizeof(float))};
}

void attention_tensors_free(struct attention_tensors *t) {
    void *all[] = {t->q, t->k, t->v, t->o, t->dout, t->dq, t->dk, t->dv, t->lse, t->scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

void attention_run_forward(const struct kernels *kernels, const struct attention_fixture *f,
                           struct attention_tensors *t, int threads) {
    struct stream stream;
    stream_open_cpu(&stream, threads);
    struct kv_source kv = {.k = t->k, .v = t->v, .dtype = kernels->act};
    kernels->attention_forward(
        &stream, &(struct attention_forward_args){t->o, t->lse, t->q, &kv, &f->segments, f->shape});
    assert_ok(stream_check(&stream));
}

void attention_run_backward(const struct kernels *kernels, const struct attention_fixture *f,
                            struct attention_tensors *t, int threads) {
    struct stream stream;
    stream_open_cpu(&stream, threads);
    kernels->attention_backward(&stream, &(struct attention_backward_args){
                                             t->dq, t->dk, t->dv, t->scratch, t->dout, t->q, t->k,
                                             t->v, t->o, t->lse, &f->segments, f->shape});
    assert_ok(stream_check(&stream));
}

void attention_assert_same_bits(const struct kernels *kernels, const struct attention_fixture *f,
                                const struct attention_tensors *a,
                                const struct attention_tensors *b) {
    size_t q_bytes = act_bytes(kernels, f->q_count), kv_bytes = act_bytes(kernels, f->kv_count);
    assert_memory_equal(a->o, b->o, q_bytes);
    assert_memory_equal(a->lse, b->lse, f->queries * sizeof(float));
    assert_memory_equal(a->dq, b->dq, q_bytes);
    assert_memory_equal(a->dk, b->dk, kv_bytes);
    assert_memory_equal(a->dv, b->dv, kv_bytes);
}

/* o (N, H, D) in float64 straight from the definition. */
static void forward_f64(double *o, const double *q, const double *k, const double *v,
                        const struct attention_fixture *f) {
    const struct attention_shape *s = &f->shape;
    int dim = s->head_dim, group = s->heads / s->kv_heads;
    for (int i = 0; i < f->segments.count; i++) {
        for (int t = f->start[i]; t < f->start[i + 1]; t++) {
            for (int h = 0; h < s->heads; h++) {
                const double *query = q + (t * s->heads + h) * dim;
                double *out = o + (t * s->heads + h) * dim, sum = 0.0;
                for (int d = 0; d < dim; d++) out[d] = 0.0;
                for (int j = f->start[i]; j <= t; j++) {
                    if (s->window > 0 && t - j >= s->window) continue;
                    double score = 0.0;
                    int at = (j * s->kv_heads + h / group) * dim;
                    for (int d = 0; d < dim; d++) score += query[d] * k[at + d];
                    double p = exp(score * (double)s->scale);
                    sum += p;
                    for (int d = 0; d < dim; d++) out[d] += p * v[at + d];
                }
                for (int d = 0; d < dim; d++) out[d] /= sum;
            }
        }
    }
}

static double *widen(const float *values, size_t count) {
    double *wide = new_bytes(count * sizeof *wide);
    for (size_t i = 0; i < count; i++) wide[i] = (double)values[i];
    return wide;
}

/* sum of dout * o after moving x[i] by `step`. */
static double loss_at(double *x, size_t i, double step, double *const in[3], const double *dout,
                      double *o, const struct attention_fixture *f) {
    double kept = x[i], loss = 0.0;
    x[i] += step;
    forward_f64(o, in[0], in[1], in[2], f);
    x[i] = kept;
    for (size_t e = 0; e < f->q_count; e++) loss += dout[e] * o[e];
    return loss;
}

void attention_check_float64(struct attention_shape shape, attention_run *run, const void *how) {
    const struct kernels *kernels;
    assert_ok(kernels_cpu(&kernels, "reference", DTYPE_F32));
    struct attention_fixture f = {.shape = shape};
    attention_set_lengths(&f, (const int[]){5, 0, 1, 7}, 4);
    struct random random = {.seed = 11};
    struct attention_tensors t = attention_tensors_new(kernels, &f, &random);
    run(kernels, &f, &t, how);
    double *in[3] = {widen(t.q, f.q_count), widen(t.k, f.kv_count), widen(t.v, f.kv_count)};
    double *dout = widen(t.dout, f.q_count), *o = new_bytes(f.q_count * sizeof *o);
    forward_f64(o, in[0], in[1], in[2], &f);
    for (size_t i = 0; i < f.q_count; i++)
        if (!(fabs(o[i] - (double)((float *)t.o)[i]) <= 1e-5)) fail_msg("o[%zu]", i);
    const float *gradients[3] = {t.dq, t.dk, t.dv};
    for (int tensor = 0; tensor < 3; tensor++) {
        size_t count = tensor == 0 ? f.q_count : f.kv_count;
        for (size_t i = 0; i < count; i++) {
            double above = loss_at(in[tensor], i, 1e-5, in, dout, o, &f);
            double below = loss_at(in[tensor], i, -1e-5, in, dout, o, &f);
            double want = (above - below) / 2e-5, got = (double)gradients[tensor][i];
            if (!(fabs(got - want) <= 2e-4 * (1.0 + fabs(want))))
                fail_msg("gradient %d [%zu]: got %g, want %g", tensor, i, got, want);
        }
    }
    for (int i = 0; i < 3; i++) free(in[i]);
    free(dout);
    free(o);
    attention_tensors_free(&t);
}
