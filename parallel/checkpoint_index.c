#define _GNU_SOURCE
#include "parallel/checkpoint_index.h"

#include "parallel/checkpoint_directory.h"
#include "parallel/checkpoint_format.h"
#include "parallel/durable_h5.h"
#include "parallel/parallel.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

static bool put_hash(hid_t dataset, uint64_t hash) {
    return durable_h5_attribute(dataset, CHECKPOINT_HASH, H5T_STD_U64LE, H5T_NATIVE_UINT64, 1,
                                &hash);
}

static struct slab_record record_of(const struct checkpoint_slab *slab, int part, int rank) {
    struct slab_record record = {.shape = {slab->rows, slab->cols},
                                 .offset = {slab->first_row, slab->first_col},
                                 .extent = {slab->values.rows, slab->values.cols},
                                 .file = rank,
                                 .part = part};
    snprintf(record.name, sizeof record.name, "%s", slab->name);
    return record;
}

enum status checkpoint_index_gather(struct comm *world, const struct checkpoint_slab *slabs,
                                    int count, struct slab_record **records, int64_t *total) {
    struct stream stream;
    stream_open_cpu(&stream, 1);
    int64_t *counts = calloc((size_t)world->size, sizeof *counts);
    int64_t mine = count, all = 0;
    *records = NULL;
    enum status status =
        parallel_agree(/* or else some would wait for who has gone */
                       world, counts ? STATUS_OK
                                     : status_fail(STATUS_MEMORY, "no memory to gather %d ranks",
                                                   world->size));
    if (status != STATUS_OK) {
        free(counts);
        return status;
    }
    comm_all_gather(world, &stream, counts, &mine, 1, DTYPE_I64);
    for (int r = 0; r < world->size; r++) all += counts[r];
    *total = all;
    size_t room = (size_t)(world->rank == 0 ? all : mine) + 1;
    struct slab_record *list = calloc(room, sizeof *list);
    status = parallel_agree(
        world, list ? STATUS_OK : status_fail(STATUS_MEMORY, "no memory for %zu slabs", room));
    for (int i = 0; i < count && status == STATUS_OK; i++)
        list[i] = record_of(&slabs[i], checkpoint_part_of(slabs, i), world->rank);
    if (status == STATUS_OK && world->rank != 0)
        comm_send(world, &stream, list, mine * (int64_t)sizeof *list, DTYPE_U8, 0);
    int64_t at = mine;
    for (int r = 1; r < world->size && status == STATUS_OK && world->rank == 0; r++) {
        comm_recv(world, &stream, list + at, counts[r] * (int64_t)sizeof *list, DTYPE_U8, r);
        at += counts[r];
    }
    free(counts);
    *records = list;
    return status == STATUS_OK ? stream_check(&stream) : status;
}

static int by_name(const void *a, const void *b) {
    const struct slab_record *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    if (order) return order;
    return x->file == y->file ? x->part - y->part : x->file - y->file;
}

/* Every element is given once: areas add up to the whole. */
static enum status check_cover(const struct slab_record *slabs, int64_t count) {
    int64_t covered = 0, whole = slabs[0].shape[0] * slabs[0].shape[1];
    for (int64_t i = 0; i < count; i++) {
        if (memcmp(slabs[i].shape, slabs[0].shape, sizeof slabs[0].shape) != 0)
            return status_fail(STATUS_SHAPE,
                               "tensor '%s' is %" PRId64 " x %" PRId64 " on rank %d, %" PRId64
                               " x %" PRId64 " on rank %d",
                               slabs[0].name, slabs[0].shape[0], slabs[0].shape[1], slabs[0].file,
                               slabs[i].shape[0], slabs[i].shape[1], slabs[i].file);
        covered += slabs[i].extent[0] * slabs[i].extent[1];
    }
    if (covered == whole) return STATUS_OK;
    return status_fail(STATUS_SHAPE,
                       "tensor '%s': the ranks give %" PRId64 " of its %" PRId64 " elements",
                       slabs[0].name, covered, whole);
}

/* A dataset of the whole tensor that points into the rank files. */
static enum status write_virtual(const struct durable_h5 *file, const struct slab_record *slabs,
                                 int64_t count) {
    TRY(check_cover(slabs, count));
    hsize_t shape[2] = {(hsize_t)slabs[0].shape[0], (hsize_t)slabs[0].shape[1]};
    hid_t space = H5Screate_simple(2, shape, NULL);
    hid_t how = H5Pcreate(H5P_DATASET_CREATE);
    float missing = __builtin_nanf(""); /* what is read where a rank file is not there */
    bool done = H5Pset_fill_value(how, H5T_NATIVE_FLOAT, &missing) >= 0;
    for (int64_t i = 0; i < count && done; i++) {
        hsize_t start[2] = {(hsize_t)slabs[i].offset[0], (hsize_t)slabs[i].offset[1]};
        hsize_t extent[2] = {(hsize_t)slabs[i].extent[0], (hsize_t)slabs[i].extent[1]};
        struct checkpoint_path here = {"."};
        const char *source = checkpoint_rank_path(&here, slabs[i].file).text + 2;
        hid_t part = H5Screate_simple(2, extent, NULL);
        done = H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, extent, NULL) >= 0 &&
               H5Pset_virtual(how, space, source,
                              checkpoint_slab_name(slabs[i].name, slabs[i].part).text, part) >= 0;
        H5Sclose(part);
    }
    H5Sselect_all(space);
    hid_t dataset = done ? durable_h5_dataset(file, slabs[0].name, H5T_IEEE_F32LE, space, how) : 0;
    done = dataset > 0;
    if (done) H5Dclose(dataset);
    H5Pclose(how);
    H5Sclose(space);
    return done ? STATUS_OK : durable_h5_refused(file, slabs[0].name);
}

