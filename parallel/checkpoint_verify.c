#include "parallel/checkpoint_verify.h"
#include "core/atomic_file.h"
#include "data/h5_open.h"
#include "parallel/checkpoint_format.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { VERIFY_BYTES = 1 << 20, MAX_RANKS = 1 << 24, MAX_SLABS = 1 << 26, SEAL_BYTES = 17 };

static struct checkpoint_path seal_path(const struct checkpoint_path *folder) {
    struct checkpoint_path path;
    snprintf(path.text, sizeof path.text, "%.*s/index.xxh3", CHECKPOINT_PATH_BYTES - 16,
             folder->text);
    return path;
}

/* The hash of a file's bytes, as 16 hexadecimal digits. */
static enum status hash_file(const char *path, char digits[SEAL_BYTES]) {
    FILE *file = fopen(path, "rb");
    if (!file) return status_fail(STATUS_IO, "can't read '%s': %s", path, strerror(errno));
    XXH3_state_t *hash = XXH3_createState();
    bool done = hash && XXH3_64bits_reset(hash) == XXH_OK;
    char buffer[1 << 14];
    for (size_t got; done && (got = fread(buffer, 1, sizeof buffer, file)) > 0;)
        XXH3_64bits_update(hash, buffer, got);
    done = done && !ferror(file);
    if (done) snprintf(digits, SEAL_BYTES, "%016" PRIx64, (uint64_t)XXH3_64bits_digest(hash));
    XXH3_freeState(hash);
    fclose(file);
    return done ? STATUS_OK : status_fail(STATUS_IO, "can't read '%s'", path);
}

enum status checkpoint_seal_index(const struct checkpoint_path *folder) {
    char digits[SEAL_BYTES];
    TRY(hash_file(checkpoint_index_path(folder).text, digits));
    digits[SEAL_BYTES - 1] = '\n';
    return atomic_file_replace(seal_path(folder).text, digits, SEAL_BYTES);
}

enum status checkpoint_verify_index(const struct checkpoint_path *folder) {
    struct checkpoint_path index = checkpoint_index_path(folder), seal = seal_path(folder);
    char found[SEAL_BYTES], kept[SEAL_BYTES] = "";
    TRY(hash_file(index.text, found));
    FILE *file = fopen(seal.text, "rb");
    if (!file) return status_fail(STATUS_IO, "can't read '%s': %s", seal.text, strerror(errno));
    size_t got = fread(kept, 1, SEAL_BYTES - 1, file);
    fclose(file);
    if (got == SEAL_BYTES - 1 && memcmp(found, kept, got) == 0) return STATUS_OK;
    return status_fail(STATUS_FORMAT, "'%s' is not what was written", index.text);
}

enum status checkpoint_files(const struct checkpoint_path *folder, int32_t **ranks, int *count) {
    struct checkpoint_path path = checkpoint_index_path(folder);
    *ranks = NULL;
    *count = 0;
    hid_t file;
    TRY(h5_open(&file, path.text));
    hid_t dataset = H5Lexists(file, CHECKPOINT_FILES, H5P_DEFAULT) > 0
                        ? H5Dopen2(file, CHECKPOINT_FILES, H5P_DEFAULT)
                        : 0;
    hid_t space = dataset > 0 ? H5Dget_space(dataset) : 0;
    hssize_t points = space > 0 ? H5Sget_simple_extent_npoints(space) : 0;
    enum status status = STATUS_OK;
    if (dataset < 0 || points < 0 || points > MAX_RANKS)
        status = status_fail(STATUS_FORMAT, "'%s' has no readable list of files", path.text);
    if (status == STATUS_OK && points > 0) {
        *ranks = malloc((size_t)points * sizeof **ranks);
        *count = (int)points;
        if (!*ranks)
            status = status_fail(STATUS_MEMORY, "no memory to read '%s'", path.text);
        else if (H5Dread(dataset, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, *ranks) < 0)
            status = status_fail(STATUS_FORMAT, "'%s' has no readable list of files", path.text);
    }
    if (space > 0) H5Sclose(space);
    if (dataset > 0) H5Dclose(dataset);
    H5Fclose(file);
    return status;
}

