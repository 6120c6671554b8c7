#define _GNU_SOURCE
#include "data/token_file.h"

#include "core/atomic_file.h"

#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CHUNK_TOKENS = 1 << 16,  /* of a dataset on disk: a shuffled read touches little more */
    BUFFER_TOKENS = 1 << 20, /* gathered before a write */
    BUFFER_DOCUMENTS = 1 << 16,
    RESERVE_BYTES = 8 << 20, /* more than HDF5's caches and metadata can grow by in a write */
};

struct token_writer {
    struct token_file_info info;
    struct atomic_file out; /* HDF5 opens its temporary name; the descriptor is for reserving */
    hid_t file, tokens, documents, weights; /* weights: H5I_INVALID_HID until one isn't 1 */
    int32_t *token_buffer;
    float *weight_buffer;
    int64_t *document_buffer;
    int64_t tokens_written, documents_written, ends; /* ends: offsets waiting in document_buffer */
};

/* HDF5 keeps errno from the write that failed. */
static enum status fail_write(const struct token_writer *writer) {
    int error = errno;
    return status_fail(STATUS_IO, "%s: can't be written: %s", writer->out.path,
                       error ? strerror(error) : "HDF5 refused");
}

/* Takes room on the disk before HDF5 needs it: HDF5 1.10 can't close a file that it couldn't write,
 * and crashes at exit. A file system that doesn't know how to reserve isn't asked twice. */
static enum status reserve(struct token_writer *writer, int64_t bytes) {
    hsize_t size = 0;
    if (writer->file >= 0) H5Fget_filesize(writer->file, &size);
    int error =
        posix_fallocate(writer->out.descriptor, (off_t)size, (off_t)(bytes + RESERVE_BYTES));
    if (error == 0 || error == EOPNOTSUPP || error == EINVAL) return STATUS_OK;
    errno = error;
    return fail_write(writer);
}

