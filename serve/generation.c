#define _GNU_SOURCE
#include "serve/generation.h"

#include "kernels/base/clock.h"
#include "serve/logprobs.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *finish_name(enum finish finish) {
    static const char *const names[] = {"none", "stop", "length", "cancelled", "error"};
    return names[finish];
}

struct generation_options *generation_options_create(void) {
    struct generation_options *options = calloc(1, sizeof *options);
    if (!options) return NULL;
    atomic_init(&options->references, 1);
    options->sample =
        (struct sample_params){.temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f};
    return options;
}

void generation_options_release(struct generation_options *options) {
    if (!options || atomic_fetch_sub(&options->references, 1) > 1) return;
    for (int i = 0; i < options->stop_count; i++) free((char *)options->stops[i].text);
    free(options->stops);
    free(options->stop_tokens);
    free(options->biases);
    free(options);
}

static bool adjusts_logits(const struct generation_options *options) {
    const struct sample_params *sample = &options->sample;
    return options->bias_count > 0 || options->min_tokens > 0 ||
           sample->repetition_penalty != 1.0f || sample->presence_penalty != 0.0f ||
           sample->frequency_penalty != 0.0f;
}

static enum status fill_seen(struct generation *generation) {
    const struct generation_options *options = generation->options;
    generation->adjusts = adjusts_logits(options);
    if (options->sample.repetition_penalty != 1.0f)
        TRY(seen_add_prompt(&generation->seen, generation->sequence.tokens,
                            generation->sequence.count));
    for (size_t i = 0; i < options->bias_count; i++)
        TRY(seen_set_bias(&generation->seen, options->biases[i].token, options->biases[i].bias));
    return STATUS_OK;
}

static enum status allocate(struct generation *generation, const int32_t *prompt, int32_t count) {
    const struct generation_options *options = generation->options;
    struct sequence *sequence = &generation->sequence;
    *sequence = (struct sequence){
        .count = count,
        .limit = count + options->max_tokens,
        .root = generation->adapter + 1,
        .reuse_prefix = !options->prompt_logprobs,
    };
    sequence->tokens = malloc((size_t)sequence->limit * sizeof *sequence->tokens);
    if (!sequence->tokens) return status_fail(STATUS_MEMORY, "no memory for a request's tokens");
    memcpy(sequence->tokens, prompt, (size_t)count * sizeof *prompt);
    if (!options->prompt_logprobs) return STATUS_OK;
    size_t tops = (size_t)count * (size_t)options->top_logprobs;
    generation->prompt_chances = calloc((size_t)count, sizeof *generation->prompt_chances);
    generation->prompt_tops = calloc(tops ? tops : 1, sizeof *generation->prompt_tops);
    generation->scored = 1;
    if (generation->prompt_chances && generation->prompt_tops) return STATUS_OK;
    return status_fail(STATUS_MEMORY, "no memory for a prompt's log probabilities");
}

enum status generation_create(struct generation **out, struct generation_options *options,
                              const int32_t *prompt, int32_t count, int adapter, int choice,
                              const struct tokenizer *tokenizer) {
    assert(count > 0 && options->top_logprobs <= LOGPROBS_MAX_TOP);
    *out = NULL;
    struct generation *generation = calloc(1, sizeof *generation);
    if (!generation) return status_fail(STATUS_MEMORY, "no memory for a request");
    atomic_init(&generation->references, 1);
    atomic_init(&generation->cancelled, false);
    atomic_fetch_add(&options->references, 1);
    pthread_mutex_init(&generation->lock, NULL);
    generation->options = options;
    generation->adapter = adapter;
    generation->choice = choice;
    transcript_init(&generation->transcript, tokenizer, options->show_special, options->stops,
                    options->stop_count, options->include_stop);
    generation->transcript.stream.started = options->continues;
    enum status status = allocate(generation, prompt, count);
    if (status == STATUS_OK) status = fill_seen(generation);
    if (status != STATUS_OK) {
        generation_release(generation);
        return status;
    }
    *out = generation;
    return STATUS_OK;
}

void generation_hold(struct generation *generation) {
    atomic_fetch_add(&generation->references, 1);
}

void generation_release(struct generation *generation) {
    if (!generation || atomic_fetch_sub(&generation->references, 1) > 1) return;
    assert(!generation->sequence.pages);
    free(generation->sequence.tokens);
    free(generation->prompt_chances);
    free(generation->prompt_tops);
    seen_free(&generation->seen);
    transcript_free(&generation->transcript);
    generation_options_release(generation->options);
    pthread_mutex_destroy(&generation->lock);
    free(generation);
}

void generation_finish(struct generation *generation, enum finish finish, const char *error) {
    pthread_mutex_lock(&generation->lock);
    if (generation->finish == FINISH_NONE) {
        if (transcript_finish(&generation->transcript) != STATUS_OK) {
            finish = FINISH_ERROR;
            error = "out of memory";
        }
        generation->finish = finish;
        generation->times.finished = clock_seconds();
        snprintf(generation->error, sizeof generation->error, "%s", error ? error : "");
        if (generation->listener.wake) generation->listener.wake(generation->listener.context);
    }
    pthread_mutex_unlock(&generation->lock);
}
