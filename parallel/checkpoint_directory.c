#define _GNU_SOURCE
#include "parallel/checkpoint_directory.h"
#include "core/atomic_file.h"
#include "core/directory.h"
#include "parallel/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BEST_FILE "best.txt"

struct checkpoint_path checkpoint_path_join(const char *folder, const char *name) {
    struct checkpoint_path path;
    int bytes = snprintf(path.text, sizeof path.text, "%s/%s", folder, name);
    if (bytes < 0 || (size_t)bytes >= sizeof path.text) abort(); /* checkpoint_directory_check */
    return path;
}

static struct checkpoint_path numbered(const char *directory, const char *prefix, int64_t number) {
    char name[64];
    snprintf(name, sizeof name, "%s%08" PRId64, prefix, number);
    return checkpoint_path_join(directory, name);
}

enum status checkpoint_directory_check(const char *directory) {
    if (*directory && strlen(directory) + 128 < CHECKPOINT_PATH_BYTES) return STATUS_OK;
    return status_fail(STATUS_CONFIG, "'%.100s' can't be a checkpoint directory: %s", directory,
                       *directory ? "the path is too long" : "the path is empty");
}

struct checkpoint_path checkpoint_step_path(const char *directory, int64_t step) {
    return numbered(directory, "step-", step);
}

/* The folder that the claim's changes go through. */
static struct checkpoint_path staging(const struct checkpoint_claim *claim) {
    return checkpoint_path_join(claim->directory, claim->folder);
}

struct checkpoint_path checkpoint_temporary_path(const struct checkpoint_claim *claim,
                                                 int64_t step) {
    return numbered(staging(claim).text, "step-", step);
}

/* Where a step that is to be removed goes first. */
static struct checkpoint_path old_path(const struct checkpoint_claim *claim, int64_t step) {
    return numbered(staging(claim).text, "old-", step);
}

struct checkpoint_path checkpoint_rank_path(const struct checkpoint_path *folder, int rank) {
    char name[32];
    snprintf(name, sizeof name, "rank-%04d.h5", rank);
    return checkpoint_path_join(folder->text, name);
}

struct checkpoint_path checkpoint_index_path(const struct checkpoint_path *folder) {
    return checkpoint_path_join(folder->text, "index.h5");
}

static enum status failed(const char *verb, const char *path) {
    return status_fail(STATUS_IO, "can't %s '%s': %s", verb, path, strerror(errno));
}

/* The same, unless it failed because the claim is lost. */
static enum status refused(const struct checkpoint_claim *claim, const char *verb,
                           const char *path) {
    int error = errno;
    TRY(checkpoint_claim_check(claim));
    errno = error;
    return failed(verb, path);
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

static int remove_entry(const char *path, const struct stat *found, int kind, struct FTW *place) {
    (void)found, (void)kind, (void)place;
    return remove(path) == 0 || errno == ENOENT ? 0 : -1;
}

bool checkpoint_directory_remove(const char *path) {
    return nftw(path, remove_entry, 8, FTW_DEPTH | FTW_PHYS) == 0 || access(path, F_OK) != 0;
}

void checkpoint_directory_sweep(const struct checkpoint_claim *claim) {
    DIR *stream = opendir(staging(claim).text);
    if (!stream) return;
    for (struct dirent *entry; (entry = readdir(stream));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            checkpoint_directory_remove(
                checkpoint_path_join(staging(claim).text, entry->d_name).text);
    closedir(stream);
}

enum status checkpoint_directory_begin(const struct checkpoint_claim *claim, int64_t step) {
    TRY(checkpoint_claim_check(claim));
    checkpoint_directory_sweep(claim);
    struct checkpoint_path temporary = checkpoint_temporary_path(claim, step);
    if (mkdir(temporary.text, 0777) != 0) return refused(claim, "make", temporary.text);
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

enum status checkpoint_directory_publish(const struct checkpoint_claim *claim, int64_t step) {
    struct checkpoint_path from = checkpoint_temporary_path(claim, step);
    struct checkpoint_path to = checkpoint_step_path(claim->directory, step);
    struct checkpoint_path aside = old_path(claim, step);
    enum status synced = directory_sync(from.text);
    if (synced != STATUS_OK) {
        TRY(checkpoint_claim_check(claim));
        return synced;
    }
    if (put_in_place(from.text, to.text, aside.text) != 0)
        return refused(claim, "rename", from.text);
    TRY(directory_sync(claim->directory));
    checkpoint_directory_remove(from.text);
    checkpoint_directory_remove(aside.text);
    return STATUS_OK;
}

/* Takes the name away first: half a folder is never seen as a checkpoint. */
static enum status remove_step(const struct checkpoint_claim *claim, int64_t step) {
    struct checkpoint_path from = checkpoint_step_path(claim->directory, step);
    struct checkpoint_path to = old_path(claim, step);
    if (rename(from.text, to.text) != 0) return refused(claim, "rename", from.text);
    return checkpoint_directory_remove(to.text) ? STATUS_OK : failed("remove", to.text);
}

enum status checkpoint_directory_prune(const struct checkpoint_claim *claim, int64_t newest,
                                       int keep, int64_t best) {
    int64_t *steps;
    int count;
    TRY(checkpoint_directory_list(claim->directory, &steps, &count));
    enum status status = STATUS_OK;
    for (int i = 0, kept = 0; i < count && status == STATUS_OK; i++) {
        if (steps[i] > newest) continue;
        if (kept++ >= keep && steps[i] != best) status = remove_step(claim, steps[i]);
    }
    free(steps);
    return status;
}

enum status checkpoint_mark_best(const struct checkpoint_claim *claim, int64_t step) {
    char text[32];
    int bytes = snprintf(text, sizeof text, "step-%08" PRId64 "\n", step);
    struct checkpoint_path from = checkpoint_path_join(staging(claim).text, BEST_FILE);
    TRY(checkpoint_claim_check(claim));
    TRY(atomic_file_replace(from.text, text, (size_t)bytes));
    if (rename(from.text, checkpoint_path_join(claim->directory, BEST_FILE).text) != 0)
        return refused(claim, "rename", from.text);
    return directory_sync(claim->directory);
}

int64_t checkpoint_best(const char *directory) {
    if (checkpoint_directory_check(directory) != STATUS_OK) return -1;
    FILE *file = fopen(checkpoint_path_join(directory, BEST_FILE).text, "r");
    if (!file) return -1;
    char name[32] = "";
    int64_t step = fscanf(file, "%31s", name) == 1 ? step_of(name) : -1;
    fclose(file);
    return step;
}
