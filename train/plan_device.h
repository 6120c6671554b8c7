/* What a planner knows of a device: data sheets, what programs reach of them, and links.
 * docs/plan.md names the sources. A rank has one device; on the CPU that is its threads. */
#ifndef STRATA_TRAIN_PLAN_DEVICE_H
#define STRATA_TRAIN_PLAN_DEVICE_H

#include "parallel/cost.h"

struct plan_device {
    const char *name;               /* as --gpu says it */
    double flops_bf16, flops_fp32;  /* FLOP/s at most, without sparsity; of the CPU a thread's */
    double memory, reserve;         /* bytes; reserve: of a rank, besides the arenas */
    double bandwidth;               /* bytes/s of memory; of the CPU a thread's */
    double host_link;               /* bytes/s from the host's memory to the device's, and as many
                                       back meanwhile; 0: they are one */
    struct cost_link node, between; /* per_node comes with the job */
    double product_fraction;        /* of the FLOP/s: a large product of matrices */
    double product_half;            /* m, n or k at which one reaches half of that */
    double attention_fraction;      /* of the FLOP/s: attention by blocks */
    double bandwidth_fraction;      /* of the memory's bandwidth: sums, norms, optimizer */
    double link_fraction;           /* of the links' bandwidth */
    double tensor_overlap;          /* part of a layer's collectives that hides behind products */
    double replica_overlap;         /* part of a backward that gradients' sums can hide behind */
    double crowding;    /* r ranks of a node have r^-crowding of the memory's bandwidth each */
    bool shared_memory; /* ranks of a node share `memory` */
};

/* NULL unless name is h100, h200, a100 or cpu. The CPU's memory is 0: that of a node must be said.
 */
const struct plan_device *plan_device_find(const char *name);

/* "h100, h200, a100 or cpu" */
extern const char plan_device_names[];

/* Of a rank's device. */
double plan_device_flops(const struct plan_device *device, bool bf16);

/* Seconds of a product (m, k) x (k, n): 2 m n k operations at the fraction that the least of the
 * three allows, least / (least + product_half). */
double plan_product_seconds(const struct plan_device *device, bool bf16, double m, double n,
                            double k);

/* Seconds of attention of `flops` operations. */
double plan_attention_seconds(const struct plan_device *device, bool bf16, double flops);

/* Seconds to read and write bytes. */
double plan_memory_seconds(const struct plan_device *device, double bytes);

/* Seconds of an optimizer's update that reads and writes `moved` bytes, of state of which `away`
 * bytes lie in the host's memory: they come and go while it goes on, or are copied twice. */
double plan_update_seconds(const struct plan_device *device, double moved, double away);

/* The network of a job with so many ranks a node, at the speeds that are reached. */
struct cost_network plan_network(const struct plan_device *device, int per_node);

#endif
