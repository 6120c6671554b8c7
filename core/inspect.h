/* What a model file holds, from its header alone: metadata, tensors, parameters, bytes. */
#ifndef STRATA_CORE_INSPECT_H
#define STRATA_CORE_INSPECT_H

#include "kernels/base/status.h"
#include <stdbool.h>

/* Prints it on standard output, as text or as one JSON object. */
enum status inspect_model_file(const char *path, bool json);

#endif
