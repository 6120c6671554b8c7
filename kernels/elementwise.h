/* Ops that touch each element once. act = the table's dtype. n counts elements. */
#ifndef STRATA_KERNELS_ELEMENTWISE_H
#define STRATA_KERNELS_ELEMENTWISE_H

#include "kernels/base/stream.h"
#include <stdint.h>

/* y = a + b     act; y may alias a or b */
typedef void add_fn(struct stream *s, void *y, const void *a, const void *b, int64_t n);

/* y *= scale    act */
typedef void scale_fn(struct stream *s, void *y, float scale, int64_t n);

/* y f32 += x f32 (gradient accumulation of vectors, sums over ranks) */
typedef void accumulate_f32_fn(struct stream *s, float *y, const float *x, int64_t n);

/* y act = x f32, rounded; may be x */
typedef void round_f32_fn(struct stream *s, void *y, const float *x, int64_t n);

/* SwiGLU (Shazeer, arXiv:2002.05202): y = silu(gate) * up,  silu(g) = g / (1 + exp(-g))
 * y, gate, up act; y may alias gate or up. */
typedef void swiglu_forward_fn(struct stream *s, void *y, const void *gate, const void *up,
                               int64_t n);

/* dgate = dy * up * silu'(gate), dup = dy * silu(gate); dgate may alias gate, dup may alias up or
 * dy. */
typedef void swiglu_backward_fn(struct stream *s, void *dgate, void *dup, const void *dy,
                                const void *gate, const void *up, int64_t n);

/* Dropout for LoRA inputs, the same for any sharding: element (row, column) is kept, and divided by
 * 1 - p, where rng_unit(word) >= p, with word = rng_draw(seed, RNG_DROPOUT, domain, index), index =
 * (row_id[row] * whole + first + column) / 4 and word number (.. % 4). row_id (rows) is the token's
 * global number (sample, position); x is columns [first, first + width) of rows of `whole`. Also
 * the backward (apply it to dy). y may alias x. */
struct dropout_args {
    void *y;
    const void *x;
    const int64_t *row_id;
    int64_t rows, width;
    int64_t first, whole;
    uint64_t seed, domain;
    float p;
};
typedef void dropout_fn(struct stream *s, const struct dropout_args *args);

#endif
