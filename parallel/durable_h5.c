#define _GNU_SOURCE
#include "parallel/durable_h5.h"

#include "core/atomic_file.h"

#include <H5FDpublic.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What HDF5 hands to driver_open. */
struct driver_info {
    struct durable_h5 *owner;
};

struct driver_file {
    H5FD_t base; /* HDF5's part: first */
    int descriptor;
    struct durable_h5 *owner; /* keeps the first error */
    haddr_t end_of_addresses, end_of_file;
};

static void keep_error(struct driver_file *file) {
    if (file->owner->error == 0) file->owner->error = errno ? errno : EIO;
}

static H5FD_t *driver_open(const char *name, unsigned flags, hid_t access, haddr_t maximum) {
    (void)maximum;
    const struct driver_info *info = H5Pget_driver_info(access);
    if (!info || !(flags & H5F_ACC_CREAT)) return NULL; /* HDF5 first tries what may be there */
    struct driver_file *file = calloc(1, sizeof *file);
    if (!file) return NULL;
    file->owner = info->owner;
    file->descriptor = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file->descriptor >= 0) return &file->base;
    keep_error(file);
    free(file);
    return NULL;
}

static herr_t driver_close(H5FD_t *base) {
    struct driver_file *file = (struct driver_file *)base;
    if (file->owner->keep && file->owner->error == 0) {
        file->owner->descriptor = file->descriptor;
        free(file);
        return 0;
    }
    if (descriptor_sync(file->descriptor) != 0) keep_error(file);
    /* A close that is interrupted has closed all the same: close(2). */
    if (close(file->descriptor) != 0 && errno != EINTR) keep_error(file);
    free(file);
    return 0;
}

static herr_t driver_query(const H5FD_t *base, unsigned long *flags) {
    (void)base;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
             H5FD_FEAT_AGGREGATE_SMALLDATA | H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
    return 0;
}

static haddr_t driver_get_eoa(const H5FD_t *base, H5FD_mem_t type) {
    (void)type;
    return ((const struct driver_file *)base)->end_of_addresses;
}

static herr_t driver_set_eoa(H5FD_t *base, H5FD_mem_t type, haddr_t address) {
    (void)type;
    ((struct driver_file *)base)->end_of_addresses = address;
    return 0;
}

static haddr_t driver_get_eof(const H5FD_t *base, H5FD_mem_t type) {
    (void)type;
    return ((const struct driver_file *)base)->end_of_file;
}

static herr_t driver_read(H5FD_t *base, H5FD_mem_t type, hid_t transfer, haddr_t address,
                          size_t size, void *buffer) {
    (void)type, (void)transfer;
    struct driver_file *file = (struct driver_file *)base;
    char *at = buffer;
    while (size > 0) {
        ssize_t got = pread(file->descriptor, at, size, (off_t)address);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) keep_error(file);
        if (got <= 0) break;
        at += got;
        address += (haddr_t)got;
        size -= (size_t)got;
    }
    memset(at, 0, size); /* beyond the end of the file lie zeros */
    return 0;
}

static herr_t driver_write(H5FD_t *base, H5FD_mem_t type, hid_t transfer, haddr_t address,
                           size_t size, const void *buffer) {
    (void)type, (void)transfer;
    struct driver_file *file = (struct driver_file *)base;
    const char *at = buffer;
    if (address + size > file->end_of_file) file->end_of_file = address + size;
    while (size > 0 && file->owner->error == 0) {
        ssize_t put = pwrite(file->descriptor, at, size, (off_t)address);
        if (put < 0 && errno == EINTR) continue;
        if (put == 0) errno = ENOSPC;
        if (put <= 0) {
            keep_error(file);
            break;
        }
        at += put;
        address += (haddr_t)put;
        size -= (size_t)put;
    }
    return 0;
}

