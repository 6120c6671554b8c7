/* One sequence to be generated: what was asked, and what has come of it so far.
 *
 * Two sides hold it: a reader (an HTTP thread) and the engine's thread. It lives until both have
 * released it. What the engine writes and the reader reads is guarded by `lock`; the rest is the
 * engine's alone once the generation is submitted. */
#ifndef STRATA_SERVE_GENERATION_H
#define STRATA_SERVE_GENERATION_H

#include "serve/scheduler.h"
#include "serve/seen.h"
#include "serve/transcript.h"

#include <pthread.h>
#include <stdatomic.h>

enum { GENERATION_ID_BYTES = 64, ADAPTER_NONE = -1 };

struct token_bias {
    int32_t token;
    float bias;
};

/* How to continue a prompt; shared by the generations of one request and never changed once the
 * first of them exists. */
struct generation_options {
    atomic_int references;
    int32_t max_tokens;          /* 0: nothing is drawn, the prompt is only scored */
    int32_t min_tokens;          /* no end-of-sequence, stop token or stop string before */
    struct sample_params sample; /* the seed is that of the first choice */
    struct token_bias *biases;   /* owned */
    size_t bias_count;
    struct stop_string *stops; /* owned, with their texts */
    int stop_count;
    int32_t *stop_tokens; /* owned; end the sequence like its end-of-sequence tokens */
    size_t stop_token_count;
    bool ignore_eos;
    bool include_stop; /* the stop string stays in the text */
    bool show_special; /* control tokens have text */
    bool continues;    /* the output goes on in the prompt's text: a first token's space stays */
    bool logprobs;
    int32_t top_logprobs;         /* alternatives a token, at most LOGPROBS_MAX_TOP */
    bool prompt_logprobs;         /* of the prompt's tokens too */
    char id[GENERATION_ID_BYTES]; /* of the request, for the log */
};

enum finish { FINISH_NONE, FINISH_STOP, FINISH_LENGTH, FINISH_CANCELLED, FINISH_ERROR };

/* How the engine tells a reader that there is news, and asks whether anybody still wants it. Both
 * are called on the engine's thread with the generation's lock held; they must not block. */
struct listener {
    void (*wake)(void *context);
    bool (*wanted)(void *context); /* NULL: always */
    void *context;
};

/* Seconds of the monotonic clock; 0 = has not happened. */
struct generation_times {
    double submitted, started, first_token, last_token, finished;
};

struct generation {
    atomic_int references;
    struct generation_options *options; /* one reference */
    struct sequence sequence;           /* owns its tokens */
    int adapter;                        /* index among the engine's, or ADAPTER_NONE */
    int choice;                         /* which of the request's; adds to the seed */
    struct seen_list seen;
    bool adjusts;            /* `seen` is in use */
    atomic_bool cancelled;   /* the reader has lost interest */
    struct generation *next; /* in the engine's lists */

    pthread_mutex_t lock;
    struct listener listener;
    struct transcript transcript;
    struct token_chance *prompt_chances; /* (prompt) with prompt_logprobs: token i given those
                                            before it; [0] means nothing */
    struct token_chance *prompt_tops;    /* (prompt, top_logprobs) */
    int32_t scored;                      /* prompt tokens with a figure, the first included */
    int32_t drawn;                       /* tokens of the output, a silent last one included */
    int32_t cached;                      /* prompt tokens that were not computed again */
    enum finish finish;
    char error[256]; /* with FINISH_ERROR */
    struct generation_times times;
};

/* Zeroed options with one reference and neutral sampling. NULL when there is no memory. */
struct generation_options *generation_options_create(void);
void generation_options_release(struct generation_options *options);

/* A generation of `count` prompt tokens (copied) with one reference; takes one on the options. */
enum status generation_create(struct generation **generation, struct generation_options *options,
                              const int32_t *prompt, int32_t count, int adapter, int choice,
                              const struct tokenizer *tokenizer);
void generation_hold(struct generation *generation);
void generation_release(struct generation *generation);

/* Ends it, once: later calls change nothing. */
void generation_finish(struct generation *generation, enum finish finish, const char *error);

static inline struct generation *generation_of(struct sequence *sequence) {
    return (struct generation *)((char *)sequence - offsetof(struct generation, sequence));
}

/* "stop", "length", "cancelled" or "error". */
const char *finish_name(enum finish finish);

#endif
