/* Writing safetensors. Source: the safetensors README (format section).
 *
 * The header is written at once; so all tensors are declared before the first byte of data. It is
 * padded with spaces to a multiple of 8, and the data is laid out by descending element size: then
 * every tensor is aligned to its elements, whatever the order of declaration. */
#ifndef STRATA_CORE_SAFETENSORS_WRITE_H
#define STRATA_CORE_SAFETENSORS_WRITE_H

#include "core/tensor_sink.h"

/* Begins `path` with the tensors of `specs` and `notes` as __metadata__ (Hugging Face's readers
 * want {"format": "pt"}). Specs and notes are copied. The header is held against our own reader
 * before it is believed. STATUS_SHAPE names a tensor that can't be stored, STATUS_FORMAT a name
 * that is there twice, is not UTF-8 or can't be one, and a dtype that safetensors doesn't have. On
 * failure the sink needs no close. */
enum status safetensors_create(struct tensor_sink *sink, const char *path,
                               const struct tensor_spec *specs, int count,
                               const struct file_note *notes, int note_count);

#endif
