/* The tokens whose logits a request adjusts (kernels/sample.h): those of its prompt and output when
 * penalties apply, and those with a bias. Sorted by token. */
#ifndef STRATA_SERVE_SEEN_H
#define STRATA_SERVE_SEEN_H

#include "kernels/sample.h"

#include <stddef.h>

struct seen_list {
    struct sample_seen *items; /* owned; ascending tokens */
    size_t count, capacity;
};

void seen_free(struct seen_list *list);

/* The entry of `token`, made when absent. NULL on STATUS_MEMORY. Valid until the next call. */
struct sample_seen *seen_entry(struct seen_list *list, int32_t token);

/* Marks every token of a prompt. */
enum status seen_add_prompt(struct seen_list *list, const int32_t *tokens, int32_t count);

/* Counts a token of the output. */
enum status seen_add_output(struct seen_list *list, int32_t token);

/* Sets a token's bias. */
enum status seen_set_bias(struct seen_list *list, int32_t token, float bias);

#endif
