#include "core/log.h"
#include "data/h5_open.h"
#include "kernels/base/units.h"
#include "parallel/checkpoint_format.h"
#include "parallel/checkpoint_verify.h"
#include "parallel/parallel.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static enum status unreadable(const char *path, const char *what) {
    return status_fail(STATUS_FORMAT, "'%s': '%s' is missing or can't be read", path, what);
}

/* A link of every name on the way must be there: H5Lexists fails otherwise. */
static bool exists(hid_t file, const char *name) {
    char part[CHECKPOINT_NAME_BYTES];
    for (const char *slash = strchr(name, '/'); slash; slash = strchr(slash + 1, '/')) {
        size_t bytes = (size_t)(slash - name);
        if (bytes >= sizeof part) return false;
        memcpy(part, name, bytes);
        part[bytes] = '\0';
        if (H5Lexists(file, part, H5P_DEFAULT) <= 0) return false;
    }
    return H5Lexists(file, name, H5P_DEFAULT) > 0;
}

static enum status read_scalar(hid_t file, const char *path, const char *name, hid_t native,
                               void *value) {
    hid_t dataset = exists(file, name) ? H5Dopen2(file, name, H5P_DEFAULT) : 0;
    hid_t space = dataset > 0 ? H5Dget_space(dataset) : 0;
    bool done = space > 0 && H5Sget_simple_extent_npoints(space) == 1 &&
                H5Dread(dataset, native, H5S_ALL, H5S_ALL, H5P_DEFAULT, value) >= 0;
    if (space > 0) H5Sclose(space);
    if (dataset > 0) H5Dclose(dataset);
    return done ? STATUS_OK : unreadable(path, name);
}

static enum status read_config(hid_t file, const char *path, char **config) {
    const char *name = CHECKPOINT_STATE "/config";
    hid_t dataset = exists(file, name) ? H5Dopen2(file, name, H5P_DEFAULT) : 0;
    hid_t type = dataset > 0 ? H5Dget_type(dataset) : 0;
    size_t bytes = type > 0 && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0
                       ? H5Tget_size(type)
                       : 0;
    if (type > 0) H5Tclose(type);
    if (dataset > 0) H5Dclose(dataset);
    if (bytes == 0) return unreadable(path, name);
    *config = calloc(bytes + 1, 1);
    if (!*config) return status_fail(STATUS_MEMORY, "no memory to read '%s'", path);
    hid_t text = H5Tcopy(H5T_C_S1);
    H5Tset_size(text, bytes);
    H5Tset_cset(text, H5T_CSET_UTF8);
    enum status status = read_scalar(file, path, name, text, *config);
    H5Tclose(text);
    return status;
}

static enum status read_history(hid_t file, const char *path, struct checkpoint_state *state) {
    const char *name = CHECKPOINT_STATE "/history";
    state->history_count = 0;
    if (!exists(file, name)) return STATUS_OK;
    hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
    hid_t space = dataset > 0 ? H5Dget_space(dataset) : 0;
    hssize_t count = space > 0 ? H5Sget_simple_extent_npoints(space) : -1;
    bool done =
        count >= 0 && count <= CHECKPOINT_HISTORY &&
        H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, state->history) >= 0;
    if (done) state->history_count = count;
    if (space > 0) H5Sclose(space);
    if (dataset > 0) H5Dclose(dataset);
    return done ? STATUS_OK : unreadable(path, name);
}

static enum status read_state(hid_t file, const char *path, struct checkpoint_state *state) {
    const struct {
        const char *name;
        hid_t type;
        void *value;
    } rows[] = {
        {CHECKPOINT_STATE "/step", H5T_NATIVE_INT64, &state->step},
        {CHECKPOINT_STATE "/cursor", H5T_NATIVE_INT64, &state->cursor},
        {CHECKPOINT_STATE "/tokens", H5T_NATIVE_INT64, &state->tokens},
        {CHECKPOINT_STATE "/seed", H5T_NATIVE_UINT64, &state->seed},
        {CHECKPOINT_STATE "/tokenizer_hash", H5T_NATIVE_UINT64, &state->tokenizer_hash},
        {CHECKPOINT_STATE "/best_loss", H5T_NATIVE_DOUBLE, &state->best_loss},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        TRY(read_scalar(file, path, rows[i].name, rows[i].type, rows[i].value));
    TRY(read_history(file, path, state));
    return read_config(file, path, &state->config);
}

static enum status check_shape(hid_t space, const char *path, const struct checkpoint_slab *slab) {
    hsize_t dims[2] = {0, 0};
    if (H5Sget_simple_extent_ndims(space) != 2) return unreadable(path, slab->name);
    H5Sget_simple_extent_dims(space, dims, NULL);
    if (dims[0] == (hsize_t)slab->rows && dims[1] == (hsize_t)slab->cols) return STATUS_OK;
    return status_fail(
        STATUS_SHAPE,
        "'%s': tensor '%s' is %" PRIu64 " x %" PRIu64 ", the run's is %" PRId64 " x %" PRId64, path,
        slab->name, (uint64_t)dims[0], (uint64_t)dims[1], slab->rows, slab->cols);
}

static enum status read_rows(hid_t dataset, hid_t space, const char *path,
                             const struct checkpoint_slab *slab, float *block) {
    const struct weight *values = &slab->values;
    TRY(check_shape(space, path, slab));
    int64_t step = checkpoint_block_rows(values->cols);
    for (int64_t first = 0; first < values->rows; first += step) {
        int64_t count = min_i64(values->rows - first, step);
        hsize_t start[2] = {(hsize_t)(slab->first_row + first), (hsize_t)slab->first_col};
        hsize_t extent[2] = {(hsize_t)count, (hsize_t)values->cols};
        H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, extent, NULL);
        hid_t memory = H5Screate_simple(2, extent, NULL);
        herr_t code = H5Dread(dataset, H5T_NATIVE_FLOAT, memory, space, H5P_DEFAULT, block);
        H5Sclose(memory);
        if (code < 0) return unreadable(path, slab->name);
        weight_pack(values, first, count, block);
    }
    return STATUS_OK;
}

