#include "parallel/checkpoint_reader.h"

#include "data/h5_open.h"
#include "parallel/checkpoint_directory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct checkpoint_reader {
    struct checkpoint_path path;
    hid_t file, dataset, space; /* the tensor read last; 0 = none */
    char name[CHECKPOINT_NAME_BYTES];
};

enum status checkpoint_reader_open(struct checkpoint_reader **out, const char *directory,
                                   int64_t step) {
    TRY(checkpoint_directory_check(directory));
    struct checkpoint_reader *reader = calloc(1, sizeof *reader);
    if (!reader) return status_fail(STATUS_MEMORY, "no memory to read a checkpoint");
    struct checkpoint_path folder = checkpoint_step_path(directory, step);
    reader->path = checkpoint_index_path(&folder);
    enum status status = h5_open(&reader->file, reader->path.text);
    if (status == STATUS_OK)
        *out = reader;
    else
        checkpoint_reader_close(reader);
    return status;
}

static void close_tensor(struct checkpoint_reader *reader) {
    if (reader->space > 0) H5Sclose(reader->space);
    if (reader->dataset > 0) H5Dclose(reader->dataset);
    reader->space = reader->dataset = 0;
    reader->name[0] = '\0';
}

void checkpoint_reader_close(struct checkpoint_reader *reader) {
    if (!reader) return;
    close_tensor(reader);
    if (reader->file > 0) H5Fclose(reader->file);
    free(reader);
}

static enum status unreadable(const struct checkpoint_reader *reader, const char *name) {
    return status_fail(STATUS_FORMAT, "'%s': '%s' is missing or can't be read", reader->path.text,
                       name);
}

static enum status open_tensor(struct checkpoint_reader *reader, const char *name, int64_t rows,
                               int64_t cols) {
    hsize_t dims[2] = {0, 0};
    if (strcmp(reader->name, name) == 0) return STATUS_OK;
    close_tensor(reader);
    reader->dataset = H5Dopen2(reader->file, name, H5P_DEFAULT);
    if (reader->dataset <= 0) return unreadable(reader, name);
    reader->space = H5Dget_space(reader->dataset);
    if (H5Sget_simple_extent_ndims(reader->space) != 2) return unreadable(reader, name);
    H5Sget_simple_extent_dims(reader->space, dims, NULL);
    if (dims[0] != (hsize_t)rows || dims[1] != (hsize_t)cols)
        return status_fail(STATUS_SHAPE, "'%s': tensor '%s' is %llu x %llu, not %lld x %lld",
                           reader->path.text, name, (unsigned long long)dims[0],
                           (unsigned long long)dims[1], (long long)rows, (long long)cols);
    snprintf(reader->name, sizeof reader->name, "%s", name);
    return STATUS_OK;
}

enum status checkpoint_reader_rows(struct checkpoint_reader *reader, float *out, const char *name,
                                   int64_t rows, int64_t cols, int64_t first, int64_t count) {
    TRY(open_tensor(reader, name, rows, cols));
    hsize_t start[2] = {(hsize_t)first, 0}, extent[2] = {(hsize_t)count, (hsize_t)cols};
    H5Sselect_hyperslab(reader->space, H5S_SELECT_SET, start, NULL, extent, NULL);
    hid_t memory = H5Screate_simple(2, extent, NULL);
    herr_t code =
        H5Dread(reader->dataset, H5T_NATIVE_FLOAT, memory, reader->space, H5P_DEFAULT, out);
    H5Sclose(memory);
    return code < 0 ? unreadable(reader, name) : STATUS_OK;
}
