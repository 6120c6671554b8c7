/* Arrays that grow by doubling. */
#ifndef STRATA_SERVE_GROW_H
#define STRATA_SERVE_GROW_H

#include "kernels/base/status.h"
#include <stdlib.h>

/* Room for `need` elements of `size` bytes in *array, which holds *capacity. The array is unchanged
 * on failure. */
static inline enum status grow_array(void **array, size_t *capacity, size_t need, size_t size) {
    if (need <= *capacity) return STATUS_OK;
    size_t wanted = *capacity ? *capacity * 2 : 64;
    if (wanted < need) wanted = need;
    void *grown = realloc(*array, wanted * size);
    if (!grown) return status_fail(STATUS_MEMORY, "no memory for %zu bytes", wanted * size);
    *array = grown;
    *capacity = wanted;
    return STATUS_OK;
}

#endif
