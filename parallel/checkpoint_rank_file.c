#define _GNU_SOURCE
#include "parallel/checkpoint_rank_file.h"

#include "core/atomic_file.h"
#include "parallel/checkpoint_format.h"
#include "parallel/durable_h5.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are little-endian");

struct checkpoint_slab_name checkpoint_slab_name(const char *tensor, int part) {
    struct checkpoint_slab_name name;
    int used = snprintf(name.text, sizeof name.text, "%s", tensor);
    if (part > 0) snprintf(name.text + used, sizeof name.text - (size_t)used, "#%d", part);
    return name;
}

int checkpoint_part_of(const struct checkpoint_slab *slabs, int i) {
    int part = 0;
    while (part < i && strcmp(slabs[i - part - 1].name, slabs[i].name) == 0) part++;
    return part;
}

static void check_slab(const struct checkpoint_slab *slab) {
    assert(strlen(slab->name) < CHECKPOINT_NAME_BYTES && !strpbrk(slab->name, "%#"));
    assert(slab->values.rows > 0 && slab->values.cols > 0);
    assert(slab->first_row >= 0 && slab->first_row + slab->values.rows <= slab->rows);
    assert(slab->first_col >= 0 && slab->first_col + slab->values.cols <= slab->cols);
    (void)slab;
}

