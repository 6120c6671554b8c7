/* A small GGUF file that our own writer makes, for tests of reading and writing: eight values of
 * metadata, and tensors of four types, one of them empty. */
#ifndef STRATA_TESTS_GGUF_SAMPLE_H
#define STRATA_TESTS_GGUF_SAMPLE_H

#include "tests/check.h"

#include "core/gguf_write.h"

enum { GGUF_SAMPLE_TENSORS = 6 };
extern const struct tensor_spec gguf_sample_specs[GGUF_SAMPLE_TENSORS];

/* What an element of a tensor is: values that each of the four dtypes holds exactly (Q8_0: the
 * largest of a block is 127). */
float gguf_sample_value(int tensor, int64_t element);

void gguf_sample_write(const char *path);

/* Its bytes; returns how many, which must be less than `room`. */
size_t gguf_sample_read(unsigned char *bytes, size_t room);

/* The metadata of a file is the sample's. */
void gguf_sample_check_values(const struct model_file *file);

#endif
