/* Kernels of asynchronous copies, barriers and wgmma, right and with one bug each, for the emulator
 * to catch. */
#ifndef STRATA_TESTS_GPU_PLANTED_ASYNC_H
#define STRATA_TESTS_GPU_PLANTED_ASYNC_H

#include "tests/gpu_planted.h"

enum planted {
    /* a ring of stages: TMA, wgmma, a store by TMA */
    PIPELINE_RIGHT,
    PIPELINE_EXPECTS_TOO_FEW,       /* bytes */
    PIPELINE_EXPECTS_TOO_MANY,      /* bytes */
    PIPELINE_FIRST_PARITY,          /* the producer's first wait on "empty" asks for 0 */
    PIPELINE_NO_FULL_WAIT,          /* the consumer doesn't wait for the loads */
    PIPELINE_EARLY_RELEASE,         /* of a stage that a wgmma still reads */
    PIPELINE_ARRIVALS,              /* "empty" counts one arrival too many */
    PIPELINE_NO_INIT_FENCE,         /* after mbarrier.init */
    PIPELINE_NO_INIT_BARRIER,       /* no __syncthreads after mbarrier.init */
    PIPELINE_NO_WGMMA_FENCE,        /* before the first wgmma */
    PIPELINE_SUMS_TOO_EARLY,        /* accumulators are read before the wait */
    PIPELINE_SUMS_WRITTEN,          /* and written */
    PIPELINE_TILE_MISALIGNED,       /* by 512 bytes */
    PIPELINE_DESCRIPTOR_MISALIGNED, /* a row into the tile */
    PIPELINE_BARRIER_IN_TILE,       /* a load writes over a barrier */
    PIPELINE_NO_STORE_FENCE,        /* generic writes, then the TMA store */
    PIPELINE_ONE_STORE_FENCE,       /* by the storing thread alone, for all writers */
    PIPELINE_STORE_OVERWRITTEN,     /* before it was read */
    PIPELINE_STORE_NOT_WAITED,      /* the thread ends */
    PIPELINE_LOAD_NOT_WAITED,       /* one stage more than is consumed */
    PIPELINE_REGISTERS,             /* more are taken than were given back */
    PIPELINE_LAST,
    /* cp.async, a warp reads what another copied */
    COPY_RIGHT,
    COPY_NO_WAIT,
    COPY_NO_BARRIER,
    COPY_MISALIGNED,
    COPY_LAST,
    /* wgmma of what threads wrote */
    PRODUCT_RIGHT,
    PRODUCT_NO_ASYNC_FENCE,
    PRODUCT_FENCE_BEFORE_WRITES,
    PRODUCT_LAST,
    /* a cluster of two that read each other's shared memory, and one another's barrier */
    CLUSTER_RIGHT,
    CLUSTER_EARLY_END,
    CLUSTER_NO_BARRIER,
    CLUSTER_LOCAL_WAIT,
    CLUSTER_LAST
};

planted_fn planted_run;

#endif
