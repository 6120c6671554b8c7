/* The op table of one variant; compiled once per instruction set and activation dtype. */
#include "kernels/table.h"

#include "kernels/variant.h"

const struct kernels VARIANT(kernels) = {
    .name = STRATA_VARIANT_NAME,
#if STRATA_ACT_BF16
    .act = DTYPE_BF16,
#else
    .act = DTYPE_F32,
#endif
};
