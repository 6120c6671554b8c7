#define _GNU_SOURCE
#include "data/h5_open.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum status h5_open(hid_t *file, const char *path) {
    *file = 0;
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* messages are ours to make */
    if (access(path, R_OK) != 0)
        return status_fail(STATUS_IO, "can't read '%s': %s", path, strerror(errno));
    hid_t how = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_file_locking(how, 0, 1);
    *file = H5Fopen(path, H5F_ACC_RDONLY, how);
    H5Pclose(how);
    if (*file > 0) return STATUS_OK;
    *file = 0;
    return status_fail(STATUS_FORMAT, "'%s' is not a whole HDF5 file", path);
}