static hid_t create_dataset(struct token_writer *writer, const char *name, hid_t type,
                            hsize_t chunk, bool compressed) {
    hsize_t none = 0, unlimited = H5S_UNLIMITED;
    hid_t space = H5Screate_simple(1, &none, &unlimited);
    hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(properties, 1, &chunk);
    if (compressed) H5Pset_deflate(properties, 1);
    hid_t dataset =
        H5Dcreate2(writer->file, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    H5Pclose(properties);
    H5Sclose(space);
    return dataset;
}

static enum status append_rows(struct token_writer *writer, hid_t dataset, int64_t already,
                               int64_t count, hid_t type, const void *rows) {
    if (count == 0) return STATUS_OK;
    TRY(reserve(writer, count * (int64_t)sizeof(int64_t)));
    hsize_t size = (hsize_t)(already + count), begin = (hsize_t)already, length = (hsize_t)count;
    errno = 0;
    if (H5Dset_extent(dataset, &size) < 0) return fail_write(writer);
    hid_t memory = H5Screate_simple(1, &length, NULL), space = H5Dget_space(dataset);
    herr_t result = H5Sselect_hyperslab(space, H5S_SELECT_SET, &begin, NULL, &length, NULL);
    if (result >= 0) result = H5Dwrite(dataset, type, memory, space, H5P_DEFAULT, rows);
    enum status status = result < 0 ? fail_write(writer) : STATUS_OK;
    H5Sclose(space);
    H5Sclose(memory);
    return status;
}

static bool write_attribute(hid_t file, const char *name, hid_t stored, hid_t given,
                            const void *value) {
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(file, name, stored, space, H5P_DEFAULT, H5P_DEFAULT);
    bool fine = attribute >= 0 && H5Awrite(attribute, given, value) >= 0;
    if (attribute >= 0) H5Aclose(attribute);
    H5Sclose(space);
    return fine;
}

static bool write_attributes(const struct token_writer *writer) {
    const struct token_file_info *info = &writer->info;
    int64_t version = TOKEN_FILE_VERSION;
    hid_t text = H5Tcopy(H5T_C_S1);
    H5Tset_size(text, strlen(info->tokenizer) + 1);
    H5Tset_cset(text, H5T_CSET_UTF8);
    bool fine = write_attribute(writer->file, "format_version", H5T_STD_I64LE, H5T_NATIVE_INT64,
                                &version) &&
                write_attribute(writer->file, "tokenizer_hash", H5T_STD_U64LE, H5T_NATIVE_UINT64,
                                &info->tokenizer_hash) &&
                write_attribute(writer->file, "vocabulary", H5T_STD_I64LE, H5T_NATIVE_INT64,
                                &info->vocabulary) &&
                write_attribute(writer->file, "tokenizer", text, text, info->tokenizer);
    H5Tclose(text);
    return fine;
}

static bool allocate_buffers(struct token_writer *writer) {
    writer->token_buffer = malloc(BUFFER_TOKENS * sizeof *writer->token_buffer);
    writer->weight_buffer = malloc(BUFFER_TOKENS * sizeof *writer->weight_buffer);
    writer->document_buffer = malloc(BUFFER_DOCUMENTS * sizeof *writer->document_buffer);
    return writer->token_buffer && writer->weight_buffer && writer->document_buffer;
}

static enum status create_file(struct token_writer *writer, const char *path) {
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    TRY(atomic_file_create(&writer->out, path, 0));
    TRY(reserve(writer, 0)); /* before HDF5 begins, and again as it truncates the file */
    errno = 0;
    writer->file = H5Fcreate(writer->out.temporary, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    if (writer->file < 0) return fail_write(writer);
    TRY(reserve(writer, 0));
    hid_t type = writer->info.vocabulary <= 65536 ? H5T_STD_U16LE : H5T_STD_U32LE;
    writer->tokens = create_dataset(writer, "tokens", type, CHUNK_TOKENS, false);
    writer->documents =
        create_dataset(writer, "documents", H5T_STD_I64LE, BUFFER_DOCUMENTS / 8, false);
    if (writer->tokens < 0 || writer->documents < 0 || !write_attributes(writer))
        return fail_write(writer);
    return STATUS_OK;
}

enum status token_writer_create(struct token_writer **out, const char *path,
                                const struct token_file_info *info) {
    struct token_writer *writer = calloc(1, sizeof *writer);
    if (!writer) return status_fail(STATUS_MEMORY, "%s: no memory to write it", path);
    writer->info = *info;
    writer->info.tokens = writer->info.documents = 0;
    writer->info.weighted = false;
    writer->file = writer->tokens = writer->documents = writer->weights = H5I_INVALID_HID;
    enum status status = allocate_buffers(writer)
                             ? create_file(writer, path)
                             : status_fail(STATUS_MEMORY, "%s: no memory to write it", path);
    if (status != STATUS_OK) {
        token_writer_discard(writer);
        return status;
    }
    writer->document_buffer[writer->ends++] = 0;
    *out = writer;
    return STATUS_OK;
}

/* /weights starts late, with the first weight that isn't 1; the tokens before it get theirs. */
static enum status begin_weights(struct token_writer *writer) {
    hid_t type = writer->info.fractional ? H5T_IEEE_F32LE : H5T_STD_U8LE;
    errno = 0;
    writer->weights = create_dataset(writer, "weights", type, CHUNK_TOKENS, true);
    if (writer->weights < 0) return fail_write(writer);
    writer->info.weighted = true;
    float *ones = malloc(BUFFER_TOKENS * sizeof *ones);
    if (!ones) return status_fail(STATUS_MEMORY, "%s: no memory for weights", writer->out.path);
    for (int i = 0; i < BUFFER_TOKENS; i++) ones[i] = 1;
    enum status status = STATUS_OK;
    for (int64_t done = 0; done < writer->tokens_written && status == STATUS_OK;) {
        int64_t rest = writer->tokens_written - done;
        int64_t count = rest < BUFFER_TOKENS ? rest : BUFFER_TOKENS;
        status = append_rows(writer, writer->weights, done, count, H5T_NATIVE_FLOAT, ones);
        done += count;
    }
    free(ones);
    return status;
}

static enum status flush_documents(struct token_writer *writer) {
    TRY(append_rows(writer, writer->documents, writer->documents_written, writer->ends,
                    H5T_NATIVE_INT64, writer->document_buffer));
    writer->documents_written += writer->ends;
    writer->ends = 0;
    return STATUS_OK;
}

static enum status flush_tokens(struct token_writer *writer) {
    int64_t count = writer->info.tokens - writer->tokens_written;
    bool ones = true;
    for (int64_t i = 0; i < count && ones; i++) ones = writer->weight_buffer[i] == 1;
    if (!ones && writer->weights < 0) TRY(begin_weights(writer));
    TRY(append_rows(writer, writer->tokens, writer->tokens_written, count, H5T_NATIVE_INT32,
                    writer->token_buffer));
    if (writer->weights >= 0)
        TRY(append_rows(writer, writer->weights, writer->tokens_written, count, H5T_NATIVE_FLOAT,
                        writer->weight_buffer));
    writer->tokens_written = writer->info.tokens;
    return STATUS_OK;
}

/* uint8 weights would silently lose what is between whole numbers. */
static enum status check_weight(const struct token_writer *writer, float weight) {
    bool fine = writer->info.fractional ? isfinite(weight) && weight >= 0
                                        : weight >= 0 && weight <= 255 && weight == floorf(weight);
    if (fine) return STATUS_OK;
    return status_fail(STATUS_FORMAT, "loss weight %g must be %s", (double)weight,
                       writer->info.fractional ? "finite and not negative"
                                               : "a whole number from 0 to 255");
}

enum status token_writer_append(struct token_writer *writer, const int32_t *tokens,
                                const float *weights, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        if (tokens[i] < 0 || tokens[i] >= writer->info.vocabulary)
            return status_fail(STATUS_FORMAT,
                               "token id %d is outside the tokenizer's vocabulary of %lld",
                               tokens[i], (long long)writer->info.vocabulary);
        if (weights) TRY(check_weight(writer, weights[i]));
        int64_t used = writer->info.tokens - writer->tokens_written;
        writer->token_buffer[used] = tokens[i];
        writer->weight_buffer[used] = weights ? weights[i] : 1;
        writer->info.tokens++;
        if (used + 1 == BUFFER_TOKENS) TRY(flush_tokens(writer));
    }
    writer->document_buffer[writer->ends++] = writer->info.tokens;
    writer->info.documents++;
    return writer->ends == BUFFER_DOCUMENTS ? flush_documents(writer) : STATUS_OK;
}

const struct token_file_info *token_writer_info(const struct token_writer *writer) {
    return &writer->info;
}

/* Every handle; false when the last bytes could not be written. *size is where HDF5's file ends. */
static bool close_handles(struct token_writer *writer, hsize_t *size) {
    hid_t *datasets[] = {&writer->tokens, &writer->documents, &writer->weights};
    bool fine = true;
    errno = 0;
    for (int i = 0; i < 3; i++) {
        if (*datasets[i] >= 0 && H5Dclose(*datasets[i]) < 0) fine = false;
        *datasets[i] = H5I_INVALID_HID;
    }
    if (writer->file >= 0) {
        if (H5Fflush(writer->file, H5F_SCOPE_GLOBAL) < 0) fine = false;
        if (H5Fget_filesize(writer->file, size) < 0) fine = false;
        if (H5Fclose(writer->file) < 0) fine = false;
        writer->file = H5I_INVALID_HID;
    }
    return fine;
}

/* What was reserved past HDF5's end of file is given back. */
static bool trim(const struct token_writer *writer, hsize_t size) {
    struct stat stat = {0};
    return fstat(writer->out.descriptor, &stat) == 0 &&
           ((hsize_t)stat.st_size <= size || ftruncate(writer->out.descriptor, (off_t)size) == 0);
}

enum status token_writer_finish(struct token_writer *writer) {
    hsize_t size = 0;
    enum status status = flush_tokens(writer);
    if (status == STATUS_OK) status = flush_documents(writer);
    if (status == STATUS_OK && (!close_handles(writer, &size) || !trim(writer, size)))
        status = fail_write(writer);
    if (status == STATUS_OK) status = atomic_file_commit(&writer->out);
    token_writer_discard(writer);
    return status;
}

void token_writer_discard(struct token_writer *writer) {
    if (!writer) return;
    hsize_t size = 0;
    close_handles(writer, &size);
    atomic_file_close(&writer->out);
    free(writer->token_buffer);
    free(writer->weight_buffer);
    free(writer->document_buffer);
    free(writer);
}
