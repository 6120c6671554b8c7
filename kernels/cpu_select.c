/* Chooses an op table by cpuid and, where that is not enough, by measuring. */
#include "kernels/table.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

struct candidate {
    const char *name;
    const struct kernels *f32, *bf16;
    bool (*supported)(void);
};

static bool always(void) {
    return true;
}

#if STRATA_X86
static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

/* A dot product of bf16 pairs does the work of two fp32 multiply-adds, in the time of one on some
 * machines and of four on others, where bf16 is better widened: cpuid can't tell, a measurement
 * can. No noise turns a gain of 2 into 0.5 or back. */
static bool has_avx512_bf16(void) {
    return has_avx512() && __builtin_cpu_supports("avx512bf16") &&
           peak_dots_gain_avx512_bf16_bf16() > 1.2;
}
#endif

/* Best first. */
static const struct candidate candidates[] = {
#if STRATA_X86
    {"avx512_bf16", &kernels_avx512_f32, &kernels_avx512_bf16_bf16, has_avx512_bf16},
    {"avx512", &kernels_avx512_f32, &kernels_avx512_bf16, has_avx512},
    {"avx2", &kernels_avx2_f32, &kernels_avx2_bf16, has_avx2},
#endif
    {"reference", &kernels_reference_f32, &kernels_reference_bf16, always},
};
enum { CANDIDATES = sizeof candidates / sizeof *candidates };

enum status kernels_cpu(const struct kernels **kernels, const char *name, enum dtype act) {
    bool any = !name || strcmp(name, "auto") == 0;
    for (size_t i = 0; i < CANDIDATES; i++) {
        const struct candidate *candidate = &candidates[i];
        if (!any && strcmp(name, candidate->name) != 0) continue;
        if (!candidate->supported()) {
            if (any) continue;
            return status_fail(STATUS_CONFIG,
                               "this machine lacks the instructions of '%s', or they are slow",
                               name);
        }
        *kernels = act == DTYPE_BF16 ? candidate->bf16 : candidate->f32;
        return STATUS_OK;
    }
    return status_fail(STATUS_CONFIG,
                       "unknown instruction set '%s' (auto, avx512_bf16, avx512, avx2, reference)",
                       name);
}

int kernels_cpu_level(void) {
    int i = 0;
    while (!candidates[i].supported()) i++;
    return CANDIDATES - 1 - i;
}

const char *kernels_cpu_level_name(int level) {
    assert(level >= 0 && level < CANDIDATES);
    return candidates[CANDIDATES - 1 - level].name;
}
