/* What a path is that was taken for a model or an adapter and is none: words for a message that
 * say what to give instead. */
#ifndef STRATA_CORE_PATH_HINT_H
#define STRATA_CORE_PATH_HINT_H

#include "kernels/base/status.h"
#include <stdbool.h>
#include <stddef.h>

/* The eight bytes that HDF5 files begin with. */
extern const char path_hdf5_signature[8];

/* The first bytes of a file that is neither GGUF nor safetensors: what it is, or NULL. A literal.
 */
const char *path_hint_bytes(const void *bytes, size_t count);

/* A directory without a model: fails with `status` and a message that says what is there instead,
 * or returns `status` with the message it has. */
enum status path_hint_model(enum status status, const char *directory);

/* The same for a directory without an adapter. */
enum status path_hint_adapter(enum status status, const char *directory);

#endif
