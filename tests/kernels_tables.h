/* For tests of ops: the tables of this machine, random numbers, activations of either dtype. */
#ifndef STRATA_TESTS_KERNELS_TABLES_H
#define STRATA_TESTS_KERNELS_TABLES_H

#include "tests/check.h"

#include "kernels/base/rng.h"
#include "kernels/kernels.h"

#include <stdbool.h>

/* The fast tables that this machine supports and their references; count of them. */
struct table_pair {
    const struct kernels *fast, *reference;
};

enum { MOST_TABLES = 6 };
static inline int tables_of_machine(struct table_pair pairs[MOST_TABLES]) {
    static const char *const names[] = {"avx2", "avx512", "avx512_bf16"};
    int count = 0;
    for (int i = 0; i < MOST_TABLES; i++) {
        enum dtype act = i % 2 ? DTYPE_BF16 : DTYPE_F32;
        if (kernels_cpu(&pairs[count].fast, names[i / 2], act) != STATUS_OK) continue;
        if (strcmp(pairs[count].fast->name, names[i / 2]) != 0) continue; /* another's */
        assert_ok(kernels_cpu(&pairs[count].reference, "reference", act));
        count++;
    }
    return count;
}

/* A deterministic stream of random numbers. */
struct random {
    uint64_t seed, next;
};

static inline uint32_t random_word(struct random *random) {
    return rng_draw(random->seed, RNG_TEST, 0, random->next++).word[0];
}

/* Uniform in [low, high]. */
static inline int random_int(struct random *random, int low, int high) {
    return low + (int)(random_word(random) % (uint32_t)(high - low + 1));
}

static inline float random_normal(struct random *random) {
    struct rng_block block = rng_draw(random->seed, RNG_TEST, 0, random->next++);
    return rng_normal(block.word[0], block.word[1]);
}

/* Aligned, of exactly `bytes`, so that a sanitizer sees the first byte beyond. */
static inline void *new_bytes(size_t bytes) {
    void *data = NULL;
    assert_int_equal(posix_memalign(&data, 64, bytes ? bytes : 1), 0);
    return data;
}

static inline float *new_normal(struct random *random, size_t count, float scale) {
    float *data = new_bytes(count * sizeof *data);
    for (size_t i = 0; i < count; i++) data[i] = scale * random_normal(random);
    return data;
}

static inline size_t act_bytes(const struct kernels *kernels, size_t count) {
    return dtype_bytes(kernels->act, count);
}

/* `values` as activations of the table. */
static inline void *new_act(const struct kernels *kernels, const float *values, size_t count) {
    void *data = new_bytes(act_bytes(kernels, count));
    for (size_t i = 0; i < count; i++) {
        if (kernels->act == DTYPE_BF16)
            ((uint16_t *)data)[i] = f32_to_bf16(values[i]);
        else
            ((float *)data)[i] = values[i];
    }
    return data;
}

static inline float act_at(const struct kernels *kernels, const void *data, size_t i) {
    return kernels->act == DTYPE_BF16 ? bf16_to_f32(((const uint16_t *)data)[i])
                                      : ((const float *)data)[i];
}

/* Random activations of the table. */
static inline void *new_normal_act(const struct kernels *kernels, struct random *random,
                                   size_t count, float scale) {
    float *values = new_normal(random, count, scale);
    void *data = new_act(kernels, values, count);
    free(values);
    return data;
}

/* |got - want| <= absolute + relative * |want|, and for bf16 one rounding to the neighbour more. */
static inline void assert_act_close(const struct kernels *kernels, const void *got,
                                    const void *want, size_t count, double absolute,
                                    double relative, const char *what) {
    if (kernels->act == DTYPE_BF16) relative += 0x1p-7;
    for (size_t i = 0; i < count; i++) {
        double g = (double)act_at(kernels, got, i), w = (double)act_at(kernels, want, i);
        if (!(fabs(g - w) <= absolute + relative * fabs(w)))
            fail_msg("%s %s[%zu]: got %.9g, want %.9g", kernels->name, what, i, g, w);
    }
}

#endif
