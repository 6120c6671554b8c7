/* A folder of a test's own, removed with all in it. */
#ifndef STRATA_TESTS_TEMPORARY_H
#define STRATA_TESTS_TEMPORARY_H

#include "tests/check.h"

#include <dirent.h>
#include <unistd.h>

struct temporary {
    char path[256];
    char file[512]; /* what temporary_file made last */
};

static inline void temporary_open(struct temporary *folder) {
    const char *base = getenv("TMPDIR");
    snprintf(folder->path, sizeof folder->path, "%s/strata-test-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(folder->path));
}

/* The path of a name in the folder; valid until the next call. */
static inline const char *temporary_file(struct temporary *folder, const char *name) {
    snprintf(folder->file, sizeof folder->file, "%s/%s", folder->path, name);
    return folder->file;
}

static inline void temporary_write(struct temporary *folder, const char *name, const void *data,
                                   size_t bytes) {
    FILE *out = fopen(temporary_file(folder, name), "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(data, 1, bytes, out), bytes);
    assert_int_equal(fclose(out), 0);
}

/* How many files are in it; with `remove_them` they are no longer. */
static inline int temporary_count(struct temporary *folder, int remove_them) {
    DIR *directory = opendir(folder->path);
    assert_non_null(directory);
    int count = 0;
    for (const struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        if (entry->d_name[0] == '.' && strlen(entry->d_name) <= 2) continue;
        count++;
        if (remove_them) unlink(temporary_file(folder, entry->d_name));
    }
    closedir(directory);
    return count;
}

static inline void temporary_close(struct temporary *folder) {
    temporary_count(folder, 1);
    assert_int_equal(rmdir(folder->path), 0);
}

#endif
