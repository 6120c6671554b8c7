/* The output of one generation as it grows: token ids with their log probabilities, and the text
 * they decode to. Text is held back while it could still turn into a stop string; what follows a
 * stop string is never shown.
 *
 *     text    "Once upon a tim|e. EN"            stop string "END"
 *                             ^visible: " EN" waits for what comes
 *
 * A token is ready when all of its text is visible. The owner guards it against concurrent use. */
#ifndef STRATA_SERVE_TRANSCRIPT_H
#define STRATA_SERVE_TRANSCRIPT_H

#include "data/tokenizer.h"

struct token_chance {
    int32_t id;
    float logprob;
};

/* A token of the output. Its text is text[start..end), its alternatives are tops[top ..]. */
struct transcript_token {
    struct token_chance chosen;
    size_t start, end;
    size_t top;
    int32_t top_count;
};

struct stop_string {
    const char *text;
    size_t bytes; /* at least 1 */
};

struct transcript {
    char *text; /* owned; valid UTF-8, may hold NULs */
    size_t bytes, capacity;
    size_t visible; /* bytes that may be shown */
    struct transcript_token *tokens;
    size_t count, tokens_capacity;
    size_t ready; /* tokens that may be shown */
    struct token_chance *tops;
    size_t top_count, tops_capacity;
    struct token_stream stream;
    const struct stop_string *stops; /* borrowed */
    int stop_count;
    bool include_stop; /* the stop string itself is shown */
    bool stopped;      /* a stop string was met */
};

void transcript_init(struct transcript *transcript, const struct tokenizer *tokenizer,
                     bool show_special, const struct stop_string *stops, int stop_count,
                     bool include_stop);
void transcript_free(struct transcript *transcript);

/* Appends a token and its `top_count` alternatives (best first; 0 and NULL without). With `silent`
 * it has no text, whatever it decodes to (an end-of-sequence token), and `watch_stops` false lets
 * stop strings pass (below a minimum length). transcript->stopped tells whether a stop string is
 * complete. STATUS_MEMORY is the only failure. */
enum status transcript_push(struct transcript *transcript, struct token_chance chosen,
                            const struct token_chance *tops, int32_t top_count, bool silent,
                            bool watch_stops);

/* No more tokens: what was held back is visible, unless a stop string was met. */
enum status transcript_finish(struct transcript *transcript);

/* Bytes at the end of text that a stop string begins with (the longest such tail that is shorter
 * than the stop string). */
size_t stop_held_bytes(const char *text, size_t bytes, const struct stop_string *stops, int count);

/* The first place in text at or after `from` where a stop string is complete: its index, and its
 * length in *length; `bytes` when there is none. Of two at one place the longer wins. */
size_t stop_find(const char *text, size_t bytes, size_t from, const struct stop_string *stops,
                 int count, size_t *length);

#endif
