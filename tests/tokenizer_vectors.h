/* Vectors of ids that the data folder holds, compared with what a tokenizer that is there too makes
 * of their texts. Names are below the folder, or whole paths; where the folder isn't set the test
 * is skipped. What doesn't fit fails the running test. */
#ifndef STRATA_TESTS_TOKENIZER_VECTORS_H
#define STRATA_TESTS_TOKENIZER_VECTORS_H

#include "data/tokenizer.h"
#include "tests/check.h"

#include <jansson.h>
#include <stdbool.h>

#define TINYLLAMA_JSON "tok_hf_json/llama2_tinyllama/tokenizer.json"
#define GPT2_JSON "tok_hf_json/gpt2/tokenizer.json"

/* A whole file, with a NUL behind it; the caller frees it. */
char *vectors_read_text(const char *name, size_t *bytes);

/* The caller gives it back with json_decref. */
json_t *vectors_read_json(const char *name);

/* A file that is stored compressed is unpacked to a temporary one first. tokenizer_close ends it.
 */
struct tokenizer *vectors_open(const char *name);

/* The ids of a text; `what` is for messages. */
void vectors_expect_ids(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                        unsigned flags, const int32_t *want, size_t count, const char *what);

/* The same for a JSON string and a JSON list. */
void vectors_expect_json(const struct tokenizer *tokenizer, const json_t *text, unsigned flags,
                         const json_t *ids, const char *what);

/* Says how many were compared, which must be all of them and more than none. */
void vectors_done(size_t compared, size_t expected);

#endif
