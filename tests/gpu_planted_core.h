/* Small kernels of barriers, collectives, memory, streams and graphs, right and with one bug each,
 * for the emulator to catch. */
#ifndef STRATA_TESTS_GPU_PLANTED_CORE_H
#define STRATA_TESTS_GPU_PLANTED_CORE_H

#include "tests/gpu_planted.h"

enum planted_core {
    /* a block reverses numbers through shared memory */
    REVERSE_RIGHT,
    REVERSE_NO_BARRIER,       /* between writes and reads */
    REVERSE_UNWRITTEN,        /* one thread writes nothing */
    REVERSE_SHARED_BOUNDS,    /* writes one number too far */
    REVERSE_STATIC_BOUNDS,    /* the same, of a static object */
    REVERSE_DEVICE_BOUNDS,    /* reads one number too far */
    REVERSE_STRAY,            /* reads where nothing is */
    REVERSE_FREED,            /* memory that was given back */
    REVERSE_DEVICE_UNWRITTEN, /* in device memory: what was never sent */
    REVERSE_HOST_ARGUMENT,    /* a pointer to the host's memory */
    REVERSE_HOST_IN_STRUCT,   /* the same, within a struct */
    REVERSE_GRID,             /* one block too few */
    REVERSE_BARRIER_DIVIDED,  /* half a warp at one __syncthreads, half at another */
    REVERSE_STACK,            /* more locals than a stack holds */
    REVERSE_THREADS,          /* 2048 in a block: an error of the launch */
    REVERSE_TOO_MUCH_SHARED,  /* 228 KiB and more: the same */
    /* a warp hands numbers round through shared memory, then by shuffles */
    WARP_RIGHT,
    WARP_NO_SYNC,    /* no __syncwarp */
    WARP_DIVIDED,    /* half the lanes vote, half shuffle */
    WARP_MASKS,      /* lanes with different masks */
    WARP_LANE_ENDED, /* one that the mask names has returned */
    /* named barriers between two halves of a block */
    HALVES_RIGHT,
    HALVES_COUNT,         /* they count differently */
    HALVES_TOO_MANY,      /* more than the block has */
    HALVES_OTHER_BARRIER, /* one half waits at another */
    /* the last block to come adds what all left */
    LAST_RIGHT,
    LAST_NO_FENCE,
    LAST_NO_BARRIER,       /* between a block's writes and its arrival */
    LAST_NO_RESET,         /* of the count: the second launch is wrong */
    LAST_NO_ATOMIC,        /* all blocks add to one number */
    LAST_WAITS_FOR_NOBODY, /* a flag that no block raises */
    /* the host, streams, graphs */
    HOST_RIGHT,
    HOST_READS_DEVICE,
    HOST_NO_CHECK, /* reads pinned memory before stream_check */
    HOST_NO_EVENT, /* two streams, one needs the other's result */
    HOST_CAPTURE_ALLOCATES,
    HOST_CAPTURE_WAITS,
    HOST_CAPTURE_UNJOINED, /* the second stream isn't waited for */
};

planted_fn planted_core_run;

#endif
