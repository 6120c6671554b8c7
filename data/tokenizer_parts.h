/* Inside a tokenizer: what the readers of each file format fill in and encoding and decoding use.
 * Only data/ includes this. */
#ifndef STRATA_DATA_TOKENIZER_PARTS_H
#define STRATA_DATA_TOKENIZER_PARTS_H

#include "data/bpe.h"
#include "data/normalize.h"
#include "data/pretokenize.h"
#include "data/tokenizer.h"
#include "data/unigram.h"

enum token_kind {
    TOKEN_ABSENT, /* an id that nothing uses */
    TOKEN_NORMAL,
    TOKEN_UNKNOWN,
    TOKEN_CONTROL, /* never in a text: BOS, <|im_end|> */
    TOKEN_USER,    /* always one token where its text occurs */
    TOKEN_UNUSED,
    TOKEN_BYTE
};

struct token {
    size_t literal, piece; /* into texts: as the file writes it; what it decodes to */
    uint32_t literal_bytes, piece_bytes;
    enum token_kind kind;
    float score;
};

/* A string that is found before anything else; Hugging Face's "added tokens". */
struct added_token {
    size_t content; /* into texts */
    uint32_t bytes;
    int32_t id;
    bool special, single_word, lstrip, rstrip, normalized;
};

enum model_kind { MODEL_NONE, MODEL_BPE, MODEL_UNIGRAM };

/* How ids become text. */
enum byte_rule {
    BYTES_LOSSY,     /* all bytes are one stream; what is no UTF-8 becomes U+FFFD */
    BYTES_RUN,       /* a run of byte tokens is text or, if not UTF-8, a U+FFFD each (HF) */
    BYTES_CHARACTERS /* in such a run whole characters are kept (sentencepiece) */
};
enum { DECODER_MAX_REPLACEMENTS = 4 };
struct decoder {
    enum byte_rule rule;
    bool byte_level; /* pieces are written in GPT-2's alphabet */
    struct decoder_replacement {
        struct byte_buffer pattern, content;
    } replacements[DECODER_MAX_REPLACEMENTS]; /* within each piece */
    int replacement_count;
    char strip; /* dropped at the ends of the whole text */
    int strip_left, strip_right;
    bool strip_first_piece; /* all spaces of the first piece (Metaspace) */
    bool join_spaces;       /* no decoder: pieces are joined by spaces */
};

struct tokenizer {
    struct token *tokens;
    size_t token_count, token_capacity;
    struct byte_buffer texts;
    size_t max_bytes;
    struct string_map literals; /* of all tokens */
    struct added_token *added;
    size_t added_count, added_capacity;
    struct trie added_raw, added_normalized; /* -> index in added */

    struct normalizer normalizer;
    struct pretokenizer pretokenizer;
    enum model_kind model;
    struct bpe bpe;
    struct unigram unigram;
    bool unknown_as_bytes; /* invalid UTF-8 can be encoded as bytes */

    int32_t *prefix, *suffix; /* ids of TOKENIZER_ADD_SPECIAL */
    size_t prefix_count, suffix_count, prefix_capacity, suffix_capacity;
    int32_t bos, eos;
    struct decoder decoder;
    char *chat_template;
    uint64_t settings_hash; /* over the normalizer and the pre-tokenizer, step by step */
    uint64_t hash;
};

enum { TOKENIZER_MAX_TOKENS = 1 << 22 };

/* Building. Ids may come in any order; a later call for the same id replaces. */
enum status tokenizer_create(struct tokenizer **tokenizer);
enum status tokenizer_set_token(struct tokenizer *tokenizer, int64_t id, const char *literal,
                                size_t bytes, enum token_kind kind, float score);
/* `added` but for its content, which is `text`. The id becomes a token when it isn't one. */
enum status tokenizer_add(struct tokenizer *tokenizer, const struct added_token *added,
                          const char *text);
