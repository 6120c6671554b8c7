#define _GNU_SOURCE
#include "serve/completion.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static enum http_pull pull(struct http_source *source, struct http_reply *reply);
static void close_source(struct http_source *source);

enum status completion_create(struct completion **out, struct server *server,
                              struct api_request *request, const struct completion_format *format,
                              const struct served_name *served, struct http_exchange *exchange,
                              int choices) {
    *out = NULL;
    struct completion *completion = calloc(1, sizeof *completion);
    if (!completion) return status_fail(STATUS_MEMORY, "no memory for a completion");
    completion->choices = calloc((size_t)choices, sizeof *completion->choices);
    completion->options = generation_options_create();
    if (!completion->choices || !completion->options) {
        completion_free(completion);
        return status_fail(STATUS_MEMORY, "no memory for a completion's choices");
    }
    completion->source = (struct http_source){.pull = pull, .close = close_source};
    completion->server = server;
    completion->exchange = exchange;
    completion->format = format;
    completion->served = served;
    completion->count = choices;
    completion->created = time(NULL);
    completion->request = *request;
    request->root = NULL;
    api_make_id(server, request->kind == API_CHAT ? "chatcmpl" : "cmpl", completion->id);
    memcpy(completion->options->id, completion->id, sizeof completion->id);
    *out = completion;
    return STATUS_OK;
}

/* On the engine's thread. A reply that leaves whole needs no waking before its end. */
static void wake(void *context) {
    const struct choice *choice = context;
    bool news = choice->owner->request.stream || choice->generation->finish != FINISH_NONE;
    if (news) http_wake(choice->owner->exchange);
}

static bool is_wanted(void *context) {
    const struct choice *choice = context;
    return http_connected(choice->owner->exchange);
}

enum status completion_add(struct completion *completion, int index,
                           const struct token_list *prompt, const json_t *prompt_text,
                           int64_t group) {
    struct choice *choice = &completion->choices[index];
    *choice = (struct choice){.owner = completion, .index = index, .prompt_text = prompt_text};
    TRY(generation_create(&choice->generation, completion->options, prompt->ids,
                          (int32_t)prompt->count, completion->served->adapter,
                          index % (int)completion->request.n, completion->server->tokenizer));
    choice->generation->sequence.group = group;
    choice->generation->listener =
        (struct listener){.wake = wake, .wanted = is_wanted, .context = choice};
    return STATUS_OK;
}

enum status completion_start(struct completion *completion) {
    for (int i = 0; i < completion->count; i++) {
        struct choice *choice = &completion->choices[i];
        TRY(engine_submit(completion->server->engine, choice->generation));
        choice->submitted = true;
    }
    return STATUS_OK;
}

static void let_go(struct choice *choice) {
    struct generation *generation = choice->generation;
    if (!generation) return;
    pthread_mutex_lock(&generation->lock);
    generation->listener = (struct listener){0};
    bool over = generation->finish != FINISH_NONE;
    pthread_mutex_unlock(&generation->lock);
    if (choice->submitted && !over) engine_cancel(choice->owner->server->engine, generation);
    generation_release(generation);
}

void completion_free(struct completion *completion) {
    if (!completion) return;
    for (int i = 0; completion->choices && i < completion->count; i++)
        let_go(&completion->choices[i]);
    generation_options_release(completion->options);
    api_request_free(&completion->request);
    free(completion->choices);
    free(completion);
}

static void close_source(struct http_source *source) {
    completion_free((struct completion *)source);
}

/* The piece that ends with token number tokens_read, or the text behind the last token. */
static enum status write_piece(struct choice *choice, size_t end, size_t tokens,
                               struct http_reply *reply) {
    const struct transcript *transcript = &choice->generation->transcript;
    const struct piece piece = {
        .text = transcript->text + choice->text_read,
        .bytes = end > choice->text_read ? end - choice->text_read : 0,
        .tokens = transcript->tokens + choice->tokens_read,
        .count = tokens,
    };
    choice->text_read += piece.bytes;
    choice->tokens_read += tokens;
    if (piece.bytes == 0 && !(choice->owner->request.logprobs && tokens > 0)) return STATUS_OK;
    return choice->owner->format->piece(choice, &piece, reply);
}