enum status checkpoint_verify_structure(const struct checkpoint_path *folder) {
    int32_t *ranks;
    int count;
    TRY(checkpoint_verify_index(folder));
    enum status status = checkpoint_files(folder, &ranks, &count);
    for (int i = 0; i < count && status == STATUS_OK; i++) {
        hid_t file;
        status = h5_open(&file, checkpoint_rank_path(folder, ranks[i]).text);
        if (status == STATUS_OK) H5Fclose(file);
    }
    free(ranks);
    return status;
}

/* One dataset's elements as rows of bytes. */
struct rows {
    hid_t dataset, type, space;
    int rank; /* 0, 1 or 2 axes */
    hsize_t dims[2];
    size_t row_bytes;
};

/* The hash of rows [0, dims[0]) in order, a buffer at a time. */
static bool hash_rows(const struct rows *rows, uint64_t *digest) {
    hsize_t step = rows->row_bytes < VERIFY_BYTES ? VERIFY_BYTES / rows->row_bytes : 1;
    if (step > rows->dims[0]) step = rows->dims[0];
    char *buffer = malloc((size_t)step * rows->row_bytes + 1);
    XXH3_state_t *hash = XXH3_createState();
    bool done = buffer && hash;
    if (done) XXH3_64bits_reset(hash);
    for (hsize_t first = 0; first < rows->dims[0] && done; first += step) {
        hsize_t count = rows->dims[0] - first < step ? rows->dims[0] - first : step;
        hsize_t start[2] = {first, 0}, extent[2] = {count, rows->dims[1]};
        hid_t memory = H5S_ALL;
        if (rows->rank > 0) {
            H5Sselect_hyperslab(rows->space, H5S_SELECT_SET, start, NULL, extent, NULL);
            memory = H5Screate_simple(rows->rank, extent, NULL);
        }
        done = H5Dread(rows->dataset, rows->type, memory, rows->rank > 0 ? rows->space : H5S_ALL,
                       H5P_DEFAULT, buffer) >= 0;
        if (done) XXH3_64bits_update(hash, buffer, (size_t)count * rows->row_bytes);
        if (rows->rank > 0) H5Sclose(memory);
    }
    if (done) *digest = XXH3_64bits_digest(hash);
    XXH3_freeState(hash);
    free(buffer);
    return done;
}

/* The hashes of a rank file's slabs; none in an index. */
struct hashes {
    uint64_t *values; /* owned */
    int64_t count;
};

static bool read_number(hid_t dataset, const char *name, hid_t type, void *value) {
    if (H5Aexists(dataset, name) <= 0) return false;
    hid_t attribute = H5Aopen(dataset, name, H5P_DEFAULT);
    bool done = attribute > 0 && H5Aread(attribute, type, value) >= 0;
    if (attribute > 0) H5Aclose(attribute);
    return done;
}

static bool find_hash(hid_t dataset, const struct hashes *hashes, uint64_t *hash) {
    int64_t at = -1;
    if (read_number(dataset, CHECKPOINT_HASH, H5T_NATIVE_UINT64, hash)) return true;
    if (!read_number(dataset, CHECKPOINT_HASH_AT, H5T_NATIVE_INT64, &at)) return false;
    if (at < 0 || at >= hashes->count) return false;
    *hash = hashes->values[at];
    return true;
}

static bool is_virtual(hid_t dataset) {
    hid_t how = H5Dget_create_plist(dataset);
    bool result = how > 0 && H5Pget_layout(how) == H5D_VIRTUAL;
    if (how > 0) H5Pclose(how);
    return result;
}

