#define _GNU_SOURCE
#include "serve/transcript.h"

#include "serve/grow.h"

#include <string.h>

void transcript_init(struct transcript *transcript, const struct tokenizer *tokenizer,
                     bool show_special, const struct stop_string *stops, int stop_count,
                     bool include_stop) {
    *transcript = (struct transcript){
        .stops = stops,
        .stop_count = stop_count,
        .include_stop = include_stop,
    };
    token_stream_init(&transcript->stream, tokenizer, show_special);
}

void transcript_free(struct transcript *transcript) {
    free(transcript->text);
    free(transcript->tokens);
    free(transcript->tops);
    *transcript = (struct transcript){0};
}

size_t stop_held_bytes(const char *text, size_t bytes, const struct stop_string *stops, int count) {
    size_t held = 0;
    for (int i = 0; i < count; i++) {
        size_t most = stops[i].bytes - 1 < bytes ? stops[i].bytes - 1 : bytes;
        for (size_t tail = most; tail > held; tail--)
            if (memcmp(text + bytes - tail, stops[i].text, tail) == 0) held = tail;
    }
    return held;
}

size_t stop_find(const char *text, size_t bytes, size_t from, const struct stop_string *stops,
                 int count, size_t *length) {
    size_t best = bytes;
    *length = 0;
    for (int i = 0; i < count; i++) {
        const char *hit = memmem(text + from, bytes - from, stops[i].text, stops[i].bytes);
        if (!hit) continue;
        size_t at = (size_t)(hit - text);
        if (at > best || (at == best && stops[i].bytes <= *length)) continue;
        best = at;
        *length = stops[i].bytes;
    }
    return best;
}

static enum status reserve_text(struct transcript *transcript, size_t more) {
    return grow_array((void **)&transcript->text, &transcript->capacity, transcript->bytes + more,
                      1);
}

static void show_ready_tokens(struct transcript *transcript) {
    while (transcript->ready < transcript->count &&
           transcript->tokens[transcript->ready].end <= transcript->visible)
        transcript->ready++;
}

/* Where text appeared from `old` on: cuts at a stop string, or holds its possible beginning. */
static void look_for_stops(struct transcript *transcript, size_t old, bool watch) {
    size_t longest = 1, length;
    for (int i = 0; i < transcript->stop_count; i++)
        if (transcript->stops[i].bytes > longest) longest = transcript->stops[i].bytes;
    size_t from = old > longest - 1 ? old - (longest - 1) : 0;
    if (from < transcript->visible) from = transcript->visible;
    int count = watch ? transcript->stop_count : 0;
    size_t at =
        stop_find(transcript->text, transcript->bytes, from, transcript->stops, count, &length);
    if (length > 0) {
        transcript->stopped = true;
        transcript->visible = at + (transcript->include_stop ? length : 0);
        return;
    }
    transcript->visible = transcript->bytes - stop_held_bytes(transcript->text, transcript->bytes,
                                                              transcript->stops, count);
}

/* A token that a stop string cuts short is shown when some of its text is. */
static void end_at_stop(struct transcript *transcript) {
    transcript->bytes = transcript->visible;
    while (transcript->ready < transcript->count &&
           transcript->tokens[transcript->ready].start < transcript->visible) {
        struct transcript_token *token = &transcript->tokens[transcript->ready++];
        if (token->end > transcript->visible) token->end = transcript->visible;
    }
    transcript->count = transcript->ready;
}

enum status transcript_push(struct transcript *transcript, struct token_chance chosen,
                            const struct token_chance *tops, int32_t top_count, bool silent,
                            bool watch_stops) {
    size_t room = tokenizer_max_bytes(transcript->stream.tokenizer) + 8;
    TRY(reserve_text(transcript, room));
    TRY(grow_array((void **)&transcript->tokens, &transcript->tokens_capacity,
                   transcript->count + 1, sizeof *transcript->tokens));
    TRY(grow_array((void **)&transcript->tops, &transcript->tops_capacity,
                   transcript->top_count + (size_t)top_count, sizeof *transcript->tops));
    size_t old = transcript->bytes;
    if (!silent)
        transcript->bytes +=
            token_stream_push(&transcript->stream, chosen.id, transcript->text + old, room);
    transcript->tokens[transcript->count++] = (struct transcript_token){
        .chosen = chosen,
        .start = old,
        .end = transcript->bytes,
        .top = transcript->top_count,
        .top_count = top_count,
    };
    if (top_count > 0)
        memcpy(transcript->tops + transcript->top_count, tops, (size_t)top_count * sizeof *tops);
    transcript->top_count += (size_t)top_count;
    look_for_stops(transcript, old, watch_stops);
    show_ready_tokens(transcript);
    if (transcript->stopped) end_at_stop(transcript);
    return STATUS_OK;
}

enum status transcript_finish(struct transcript *transcript) {
    if (transcript->stopped) return STATUS_OK;
    size_t room = tokenizer_max_bytes(transcript->stream.tokenizer) + 8;
    TRY(reserve_text(transcript, room));
    size_t last =
        token_stream_finish(&transcript->stream, transcript->text + transcript->bytes, room);
    transcript->bytes += last;
    if (transcript->count > 0) transcript->tokens[transcript->count - 1].end = transcript->bytes;
    transcript->visible = transcript->bytes;
    show_ready_tokens(transcript);
    return STATUS_OK;
}
