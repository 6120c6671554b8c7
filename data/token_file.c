#define _GNU_SOURCE
#include "data/token_file.h"
#include "data/h5_open.h"
#include "kernels/base/units.h"

#include <assert.h>
#include <errno.h>
#include <hdf5.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct token_file {
    struct token_file_info info;
    char *path;
    hid_t file, tokens, weights;
    int64_t *documents;
};

static enum status fail_format(const struct token_file *file, const char *what) {
    return status_fail(STATUS_FORMAT, "%s: not a token file: %s", file->path, what);
}

static bool read_attribute(hid_t file, const char *name, hid_t type, void *value) {
    if (H5Aexists(file, name) <= 0) return false;
    hid_t attribute = H5Aopen(file, name, H5P_DEFAULT);
    if (attribute < 0) return false;
    hid_t stored = H5Aget_type(attribute), space = H5Aget_space(attribute);
    bool fine = H5Tget_class(stored) == H5Tget_class(type) &&
                H5Sget_simple_extent_npoints(space) == 1 && H5Aread(attribute, type, value) >= 0;
    H5Sclose(space);
    H5Tclose(stored);
    H5Aclose(attribute);
    return fine;
}

/* Where the tokenizer was; a file without it is fine, and so is a string of any kind. */
static void read_tokenizer_path(struct token_file *file) {
    hid_t text = H5Tcopy(H5T_C_S1);
    H5Tset_size(text, sizeof file->info.tokenizer);
    H5Tset_cset(text, H5T_CSET_UTF8);
    if (!read_attribute(file->file, "tokenizer", text, file->info.tokenizer))
        file->info.tokenizer[0] = 0;
    file->info.tokenizer[sizeof file->info.tokenizer - 1] = 0;
    H5Tclose(text);
}

static enum status read_attributes(struct token_file *file) {
    int64_t version = 0;
    if (!read_attribute(file->file, "format_version", H5T_NATIVE_INT64, &version))
        return fail_format(file, "it has no attribute format_version");
    if (version != TOKEN_FILE_VERSION)
        return status_fail(STATUS_UNSUPPORTED, "%s: format_version is %lld, known is %d",
                           file->path, (long long)version, TOKEN_FILE_VERSION);
    if (!read_attribute(file->file, "tokenizer_hash", H5T_NATIVE_UINT64,
                        &file->info.tokenizer_hash))
        return fail_format(file, "it has no attribute tokenizer_hash");
    if (!read_attribute(file->file, "vocabulary", H5T_NATIVE_INT64, &file->info.vocabulary) ||
        file->info.vocabulary <= 0 || file->info.vocabulary > INT32_MAX)
        return fail_format(file, "its attribute vocabulary is missing or out of range");
    read_tokenizer_path(file);
    return STATUS_OK;
}

/* Opens a one-dimensional dataset of numbers and says how long it is; < 0 if it is none. */
static hid_t open_dataset(hid_t file, const char *name, bool integers, int64_t *count) {
    if (H5Lexists(file, name, H5P_DEFAULT) <= 0) return H5I_INVALID_HID;
    hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
    if (dataset < 0) return H5I_INVALID_HID;
    hid_t type = H5Dget_type(dataset), space = H5Dget_space(dataset);
    H5T_class_t class = H5Tget_class(type);
    hsize_t size = 0;
    bool fine = (class == H5T_INTEGER || (!integers && class == H5T_FLOAT)) &&
                H5Sget_simple_extent_ndims(space) == 1 &&
                H5Sget_simple_extent_dims(space, &size, NULL) == 1 && size <= INT64_MAX / 8;
    *count = (int64_t)size;
    H5Sclose(space);
    H5Tclose(type);
    if (fine) return dataset;
    H5Dclose(dataset);
    return H5I_INVALID_HID;
}