static enum status read_slab(hid_t file, const char *path, const struct checkpoint_slab *slab,
                             float *block) {
    if (!exists(file, slab->name)) /* the file is whole, so this is no damage */
        return status_fail(STATUS_SHAPE,
                           "'%s': has no tensor '%s': it is another model's or mode's", path,
                           slab->name);
    hid_t dataset = H5Dopen2(file, slab->name, H5P_DEFAULT);
    if (dataset <= 0) return unreadable(path, slab->name);
    hid_t space = H5Dget_space(dataset);
    enum status status = read_rows(dataset, space, path, slab, block);
    H5Sclose(space);
    H5Dclose(dataset);
    return status;
}

static enum status read_index(const char *path, struct checkpoint_state *state,
                              const struct checkpoint_slab *slabs, int count) {
    float *block = malloc(checkpoint_block_bytes(slabs, count));
    if (!block) return status_fail(STATUS_MEMORY, "no memory to read '%s'", path);
    hid_t file = 0;
    enum status status = h5_open(&file, path);
    if (status == STATUS_OK) status = read_state(file, path, state);
    for (int i = 0; i < count && status == STATUS_OK; i++)
        status = read_slab(file, path, &slabs[i], block);
    if (file > 0) H5Fclose(file);
    free(block);
    return status;
}

enum status checkpoint_peek(const char *index, struct checkpoint_state *state) {
    *state = (struct checkpoint_state){0};
    return read_index(index, state, NULL, 0);
}

/* My share of the rank files: every size-th, beginning with mine. */
static enum status verify_share(const struct comm *world, const struct checkpoint_path *folder) {
    int32_t *ranks;
    int count;
    enum status status = checkpoint_files(folder, &ranks, &count);
    for (int i = world->rank; i < count && status == STATUS_OK; i += world->size)
        status = checkpoint_verify_file(checkpoint_rank_path(folder, ranks[i]).text);
    free(ranks);
    return status;
}

static enum status any_rank(struct comm *world, bool mine, bool *any) {
    struct stream stream;
    stream_open_cpu(&stream, 1);
    int32_t value = mine;
    comm_all_reduce(world, &stream, &value, 1, DTYPE_I32, COMM_MAX);
    *any = value != 0;
    return stream_check(&stream);
}

enum status checkpoint_load(struct comm *world, const char *directory, int64_t step,
                            struct checkpoint_state *state, const struct checkpoint_slab *slabs,
                            int slab_count) {
    TRY(checkpoint_directory_check(directory));
    struct checkpoint_path folder = checkpoint_step_path(directory, step);
    bool tensors;
    TRY(any_rank(world, slab_count > 0, &tensors));
    TRY(parallel_agree(world, world->rank == 0 ? checkpoint_verify_index(&folder) : STATUS_OK));
    if (tensors) TRY(parallel_agree(world, verify_share(world, &folder)));
    *state = (struct checkpoint_state){0};
    enum status status = parallel_agree(
        world, read_index(checkpoint_index_path(&folder).text, state, slabs, slab_count));
    if (status == STATUS_OK) return STATUS_OK;
    free(state->config);
    state->config = NULL;
    return status;
}

static enum status newest_complete(const char *directory, int64_t below, int64_t *step) {
    int64_t *steps;
    int count;
    *step = -1;
    TRY(checkpoint_directory_list(directory, &steps, &count));
    for (int i = 0; i < count && *step < 0; i++) {
        if (steps[i] >= below) continue;
        struct checkpoint_path folder = checkpoint_step_path(directory, steps[i]);
        if (checkpoint_verify_structure(&folder) == STATUS_OK)
            *step = steps[i];
        else
            log_line(LOG_WARN, "event=checkpoint_skipped reason=%s",
                     log_value(&(struct log_text){0}, status_message()));
    }
    free(steps);
    return STATUS_OK;
}

enum status checkpoint_latest(struct comm *world, const char *directory, int64_t below,
                              int64_t *step) {
    *step = -1;
    TRY(checkpoint_directory_check(directory));
    TRY(parallel_agree(world,
                       world->rank == 0 ? newest_complete(directory, below, step) : STATUS_OK));
    struct stream stream;
    stream_open_cpu(&stream, 1);
    comm_broadcast(world, &stream, step, 1, DTYPE_I64, 0);
    return stream_check(&stream);
}

enum status checkpoint_resume(struct comm *world, const char *directory, int64_t below,
                              int64_t *step, struct checkpoint_state *state,
                              const struct checkpoint_slab *slabs, int slab_count) {
    for (int64_t next = below;; next = *step) {
        TRY(checkpoint_latest(world, directory, next, step));
        /* what was skipped may have been read in part: starting anew is not for us to decide */
        if (*step < 0 && next != below)
            return status_fail(STATUS_FORMAT, "%s: none of the checkpoints is intact", directory);
        if (*step < 0) return STATUS_OK;
        enum status status = checkpoint_load(world, directory, *step, state, slabs, slab_count);
        if (status != STATUS_FORMAT && status != STATUS_IO) return status;
        if (world->rank == 0)
            log_line(LOG_WARN, "event=checkpoint_skipped step=%" PRId64 " reason=%s", *step,
                     log_value(&(struct log_text){0}, status_message()));
    }
}