/* A dataset whose room is in the file as soon as it is made: *at says where. */
static hid_t create_with_room(const struct durable_h5 *file, const char *name, hid_t type,
                              hid_t space, uint64_t *at) {
    hid_t how = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_alloc_time(how, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(how, H5D_FILL_TIME_NEVER);
    hid_t dataset = durable_h5_dataset(file, name, type, space, how);
    H5Pclose(how);
    haddr_t offset = dataset > 0 ? H5Dget_offset(dataset) : HADDR_UNDEF;
    if (offset != HADDR_UNDEF) {
        *at = offset;
        return dataset;
    }
    if (dataset > 0) H5Dclose(dataset);
    return H5I_INVALID_HID;
}

static enum status lay_out_slab(const struct durable_h5 *h5, struct checkpoint_rank_file *file,
                                const struct checkpoint_slab *slab, int part) {
    hsize_t extent[2] = {(hsize_t)slab->values.rows, (hsize_t)slab->values.cols};
    hid_t space = H5Screate_simple(2, extent, NULL);
    struct rank_file_part *mine = &file->parts[file->count];
    mine->values = slab->values;
    hid_t dataset = create_with_room(h5, checkpoint_slab_name(slab->name, part).text,
                                     H5T_IEEE_F32LE, space, &mine->at);
    int64_t shape[2] = {slab->rows, slab->cols}, offset[2] = {slab->first_row, slab->first_col};
    int64_t number = file->count++;
    bool done = dataset > 0 &&
                durable_h5_attribute(dataset, CHECKPOINT_SHAPE, H5T_STD_I64LE, H5T_NATIVE_INT64, 2,
                                     shape) &&
                durable_h5_attribute(dataset, CHECKPOINT_OFFSET, H5T_STD_I64LE, H5T_NATIVE_INT64, 2,
                                     offset) &&
                durable_h5_attribute(dataset, CHECKPOINT_HASH_AT, H5T_STD_I64LE, H5T_NATIVE_INT64,
                                     1, &number);
    if (dataset > 0) H5Dclose(dataset);
    H5Sclose(space);
    return done ? STATUS_OK : durable_h5_refused(h5, slab->name);
}

static enum status lay_out_hashes(const struct durable_h5 *h5, struct checkpoint_rank_file *file) {
    hsize_t extent[1] = {(hsize_t)file->count};
    hid_t space = H5Screate_simple(1, extent, NULL);
    hid_t dataset = create_with_room(h5, CHECKPOINT_HASHES, H5T_STD_U64LE, space, &file->hashes_at);
    if (dataset > 0) H5Dclose(dataset);
    H5Sclose(space);
    return dataset > 0 ? STATUS_OK : durable_h5_refused(h5, CHECKPOINT_HASHES);
}

static enum status lay_out(struct checkpoint_rank_file *file, const struct checkpoint_slab *slabs,
                           int count) {
    struct durable_h5 h5;
    enum status status = durable_h5_create(&h5, file->path);
    for (int i = 0; i < count && status == STATUS_OK; i++) {
        check_slab(&slabs[i]);
        status = lay_out_slab(&h5, file, &slabs[i], checkpoint_part_of(slabs, i));
    }
    if (status == STATUS_OK) status = lay_out_hashes(&h5, file);
    enum status closed = durable_h5_detach(&h5, &file->descriptor);
    return status == STATUS_OK ? closed : status;
}

enum status checkpoint_rank_file_create(struct checkpoint_rank_file *file, const char *path,
                                        const struct checkpoint_slab *slabs, int count) {
    *file = (struct checkpoint_rank_file){0};
    if (count == 0) return STATUS_OK;
    *file = (struct checkpoint_rank_file){
        .path = strdup(path),
        .descriptor = -1,
        .parts = calloc((size_t)count, sizeof *file->parts),
        .hashes = calloc((size_t)count, sizeof *file->hashes),
        .block = malloc(checkpoint_block_bytes(slabs, count)),
    };
    enum status status = file->path && file->parts && file->hashes && file->block
                             ? lay_out(file, slabs, count)
                             : status_fail(STATUS_MEMORY, "no memory to write '%s'", path);
    if (status != STATUS_OK) checkpoint_rank_file_free(file);
    return status;
}

static enum status refused(const struct checkpoint_rank_file *file) {
    return status_fail(STATUS_IO, "can't write '%s': %s", file->path, strerror(errno));
}

static enum status put(const struct checkpoint_rank_file *file, uint64_t at, const void *data,
                       size_t bytes) {
    const char *from = data;
    while (bytes > 0) {
        ssize_t written = pwrite(file->descriptor, from, bytes, (off_t)at);
        if (written < 0 && errno == EINTR) continue;
        if (written == 0) errno = ENOSPC;
        if (written <= 0) return refused(file);
        from += written;
        at += (uint64_t)written;
        bytes -= (size_t)written;
    }
    return STATUS_OK;
}

/* Rows [0, values.rows), block by block; the hash covers them in that order. */
static enum status fill_part(struct checkpoint_rank_file *file, int i, XXH3_state_t *hash,
                             const atomic_bool *cancel) {
    const struct weight *values = &file->parts[i].values;
    uint64_t at = file->parts[i].at;
    int64_t step = checkpoint_block_rows(values->cols);
    XXH3_64bits_reset(hash);
    for (int64_t first = 0; first < values->rows; first += step) {
        int64_t count = values->rows - first < step ? values->rows - first : step;
        size_t bytes = (size_t)(count * values->cols) * sizeof *file->block;
        if (atomic_load_explicit(cancel, memory_order_relaxed))
            return status_fail(STATUS_CANCELLED, "'%s' was given up", file->path);
        weight_unpack(file->block, values, first, count);
        XXH3_64bits_update(hash, file->block, bytes);
        TRY(put(file, at, file->block, bytes));
        at += bytes;
    }
    file->hashes[i] = XXH3_64bits_digest(hash);
    return STATUS_OK;
}

enum status checkpoint_rank_file_fill(struct checkpoint_rank_file *file,
                                      const atomic_bool *cancel) {
    if (!file->path) return STATUS_OK;
    XXH3_state_t *hash = XXH3_createState();
    if (!hash) return status_fail(STATUS_MEMORY, "no memory to write '%s'", file->path);
    enum status status = STATUS_OK;
    for (int i = 0; i < file->count && status == STATUS_OK; i++)
        status = fill_part(file, i, hash, cancel);
    XXH3_freeState(hash);
    if (status == STATUS_OK)
        status =
            put(file, file->hashes_at, file->hashes, (size_t)file->count * sizeof *file->hashes);
    if (status == STATUS_OK && descriptor_sync(file->descriptor) != 0) status = refused(file);
    /* a close that is interrupted has closed all the same: close(2) */
    int closed = close(file->descriptor);
    file->descriptor = -1;
    if (status == STATUS_OK && closed != 0 && errno != EINTR) status = refused(file);
    return status;
}

void checkpoint_rank_file_free(struct checkpoint_rank_file *file) {
    if (file->path && file->descriptor >= 0) close(file->descriptor);
    free(file->path);
    free(file->parts);
    free(file->hashes);
    free(file->block);
    *file = (struct checkpoint_rank_file){0};
}