/* Sizes are what a file claims: their bytes must be a number, and on the disk, where nothing is
 * compressed, or reading them would overrun memory or never end. */
static bool rows_are_stored(struct rows *rows) {
    size_t all;
    return !__builtin_mul_overflow(H5Tget_size(rows->type), rows->dims[1], &rows->row_bytes) &&
           !__builtin_mul_overflow(rows->row_bytes, rows->dims[0], &all) && rows->row_bytes > 0 &&
           rows->row_bytes < PTRDIFF_MAX && all <= H5Dget_storage_size(rows->dataset);
}

static bool dataset_intact(hid_t dataset, const struct hashes *hashes) {
    if (is_virtual(dataset)) return true; /* its bytes are in the rank files */
    struct rows rows = {.dataset = dataset, .dims = {1, 1}};
    rows.type = H5Dget_type(dataset);
    rows.space = H5Dget_space(dataset);
    rows.rank = H5Sget_simple_extent_ndims(rows.space);
    uint64_t stored = 0, found = 1;
    bool intact = rows.type > 0 && rows.rank >= 0 && rows.rank <= 2 &&
                  H5Sget_simple_extent_dims(rows.space, rows.dims, NULL) >= 0;
    intact = intact && rows_are_stored(&rows) && find_hash(dataset, hashes, &stored) &&
             hash_rows(&rows, &found) && stored == found;
    if (rows.space > 0) H5Sclose(rows.space);
    if (rows.type > 0) H5Tclose(rows.type);
    return intact;
}

/* What they are compared with says whether they are right themselves. */
static bool read_hashes(hid_t file, struct hashes *hashes) {
    if (H5Lexists(file, CHECKPOINT_HASHES, H5P_DEFAULT) <= 0) return true;
    hid_t dataset = H5Dopen2(file, CHECKPOINT_HASHES, H5P_DEFAULT);
    hid_t space = dataset > 0 ? H5Dget_space(dataset) : 0;
    hssize_t points = space > 0 ? H5Sget_simple_extent_npoints(space) : -1;
    bool done = points > 0 && points <= MAX_SLABS &&
                (hsize_t)points * sizeof *hashes->values <= H5Dget_storage_size(dataset);
    if (done) hashes->values = malloc((size_t)points * sizeof *hashes->values);
    done = done && hashes->values &&
           H5Dread(dataset, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, hashes->values) >= 0;
    if (done) hashes->count = points;
    if (space > 0) H5Sclose(space);
    if (dataset > 0) H5Dclose(dataset);
    return done;
}

struct visit {
    const char *path;
    struct hashes hashes;
    enum status status;
};

static herr_t visit_link(hid_t group, const char *name, const H5L_info_t *info, void *context) {
    (void)info;
    struct visit *visit = context;
    if (strcmp(name, CHECKPOINT_HASHES) == 0) return 0;
    hid_t object = H5Oopen(group, name, H5P_DEFAULT);
    bool intact = object > 0 &&
                  (H5Iget_type(object) != H5I_DATASET || dataset_intact(object, &visit->hashes));
    if (object > 0) H5Oclose(object);
    if (intact) return 0;
    visit->status =
        status_fail(STATUS_FORMAT, "'%s': dataset '%s' is not what was written", visit->path, name);
    return 1;
}

enum status checkpoint_verify_file(const char *path) {
    hid_t file;
    TRY(h5_open(&file, path));
    struct visit visit = {.path = path};
    if (!read_hashes(file, &visit.hashes))
        visit.status = status_fail(STATUS_FORMAT, "'%s': its hashes can't be read", path);
    else if (H5Lvisit(file, H5_INDEX_NAME, H5_ITER_NATIVE, visit_link, &visit) < 0)
        visit.status = status_fail(STATUS_FORMAT, "'%s': its groups can't be read", path);
    free(visit.hashes.values);
    H5Fclose(file);
    return visit.status;
}
