/* Bytes of a tokenizer.json, tokenizer.model or tiktoken file. What opens must encode any text, and
 * decode what it encoded, whole and streamed. */
#include "data/tokenizer.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char text[] =
    "Hello, World 123 <s>[INST] \xE2\x96\x81 caf\xC3\xA9 e\xCC\x81 \xED\x95\x9C\t\n"
    "  the  \xF0\x9F\x98\x80 \xFF\xC3 <0x41></s> aaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

static void exercise(const struct tokenizer *tokenizer) {
    struct token_list ids = {0};
    char *decoded;
    size_t count;
    unsigned flags = TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_SPECIAL;
    if (tokenizer_encode(tokenizer, text, sizeof text - 1, flags, &ids) != STATUS_OK) abort();
    if (tokenizer_encode(tokenizer, text, 20, TOKENIZER_PLAIN, &ids) != STATUS_OK) abort();
    if (tokenizer_decode(tokenizer, ids.ids, ids.count, true, &decoded, &count) != STATUS_OK)
        abort();
    free(decoded);
    size_t room = tokenizer_max_bytes(tokenizer) + 8;
    char *out = malloc(room);
    struct token_stream stream;
    token_stream_init(&stream, tokenizer, true);
    for (size_t i = 0; i < ids.count; i++) {
        if (ids.ids[i] < 0 || ids.ids[i] >= tokenizer_size(tokenizer)) abort();
        if (token_stream_push(&stream, ids.ids[i], out, room) > room) abort();
    }
    token_stream_finish(&stream, out, room);
    free(out);
    token_list_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct tokenizer *tokenizer;
    if (tokenizer_open_bytes(&tokenizer, (const char *)data, bytes, "fuzz") != STATUS_OK) return 0;
    exercise(tokenizer);
    tokenizer_close(tokenizer);
    return 0;
}
