/* How a normalised text is cut into words before the model sees it: the pre-tokenizers of
 * tokenizer.json, each cutting what the one before it left. All but two are a regex and what to do
 * with its matches. Source: Hugging Face tokenizers (pre_tokenizers). */
#ifndef STRATA_DATA_PRETOKENIZE_H
#define STRATA_DATA_PRETOKENIZE_H

#include "data/containers.h"
#include "data/regex.h"

enum split_behavior {
    SPLIT_REMOVED,
    SPLIT_ISOLATED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS
};

enum pretokenize_kind {
    PRETOKENIZE_SPLIT,
    PRETOKENIZE_BYTES,    /* "ByteLevel": from here on a word is bytes, not characters */
    PRETOKENIZE_METASPACE /* ' ' becomes `replacement`, one goes before the text */
};

enum metaspace_prefix { METASPACE_NEVER, METASPACE_FIRST, METASPACE_ALWAYS };

struct pretokenize_op {
    enum pretokenize_kind kind;
    struct regex *regex;          /* SPLIT; BYTES: GPT-2's, or NULL */
    enum split_behavior behavior; /* SPLIT */
    struct byte_buffer text;      /* SPLIT: the regex's */
    bool lines;                   /* SPLIT: its $ is the end of a line, not of the text */
    bool invert;                  /* SPLIT: what doesn't match is the match */
    bool add_prefix_space;        /* BYTES */
    enum metaspace_prefix prefix; /* METASPACE */
    bool split;                   /* METASPACE: cut before each replacement */
    struct byte_buffer replacement;
};

enum { PRETOKENIZE_MAX_OPS = 16 };
struct pretokenizer {
    struct pretokenize_op ops[PRETOKENIZE_MAX_OPS];
    int count;
};
void pretokenizer_free(struct pretokenizer *pretokenizer);

/* The regexes that programs, not files, define. */
extern const char pretokenize_gpt2[], pretokenize_llama3[], pretokenize_qwen2[],
    pretokenize_o200k[];

/* The characters that stand for bytes in byte-level vocabularies (GPT-2's table). */
uint32_t byte_level_point(unsigned char byte);
int byte_level_byte(uint32_t point); /* or -1 */

/* Appends the bytes that a text in that alphabet stands for; false when it isn't one. */
bool byte_level_decode(struct byte_buffer *out, const char *text, size_t bytes, bool *memory);

struct pretokenize_scratch {
    struct byte_buffer texts[PRETOKENIZE_MAX_OPS + 2];
    struct regex_scratch regex;
};
void pretokenize_scratch_free(struct pretokenize_scratch *scratch);

/* Calls `word` for each word in order. `first`: the text is the start of the input; `continues`:
 * it goes on where another text ended, so no prefix is put before it. Both callbacks and this
 * return false when memory ran out. */
struct pretokenize_call {
    const struct pretokenizer *pretokenizer;
    struct pretokenize_scratch *scratch;
    bool first, continues;
    bool (*word)(void *user, const char *text, size_t bytes);
    void *user;
};
bool pretokenize(const struct pretokenize_call *call, const char *text, size_t bytes);

#endif
