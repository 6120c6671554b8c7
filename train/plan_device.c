#include "train/plan_device.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#define GIB 1073741824.0

const char plan_device_names[] = "h100, h200, a100 or cpu";

/* product_fraction and product_half of h100 and a100 are fitted on three published runs, which
 * tests/test_train_published.c does again; h200 has h100's cores and links. */
static const struct plan_device devices[] = {
    {.name = "h100",
     .flops_bf16 = 989.4e12,
     .flops_fp32 = 66.9e12,
     .memory = 80e9,
     .reserve = 3 * GIB,
     .bandwidth = 3.35e12,
     .node = {8e-6, 450e9},
     .between = {20e-6, 50e9},
     .product_fraction = 0.622,
     .product_half = 110,
     .attention_fraction = 0.45,
     .bandwidth_fraction = 0.9,
     .link_fraction = 0.8,
     .tensor_overlap = 0.5,
     .replica_overlap = 0.9},
    {.name = "h200",
     .flops_bf16 = 989.4e12,
     .flops_fp32 = 66.9e12,
     .memory = 141e9,
     .reserve = 3 * GIB,
     .bandwidth = 4.8e12,
     .node = {8e-6, 450e9},
     .between = {20e-6, 50e9},
     .product_fraction = 0.622,
     .product_half = 110,
     .attention_fraction = 0.45,
     .bandwidth_fraction = 0.9,
     .link_fraction = 0.8,
     .tensor_overlap = 0.5,
     .replica_overlap = 0.9},
    {.name = "a100",
     .flops_bf16 = 312e12,
     .flops_fp32 = 19.5e12,
     .memory = 80e9,
     .reserve = 3 * GIB,
     .bandwidth = 2.039e12,
     .node = {8e-6, 300e9},
     .between = {20e-6, 25e9},
     .product_fraction = 0.765,
     .product_half = 110,
     .attention_fraction = 0.45,
     .bandwidth_fraction = 0.9,
     .link_fraction = 0.8,
     .tensor_overlap = 0.5,
     .replica_overlap = 0.9},
    /* a thread of a server of 2023 with AVX-512, fp32; memory of 8 DDR5 channels over 16 threads.
     * Sums go on only while the library is called: nothing hides. */
    {.name = "cpu",
     .flops_bf16 = 200e9,
     .flops_fp32 = 100e9,
     .reserve = 0.06 * GIB,
     .bandwidth = 15e9,
     .node = {3e-6, 3e9},
     .between = {30e-6, 3e9},
     .product_fraction = 0.8,
     .product_half = 6,
     .attention_fraction = 0.6,
     .bandwidth_fraction = 0.8,
     .link_fraction = 1.0,
     .tensor_overlap = 0.0,
     .replica_overlap = 0.0,
     .crowding = 0.3,
     .shared_memory = true},
};

const struct plan_device *plan_device_find(const char *name) {
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
        if (strcmp(devices[i].name, name) == 0) return &devices[i];
    return NULL;
}

double plan_device_flops(const struct plan_device *device, bool bf16) {
    return bf16 ? device->flops_bf16 : device->flops_fp32;
}

double plan_product_seconds(const struct plan_device *device, bool bf16, double m, double n,
                            double k) {
    double least = fmin(m, fmin(n, k));
    if (least <= 0.0) return 0.0;
    double fraction = device->product_fraction * least / (least + device->product_half);
    return 2.0 * m * n * k / (plan_device_flops(device, bf16) * fraction);
}

double plan_attention_seconds(const struct plan_device *device, bool bf16, double flops) {
    return flops / (plan_device_flops(device, bf16) * device->attention_fraction);
}

double plan_memory_seconds(const struct plan_device *device, double bytes) {
    return bytes / (device->bandwidth * device->bandwidth_fraction);
}

struct cost_network plan_network(const struct plan_device *device, int per_node) {
    struct cost_network network = {device->node, device->between, per_node};
    network.node.bandwidth *= device->link_fraction;
    network.between.bandwidth *= device->link_fraction;
    return network;
}
