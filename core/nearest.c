#include "core/nearest.h"

#include <assert.h>
#include <limits.h>
#include <string.h>

/* One row of the matrix is kept. */
int edit_distance(const char *a, const char *b) {
    int row[NEAREST_MAX_BYTES + 1];
    size_t columns = strlen(b);
    assert(columns <= NEAREST_MAX_BYTES);
    for (size_t j = 0; j <= columns; j++) row[j] = (int)j;
    for (size_t i = 0; a[i]; i++) {
        int corner = row[0];
        row[0] = (int)i + 1;
        for (size_t j = 0; j < columns; j++) {
            int change = corner + (a[i] != b[j]);
            corner = row[j + 1];
            int step = (row[j] < corner ? row[j] : corner) + 1;
            row[j + 1] = change < step ? change : step;
        }
    }
    return row[columns];
}

bool nearest_is_near(const char *a, const char *b, int distance) {
    size_t longer = strlen(a) > strlen(b) ? strlen(a) : strlen(b);
    return 2 * (size_t)distance <= longer;
}

const char *nearest_word(const char *word, const char *const *words, int count) {
    const char *best = NULL;
    int least = INT_MAX;
    for (int i = 0; i < count; i++) {
        int distance = words[i] ? edit_distance(word, words[i]) : INT_MAX;
        if (distance >= least) continue;
        least = distance;
        best = words[i];
    }
    return best && nearest_is_near(word, best, least) ? best : NULL;
}
