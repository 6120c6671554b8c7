#include "tests/covering.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* How many rows have value v of axis a with value w of axis b: [a][v][b][w]. */
typedef int pair_counts[COVERING_AXES][COVERING_VALUES][COVERING_AXES][COVERING_VALUES];

struct maker {
    const struct covering_space *space;
    pair_counts pairs;
    struct covering_row *rows;
    int count, capacity;
};

int covering_values(const struct covering_axis *axis) {
    int count = 0;
    while (count < COVERING_VALUES && axis->values[count]) count++;
    return count;
}

static struct covering_row open_row(void) {
    struct covering_row row;
    for (int a = 0; a < COVERING_AXES; a++) row.choice[a] = COVERING_OPEN;
    return row;
}

/* --- one row --------------------------------------------------------------------------------- */

/* Pairs that no row has yet count most, then those that few have. */
static double gain(const struct maker *maker, const struct covering_row *row, int axis, int value) {
    double sum = 0.0;
    for (int b = 0; b < maker->space->count; b++) {
        if (b == axis || row->choice[b] == COVERING_OPEN) continue;
        int have = maker->pairs[axis][value][b][row->choice[b]];
        sum += have == 0 ? 100.0 : 1.0 / (double)(have * have);
    }
    return sum;
}

/* The value of the open axis that is to be tried after those in `tried`: the one of most gain, the
 * first without a maker. */
static int next_value(const struct maker *maker, const struct covering_row *row, int axis,
                      int values, unsigned tried) {
    int best = COVERING_OPEN;
    double most = -1.0;
    for (int v = 0; v < values; v++) {
        double worth = tried >> v & 1 ? -1.0 : maker ? gain(maker, row, axis, v) : 0.0;
        if (worth > most) best = v, most = worth;
    }
    return best;
}

/* Closes the open axes from `axis` on; false where nothing fits, *why then says what did not. */
static bool complete(const struct covering_space *space, const struct maker *maker,
                     struct covering_row *row, int axis, const char **why) {
    while (axis < space->count && row->choice[axis] != COVERING_OPEN) axis++;
    if (axis == space->count) return true;
    int values = covering_values(&space->axes[axis]);
    unsigned tried = 0;
    for (int i = 0; i < values; i++) {
        int value = next_value(maker, row, axis, values, tried);
        tried |= 1u << value;
        row->choice[axis] = value;
        const char *reason = space->excluded(row);
        if (!reason && complete(space, maker, row, axis + 1, why)) return true;
        if (reason) *why = reason;
        row->choice[axis] = COVERING_OPEN;
    }
    return false;
}

const char *covering_impossible(const struct covering_space *space,
                                const struct covering_row *part) {
    struct covering_row row = *part;
    const char *why = space->excluded(part);
    return !why && complete(space, NULL, &row, 0, &why) ? NULL : why;
}

/* --- all of them ----------------------------------------------------------------------------- */

static void take(struct maker *maker, const struct covering_row *part) {
    const struct covering_space *space = maker->space;
    struct covering_row row = *part;
    const char *why;
    if (!complete(space, maker, &row, 0, &why)) return;
    if (maker->count == maker->capacity) {
        maker->capacity = maker->capacity * 2 + 64;
        maker->rows = realloc(maker->rows, (size_t)maker->capacity * sizeof *maker->rows);
        assert(maker->rows);
    }
    maker->rows[maker->count++] = row;
    for (int a = 0; a < space->count; a++)
        for (int b = 0; b < space->count; b++) maker->pairs[a][row.choice[a]][b][row.choice[b]]++;
}

static void take_leading(struct maker *maker, struct covering_row *part, int axis) {
    const struct covering_space *space = maker->space;
    if (space->excluded(part)) return;
    if (axis == space->leading) {
        if (axis > 0) take(maker, part);
        return;
    }
    int values = covering_values(&space->axes[axis]);
    for (part->choice[axis] = 0; part->choice[axis] < values; part->choice[axis]++)
        take_leading(maker, part, axis + 1);
    part->choice[axis] = COVERING_OPEN;
}

static void take_missing(struct maker *maker, int a, int b) {
    const struct covering_axis *axes = maker->space->axes;
    for (int v = 0; v < covering_values(&axes[a]); v++)
        for (int w = 0; w < covering_values(&axes[b]); w++) {
            struct covering_row part = open_row();
            part.choice[a] = v;
            part.choice[b] = w;
            if (maker->pairs[a][v][b][w] == 0 && !maker->space->excluded(&part)) take(maker, &part);
        }
}

struct covering_row *covering_make(const struct covering_space *space, int *count) {
    struct maker *maker = calloc(1, sizeof *maker);
    struct covering_row part = open_row();
    assert(maker && space->count <= COVERING_AXES);
    maker->space = space;
    take_leading(maker, &part, 0);
    for (int a = 0; a < space->count; a++)
        for (int b = a + 1; b < space->count; b++) take_missing(maker, a, b);
    struct covering_row *rows = maker->rows;
    *count = maker->count;
    free(maker);
    return rows;
}