static enum status read_rows(const struct token_file *file, hid_t dataset, int64_t first,
                             int64_t count, hid_t type, void *rows) {
    if (count == 0) return STATUS_OK;
    hsize_t begin = (hsize_t)first, length = (hsize_t)count;
    hid_t memory = H5Screate_simple(1, &length, NULL), space = H5Dget_space(dataset);
    herr_t result = H5Sselect_hyperslab(space, H5S_SELECT_SET, &begin, NULL, &length, NULL);
    errno = 0;
    if (result >= 0) result = H5Dread(dataset, type, memory, space, H5P_DEFAULT, rows);
    int error = errno;
    H5Sclose(space);
    H5Sclose(memory);
    if (result >= 0) return STATUS_OK;
    return status_fail(STATUS_IO, "%s: can't be read at token %lld: %s", file->path,
                       (long long)first, error ? strerror(error) : "truncated or damaged");
}

static enum status check_documents(const struct token_file *file) {
    const int64_t *documents = file->documents;
    if (documents[0] != 0) return fail_format(file, "its first document does not begin at 0");
    for (int64_t d = 0; d < file->info.documents; d++)
        if (documents[d + 1] < documents[d])
            return status_fail(STATUS_FORMAT, "%s: document %lld ends before it begins", file->path,
                               (long long)d);
    if (documents[file->info.documents] != file->info.tokens)
        return status_fail(STATUS_FORMAT, "%s: its documents end at token %lld of %lld", file->path,
                           (long long)documents[file->info.documents],
                           (long long)file->info.tokens);
    return STATUS_OK;
}

static enum status read_documents(struct token_file *file) {
    int64_t count = 0;
    hid_t dataset = open_dataset(file->file, "documents", true, &count);
    if (dataset < 0 || count < 1) {
        if (dataset >= 0) H5Dclose(dataset);
        return fail_format(file, "it has no list of integers /documents");
    }
    file->info.documents = count - 1;
    /* A dataset may claim more rows than its file could hold. */
    file->documents = malloc((size_t)count * sizeof *file->documents);
    enum status status = file->documents
                             ? read_rows(file, dataset, 0, count, H5T_NATIVE_INT64, file->documents)
                             : status_fail(STATUS_MEMORY, "%s: no memory for %lld documents",
                                           file->path, (long long)file->info.documents);
    H5Dclose(dataset);
    return status == STATUS_OK ? check_documents(file) : status;
}

static enum status open_parts(struct token_file *file) {
    TRY(read_attributes(file));
    file->tokens = open_dataset(file->file, "tokens", true, &file->info.tokens);
    if (file->tokens < 0) return fail_format(file, "it has no list of integers /tokens");
    if (H5Lexists(file->file, "weights", H5P_DEFAULT) > 0) {
        int64_t count = 0;
        file->weights = open_dataset(file->file, "weights", false, &count);
        if (file->weights < 0 || count != file->info.tokens)
            return fail_format(file, "/weights is not a list of one number a token");
        file->info.weighted = true;
        hid_t type = H5Dget_type(file->weights);
        file->info.fractional = H5Tget_class(type) == H5T_FLOAT;
        H5Tclose(type);
    }
    return read_documents(file);
}

static enum status open_file(struct token_file *file) {
    enum status status = h5_open(&file->file, file->path);
    if (status == STATUS_FORMAT)
        return fail_format(file, "HDF5 can't open it (foreign or truncated)");
    return status == STATUS_OK ? open_parts(file) : status;
}

enum status token_file_open(struct token_file **out, const char *path) {
    struct token_file *file = calloc(1, sizeof *file);
    if (!file) return status_fail(STATUS_MEMORY, "%s: no memory to open it", path);
    file->tokens = file->weights = H5I_INVALID_HID;
    file->path = strdup(path);
    enum status status =
        file->path ? open_file(file) : status_fail(STATUS_MEMORY, "%s: no memory to open it", path);
    if (status != STATUS_OK)
        token_file_close(file);
    else
        *out = file;
    return status;
}