/* A small dataset with its hash; count 0 makes a scalar. */
static enum status write_value(const struct durable_h5 *file, const char *path, hid_t type,
                               int64_t count, const void *values) {
    hsize_t dims[1] = {(hsize_t)count};
    hid_t space = count ? H5Screate_simple(1, dims, NULL) : H5Screate(H5S_SCALAR);
    hid_t dataset = durable_h5_dataset(file, path, type, space, H5P_DEFAULT);
    size_t bytes = H5Tget_size(type) * (size_t)(count ? count : 1);
    bool done = dataset > 0 &&
                H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0 &&
                put_hash(dataset, XXH3_64bits(values, bytes));
    if (dataset > 0) H5Dclose(dataset);
    H5Sclose(space);
    return done ? STATUS_OK : durable_h5_refused(file, path);
}

static enum status write_state(const struct durable_h5 *file,
                               const struct checkpoint_state *state) {
    TRY(write_value(file, CHECKPOINT_STATE "/step", H5T_STD_I64LE, 0, &state->step));
    TRY(write_value(file, CHECKPOINT_STATE "/cursor", H5T_STD_I64LE, 0, &state->cursor));
    TRY(write_value(file, CHECKPOINT_STATE "/tokens", H5T_STD_I64LE, 0, &state->tokens));
    TRY(write_value(file, CHECKPOINT_STATE "/seed", H5T_STD_U64LE, 0, &state->seed));
    TRY(write_value(file, CHECKPOINT_STATE "/tokenizer_hash", H5T_STD_U64LE, 0,
                    &state->tokenizer_hash));
    TRY(write_value(file, CHECKPOINT_STATE "/best_loss", H5T_IEEE_F64LE, 0, &state->best_loss));
    if (state->history_count > 0)
        TRY(write_value(file, CHECKPOINT_STATE "/history", H5T_IEEE_F64LE, state->history_count,
                        state->history));
    const char *config = state->config ? state->config : "";
    hid_t text = H5Tcopy(H5T_C_S1);
    H5Tset_size(text, strlen(config) + 1);
    H5Tset_cset(text, H5T_CSET_UTF8);
    enum status status = write_value(file, CHECKPOINT_STATE "/config", text, 0, config);
    H5Tclose(text);
    return status;
}

/* The numbers of the rank files, ascending, each once. */
static enum status write_files(const struct durable_h5 *file, const struct slab_record *records,
                               int64_t total) {
    if (total == 0) return STATUS_OK;
    int32_t ranks = 0;
    for (int64_t i = 0; i < total; i++)
        if (records[i].file >= ranks) ranks = records[i].file + 1;
    int32_t *files = calloc((size_t)ranks, sizeof *files);
    if (!files) return status_fail(STATUS_MEMORY, "no memory to write '%s'", file->path);
    for (int64_t i = 0; i < total; i++) files[records[i].file] = 1;
    int64_t count = 0; /* never ahead of rank: the list replaces the marks */
    for (int32_t rank = 0; rank < ranks; rank++)
        if (files[rank]) files[count++] = rank;
    enum status status = write_value(file, CHECKPOINT_FILES, H5T_STD_I32LE, count, files);
    free(files);
    return status;
}

enum status checkpoint_index_create(const char *path, const struct checkpoint_state *state,
                                    struct slab_record *records, int64_t total, int *descriptor) {
    struct durable_h5 file;
    enum status status = durable_h5_create(&file, path);
    if (status == STATUS_OK) status = write_state(&file, state);
    if (status == STATUS_OK) status = write_files(&file, records, total);
    if (total) qsort(records, (size_t)total, sizeof *records, by_name);
    for (int64_t first = 0, next; first < total && status == STATUS_OK; first = next) {
        next = first + 1;
        while (next < total && strcmp(records[next].name, records[first].name) == 0) next++;
        status = write_virtual(&file, records + first, next - first);
    }
    enum status closed = durable_h5_detach(&file, descriptor);
    if (status == STATUS_OK || *descriptor < 0) return status == STATUS_OK ? closed : status;
    close(*descriptor);
    *descriptor = -1;
    return status;
}
