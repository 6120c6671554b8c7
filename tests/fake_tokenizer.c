/* A tokenizer of bytes that stands in for data/tokenizer.h: token i is one printable letter, the
 * last two ids are BOS and EOS. */
#include "data/tokenizer.h"

#include "tests/fake_tokenizer.h"

#include <stdlib.h>
#include <string.h>

struct tokenizer {
    int32_t size;
    char letters[256];
};

struct tokenizer *fake_tokenizer_create(int32_t size) {
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    tokenizer->size = size;
    for (int i = 0; i < 256; i++) tokenizer->letters[i] = (char)('!' + i % 90);
    return tokenizer;
}

void fake_tokenizer_free(struct tokenizer *tokenizer) {
    free(tokenizer);
}

int32_t tokenizer_size(const struct tokenizer *tokenizer) {
    return tokenizer->size;
}

int32_t tokenizer_eos(const struct tokenizer *tokenizer) {
    return tokenizer->size - 1;
}

size_t tokenizer_max_bytes(const struct tokenizer *tokenizer) {
    (void)tokenizer;
    return 1;
}

void token_stream_init(struct token_stream *stream, const struct tokenizer *tokenizer,
                       bool show_special) {
    *stream = (struct token_stream){.tokenizer = tokenizer, .show_special = show_special};
}

size_t token_stream_push(struct token_stream *stream, int32_t id, char *out, size_t capacity) {
    if (capacity == 0 || id >= stream->tokenizer->size - 2) return 0;
    out[0] = stream->tokenizer->letters[id % 256];
    return 1;
}

size_t token_stream_finish(struct token_stream *stream, char *out, size_t capacity) {
    (void)stream, (void)out, (void)capacity;
    return 0;
}
