/* What the two formats of core/export.h share. Only core/export*.c include this. */
#ifndef STRATA_CORE_EXPORT_INTERNAL_H
#define STRATA_CORE_EXPORT_INTERNAL_H

#include "core/export.h"

/* The tensors of an export in the order of the file; names live as long as the list. */
struct export_list {
    struct tensor_spec *specs;
    const struct param **params; /* NULL for a tensor that is no parameter */
    char (*names)[WEIGHT_NAME_BYTES];
    int count;
};

/* Room for all parameters and one more. */
enum status export_list_create(struct export_list *list, const struct export_request *request);
void export_list_free(struct export_list *list); /* may be called twice, and on a zeroed struct */

/* Streams a parameter's values into the sink's current tensor. */
enum status export_append(struct tensor_sink *sink, const struct export_request *request,
                          const struct param *param);

/* GGUF's llama family keeps q and k rows in another order: the logical row of a stored one. */
int64_t export_source_row(const struct export_request *request, const struct param *param,
                          int64_t row);

enum status export_gguf(const struct export_request *request);

/* divisors (head_dim / 2) out: what frequency i of the plain rotation is divided by. */
void export_rope_divisors(const struct model *model, double *divisors);

#endif
