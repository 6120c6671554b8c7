/* HDF5 files that are on the disk when they are closed, or say why not.
 *
 * HDF5 caches what it writes; when the disk is full it finds out while closing, and a file that
 * can't be closed haunts the library until the process ends. So files are written through a driver
 * of ours (HDF5's virtual file layer): it keeps the first error of the system, lets HDF5 finish in
 * peace, syncs, and durable_h5_close reports. The bytes are those of HDF5's own driver. A file
 * whose bulk is written without HDF5 (parallel/checkpoint_rank_file.h) is detached instead: its
 * descriptor goes on, and who has it syncs.
 *
 * Token files (data/token_writer.c) need it otherwise: they are replaced whole by core/atomic_file,
 * which owns the descriptor, and grow for hours, so room is taken ahead of every write instead. */
#ifndef STRATA_PARALLEL_DURABLE_H5_H
#define STRATA_PARALLEL_DURABLE_H5_H

#include "kernels/base/status.h"
#include <hdf5.h>
#include <stdbool.h>
#include <stdint.h>

struct durable_h5 {
    hid_t file;   /* to create objects in; 0 when closed */
    hid_t driver; /* registered while the file is open */
    char *path;   /* owned; for messages */
    int error;    /* errno of the first failed system call, 0 when all is well */
    bool keep;    /* the descriptor outlives HDF5's file */
    int descriptor;
};

/* Creates `path`, which must not exist; *file stays where it is until it is closed. STATUS_IO names
 * the file and the reason. */
enum status durable_h5_create(struct durable_h5 *file, const char *path);

/* STATUS_IO once anything could not be written: no use in going on. */
enum status durable_h5_check(const struct durable_h5 *file);

/* The same, in HDF5's name: `what` could not be written. */
enum status durable_h5_refused(const struct durable_h5 *file, const char *what);

/* A dataset at a path whose groups are made on the way, as `how` says. Negative on failure. */
hid_t durable_h5_dataset(const struct durable_h5 *file, const char *path, hid_t type, hid_t space,
                         hid_t how);

/* An attribute of `count` values, a scalar where it is 1. */
bool durable_h5_attribute(hid_t object, const char *name, hid_t stored, hid_t native, int64_t count,
                          const void *values);

/* Closes, synced. STATUS_IO says what went wrong at any time since it was created. May be called
 * twice, and on a zeroed struct. Every other identifier in the file must be closed by then. */
enum status durable_h5_close(struct durable_h5 *file);

/* Closes HDF5's side alone: *descriptor, open for reading and writing, not synced, is the caller's.
 * On failure, as of durable_h5_close, it is -1. */
enum status durable_h5_detach(struct durable_h5 *file, int *descriptor);

#endif
