/* Chooses an op table by cpuid and, where that is not enough, by measuring. */
#include "kernels/table.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

struct candidate {
    const char *name;
    const struct kernels *f32, *bf16;
    bool (*supported)(void); /* by the machine */
    bool (*pays)(void);      /* to be chosen where nobody names a table */
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

static bool has_avx512_bf16(void) {
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}

/* A dot product of bf16 pairs does the work of two fp32 multiply-adds, in the time of one on some
 * machines and of four on others, where bf16 is better widened: cpuid can't tell, a measurement
 * can. Another process on the same core can spoil one, of 1 ms, but not every one. */
static bool dots_gain(void) {
    bool gain = false;
    for (int trial = 0; trial < 8 && !gain; trial++) gain = peak_dots_gain_avx512_bf16_bf16() > 1.2;
    return gain;
}
#endif

/* Best first. */
static const struct candidate candidates[] = {
#if STRATA_X86
    {"avx512_bf16", &kernels_avx512_f32, &kernels_avx512_bf16_bf16, has_avx512_bf16, dots_gain},
    {"avx512", &kernels_avx512_f32, &kernels_avx512_bf16, has_avx512, always},
    {"avx2", &kernels_avx2_f32, &kernels_avx2_bf16, has_avx2, always},
#endif
    {"reference", &kernels_reference_f32, &kernels_reference_bf16, always, always},
};
enum { CANDIDATES = sizeof candidates / sizeof *candidates };

enum status kernels_cpu(const struct kernels **kernels, const char *name, enum dtype act) {
    bool any = !name || strcmp(name, "auto") == 0;
    for (size_t i = 0; i < CANDIDATES; i++) {
        const struct candidate *candidate = &candidates[i];
        if (!any && strcmp(name, candidate->name) != 0) continue;
        if (any && !(candidate->supported() && candidate->pays())) continue;
        if (!candidate->supported())
            return status_fail(STATUS_CONFIG, "this machine lacks the instructions of '%s'", name);
        *kernels = act == DTYPE_BF16 ? candidate->bf16 : candidate->f32;
        return STATUS_OK;
    }
    return status_fail(STATUS_CONFIG,
                       "unknown instruction set '%s' (auto, avx512_bf16, avx512, avx2, reference)",
                       name);
}

int kernels_cpu_level(void) {
    int i = 0;
    while (!(candidates[i].supported() && candidates[i].pays())) i++;
    return CANDIDATES - 1 - i;
}

const char *kernels_cpu_level_name(int level) {
    assert(level >= 0 && level < CANDIDATES);
    return candidates[CANDIDATES - 1 - level].name;
}