/* Streams what is new of a choice whose generation is locked. */
static enum status write_news(struct choice *choice, struct http_reply *reply) {
    const struct generation *generation = choice->generation;
    const struct transcript *transcript = &generation->transcript;
    const struct completion_format *format = choice->owner->format;
    bool over = generation->finish != FINISH_NONE;
    if (choice->ended || (generation->drawn == 0 && !over)) return STATUS_OK;
    if (!choice->begun) TRY(format->begin(choice, reply));
    choice->begun = true;
    while (choice->tokens_read < transcript->ready)
        TRY(write_piece(choice, transcript->tokens[choice->tokens_read].end, 1, reply));
    if (!over) return STATUS_OK;
    if (transcript->visible > choice->text_read)
        TRY(write_piece(choice, transcript->visible, 0, reply));
    choice->ended = true;
    return format->end(choice, reply);
}

/* Ends the reply with an error: its own status when nothing has been sent yet. */
static enum http_pull fail(struct completion *completion, enum finish finish, const char *message,
                           struct http_reply *reply) {
    bool cancelled = finish == FINISH_CANCELLED;
    if (cancelled) message = "the request was cancelled: the server is shutting down";
    if (completion->streaming)
        completion->format->fail(completion, message, reply);
    else
        api_error(reply, cancelled ? 503 : 500, NULL, finish_name(finish), message);
    return HTTP_DONE;
}

/* How many choices have finished; *failed is one that did so without an answer, or NULL. */
static int count_finished(const struct completion *completion, const struct choice **failed) {
    int finished = 0;
    *failed = NULL;
    for (int i = 0; i < completion->count; i++) {
        struct generation *generation = completion->choices[i].generation;
        pthread_mutex_lock(&generation->lock);
        finished += generation->finish != FINISH_NONE;
        if (generation->finish >= FINISH_CANCELLED) *failed = &completion->choices[i];
        pthread_mutex_unlock(&generation->lock);
    }
    return finished;
}

static enum http_pull pull_whole(struct completion *completion, struct http_reply *reply) {
    const struct choice *failed;
    int finished = count_finished(completion, &failed);
    if (failed)
        return fail(completion, failed->generation->finish, failed->generation->error, reply);
    if (finished < completion->count) return HTTP_WAIT;
    if (completion->format->whole(completion, reply) != STATUS_OK)
        return fail(completion, FINISH_ERROR, status_message(), reply);
    return HTTP_DONE;
}

static enum http_pull pull_stream(struct completion *completion, struct http_reply *reply) {
    const struct choice *failed;
    count_finished(completion, &failed);
    if (failed)
        return fail(completion, failed->generation->finish, failed->generation->error, reply);
    size_t before = reply->bytes;
    int ended = 0;
    enum status status = STATUS_OK;
    for (int i = 0; i < completion->count && status == STATUS_OK; i++) {
        struct choice *choice = &completion->choices[i];
        pthread_mutex_lock(&choice->generation->lock);
        /* A failure since the look above waits for the next pull. */
        if (choice->generation->finish < FINISH_CANCELLED) status = write_news(choice, reply);
        pthread_mutex_unlock(&choice->generation->lock);
        ended += choice->ended;
    }
    bool done = ended == completion->count;
    if (status == STATUS_OK && done) status = completion->format->close(completion, reply);
    if (status != STATUS_OK) return fail(completion, FINISH_ERROR, status_message(), reply);
    if (reply->bytes == before && !done) return HTTP_WAIT;
    completion->streaming = true;
    reply->type = completion->format->stream_type;
    return done ? HTTP_DONE : HTTP_MORE;
}

static enum http_pull pull(struct http_source *source, struct http_reply *reply) {
    struct completion *completion = (struct completion *)source;
    return completion->request.stream ? pull_stream(completion, reply)
                                      : pull_whole(completion, reply);
}

json_t *completion_usage(struct completion *completion) {
    int64_t prompt = 0, drawn = 0, cached = 0;
    for (int i = 0; i < completion->count; i++) {
        const struct generation *generation = completion->choices[i].generation;
        drawn += generation->drawn;
        if (i % completion->request.n != 0) continue;
        prompt += generation->sequence.prompt;
        cached += generation->cached > 0 ? generation->cached : 0;
    }
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", (json_int_t)prompt,
                     "completion_tokens", (json_int_t)drawn, "total_tokens",
                     (json_int_t)(prompt + drawn), "prompt_tokens_details", "cached_tokens",
                     (json_int_t)cached);
}