void token_file_close(struct token_file *file) {
    if (!file) return;
    if (file->tokens >= 0) H5Dclose(file->tokens);
    if (file->weights >= 0) H5Dclose(file->weights);
    if (file->file > 0) H5Fclose(file->file);
    free(file->documents);
    free(file->path);
    free(file);
}

const struct token_file_info *token_file_info(const struct token_file *file) {
    return &file->info;
}

const char *token_file_path(const struct token_file *file) {
    return file->path;
}

enum status token_file_check_tokenizer(const struct token_file *file, uint64_t tokenizer_hash,
                                       const char *tokenizer) {
    const struct token_file_info *info = &file->info;
    if (info->tokenizer_hash == tokenizer_hash) return STATUS_OK;
    return status_fail(STATUS_FORMAT,
                       "%s was made with another tokenizer (%s, hash %016llx) than the model's "
                       "(%s, hash %016llx): make it again with strata data tokenize --tokenizer %s",
                       file->path, *info->tokenizer ? info->tokenizer : "none named",
                       (unsigned long long)info->tokenizer_hash, tokenizer,
                       (unsigned long long)tokenizer_hash, tokenizer);
}

const int64_t *token_file_documents(const struct token_file *file) {
    return file->documents;
}

enum status token_file_read(struct token_file *file, int64_t first, int64_t count, int32_t *tokens,
                            float *weights) {
    assert(first >= 0 && count >= 0 && first + count <= file->info.tokens);
    TRY(read_rows(file, file->tokens, first, count, H5T_NATIVE_INT32, tokens));
    for (int64_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= file->info.vocabulary)
            return status_fail(STATUS_FORMAT,
                               "%s: token %lld has id %d, the vocabulary ends at %lld", file->path,
                               (long long)(first + i), tokens[i], (long long)file->info.vocabulary);
    if (!weights) return STATUS_OK;
    if (file->weights < 0) {
        for (int64_t i = 0; i < count; i++) weights[i] = 1;
        return STATUS_OK;
    }
    TRY(read_rows(file, file->weights, first, count, H5T_NATIVE_FLOAT, weights));
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(weights[i]) || weights[i] < 0)
            return status_fail(STATUS_FORMAT, "%s: token %lld has loss weight %g", file->path,
                               (long long)(first + i), (double)weights[i]);
    return STATUS_OK;
}

enum { SAMPLES = 64, SAMPLE_TOKENS = 512 };

/* The first and the last tokens are among the samples; those of a small file overlap. */
static enum status hash_samples(struct token_file *file, XXH3_state_t *hash) {
    int32_t tokens[SAMPLE_TOKENS];
    float weights[SAMPLE_TOKENS];
    int64_t all = file->info.tokens, count = min_i64(all, SAMPLE_TOKENS);
    for (int64_t i = 0; i < SAMPLES; i++) {
        int64_t first = (int64_t)((double)(all - count) * (double)i / (SAMPLES - 1));
        TRY(token_file_read(file, first, count, tokens, weights));
        XXH3_64bits_update(hash, tokens, (size_t)count * sizeof *tokens);
        XXH3_64bits_update(hash, weights, (size_t)count * sizeof *weights);
    }
    return STATUS_OK;
}

enum status token_file_fingerprint(struct token_file *file, uint64_t *fingerprint) {
    const struct token_file_info *info = &file->info;
    const uint64_t facts[] = {info->tokenizer_hash, (uint64_t)info->vocabulary,
                              (uint64_t)info->tokens, (uint64_t)info->documents};
    XXH3_state_t *hash = XXH3_createState();
    if (!hash) return status_fail(STATUS_MEMORY, "%s: no memory for a hash", file->path);
    XXH3_64bits_reset(hash);
    XXH3_64bits_update(hash, facts, sizeof facts);
    XXH3_64bits_update(hash, file->documents,
                       (size_t)(info->documents + 1) * sizeof *file->documents);
    enum status status = hash_samples(file, hash);
    *fingerprint = XXH3_64bits_digest(hash);
    XXH3_freeState(hash);
    return status;
}