static herr_t driver_truncate(H5FD_t *base, hid_t transfer, hbool_t closing) {
    (void)transfer, (void)closing;
    struct driver_file *file = (struct driver_file *)base;
    if (file->owner->error == 0 && descriptor_cut(file->descriptor, file->end_of_addresses) != 0)
        keep_error(file);
    file->end_of_file = file->end_of_addresses;
    return 0;
}

static const H5FD_class_t driver_class = {
#if H5_VERSION_GE(1, 13, 0)
    .version = H5FD_CLASS_VERSION,
    .value = 600, /* the range that HDF5 leaves to programs starts at 512 */
#endif
    .name = "strata_durable",
    .maxaddr = (haddr_t)INT64_MAX,
    .fc_degree = H5F_CLOSE_WEAK,
    .fapl_size = sizeof(struct driver_info),
    .open = driver_open,
    .close = driver_close,
    .query = driver_query,
    .get_eoa = driver_get_eoa,
    .set_eoa = driver_set_eoa,
    .get_eof = driver_get_eof,
    .read = driver_read,
    .write = driver_write,
    .truncate = driver_truncate,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

enum status durable_h5_create(struct durable_h5 *file, const char *path) {
    *file = (struct durable_h5){.path = strdup(path), .descriptor = -1};
    if (!file->path) return status_fail(STATUS_MEMORY, "no memory to open '%s'", path);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* messages are ours to make */
    file->driver = H5FDregister(&driver_class);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    struct driver_info info = {.owner = file};
    H5Pset_driver(access, file->driver, &info);
    /* The newest format: object headers carry checksums. */
    H5Pset_libver_bounds(access, H5F_LIBVER_LATEST, H5F_LIBVER_LATEST);
    file->file = H5Fcreate(path, H5F_ACC_EXCL, H5P_DEFAULT, access);
    H5Pclose(access);
    if (file->file > 0) return STATUS_OK;
    file->file = 0;
    if (file->error == 0) file->error = EIO;
    return durable_h5_close(file);
}

enum status durable_h5_check(const struct durable_h5 *file) {
    if (file->error == 0) return STATUS_OK;
    return status_fail(STATUS_IO, "can't write '%s': %s", file->path, strerror(file->error));
}

enum status durable_h5_refused(const struct durable_h5 *file, const char *what) {
    TRY(durable_h5_check(file));
    return status_fail(STATUS_IO, "HDF5 can't write '%s' into '%s'", what, file->path);
}

hid_t durable_h5_dataset(const struct durable_h5 *file, const char *path, hid_t type, hid_t space,
                         hid_t how) {
    hid_t links = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_create_intermediate_group(links, 1);
    hid_t dataset = H5Dcreate2(file->file, path, type, space, links, how, H5P_DEFAULT);
    H5Pclose(links);
    return dataset;
}

bool durable_h5_attribute(hid_t object, const char *name, hid_t stored, hid_t native, int64_t count,
                          const void *values) {
    hsize_t dims[1] = {(hsize_t)count};
    hid_t space = count == 1 ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, dims, NULL);
    hid_t attribute = H5Acreate2(object, name, stored, space, H5P_DEFAULT, H5P_DEFAULT);
    bool done = attribute > 0 && H5Awrite(attribute, native, values) >= 0;
    if (attribute > 0) H5Aclose(attribute);
    H5Sclose(space);
    return done;
}

enum status durable_h5_close(struct durable_h5 *file) {
    if (!file->path) return STATUS_OK;
    if (file->file > 0 && H5Fclose(file->file) < 0 && file->error == 0) file->error = EIO;
    if (file->driver > 0) H5FDunregister(file->driver);
    enum status status = durable_h5_check(file);
    free(file->path);
    *file = (struct durable_h5){.descriptor = file->descriptor};
    return status;
}

enum status durable_h5_detach(struct durable_h5 *file, int *descriptor) {
    file->keep = true;
    enum status status = durable_h5_close(file);
    *descriptor = status == STATUS_OK ? file->descriptor : -1;
    if (status != STATUS_OK && file->descriptor >= 0) close(file->descriptor);
    file->descriptor = -1;
    return status;
}
