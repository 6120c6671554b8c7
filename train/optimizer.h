/* AdamW over a list of parameters, with fp32 master weights where the layers compute in bf16. Under
 * ZeRO a rank keeps state for, and updates, its shares alone (parallel/data_parallel.h).
 *
 * Moments may be in 8 bits (kernels/moment8.h), of matrices of at least OPTIMIZER_LEAST_8 elements
 * and columns that are a multiple of 16; as in the paper small tensors, norms, biases and the token
 * embedding, whose gradients are of few rows, keep fp32 ones. Blocks are tiles of 16 x 16 of the
 * whole matrix, which neither shares nor slices cut, so what they come to depends on no layout.
 *
 * State may lie on the host. Then an update takes it through two buffers on the device by turns:
 *
 *     host      m, v, master of everything
 *                 | run i + 1 comes      ^ run i goes
 *     device    buffer 1              buffer 0: updated              of OPTIMIZER_STAGED elements
 */
#ifndef STRATA_TRAIN_OPTIMIZER_H
#define STRATA_TRAIN_OPTIMIZER_H

#include "core/exec.h"
#include "parallel/data_parallel.h"
#include "parallel/sharded_weights.h"

enum { OPTIMIZER_LEAST_8 = 4096, OPTIMIZER_STAGED = 1 << 20 };

/* State of my piece of one parameter: a run of elements in the order of its gradient. */
struct optimizer_slot {
    struct param *param;
    struct dp_piece piece; /* not empty */
    void *home;            /* the piece of a sharded weight; NULL: the weight is whole */
    float *m, *v;          /* NULL where they are in 8 bits */
    struct moment8 *m8, *v8;
    float *master; /* fp32; the weights themselves where those are */
};

struct optimizer {
    struct dp *dp;
    struct sharded_weights *sharded;
    int count;
    struct optimizer_slot *slots; /* in the order of the parameters */
    struct arena *host;           /* where the state lies; NULL: where all else does */
    int64_t staged;               /* elements of a buffer */
    size_t spared;                /* bytes that 8-bit moments take less than fp32 ones, at least */
    struct optimizer_buffer {
        void *m, *v;
        float *master;
    } buffers[2];
};

struct optimizer_options {
    struct dp *dp; /* planned for the parameters; borrowed, as sharded and host */
    struct sharded_weights *sharded;
    struct param *const *params;
    int count;
    bool moments8;
    struct arena *host; /* takes the state, and may be counting; NULL: `arena` does */
};

/* Lays out state for my pieces of the parameters, or buffers for it, in `arena`, which may be
 * counting; zero at first, masters are copied by optimizer_start. All ranks that share take the
 * same bytes. STATUS_CONFIG when tensor parallelism cuts a block of 8-bit moments. */
enum status optimizer_plan(struct optimizer *optimizer, const struct optimizer_options *options,
                           struct arena *arena);
void optimizer_free(struct optimizer *optimizer); /* may be called twice, and on zeroes */

/* Takes the masters from the weights as they are now. Uses the gradients' memory. */
void optimizer_start(const struct optimizer *optimizer, struct stream *stream);

/* Rounds the masters into the weights of every rank: after a checkpoint was read into them, or an
 * update. Under ZeRO, and with state on the host, uses the gradients' memory; under ZeRO it is
 * collective over dp->comm. */
void optimizer_refresh(const struct optimizer *optimizer, struct stream *stream);

/* Sum of squares over all gradients of this stage, each element of a tensor once, whichever of the
 * ranks of exec->tp, and under ZeRO of dp->comm, hold it. Not finite where any gradient isn't.
 * Collective over both. */
double optimizer_square_sum(const struct optimizer *optimizer, const struct exec *exec);

struct optimizer_step {
    double lr, beta1, beta2, eps, weight_decay;
    int64_t step;     /* from 1 */
    float grad_scale; /* of clipping */
};
/* Updates my pieces, then optimizer_refresh. */
void optimizer_update(const struct optimizer *optimizer, const struct exec *exec,
                      const struct optimizer_step *step);

/* Values of a slot, a run in the order of the gradient: fp32, or moments in 8 bits. */
struct optimizer_values {
    enum layout layout;
    void *data;
};
enum { OPTIMIZER_MASTER, OPTIMIZER_M, OPTIMIZER_V, OPTIMIZER_KINDS };
struct optimizer_values optimizer_values(const struct optimizer_slot *slot, int kind);

/* The rectangles of the parameter that a slot is, as views of its values; returns how many.
 * parts[i] says where in the parameter views[i] lies. */
int optimizer_views(const struct optimizer_slot *slot, const struct optimizer_values *values,
                    struct weight_part parts[WEIGHT_PARTS], struct weight views[WEIGHT_PARTS]);

#endif
