/* A packed batch with everything that the attention ops need, for their tests. */
#ifndef STRATA_TESTS_ATTENTION_FIXTURE_H
#define STRATA_TESTS_ATTENTION_FIXTURE_H

#include "tests/kernels_tables.h"

enum { MAX_SEQUENCES = 6 };

/* A packed batch on random lengths, with everything an op needs. */
struct attention_fixture {
    struct attention_shape shape;
    struct segments segments;
    int32_t start[MAX_SEQUENCES + 1], past[MAX_SEQUENCES];
    size_t queries, q_count, kv_count; /* N * H, N * H * D, N * Hkv * D */
};

/* q, dout, o, dq (N, H, D), k, v, dk, dv (N, Hkv, D) act; lse, scratch (N, H) f32. */
struct attention_tensors {
    void *q, *k, *v, *o, *dout, *dq, *dk, *dv;
    float *lse, *scratch;
};

struct attention_shape attention_shape_of(int kv_heads, int group, int head_dim, int window);

/* Fills all but the shape, which is there, for `count` sequences of these lengths. */
void attention_set_lengths(struct attention_fixture *f, const int *lengths, int count);

/* Any shape of this head_dim: windows, groups, one long sequence and short or empty ones. */
void attention_random_fixture(struct attention_fixture *f, struct random *random, int head_dim);

/* Random q, k, v and dout. */
struct attention_tensors attention_tensors_new(const struct kernels *kernels,
                                               const struct attention_fixture *f,
                                               struct random *random);
void attention_tensors_free(struct attention_tensors *t);

void attention_run_forward(const struct kernels *kernels, const struct attention_fixture *f,
                           struct attention_tensors *t, int threads);
void attention_run_backward(const struct kernels *kernels, const struct attention_fixture *f,
                            struct attention_tensors *t, int threads);

/* o, lse and the gradients, bit for bit. */
void attention_assert_same_bits(const struct kernels *kernels, const struct attention_fixture *f,
                                const struct attention_tensors *a,
                                const struct attention_tensors *b);

/* Forward and backward, one way or another; `how` is the caller's. */
typedef void attention_run(const struct kernels *kernels, const struct attention_fixture *f,
                           struct attention_tensors *t, const void *how);

/* The plain loops: forward to 1e-5 of float64, each gradient to 2e-4 of central differences of the
 * float64 forward (step 1e-5, error of the difference below 1e-8), of documents of 5, 0, 1 and 7
 * tokens. */
void attention_check_float64(struct attention_shape shape, attention_run *run, const void *how);

#endif
