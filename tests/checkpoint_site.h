/* What tests of checkpoints share: a little run whose every value says where it belongs, and a
 * folder of its own for each test. */
#ifndef STRATA_TESTS_CHECKPOINT_SITE_H
#define STRATA_TESTS_CHECKPOINT_SITE_H

#include "tests/check.h"

#include "parallel/checkpoint_saving.h"
#include "parallel/parallel.h"

/* Of the process. */
struct checkpoint_site {
    struct parallel job;
    struct stream stream;
    char folder[256];              /* of the checkpoints; a fresh one for each test */
    struct checkpoint_claim claim; /* on it, from the first save on */
};
extern struct checkpoint_site site;

/* --- a little run ---------------------------------------------------------------------------- */

enum { SITE_TENSORS = 5 };

struct site_tensor {
    const char *name;
    int64_t rows, cols;
    enum layout layout;
};
extern const struct site_tensor site_tensors[SITE_TENSORS];

/* Of an element at a step. */
float site_value(int64_t step, int tensor, int64_t row, int64_t col);

/* The slab of a tensor that part `part` of a rows x cols grid of parts owns; its values are the
 * caller's to free. */
struct checkpoint_slab site_slab(int tensor, int part, int grid_rows, int grid_cols);

/* All of a part's that are not empty; returns how many. */
int site_slabs(struct checkpoint_slab slabs[SITE_TENSORS], int part, int grid_rows, int grid_cols);
void site_free_slabs(struct checkpoint_slab *slabs, int count);

/* Gives slabs the values of a step, or says whether they have them. */
void site_fill(struct checkpoint_slab *slabs, int count, int64_t step);
bool site_holds(const struct checkpoint_slab *slabs, int count, int64_t step);

/* The scalars of a step. */
struct checkpoint_state site_state(int64_t step);

/* The claim, taken by the first that asks. */
const struct checkpoint_claim *site_claimed(void);

/* Saves a step of which rank 0 owns everything. */
enum status site_save(struct comm *comm, int64_t step, int keep);

/* The same of all ranks, of which every one owns a part; keeps two. */
enum status site_save_parts(int64_t step);

/* Loads step (or resumes when step < 0) as rank of comm->size rows of parts; checks the values.
 * Returns the step. */
int64_t site_load(struct comm *comm, int64_t step);

/* Loads everything; where that works, checks the values. */
enum status site_load_status(struct comm *comm, int64_t step);

/* --- the folder ------------------------------------------------------------------------------ */

/* A shell command that must succeed. */
void site_run(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Names in the folder, sorted and joined by spaces, without the claim's folder if that is empty, as
 * it should be between saves. Valid until the next call. */
const char *site_listing(void);

/* What is about one process's files is tested without a launcher. */
void site_only_alone(void);

int site_open_folder(void **state);
int site_close_folder(void **state);
#define site_test(f) cmocka_unit_test_setup_teardown(f, site_open_folder, site_close_folder)

/* The job around run(), which returns the number of failures; main's exit code. */
int site_main(int argc, char **argv, int (*run)(void));

#endif
