/* Ids to text, at once or as they come. */
#include "data/tokenizer_parts.h"

#include "data/utf8.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* A piece as it stands in a text, or nothing for what isn't shown. */
static struct token_bytes piece_of(const struct tokenizer *tokenizer, int32_t id,
                                   bool show_special) {
    if (id < 0 || (size_t)id >= tokenizer->token_count) return (struct token_bytes){"", 0};
    const struct token *token = &tokenizer->tokens[id];
    if (token->kind == TOKEN_CONTROL && !show_special) return (struct token_bytes){"", 0};
    return (struct token_bytes){tokenizer->texts.data + token->piece, token->piece_bytes};
}

struct token_bytes tokenizer_token(const struct tokenizer *tokenizer, int32_t id,
                                   bool show_special) {
    return piece_of(tokenizer, id, show_special);
}

static bool is_byte(const struct tokenizer *tokenizer, int32_t id) {
    return id >= 0 && (size_t)id < tokenizer->token_count &&
           tokenizer->tokens[id].kind == TOKEN_BYTE;
}

static bool append_lossy(struct byte_buffer *out, const char *text, size_t bytes) {
    for (size_t at = 0; at < bytes;) {
        size_t valid = utf8_valid_prefix(text + at, bytes - at);
        if (!buffer_append(out, text + at, valid)) return false;
        at += valid;
        if (at == bytes) break;
        if (!buffer_append(out, UTF8_REPLACEMENT, 3)) return false;
        at += utf8_bad_part(text + at, bytes - at);
    }
    return true;
}

/* A run of byte tokens, by the decoder's rule. */
static bool append_byte_run(struct byte_buffer *out, enum byte_rule rule, const char *text,
                            size_t bytes) {
    if (bytes == 0) return true;
    bool whole = utf8_valid_prefix(text, bytes) == bytes;
    for (size_t at = 0; at < bytes;) {
        uint32_t point;
        int width = utf8_decode(text + at, bytes - at, &point);
        bool keep = rule == BYTES_RUN ? whole : width > 0;
        size_t used = keep ? (size_t)width : 1;
        if (!buffer_append(out, keep ? text + at : UTF8_REPLACEMENT, keep ? used : 3)) return false;
        at += used;
    }
    return true;
}

static bool append_pieces(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                          bool show_special, struct byte_buffer *out) {
    const struct decoder *decoder = &tokenizer->decoder;
    struct byte_buffer run = {0};
    bool kept = true, any = false;
    for (size_t i = 0; i < count && kept; i++) {
        struct token_bytes piece = piece_of(tokenizer, ids[i], show_special);
        if (decoder->rule != BYTES_LOSSY && is_byte(tokenizer, ids[i])) {
            kept = buffer_append(&run, piece.bytes, piece.count);
            continue;
        }
        kept = append_byte_run(out, decoder->rule, run.data, run.count);
        run.count = 0;
        if (piece.count == 0) continue;
        while (decoder->strip_first_piece && !any && piece.count > 0 && piece.bytes[0] == ' ')
            piece.bytes++, piece.count--;
        if (decoder->join_spaces && any) kept = kept && buffer_append(out, " ", 1);
        any = true;
        kept = kept && buffer_append(out, piece.bytes, piece.count);
    }
    kept = kept && append_byte_run(out, decoder->rule, run.data, run.count);
    buffer_free(&run);
    return kept;
}

enum status tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                             bool show_special, char **text, size_t *bytes) {
    const struct decoder *decoder = &tokenizer->decoder;
    struct byte_buffer pieces = {0}, out = {0};
    bool kept = append_pieces(tokenizer, ids, count, show_special, &pieces);
    size_t start = 0, end = pieces.count;
    for (int i = 0; i < decoder->strip_left && start < end && pieces.data[start] == decoder->strip;
         i++)
        start++;
    for (int i = 0;
         i < decoder->strip_right && end > start && pieces.data[end - 1] == decoder->strip; i++)
        end--;
    kept = kept && (start == end || append_lossy(&out, pieces.data + start, end - start)) &&
           buffer_append(&out, "", 1);
    buffer_free(&pieces);
    if (!kept) {
        buffer_free(&out);
        return status_fail(STATUS_MEMORY, "no memory to decode %zu tokens", count);
    }
    *text = out.data;
    *bytes = out.count - 1;
    return STATUS_OK;
}

void token_stream_init(struct token_stream *stream, const struct tokenizer *tokenizer,
                       bool show_special) {
    *stream = (struct token_stream){.tokenizer = tokenizer, .show_special = show_special};
}

/* Takes the held bytes and `piece` as one text and writes what is whole; an unfinished character
 * at its end is held, what can't become one is written as U+FFFD. */
static size_t write_whole(struct token_stream *stream, struct token_bytes piece, bool last,
                          char *out, size_t capacity) {
    (void)capacity; /* only asserted */
    size_t written = 0, at = 0;
    char joined[sizeof stream->held + 8];
    while (at < piece.count || stream->held_count > 0) {
        /* a window of at most 4 bytes: the held ones first */
        size_t held = (size_t)stream->held_count, window = held;
        memcpy(joined, stream->held, held);
        while (window < 4 && at + (window - held) < piece.count) {
            joined[window] = piece.bytes[at + (window - held)];
            window++;
        }
        uint32_t point;
        size_t width = (size_t)utf8_decode(joined, window, &point), used = width;
        if (width == 0 && !last && utf8_is_prefix(joined, window)) {
            memcpy(stream->held, joined, window);
            stream->held_count = (int)window;
            return written;
        }
        if (width == 0) used = utf8_bad_part(joined, window);
        const char *from = width ? joined : UTF8_REPLACEMENT;
        size_t length = width ? width : 3;
        assert(written + length <= capacity);
        memcpy(out + written, from, length);
        written += length;
        stream->held_count = used < held ? (int)(held - used) : 0;
        if (used < held)
            memmove(stream->held, stream->held + used, held - used);
        else
            at += used - held;
    }
    return written;
}

size_t token_stream_push(struct token_stream *stream, int32_t id, char *out, size_t capacity) {
    const struct decoder *decoder = &stream->tokenizer->decoder;
    struct token_bytes piece = piece_of(stream->tokenizer, id, stream->show_special);
    if (piece.count == 0) return 0;
    if (!stream->started) {
        int most = decoder->strip_first_piece ? INT32_MAX : decoder->strip_left;
        for (int i = 0; i < most && piece.count > 0 && piece.bytes[0] == decoder->strip; i++)
            piece.bytes++, piece.count--;
        /* a stripper of one is done even if that left nothing */
        stream->started = piece.count > 0 || most <= 1;
    } else if (decoder->join_spaces) {
        size_t space = write_whole(stream, (struct token_bytes){" ", 1}, false, out, capacity);
        return space + write_whole(stream, piece, false, out + space, capacity - space);
    }
    return write_whole(stream, piece, false, out, capacity);
}

size_t token_stream_finish(struct token_stream *stream, char *out, size_t capacity) {
    return write_whole(stream, (struct token_bytes){"", 0}, true, out, capacity);
}
