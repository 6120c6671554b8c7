#include "core/log.h"
#include "parallel/checkpoint_directory.h"
#include "parallel/checkpoint_format.h"
#include "parallel/checkpoint_verify.h"
#include "parallel/durable_h5.h"
#include "parallel/parallel.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* A slab as rank 0 needs to know it for the index. */
struct slab_record {
    char name[CHECKPOINT_NAME_BYTES];
    int64_t shape[2], offset[2], extent[2];
    int32_t file; /* rank number of the file that holds it */
    int32_t part; /* among those of its name in that file */
};

/* The dataset of a slab in its rank's file. */
struct slab_name {
    char text[CHECKPOINT_NAME_BYTES + 16];
};
static struct slab_name slab_name(const char *tensor, int part) {
    struct slab_name name;
    int used = snprintf(name.text, sizeof name.text, "%s", tensor);
    if (part > 0) snprintf(name.text + used, sizeof name.text - (size_t)used, "#%d", part);
    return name;
}

/* How many of the slabs before slabs[i] have its name. */
static int part_of(const struct checkpoint_slab *slabs, int i) {
    int part = 0;
    while (part < i && strcmp(slabs[i - part - 1].name, slabs[i].name) == 0) part++;
    return part;
}

static enum status refused(const struct durable_h5 *file, const char *what) {
    TRY(durable_h5_check(file));
    return status_fail(STATUS_IO, "HDF5 can't write '%s' into '%s'", what, file->path);
}

static bool put_attribute(hid_t object, const char *name, hid_t stored, hid_t native, int64_t count,
                          const void *values) {
    hsize_t dims[1] = {(hsize_t)count};
    hid_t space = count == 1 ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, dims, NULL);
    hid_t attribute = H5Acreate2(object, name, stored, space, H5P_DEFAULT, H5P_DEFAULT);
    bool done = attribute > 0 && H5Awrite(attribute, native, values) >= 0;
    if (attribute > 0) H5Aclose(attribute);
    H5Sclose(space);
    return done;
}

static bool put_hash(hid_t dataset, uint64_t hash) {
    return put_attribute(dataset, CHECKPOINT_HASH, H5T_STD_U64LE, H5T_NATIVE_UINT64, 1, &hash);
}

/* A dataset at a path whose groups are made on the way; virtual when `how` says so. */
static hid_t create_dataset(hid_t file, const char *path, hid_t type, hid_t space, hid_t how) {
    hid_t links = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_create_intermediate_group(links, 1);
    hid_t dataset = H5Dcreate2(file, path, type, space, links, how, H5P_DEFAULT);
    H5Pclose(links);
    return dataset;
}

/* Rows [0, values.rows) of a slab, block by block; the hash covers them in that order. */
static bool write_rows(const struct durable_h5 *file, hid_t dataset, hid_t space,
                       const struct checkpoint_slab *slab, float *block) {
    const struct weight *values = &slab->values;
    XXH3_state_t *hash = XXH3_createState();
    if (!hash) return false;
    XXH3_64bits_reset(hash);
    int64_t step = checkpoint_block_rows(values->cols);
    bool done = true;
    for (int64_t first = 0; first < values->rows && done; first += step) {
        int64_t count = values->rows - first < step ? values->rows - first : step;
        weight_unpack(block, values, first, count);
        XXH3_64bits_update(hash, block, (size_t)(count * values->cols) * sizeof *block);
        hsize_t start[2] = {(hsize_t)first, 0};
        hsize_t extent[2] = {(hsize_t)count, (hsize_t)values->cols};
        H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, extent, NULL);
        hid_t memory = H5Screate_simple(2, extent, NULL);
        done = H5Dwrite(dataset, H5T_NATIVE_FLOAT, memory, space, H5P_DEFAULT, block) >= 0 &&
               file->error == 0;
        H5Sclose(memory);
    }
    done = done && put_hash(dataset, XXH3_64bits_digest(hash));
    XXH3_freeState(hash);
    return done;
}

static enum status write_slab(const struct durable_h5 *file, const struct checkpoint_slab *slab,
                              int part, float *block) {
    hsize_t extent[2] = {(hsize_t)slab->values.rows, (hsize_t)slab->values.cols};
    hid_t space = H5Screate_simple(2, extent, NULL);
    hid_t dataset = create_dataset(file->file, slab_name(slab->name, part).text, H5T_IEEE_F32LE,
                                   space, H5P_DEFAULT);
    int64_t shape[2] = {slab->rows, slab->cols}, offset[2] = {slab->first_row, slab->first_col};
    bool done =
        dataset > 0 &&
        put_attribute(dataset, CHECKPOINT_SHAPE, H5T_STD_I64LE, H5T_NATIVE_INT64, 2, shape) &&
        put_attribute(dataset, CHECKPOINT_OFFSET, H5T_STD_I64LE, H5T_NATIVE_INT64, 2, offset) &&
        write_rows(file, dataset, space, slab, block);
    if (dataset > 0) H5Dclose(dataset);
    H5Sclose(space);
    return done ? STATUS_OK : refused(file, slab->name);
}

static void check_slab(const struct checkpoint_slab *slab) {
    assert(strlen(slab->name) < CHECKPOINT_NAME_BYTES && !strpbrk(slab->name, "%#"));
    assert(slab->values.rows > 0 && slab->values.cols > 0);
    assert(slab->first_row >= 0 && slab->first_row + slab->values.rows <= slab->rows);
    assert(slab->first_col >= 0 && slab->first_col + slab->values.cols <= slab->cols);
    (void)slab;
}