/* The same for an id that is a token already; its text is the token's. */
enum status tokenizer_add_known(struct tokenizer *tokenizer, const struct added_token *added);
enum status tokenizer_add_prefix(struct tokenizer *tokenizer, int32_t id);
enum status tokenizer_add_suffix(struct tokenizer *tokenizer, int32_t id);
/* A step's setting, for the hash: in the order of the steps, the same from every file format. */
void tokenizer_note(struct tokenizer *tokenizer, const void *setting, size_t bytes);
void tokenizer_normalize_nfc(struct tokenizer *tokenizer); /* the first step */
/* What the decoder replaces in each piece. */
enum status tokenizer_decode_replace(struct tokenizer *tokenizer, const char *pattern,
                                     size_t pattern_bytes, const char *content,
                                     size_t content_bytes);
/* Adds to the pre-tokenizer. */
enum status tokenizer_split_by(struct tokenizer *tokenizer, const char *pattern, size_t bytes,
                               enum split_behavior behavior, bool invert, bool lines);
enum status tokenizer_bytes_op(struct tokenizer *tokenizer, bool prefix, bool gpt2_regex);
/* A byte-level BPE's words (bytes) and symbols from its tokens; pairs are the caller's. */
enum status tokenizer_byte_words(struct tokenizer *tokenizer);
/* A BPE's words and symbols over characters from its normal tokens; pairs are the caller's. */
enum status tokenizer_character_words(struct tokenizer *tokenizer);
/* <0x00> ... <0xFF>; true when all are there. */
bool tokenizer_byte_tokens(const struct tokenizer *tokenizer, int32_t ids[256]);
/* One merge of two literals. STATUS_FORMAT names them when they or the result are no tokens. */
enum status tokenizer_merge(struct tokenizer *tokenizer, int32_t rank, const char *left,
                            size_t left_bytes, const char *right, size_t right_bytes);
/* The last step: pieces, added tokens, hash. */
enum status tokenizer_finish(struct tokenizer *tokenizer);
enum status tokenizer_make_hash(struct tokenizer *tokenizer); /* the end of it */

/* The text of an id without a token, in files that need one; its argument is the id (size_t). */
#define TOKENIZER_FILLER "[PAD%zu]"

static inline const char *token_literal(const struct tokenizer *tokenizer,
                                        const struct token *token) {
    return tokenizer->texts.data + token->literal;
}

/* SentencePiece's model from tokens, kinds and scores. */
struct sentencepiece_spec {
    bool unigram, byte_fallback;
    bool dummy_prefix, trim_spaces, escape_spaces, space_is_suffix;
    const char *charsmap; /* borrowed; NULL for none */
    size_t charsmap_bytes;
    int32_t unknown; /* -1: none */
    bool verbatim;   /* user-defined pieces also escape the normaliser (tokenizer.model) */
};
enum status tokenizer_sentencepiece(struct tokenizer *tokenizer,
                                    const struct sentencepiece_spec *spec);

/* The formats; `path` for messages and companions. */
enum status tokenizer_read_json(struct tokenizer *tokenizer, const char *text, size_t bytes);
/* `path` ends in vocab.json */
enum status tokenizer_read_vocab(struct tokenizer *tokenizer, const char *path,
                                 const char *directory);
enum status tokenizer_read_model(struct tokenizer *tokenizer, const char *data, size_t bytes);
enum status tokenizer_read_tiktoken(struct tokenizer *tokenizer, const char *data, size_t bytes);
/* tokenizer_config.json, chat_template.jinja, special_tokens_map.json in `directory`. */
enum status tokenizer_read_config(struct tokenizer *tokenizer, const char *directory);

/* BOS and EOS by the names they usually have, where no file says which they are. */
void tokenizer_guess_ends(struct tokenizer *tokenizer);

/* The name by which GGUF knows a byte-level BPE's normaliser and pre-tokenizer; a literal.
 * STATUS_UNSUPPORTED when it has none. */
enum status tokenizer_gguf_rule(const struct tokenizer *tokenizer, const char **name);

/* Whether normalizer and pre-tokenizer mean SentencePiece's handling of spaces: its own, or what
 * Hugging Face writes for it. *prefix: one goes before the text; *trim: runs become one. */
bool tokenizer_spaces(const struct tokenizer *tokenizer, bool *prefix, bool *trim);

/* The whole file; the caller frees *data. It is followed by a NUL. */
enum status read_whole_file(const char *path, char **data, size_t *bytes);

/* Appends. False when memory ran out. */
bool token_list_push(struct token_list *list, int32_t id);

#endif
