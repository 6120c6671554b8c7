/* Everything that a layout may be combined with, as axes of a covering: which combinations there
 * are, which there are not and why, and what each is on a command line. */
#ifndef STRATA_TESTS_LAYOUT_SETTINGS_H
#define STRATA_TESTS_LAYOUT_SETTINGS_H

#include "tests/covering.h"
#include "tests/layouts.h"

enum layout_axis {
    AXIS_PP,
    AXIS_TP,
    AXIS_CP,
    AXIS_DP,
    AXIS_ZERO,
    AXIS_SCHEDULE,
    AXIS_SEQUENCE,
    LAYOUT_LEADING, /* those above make a layout, and every layout is tried */
    AXIS_MODE = LAYOUT_LEADING,
    AXIS_MICRO,
    AXIS_PACKING,
    AXIS_TIED,
    AXIS_RECOMPUTE,
    AXIS_ORDER,
    LAYOUT_AXES
};

enum { LAYOUT_MOST_RANKS = 8, LAYOUT_WORDS = 256 };

extern const struct covering_space layout_space;

/* The number that a value of a mesh axis says. */
int layout_degree(const struct covering_row *row, enum layout_axis axis);
int layout_ranks(const struct covering_row *row);

/* A row as layouts.h has it; `row` points into it. `alone` is the run on one rank that it must
 * equal: rows that train the same share it. */
struct layout_words {
    struct layout_case row, alone;
    char model[LAYOUT_WORDS], training[LAYOUT_WORDS], same[LAYOUT_WORDS], layout[LAYOUT_WORDS];
};
void layout_say(struct layout_words *words, const struct covering_row *row);

#endif
