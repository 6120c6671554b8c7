/* Random packed batches for the tests of attention on a GPU. gpu_each seeds each schedule and type
 * of its own: ten cases are thirty shapes a type. */
#ifndef STRATA_TESTS_GPU_ATTENTION_H
#define STRATA_TESTS_GPU_ATTENTION_H

#include "tests/attention_parts.h"
#include "tests/gpu_case.h"

enum { MOST_SEQUENCES = 5 };

/* start and past are shared memory; the tensors host's sides of arrays of the case. */
struct packed {
    struct attention_shape shape;
    struct segments segments;
    int32_t *start, *past;
    size_t queries, q_count, kv_count; /* N * H, N * H * D, N * Hkv * D */
    void *q, *k, *v, *o;
    float *lse;
};

/* Of sequences of these lengths; q, k and v random, o and lse to be written. */
static inline void pack(struct gpu_case *c, struct packed *p, struct attention_shape shape,
                        const int *lengths, int count) {
    *p = (struct packed){.shape = shape};
    p->start = gpu_shared_bytes(c, ((size_t)count + 1) * sizeof *p->start);
    p->past = gpu_shared_bytes(c, (size_t)count * sizeof *p->past);
    p->start[0] = 0;
    for (int i = 0; i < count; i++) {
        p->start[i + 1] = p->start[i] + lengths[i];
        p->past[i] = 0;
    }
    p->segments = (struct segments){count, p->start, p->past};
    p->queries = (size_t)p->start[count] * (size_t)shape.heads;
    p->q_count = p->queries * (size_t)shape.head_dim;
    p->kv_count = (size_t)p->start[count] * (size_t)(shape.kv_heads * shape.head_dim);
    p->q = gpu_act(c, p->q_count, 1.0f);
    p->k = gpu_act(c, p->kv_count, 1.0f);
    p->v = gpu_act(c, p->kv_count, 1.0f);
    p->o = gpu_bytes(c, act_bytes(c->cuda, p->q_count));
    p->lse = gpu_bytes(c, p->queries * sizeof *p->lse);
}

/* A shape by the case's number: every width of tile, and widths that fill none; groups of 1 to 16.
 */
static inline struct attention_shape shape_of_case(struct gpu_case *c) {
    static const int head_dims[] = {64, 80, 96, 128, 192, 256, 20, 33, 72, 6};
    static const int groups[] = {1, 2, 3, 4, 7, 8, 16};
    int head_dim = head_dims[c->number % 10], group = groups[c->number % 7];
    int kv_heads = random_int(&c->random, 1, 2);
    int window = c->number % 3 == 2 ? random_int(&c->random, 1, 90) : 0;
    return (struct attention_shape){kv_heads * group, kv_heads, head_dim, window,
                                    1.0f / sqrtf((float)head_dim)};
}

/* A batch by the case's number: one sequence, or several of which some are empty or one token.
 * About `tokens` in the longest, fewer where heads are many. */
static inline void pack_case(struct gpu_case *c, struct packed *p, int tokens) {
    struct attention_shape shape = shape_of_case(c);
    int lengths[MOST_SEQUENCES], count = c->number % 4 == 0 ? 1 : MOST_SEQUENCES;
    int longest = tokens * 4 / (shape.heads > 4 ? shape.heads : 4) * 64 /
                  (shape.head_dim > 64 ? shape.head_dim : 64);
    for (int i = 0; i < count; i++) lengths[i] = random_int(&c->random, 0, i == 1 ? 9 : 2);
    lengths[c->number % count] = random_int(&c->random, 1, longest > 24 ? longest : 24);
    pack(c, p, shape, lengths, count);
}

static inline struct kv_source contiguous(const struct gpu_case *c, void *k, void *v) {
    return (struct kv_source){.k = k, .v = v, .dtype = c->cuda->act};
}

static inline void run_forward(struct gpu_case *c, const struct packed *p) {
    struct kv_source kv = contiguous(c, gpu_of(c, p->k), gpu_of(c, p->v));
    c->cuda->attention_forward(
        &c->stream, &(struct attention_forward_args){gpu_of(c, p->o), gpu_of(c, p->lse),
                                                     gpu_of(c, p->q), &kv, &p->segments, p->shape});
}

static inline void reference_forward(struct gpu_case *c, const struct packed *p) {
    struct kv_source kv = contiguous(c, p->k, p->v);
    c->reference->attention_forward(
        &c->host_stream,
        &(struct attention_forward_args){p->o, p->lse, p->q, &kv, &p->segments, p->shape});
}

enum { MOST_PARTS = 2 * MOST_SEQUENCES };

#endif
