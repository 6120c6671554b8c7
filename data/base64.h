/* Base64 (RFC 4648, section 4). */
#ifndef STRATA_DATA_BASE64_H
#define STRATA_DATA_BASE64_H

#include <stddef.h>

/* Decodes to `out` (3/4 of the text's bytes); SIZE_MAX when it is not base64. */
size_t base64_decode(const char *text, size_t bytes, char *out);

/* Encodes with padding to `out`, which has room for 4 * ((bytes + 2) / 3); returns that number. */
size_t base64_encode(const char *data, size_t bytes, char *out);

#endif
