/* Where in a step the program is: what a record of its collectives says beside each
 * (parallel/ring.h). Set by the loops over microbatches and layers, read by communicators; nothing
 * is computed from it. */
#ifndef STRATA_KERNELS_BASE_WHERE_H
#define STRATA_KERNELS_BASE_WHERE_H

#include <stdint.h>

enum where_phase { WHERE_OTHER, WHERE_FORWARD, WHERE_BACKWARD };

enum { WHERE_EMBEDDING = -1, WHERE_HEAD = -2 }; /* beside the layers */
enum { WHERE_NO_MICROBATCH = -1 };

struct where {
    enum where_phase phase; /* WHERE_OTHER: the rest means nothing */
    int32_t layer;          /* of the model, or one of those above */
    int32_t microbatch;     /* of the step */
};

#endif
