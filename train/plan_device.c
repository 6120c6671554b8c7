#include "train/plan_device.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#define GIB 1073741824.0

const char plan_device_names[] = "h100, h200, a100 or cpu";

/* What GPUs have in common: fractions and latencies of docs/plan.md. */
#define GPU                                                                                        \
    .reserve = 3 * GIB, .product_half = 110, .attention_fraction = 0.45,                           \
    .bandwidth_fraction = 0.9, .link_fraction = 0.8, .tensor_overlap = 0.5, .replica_overlap = 0.9

/* Cores and links of NVIDIA's H100 SXM5 data sheet (fourth-generation NVLink, PCIe 5), 400 Gb/s of
 * InfiniBand. The H200 SXM data sheet differs in memory alone. */
#define HOPPER                                                                                     \
    GPU, .flops_bf16 = 989.4e12, .flops_fp32 = 66.9e12, .host_link = 64e9, .node = {8e-6, 450e9},  \
         .between = {20e-6, 50e9}, .product_fraction = 0.622

/* product_fraction and product_half are fitted on three published runs, which
 * tests/test_train_published.c does again. */
static const struct plan_device devices[] = {
    {.name = "h100", HOPPER, .memory = 80e9, .bandwidth = 3.35e12},
    {.name = "h200", HOPPER, .memory = 141e9, .bandwidth = 4.8e12},
    /* NVIDIA A100 80GB SXM data sheet (third-generation NVLink, PCIe 4), 200 Gb/s of InfiniBand */
    {.name = "a100",
     GPU,
     .flops_bf16 = 312e12,
     .flops_fp32 = 19.5e12,
     .memory = 80e9,
     .bandwidth = 2.039e12,
     .host_link = 32e9,
     .node = {8e-6, 300e9},
     .between = {20e-6, 25e9},
     .product_fraction = 0.765},
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

double plan_update_seconds(const struct plan_device *device, double moved, double away) {
    double update = plan_memory_seconds(device, moved);
    if (device->host_link > 0.0)
        return fmax(update, away / (device->host_link * device->link_fraction));
    return update + plan_memory_seconds(device, 4.0 * away); /* copied there, and back */
}

struct cost_network plan_network(const struct plan_device *device, int per_node) {
    struct cost_network network = {device->node, device->between, per_node};
    network.node.bandwidth *= device->link_fraction;
    network.between.bandwidth *= device->link_fraction;
    return network;
}
