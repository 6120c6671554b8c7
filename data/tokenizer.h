/* Text to token ids and back, exactly as the tokenizer's own implementation does it.
 *
 *   byte-level BPE   GPT-2, Llama 3, Qwen2, GPT-NeoX, Falcon, tiktoken: a regex splits the text,
 * merges join its bytes (Sennrich et al., arXiv:1508.07909; ranks as in tiktoken) SentencePiece BPE
 * (merge the best-scored pair) and unigram (Viterbi; arXiv:1808.06226), byte fallback, the model's
 * own normaliser (NFKC, whitespace, dummy prefix)
 *
 * A tokenizer is immutable once opened and may be used by many threads. */
#ifndef STRATA_DATA_TOKENIZER_H
#define STRATA_DATA_TOKENIZER_H

#include "core/model_file.h"
#include "kernels/base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer; /* opaque */

struct token_list {
    int32_t *ids; /* owned; grows */
    size_t count, capacity;
};
void token_list_free(struct token_list *list);

enum tokenizer_flags {
    TOKENIZER_PLAIN = 0,
    TOKENIZER_PARSE_SPECIAL = 1, /* "<|im_start|>" in the text is one token, not its letters; added
                                    tokens that are not special always are one token */
    TOKENIZER_ADD_SPECIAL = 2,   /* BOS / EOS as the tokenizer's configuration says */
};

/* Opens tokenizer.json, tokenizer.model (SentencePiece), X.tiktoken, vocab.json (with merges.txt
 * beside it), a .gguf, or a directory that holds one of them. The caller closes it. */
enum status tokenizer_open(struct tokenizer **tokenizer, const char *path);

/* From the bytes of a tokenizer.json, tokenizer.model or tiktoken file, without what may lie beside
 * it; `name` stands for the path in messages. Borrows nothing after it returns. */
enum status tokenizer_open_bytes(struct tokenizer **tokenizer, const char *data, size_t bytes,
                                 const char *name);

/* From an open GGUF's metadata; borrows nothing after it returns. */
enum status tokenizer_open_gguf(struct tokenizer **tokenizer, const struct model_file *file);

/* The other way: adds tokenizer.ggml.* and the chat template to `metadata` (core/gguf_write.h) for
 * a model of `vocab` ids; ids without a token are filled up. STATUS_UNSUPPORTED says what of this
 * tokenizer GGUF can't express, STATUS_SHAPE that it has more tokens than ids. */
struct gguf_metadata;
enum status tokenizer_put_gguf(const struct tokenizer *tokenizer, int64_t vocab,
                               struct gguf_metadata *metadata);

/* Writes a tokenizer that came from a GGUF file as Hugging Face's programs have it: tokenizer.json
 * and tokenizer_config.json (BOS, EOS, chat template) in `directory`, each whole or not at all.
 * STATUS_UNSUPPORTED says what of this tokenizer that format can't express. */
enum status tokenizer_write_json(const struct tokenizer *tokenizer, const char *directory);

void tokenizer_close(struct tokenizer *tokenizer);

/* Appends the ids of `bytes` bytes of UTF-8 (invalid bytes are encoded as bytes where the model
 * can, else as U+FFFD). STATUS_MEMORY is the only failure. A regex from a file that runs into
 * PCRE2's match limit stops splitting there: the rest is one word. */
enum status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                             unsigned flags, struct token_list *out);

/* The bytes of a token as it stands in the middle of a text ("" for a control token unless
 * `show_special`). Borrowed; valid while the tokenizer is open. */
struct token_bytes {
    const char *bytes;
    size_t count;
};
struct token_bytes tokenizer_token(const struct tokenizer *tokenizer, int32_t id,
                                   bool show_special);

/* Decodes ids as a whole, as the tokenizer's own decoder does (a leading SentencePiece space is
 * dropped). The caller frees *text (NUL-terminated; may hold NULs). */
enum status tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                             bool show_special, char **text, size_t *bytes);

/* Streaming: feed one id, get the bytes that are now whole characters. Never half a UTF-8
 * character: bytes wait until the character is complete or can't become valid (then U+FFFD). */
struct token_stream {
    const struct tokenizer *tokenizer;
    bool show_special, started;
    unsigned char held[8];
    int held_count;
};
void token_stream_init(struct token_stream *stream, const struct tokenizer *tokenizer,
                       bool show_special);
/* `out` has room for `capacity` bytes; returns the bytes written. tokenizer_max_bytes() + 8 is
 * always enough. */
size_t token_stream_push(struct token_stream *stream, int32_t id, char *out, size_t capacity);
size_t token_stream_finish(struct token_stream *stream, char *out, size_t capacity);

int32_t tokenizer_size(const struct tokenizer *tokenizer); /* ids are below this */

/* Whether a model of `vocab` ids can have this tokenizer: STATUS_SHAPE, with both sizes, when an
 * ordinary token's id is one that the model lacks. Added tokens beyond the model, and fewer tokens
 * than ids (padding, or another model's tokenizer) are logged as a warning. `name` is the model's,
 * for the message. */
enum status tokenizer_check_vocabulary(const struct tokenizer *tokenizer, int64_t vocab,
                                       const char *name);
size_t tokenizer_max_bytes(const struct tokenizer *tokenizer); /* longest token, decoded */
int32_t tokenizer_bos(const struct tokenizer *tokenizer);      /* -1 when there is none */
int32_t tokenizer_eos(const struct tokenizer *tokenizer);      /* -1 when there is none */
int32_t tokenizer_find(const struct tokenizer *tokenizer,
                       const char *text); /* exact token, or -1 */
bool tokenizer_is_control(const struct tokenizer *tokenizer, int32_t id);
bool tokenizer_adds_bos(const struct tokenizer *tokenizer); /* with TOKENIZER_ADD_SPECIAL */

/* The chat template that came along (tokenizer_config.json, chat_template.jinja, GGUF metadata), or
 * NULL. Borrowed. */
const char *tokenizer_chat_template(const struct tokenizer *tokenizer);

/* XXH3 over what decides ids: vocabulary, merges, normalizer, pre-tokenizer, special tokens. Equal
 * hashes encode alike (spaces beside special tokens and the order of merges that make one token
 * aside); a tokenizer keeps its hash through a GGUF file and back where GGUF can say it. Written
 * into token files and checkpoints, so that a wrong tokenizer is noticed. */
uint64_t tokenizer_hash(const struct tokenizer *tokenizer);

#endif
