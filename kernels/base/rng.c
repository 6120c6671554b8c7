#include "kernels/base/rng.h"

#include <math.h>

float rng_normal(uint32_t first, uint32_t second) {
    double radius_unit = ((double)first + 1.0) * 0x1p-32; /* (0, 1]: the logarithm is finite */
    double angle = 6.283185307179586 * (double)second * 0x1p-32;
    return (float)(sqrt(-2.0 * log(radius_unit)) * cos(angle));
}
