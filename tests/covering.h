/* Rows of settings in which every pair of values of two axes occurs that can occur at all. */
#ifndef STRATA_TESTS_COVERING_H
#define STRATA_TESTS_COVERING_H

#include <stdbool.h>

enum { COVERING_AXES = 16, COVERING_VALUES = 6, COVERING_OPEN = -1 };

struct covering_axis {
    const char *name, *values[COVERING_VALUES]; /* up to the first NULL */
};

/* A value of each axis, or COVERING_OPEN. */
struct covering_row {
    int choice[COVERING_AXES];
};

struct covering_space {
    const struct covering_axis *axes;
    int count;
    int leading; /* every possible combination of so many first axes is a row */
    /* Why a row can't be, in a few words; NULL where it can. What is open excludes nothing. */
    const char *(*excluded)(const struct covering_row *row);
};

int covering_values(const struct covering_axis *axis);

/* What excludes all rows that agree with `part`; NULL where there is one. */
const char *covering_impossible(const struct covering_space *space,
                                const struct covering_row *part);

/* Rows with each leading combination once, others chosen so that they cover pairs that few rows
 * have; then a row for each pair that is still missing. The same rows every time. The caller frees
 * them. */
struct covering_row *covering_make(const struct covering_space *space, int *count);

#endif
