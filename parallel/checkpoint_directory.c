#define _GNU_SOURCE
#include "parallel/checkpoint_directory.h"
#include "core/atomic_file.h"
#include "core/directory.h"
#include "parallel/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Everything that begins so is unfinished or on its way out. */
#define UNFINISHED ".tmp-"
#define BEST_FILE "best.txt"

static struct checkpoint_path join(const char *folder, const char *name) {
    struct checkpoint_path path;
    snprintf(path.text, sizeof path.text, "%s/%s", folder, name);
    return path;
}

static struct checkpoint_path numbered(const char *directory, const char *prefix, int64_t number) {
    char name[64];
    snprintf(name, sizeof name, "%s%08" PRId64, prefix, number);
    return join(directory, name);
}

enum status checkpoint_directory_check(const char *directory) {
    if (*directory && strlen(directory) + 128 < CHECKPOINT_PATH_BYTES) return STATUS_OK;
    return status_fail(STATUS_CONFIG, "'%.100s' can't be a checkpoint directory: %s", directory,
                       *directory ? "the path is too long" : "the path is empty");
}

struct checkpoint_path checkpoint_step_path(const char *directory, int64_t step) {
    return numbered(directory, "step-", step);
}

struct checkpoint_path checkpoint_temporary_path(const char *directory, int64_t step) {
    return numbered(directory, UNFINISHED "step-", step);
}

struct checkpoint_path checkpoint_rank_path(const struct checkpoint_path *folder, int rank) {
    char name[32];
    snprintf(name, sizeof name, "rank-%04d.h5", rank);
    return join(folder->text, name);
}

struct checkpoint_path checkpoint_index_path(const struct checkpoint_path *folder) {
    return join(folder->text, "index.h5");
}

static enum status failed(const char *verb, const char *path) {
    return status_fail(STATUS_IO, "can't %s '%s': %s", verb, path, strerror(errno));
}

/* The step of a folder's name, -1 for any other name. */
static int64_t step_of(const char *name) {
    if (strncmp(name, "step-", 5) != 0 || strlen(name) < 13 || strlen(name) > 20) return -1;
    int64_t step = 0;
    for (const char *digit = name + 5; *digit; digit++) {
        if (*digit < '0' || *digit > '9') return -1;
        step = step * 10 + (*digit - '0');
    }
    return step;
}

static int newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

enum status checkpoint_directory_list(const char *directory, int64_t **steps, int *count) {
    *steps = NULL;
    *count = 0;
    DIR *stream = opendir(directory);
    if (!stream && errno == ENOENT) return STATUS_OK;
    if (!stream) return failed("list", directory);
    int capacity = 0;
    for (struct dirent *entry; (entry = readdir(stream));) {
        int64_t step = step_of(entry->d_name);
        if (step < 0) continue;
        if (*count == capacity) {
            capacity = capacity * 2 + 16;
            int64_t *grown = realloc(*steps, (size_t)capacity * sizeof *grown);
            if (!grown) {
                closedir(stream);
                free(*steps);
                *steps = NULL;
                return status_fail(STATUS_MEMORY, "no memory to list '%s'", directory);
            }
            *steps = grown;
        }
        (*steps)[(*count)++] = step;
    }
    closedir(stream);
    if (*count) qsort(*steps, (size_t)*count, sizeof **steps, newest_first);
    return STATUS_OK;
}

/* A folder of plain files, as all of ours are. True when it is gone. */
static bool remove_folder(const char *path) {
    DIR *stream = opendir(path);
    if (!stream) return errno == ENOENT;
    for (struct dirent *entry; (entry = readdir(stream));)
        unlinkat(dirfd(stream), entry->d_name, 0);
    closedir(stream);
    return rmdir(path) == 0;
}

void checkpoint_directory_sweep(const char *directory) {
    DIR *stream = opendir(directory);
    if (!stream) return;
    for (struct dirent *entry; (entry = readdir(stream));)
        if (strncmp(entry->d_name, UNFINISHED, strlen(UNFINISHED)) == 0)
            remove_folder(join(directory, entry->d_name).text);
    closedir(stream);
}

enum status checkpoint_directory_begin(const char *directory, int64_t step) {
    bool made = mkdir(directory, 0777) == 0;
    if (!made && errno != EEXIST) return failed("make", directory);
    if (made) TRY(directory_sync_parent(directory));
    checkpoint_directory_sweep(directory);
    struct checkpoint_path temporary = checkpoint_temporary_path(directory, step);
    if (mkdir(temporary.text, 0777) != 0) return failed("make", temporary.text);
    return STATUS_OK;
}

/* Makes `from` appear as `to`; what was at `to` is at `from` or `aside` afterwards. */
static int put_in_place(const char *from, const char *to, const char *aside) {
    if (rename(from, to) == 0) return 0;
    if (errno != EEXIST && errno != ENOTEMPTY) return -1;
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE) == 0) return 0;
    /* A file system that can't swap: for a moment neither has the name. */
    return rename(to, aside) == 0 && rename(from, to) == 0 ? 0 : -1;
}

enum status checkpoint_directory_publish(const char *directory, int64_t step) {
    struct checkpoint_path from = checkpoint_temporary_path(directory, step);
    struct checkpoint_path to = checkpoint_step_path(directory, step);
    struct checkpoint_path aside = numbered(directory, UNFINISHED "old-", step);
    TRY(directory_sync(from.text));
    if (put_in_place(from.text, to.text, aside.text) != 0) return failed("rename", from.text);
    TRY(directory_sync(directory));
    remove_folder(from.text);
    remove_folder(aside.text);
    return STATUS_OK;
}

/* Takes the name away first: half a folder is never seen as a checkpoint. */
static enum status remove_step(const char *directory, int64_t step) {
    struct checkpoint_path from = checkpoint_step_path(directory, step);
    struct checkpoint_path to = numbered(directory, UNFINISHED "old-", step);
    if (rename(from.text, to.text) != 0) return failed("rename", from.text);
    return remove_folder(to.text) ? STATUS_OK : failed("remove", to.text);
}

enum status checkpoint_directory_prune(const char *directory, int64_t newest, int keep,
                                       int64_t best) {
    int64_t *steps;
    int count;
    TRY(checkpoint_directory_list(directory, &steps, &count));
    enum status status = STATUS_OK;
    for (int i = 0, kept = 0; i < count && status == STATUS_OK; i++) {
        if (steps[i] > newest) continue;
        if (kept++ >= keep && steps[i] != best) status = remove_step(directory, steps[i]);
    }
    free(steps);
    return status;
}

enum status checkpoint_mark_best(const char *directory, int64_t step) {
    TRY(checkpoint_directory_check(directory));
    char text[32];
    int bytes = snprintf(text, sizeof text, "step-%08" PRId64 "\n", step);
    return atomic_file_replace(join(directory, BEST_FILE).text, text, (size_t)bytes);
}

int64_t checkpoint_best(const char *directory) {
    if (checkpoint_directory_check(directory) != STATUS_OK) return -1;
    FILE *file = fopen(join(directory, BEST_FILE).text, "r");
    if (!file) return -1;
    char name[32] = "";
    int64_t step = fscanf(file, "%31s", name) == 1 ? step_of(name) : -1;
    fclose(file);
    return step;
}
