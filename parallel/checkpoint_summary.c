#define _GNU_SOURCE
#include "parallel/checkpoint_summary.h"

#include "data/containers.h"
#include "data/h5_open.h"
#include "parallel/checkpoint_format.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool holds_index(const struct checkpoint_path *folder) {
    struct stat info;
    return stat(checkpoint_index_path(folder).text, &info) == 0;
}

static struct checkpoint_path path_of(const char *text, size_t bytes) {
    struct checkpoint_path path;
    snprintf(path.text, sizeof path.text, "%.*s", (int)bytes, text);
    return path;
}

static struct checkpoint_path parent_of(const struct checkpoint_path *path) {
    const char *slash = strrchr(path->text, '/');
    return slash ? path_of(path->text, (size_t)(slash - path->text)) : path_of(".", 1);
}

static bool find_newest(const char *directory, struct checkpoint_path *folder) {
    int64_t *steps;
    int count;
    bool found = checkpoint_directory_list(directory, &steps, &count) == STATUS_OK && count > 0;
    if (found) *folder = checkpoint_step_path(directory, steps[0]);
    free(steps);
    return found && holds_index(folder);
}

bool checkpoint_find(const char *path, struct checkpoint_path *folder) {
    size_t bytes = strlen(path);
    if (bytes >= CHECKPOINT_PATH_BYTES - 128) return false;
    while (bytes > 1 && path[bytes - 1] == '/') bytes--;
    *folder = path_of(path, bytes);
    if (holds_index(folder)) return true;
    struct stat info;
    if (stat(path, &info) == 0 && !S_ISDIR(info.st_mode)) {
        *folder = parent_of(folder);
        return holds_index(folder);
    }
    struct checkpoint_path run = *folder;
    if (find_newest(run.text, folder)) return true;
    size_t used = strlen(run.text);
    snprintf(run.text + used, sizeof run.text - used, "/checkpoints");
    return find_newest(run.text, folder);
}

struct listing {
    struct checkpoint_summary *summary;
    size_t capacity;
    bool failed;
};

static bool push_tensor(struct listing *listing, const char *name, const hsize_t dims[2]) {
    struct checkpoint_summary *summary = listing->summary;
    size_t count = (size_t)summary->tensor_count;
    if (!array_reserve(&summary->tensors, &listing->capacity, count + 1, sizeof *summary->tensors))
        return false;
    char *copy = strdup(name);
    if (!copy) return false;
    summary->tensors[summary->tensor_count++] =
        (struct checkpoint_tensor){copy, (int64_t)dims[0], (int64_t)dims[1]};
    return true;
}

/* Every dataset with two dimensions is a tensor; the state's have none. */
static herr_t visit(hid_t file, const char *name, const H5L_info_t *link, void *context) {
    (void)link;
    struct listing *listing = context;
    hid_t object = H5Oopen(file, name, H5P_DEFAULT);
    if (object < 0) return 0;
    hid_t space = H5Iget_type(object) == H5I_DATASET ? H5Dget_space(object) : -1;
    hsize_t dims[2];
    if (space >= 0 && H5Sget_simple_extent_ndims(space) == 2 &&
        H5Sget_simple_extent_dims(space, dims, NULL) == 2)
        listing->failed = !push_tensor(listing, name, dims);
    if (space >= 0) H5Sclose(space);
    H5Oclose(object);
    return listing->failed;
}

static enum status list_tensors(struct checkpoint_summary *summary, const char *index) {
    hid_t file;
    struct listing listing = {.summary = summary};
    TRY(h5_open(&file, index));
    herr_t code = H5Lvisit(file, H5_INDEX_NAME, H5_ITER_INC, visit, &listing);
    H5Fclose(file);
    if (listing.failed) return status_fail(STATUS_MEMORY, "no memory to list '%s'", index);
    return code >= 0 ? STATUS_OK : status_fail(STATUS_FORMAT, "'%s' can't be listed", index);
}

static void count_files(struct checkpoint_summary *summary) {
    DIR *stream = opendir(summary->folder.text);
    if (!stream) return;
    for (const struct dirent *entry; (entry = readdir(stream));) {
        struct stat info;
        if (fstatat(dirfd(stream), entry->d_name, &info, 0) != 0 || !S_ISREG(info.st_mode))
            continue;
        summary->files++;
        summary->bytes += info.st_size;
    }
    closedir(stream);
}

static void count_steps(struct checkpoint_summary *summary) {
    struct checkpoint_path parent = parent_of(&summary->folder);
    int64_t *steps;
    if (checkpoint_directory_list(parent.text, &steps, &summary->steps) != STATUS_OK)
        summary->steps = 0;
    free(steps);
}

enum status checkpoint_summarise(struct checkpoint_summary *summary,
                                 const struct checkpoint_path *folder) {
    *summary = (struct checkpoint_summary){.folder = *folder};
    struct checkpoint_path index = checkpoint_index_path(folder);
    TRY(checkpoint_peek(index.text, &summary->state));
    TRY(list_tensors(summary, index.text));
    count_files(summary);
    count_steps(summary);
    return STATUS_OK;
}

void checkpoint_summary_free(struct checkpoint_summary *summary) {
    for (int i = 0; i < summary->tensor_count; i++) free(summary->tensors[i].name);
    free(summary->tensors);
    free(summary->state.config);
    *summary = (struct checkpoint_summary){0};
}
