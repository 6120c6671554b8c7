/* The one way to open an HDF5 file for reading. */
#ifndef STRATA_DATA_H5_OPEN_H
#define STRATA_DATA_H5_OPEN_H

#include "kernels/base/status.h"
#include <hdf5.h>

/* Opens a file for reading, without locks (which network file systems may lack; our files never
 * change once they have their name). The caller closes *file with H5Fclose. STATUS_IO or
 * STATUS_FORMAT names the file. Turns HDF5's own printing of errors off, for the whole process. */
enum status h5_open(hid_t *file, const char *path);

#endif
