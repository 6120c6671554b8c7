/* The parts of the tokenizer.json reader. Only data/tokenizer_json*.c includes this. */
#ifndef STRATA_DATA_TOKENIZER_JSON_H
#define STRATA_DATA_TOKENIZER_JSON_H

#include "data/tokenizer_parts.h"
#include <jansson.h>

bool json_flag(const json_t *object, const char *key, bool otherwise);
const char *step_type(const json_t *object); /* "" when there is none */

/* Each takes null (nothing to do), one step, or a Sequence of them. */
enum status json_read_normalizer(struct tokenizer *tokenizer, const json_t *json);
enum status json_read_pretokenizer(struct tokenizer *tokenizer, const json_t *json);
enum status json_read_decoder(struct tokenizer *tokenizer, const json_t *json);

#endif
