/* Runs of the same training under different layouts, compared tensor by tensor.
 *
 * What a run came to is read from its checkpoints, as logical tensors: the first moments after one
 * step are the first gradients but for a factor, the weights after the last are the result. So
 * nothing here knows how a layout cuts the tensors. */
#ifndef STRATA_TESTS_LAYOUTS_H
#define STRATA_TESTS_LAYOUTS_H

#include "tests/check.h"

#include "train/trainer.h"

enum { LAYOUT_STEPS = 10, LAYOUT_ARGUMENTS = 8, LAYOUT_VOCABULARY = 96 };

/* Largest relative differences: of any step's loss, and the validation loss; gradient norm; of any
 * tensor's first gradient and final values (by the tensor's norm). */
struct layout_limits {
    double losses, norms, gradients, weights;
};

/* Layouts that add in another order only where gradients and losses are summed over tokens. */
#define LIMITS_FP32                                                                                \
    { 1e-6, 1e-6, 1e-6, 1e-6 }
/* And those that cut a layer's own sums: what one rank differs by with other instructions. */
#define LIMITS_FP32_CUT                                                                            \
    { 1e-6, 1e-6, 2e-6, 2e-6 }
#define LIMITS_BF16                                                                                \
    { 1e-3, 1e-2, 4e-2, 1e-3 }

/* A row of a table: what is trained, and how the ranks share it. */
struct layout_case {
    const char *name;
    int ranks;         /* of the job */
    const char *model; /* a folder of tests/fixtures, a path from /, or a config.json's text: random
                          weights, also to train adapters on (training[0] is train.mode=lora) */
    struct layout_limits limits;
    const char *training[LAYOUT_ARGUMENTS];
    const char *layout[LAYOUT_ARGUMENTS];
};

/* A folder with token files that all ranks see. */
struct layout_site {
    struct parallel *job;
    char folder[256];
};
void layout_site_open(struct layout_site *site, struct parallel *job);
void layout_site_close(struct layout_site *site);

/* A run in FOLDER/`name`, going on where it is; `layout` NULL is one rank. Collective over
 * parallel. Large: not for the stack. */
struct layout_run {
    struct run_options options;
    struct config_table tables[RUN_TABLES];
    struct trainer trainer;
};
void layout_open(struct layout_run *run, const struct layout_site *site, const char *name,
                 const struct layout_case *row, const char *const *layout,
                 struct parallel *parallel);
void layout_close(struct layout_run *run);

/* What a run came to; rank 0 alone has the tensors. */
struct layout_result {
    double losses[LAYOUT_STEPS], norms[LAYOUT_STEPS], validation;
    int count;
    struct layout_tensor {
        char name[256];
        int64_t elements;
        float *gradient, *weights; /* of the first step, unclipped; after the last */
    } * tensors;
};
void layout_result_free(struct layout_result *result);

/* Steps [first, end) of a run. A checkpoint is written behind step 1 and the last, and the
 * run's last validates and exports too. What several ranks hold must be the same on all of them,
 * and the memory what was planned. Collective over parallel. */
void layout_train(const struct layout_site *site, const char *run, const struct layout_case *row,
                  const char *const *layout, struct parallel *parallel, int first, int end,
                  struct layout_result *result);

/* Reads the tensors of a finished run; one rank calls it. */
void layout_read(const struct layout_site *site, const char *run, const struct layout_case *row,
                 struct layout_result *result);

/* Removes a run's directory; one rank calls it. */
void layout_remove(const struct layout_site *site, const char *run);

/* Trains under row->layout and on one rank and compares; prints a line. */
void layout_compare(const struct layout_site *site, const struct layout_case *row);

/* Fails unless losses and norms of steps [first, LAYOUT_STEPS) are near; then, where both have
 * them, unless the tensors are. Prints the largest differences. */
void layout_check(const struct layout_case *row, const struct layout_result *want,
                  const struct layout_result *got, int first);

#endif
