/* Vectors of ids that the data folder holds, compared with what a tokenizer that is there too makes
 * of their texts. Names are below the folder, or whole paths; where the folder isn't set the test
 * is skipped. What doesn't fit fails the running test. Each name in the folder is appended to the
 * file that STRATA_VECTORS_OPENED names, for test_data_tokenizer_claims.sh. */
#ifndef STRATA_TESTS_TOKENIZER_VECTORS_H
#define STRATA_TESTS_TOKENIZER_VECTORS_H

#include "data/tokenizer.h"
#include "tests/check.h"

#include <jansson.h>
#include <stdbool.h>

#define TINYLLAMA_JSON "tok_hf_json/llama2_tinyllama/tokenizer.json"
#define GPT2_JSON "tok_hf_json/gpt2/tokenizer.json"
#define CL100K "tok_tiktoken/cl100k_base.tiktoken"
enum { CL100K_TOKENS = 100256 };
#define GGML(NAME) "tok_ggml_vocab/ggml-vocab-" NAME ".gguf"
#define ORPHAN(NAME) "tok_ggml_vocab/orphan_outs/ggml-vocab-" NAME ".gguf.out"

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

/* The texts of an .inp file of llama.cpp's, which stand between separator lines, but for `without`
 * (ends with NULL; or NULL), and for each a line of ids in its .out file. */
struct ggml_vectors {
    struct ggml_vector {
        const char *text;
        size_t bytes;
        int32_t *ids;
        size_t count;
    } * vectors;
    size_t count;
    char *texts;
};
struct ggml_vectors vectors_read_ggml(const char *inputs, const char *outputs,
                                      const char *const *without);
void vectors_free_ggml(struct ggml_vectors *vectors);

/* Compares those whose ids are all below `limit`; returns how many that were. */
size_t vectors_expect_ggml(const struct tokenizer *tokenizer, const struct ggml_vectors *vectors,
                           int32_t limit, const char *what);

/* Says how many were compared, which must be all of them and more than none. */
void vectors_done(size_t compared, size_t expected);

#endif
