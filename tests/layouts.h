/* Runs of the same training under different layouts, compared tensor by tensor.
 *
 * What a run came to is written by its ranks as rectangles of logical tensors: the first moments
 * after one step are the first gradients but for a factor, the weights after the last are the
 * result. So nothing here knows how a layout cuts the tensors. */
#ifndef STRATA_TESTS_LAYOUTS_H
#define STRATA_TESTS_LAYOUTS_H

#include "tests/check.h"

#include "train/trainer.h"

enum {
    LAYOUT_STEPS = 10, /* of a run whose words name no steps */
    LAYOUT_MOST_STEPS = 20,
    LAYOUT_VOCABULARY = 96,
    LAYOUT_LEGS = 4,
    LAYOUT_NAME_BYTES = 200
};

/* Starts and ends the job of a test's main; what layout_finish returns is main's. */
void layout_start(struct parallel *job, int *argc, char ***argv);
int layout_finish(struct parallel *job, int failed);

/* A row of a table: what is trained, and how the ranks share it.
 *
 *     {4, "deep_tied", "global_batch=5 micro_batch=1 data.packing=whole", "pp=2 tp=2"}
 *
 * Words are what a command line says, without "train." in `training` and "parallel." in `layout`.
 */
struct layout_case {
    int ranks;         /* of the job; 0: any */
    const char *model; /* a folder of tests/fixtures, or random weights: a name of layout_models,
                          with ".gguf" in Q8_0 blocks */
    const char *training;
    const char *layout;
};
#define LORA "mode=lora lora.rank=4"

/* Models of random weights, as config.json says them; ends with a NULL name. */
struct layout_model {
    const char *name, *json;
    float init_std;
};
extern const struct layout_model layout_models[];

/* The steps of its run. */
int layout_steps(const struct layout_case *row);

/* A folder with token files and the models that all ranks of a job see. */
struct layout_site {
    struct parallel *job;
    char folder[256];
};
void layout_site_open(struct layout_site *site, struct parallel *job);
void layout_site_close(struct layout_site *site);

/* A run in FOLDER/`name`. Large: not for the stack. */
struct layout_run {
    struct run_options options;
    struct config_table tables[RUN_TABLES];
    struct trainer trainer;
};

/* A run's options alone, under `layout`. */
void layout_parse(struct layout_run *run, const struct layout_site *site, const char *name,
                  const struct layout_case *row, const char *layout);
/* And its trainer, going on where the run is. Collective over parallel. */
void layout_open(struct layout_run *run, const struct layout_site *site, const char *name,
                 const struct layout_case *row, const char *layout, struct parallel *parallel);
void layout_close(struct layout_run *run);

/* What a run came to. */
struct layout_figures {
    double losses[LAYOUT_MOST_STEPS], norms[LAYOUT_MOST_STEPS]; /* 0 beyond the last */
    double validation;
};
struct layout_result {
    struct layout_figures figures;
    int count;
    struct layout_tensor {
        char name[LAYOUT_NAME_BYTES];
        int64_t rows, cols;
        float *gradient,
            *weights; /* of the first step, unclipped; after the last. NaN: of no rank */
    } * tensors;
};
/* Of a finished run; one rank calls it. */
void layout_read(const struct layout_site *site, const char *name, struct layout_result *result);
void layout_result_free(struct layout_result *result);

/* For layout_read: this rank's part of gradients or weights, after the step whose gradient norm was
 * `norm`; and what all ranks agree on, by one of them. */
void layout_write_state(const struct layout_run *run, bool gradients, double norm);
void layout_write_figures(const char *folder, const struct layout_figures *figures);

/* The steps of a run up to `end`, taken by the first ranks of the job. */
struct layout_leg {
    int ranks, end;
    const char *layout;
};

/* Trains a run by legs up to the one that ends at layout_steps, for layout_read. A leg's last step
 * leaves a checkpoint, unless it is the run's and nothing is exported. What several ranks hold must
 * be the same on all of them, and the memory what was planned. Collective over the site's job. */
void layout_train(const struct layout_site *site, const char *name, const struct layout_case *row,
                  const struct layout_leg *legs);

/* Removes a run's directory when all ranks are done with it. Collective. */
void layout_remove(const struct layout_site *site, const char *name);

/* Largest relative differences: of any step's loss, and the validation loss; gradient norm; of any
 * tensor's first gradient and final values (by the tensor's norm). */
struct layout_limits {
    double losses, norms, gradients, weights;
};
struct layout_differences {
    struct layout_limits worst;
    const char *gradient, *weight; /* names of those tensors; borrowed from `want` */
};
struct layout_differences layout_differences(const struct layout_result *want,
                                             const struct layout_result *got);
bool layout_within(const struct layout_limits *worst, const struct layout_limits *limits);

/* Trains by legs and on one rank; fails unless losses, norms, first gradients and final weights are
 * near, and prints the largest differences. Collective. */
void layout_compare_legs(const struct layout_site *site, const struct layout_case *row,
                         const struct layout_leg *legs);

/* The same of every row for so many ranks as the job has, each under its layout. */
void layout_compare_all(struct parallel *job, const struct layout_case *rows, size_t count);

/* A layout that is refused before anything is allocated, and a part of what is said then. */
struct layout_refusal {
    struct layout_case row;
    const char *text;
};
void layout_check_refused(struct parallel *job, const struct layout_refusal *rows, size_t count);

/* The largest rank's bytes. */
struct trainer_memory layout_plan(const struct layout_site *site, const struct layout_case *row);

/* The last rank has a weight of `layer` broken: every rank names it, and nobody waits. */
void layout_check_broken_weight(struct parallel *job, const struct layout_case *row, int layer);

#endif
