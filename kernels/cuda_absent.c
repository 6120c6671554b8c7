/* A program that is built without CUDA. */
#include "kernels/base/device.h"
#include "kernels/kernels.h"

enum status kernels_cuda(const struct kernels **kernels, enum dtype act) {
    (void)act;
    *kernels = NULL;
    return status_fail(STATUS_UNSUPPORTED, "this program is built without CUDA");
}

enum status device_open_cuda(struct device *device, int ordinal) {
    (void)device, (void)ordinal;
    return status_fail(STATUS_UNSUPPORTED, "this program is built without CUDA");
}