static enum status write_rank_file(const char *path, const struct checkpoint_slab *slabs,
                                   int count) {
    if (count == 0) return STATUS_OK;
    float *block = malloc(checkpoint_block_bytes(slabs, count));
    if (!block) return status_fail(STATUS_MEMORY, "no memory to write '%s'", path);
    struct durable_h5 file;
    enum status status = durable_h5_create(&file, path);
    for (int i = 0; i < count && status == STATUS_OK; i++) {
        check_slab(&slabs[i]);
        status = write_slab(&file, &slabs[i], part_of(slabs, i), block);
    }
    enum status closed = durable_h5_close(&file);
    free(block);
    return status == STATUS_OK ? closed : status;
}

/* --- the index ------------------------------------------------------------------------------- */

static struct slab_record record_of(const struct checkpoint_slab *slab, int part, int rank) {
    struct slab_record record = {.shape = {slab->rows, slab->cols},
                                 .offset = {slab->first_row, slab->first_col},
                                 .extent = {slab->values.rows, slab->values.cols},
                                 .file = rank,
                                 .part = part};
    snprintf(record.name, sizeof record.name, "%s", slab->name);
    return record;
}

/* Rank 0 receives every rank's records behind its own; the others send. The caller frees. */
static enum status gather_records(struct comm *world, const struct checkpoint_slab *slabs,
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
        list[i] = record_of(&slabs[i], part_of(slabs, i), world->rank);
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
               H5Pset_virtual(how, space, source, slab_name(slabs[i].name, slabs[i].part).text,
                              part) >= 0;
        H5Sclose(part);
    }
    H5Sselect_all(space);
    hid_t dataset =
        done ? create_dataset(file->file, slabs[0].name, H5T_IEEE_F32LE, space, how) : 0;
    done = dataset > 0;
    if (done) H5Dclose(dataset);
    H5Pclose(how);
    H5Sclose(space);
    return done ? STATUS_OK : refused(file, slabs[0].name);
}

/* A small dataset with its hash; count 0 makes a scalar. */
static enum status write_value(const struct durable_h5 *file, const char *path, hid_t type,
                               int64_t count, const void *values) {
    hsize_t dims[1] = {(hsize_t)count};
    hid_t space = count ? H5Screate_simple(1, dims, NULL) : H5Screate(H5S_SCALAR);
    hid_t dataset = create_dataset(file->file, path, type, space, H5P_DEFAULT);
    size_t bytes = H5Tget_size(type) * (size_t)(count ? count : 1);
    bool done = dataset > 0 &&
                H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0 &&
                put_hash(dataset, XXH3_64bits(values, bytes));
    if (dataset > 0) H5Dclose(dataset);
    H5Sclose(space);
    return done ? STATUS_OK : refused(file, path);
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

static enum status write_index(const char *path, const struct checkpoint_state *state,
                               struct slab_record *records, int64_t total) {
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
    enum status closed = durable_h5_close(&file);
    return status == STATUS_OK ? closed : status;
}

/* --- the whole ------------------------------------------------------------------------------- */

static enum status write_folder(struct comm *world, const struct checkpoint_claim *claim,
                                const struct checkpoint_state *state,
                                const struct checkpoint_slab *slabs, int count) {
    struct checkpoint_path folder = checkpoint_temporary_path(claim, state->step);
    struct checkpoint_path mine = checkpoint_rank_path(&folder, world->rank);
    TRY(parallel_agree(world, write_rank_file(mine.text, slabs, count)));
    struct slab_record *records;
    int64_t total = 0;
    enum status status = gather_records(world, slabs, count, &records, &total);
    if (status == STATUS_OK && world->rank == 0)
        status = write_index(checkpoint_index_path(&folder).text, state, records, total);
    free(records);
    if (status == STATUS_OK && world->rank == 0) status = checkpoint_seal_index(&folder);
    if (status == STATUS_OK && world->rank == 0)
        status = checkpoint_directory_publish(claim, state->step);
    return parallel_agree(world, status);
}

/* What rank 0 does after the verdict; the others wait, so that all see the folder as it is then. */
static void tidy(struct comm *world, const struct checkpoint_claim *claim, int64_t step, int keep,
                 bool saved) {
    if (world->rank == 0 && !saved) checkpoint_directory_sweep(claim);
    if (world->rank == 0 && saved &&
        checkpoint_directory_prune(claim, step, keep, checkpoint_best(claim->directory)) !=
            STATUS_OK)
        log_line(LOG_WARN, "event=checkpoint_prune reason=\"%s\"", status_message());
    struct stream stream;
    stream_open_cpu(&stream, 1);
    comm_barrier(world, &stream);
}

enum status checkpoint_save(struct comm *world, const struct checkpoint_claim *claim,
                            const struct checkpoint_state *state,
                            const struct checkpoint_slab *slabs, int slab_count, int keep) {
    assert(keep >= 1 && state->step >= 0 && state->history_count <= CHECKPOINT_HISTORY);
    enum status status = parallel_agree(
        world, world->rank == 0 ? checkpoint_directory_begin(claim, state->step) : STATUS_OK);
    if (status == STATUS_OK) {
        status = write_folder(world, claim, state, slabs, slab_count);
        /* files that can't be made have a reason of their own where the claim is lost */
        if (status != STATUS_OK && status != STATUS_PEER)
            TRY(parallel_agree(world,
                               world->rank == 0 ? checkpoint_claim_check(claim) : STATUS_OK));
    }
    tidy(world, claim, state->step, keep, status == STATUS_OK);
    return status;
}
