/* Every layout of a job that fits its devices, with bytes and predicted time. Bytes are those that
 * the program's own layout functions count (trainer_plan_rank). */
#ifndef STRATA_TRAIN_PLAN_SEARCH_H
#define STRATA_TRAIN_PLAN_SEARCH_H

#include "train/plan_time.h"
#include "train/trainer.h"

/* What a search may choose; bits of plan_request.fixed keep a key as the options have it. */
enum plan_key {
    PLAN_TP,
    PLAN_CP,
    PLAN_DP,
    PLAN_PP,
    PLAN_SCHEDULE,
    PLAN_CHUNKS,
    PLAN_ZERO,
    PLAN_MICRO_BATCH,
    PLAN_RECOMPUTE,
    PLAN_OPTIMIZER, /* this and the next as the options have them, where any layout fits so */
    PLAN_OFFLOAD,
    PLAN_KEYS
};

/* "parallel.tp" */
extern const char *const plan_key_names[PLAN_KEYS];

struct plan_request {
    const struct run_options *options; /* whose model, data and batch are planned for */
    struct plan_device device;         /* of a rank, memory included; shared_memory: of a node */
    int nodes, per_node;
    unsigned fixed; /* 1 << enum plan_key */
};

/* The choices, in the options' own terms. */
struct plan_choice {
    int64_t at[PLAN_KEYS];
};

struct plan_candidate {
    struct plan_choice choice;
    struct trainer_memory memory; /* of the rank that takes most, on its device */
    double host_bytes;            /* of that rank in the host's memory, where that is another */
    bool waits;          /* a copy of what is saved does not fit: steps wait for checkpoints */
    double device_bytes; /* reserve included, of the device that takes most; a node's where
                            its ranks share memory */
    struct plan_time time;
};

struct plan_result {
    struct plan_model model;
    int count, capacity;
    struct plan_candidate *candidates; /* fastest first */
    bool
        less_state; /* nothing fits as the options have it: all have another optimizer or offload */
    int64_t tried;  /* layouts whose bytes were counted */
    struct plan_candidate smallest; /* of those that don't fit, where count is 0 */
};

/* Options as they are but for a choice's keys; strings are borrowed. */
struct run_options plan_options(const struct run_options *options,
                                const struct plan_choice *choice);

/* The layout that options describe. */
enum status plan_layout_of(struct plan_layout *layout, const struct run_options *options, int ranks,
                           int per_node);

/* How the program goes about what the options say. */
struct plan_habits plan_habits_of(const struct run_options *options);

/* What the options train. Reads the model's and the adapter's configurations alone. */
enum status plan_read_model(struct plan_model *model, const struct run_options *options);

/* Where nothing fits, again with the optimizer's moments in 8 bits and, on a device with memory of
 * its own, with its state on the host. STATUS_MEMORY: nothing fits even so; the sentence
 * says how much the smallest layout takes, of what, what there is and what lacks. STATUS_CONFIG: no
 * layout suits the model and the number of ranks at all. The caller calls plan_result_free, also
 * after a failure. */
enum status plan_search(struct plan_result *result, const struct plan_request *request);
void plan_result_free(struct plan_result *result); /* may be called twice, and on a zeroed struct */

#endif
