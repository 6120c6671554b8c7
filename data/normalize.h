/* What is done to a text before it is split: the normalisers of tokenizer.json and the one of a
 * SentencePiece model. Sources: Hugging Face tokenizers (normalizers), sentencepiece
 * (src/normalizer.cc), Unicode 15 through utf8proc. */
#ifndef STRATA_DATA_NORMALIZE_H
#define STRATA_DATA_NORMALIZE_H

#include "data/charsmap.h"
#include "data/containers.h"
#include "data/regex.h"
#include "data/trie.h"

enum normalize_kind {
    NORMALIZE_NFC,
    NORMALIZE_NFD,
    NORMALIZE_NFKC,
    NORMALIZE_NFKD,
    NORMALIZE_LOWERCASE,
    NORMALIZE_STRIP_ACCENTS,
    NORMALIZE_STRIP,        /* whitespace at the ends; from here on kinds have settings */
    NORMALIZE_REPLACE,      /* `pattern` or `regex` by `content` */
    NORMALIZE_PREPEND,      /* `content` before a text that is not empty */
    NORMALIZE_CHARSMAP,     /* tokenizer.json's "Precompiled": per grapheme */
    NORMALIZE_SENTENCEPIECE /* charsmap by longest match, whitespace rules, dummy prefix */
};

struct normalize_op {
    enum normalize_kind kind;
    bool left, right; /* STRIP: which ends */
    struct byte_buffer pattern, content;
    struct regex *regex;
    struct charsmap charsmap;
    /* SENTENCEPIECE */
    bool dummy_prefix, trim_spaces, escape_spaces, space_is_suffix;
    struct trie verbatim; /* strings left as they are */
};

enum { NORMALIZE_MAX_OPS = 16 };
struct normalizer {
    struct normalize_op ops[NORMALIZE_MAX_OPS];
    int count;
};
void normalizer_free(struct normalizer *normalizer);

/* Buffers of one call, used in turn. */
struct normalize_scratch {
    struct byte_buffer buffers[2];
    struct regex_scratch regex;
};
void normalize_scratch_free(struct normalize_scratch *scratch);

/* Normalises valid UTF-8. The result is borrowed from `text` or `scratch` until the next call.
 * `continues`: the text goes on where another ended, so nothing is put before it. False when
 * memory ran out. */
bool normalizer_run(const struct normalizer *normalizer, struct normalize_scratch *scratch,
                    const char *text, size_t bytes, bool continues, const char **result,
                    size_t *result_bytes);

#endif
