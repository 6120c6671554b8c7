#define _GNU_SOURCE
#include "kernels/base/clock.h"
#include "serve/engine_parts.h"

#include <math.h>
#include <omp.h>
#include <string.h>

static bool is_end_token(const struct engine *engine, const struct generation_options *options,
                         int32_t token) {
    for (size_t i = 0; i < options->stop_token_count; i++)
        if (options->stop_tokens[i] == token) return true;
    if (options->ignore_eos) return false;
    const struct model_config *config = &engine->options.model->config;
    for (int i = 0; i < config->eos_count; i++)
        if (config->eos[i] == token) return true;
    return token == tokenizer_eos(engine->options.tokenizer);
}

static enum status ban_one(struct generation *generation, int32_t token, bool banned) {
    if (token < 0) return STATUS_OK;
    float bias = 0.0f;
    const struct generation_options *options = generation->options;
    for (size_t i = 0; i < options->bias_count; i++)
        if (options->biases[i].token == token) bias = options->biases[i].bias;
    return seen_set_bias(&generation->seen, token, banned ? -INFINITY : bias);
}

/* Below min_tokens no token that would end the sequence can be drawn. */
static enum status ban_end_tokens(const struct engine *engine, struct generation *generation,
                                  bool banned) {
    const struct generation_options *options = generation->options;
    const struct model_config *config = &engine->options.model->config;
    for (size_t i = 0; i < options->stop_token_count; i++)
        TRY(ban_one(generation, options->stop_tokens[i], banned));
    if (options->ignore_eos) return STATUS_OK;
    for (int i = 0; i < config->eos_count; i++) TRY(ban_one(generation, config->eos[i], banned));
    return ban_one(generation, tokenizer_eos(engine->options.tokenizer), banned);
}

/* Draws row `index` of the group, or reads the prompt token that it scores; -1 on a NaN. Pure but
 * for its own slots, so rows run on all threads. */
static void draw_row(struct engine *engine, const struct logit_row *row, int32_t index,
                     int thread) {
    struct step_arrays *step = &engine->step;
    const struct generation *generation = row->generation;
    const struct generation_options *options = generation->options;
    int32_t vocab = (int32_t)engine->options.model->config.vocab;
    const float *logits = step->logits + (int64_t)index * vocab;
    struct token_chance *chosen = &step->chosen[index];
    *chosen = (struct token_chance){.id = generation->sequence.tokens[row->position]};
    if (row->draws) {
        const struct sample_args args = {
            .token = &chosen->id,
            .scratch = step->sample_scratch + (int64_t)thread * vocab,
            .scratch_ids = step->sample_ids + (int64_t)thread * vocab,
            .logits = logits,
            .seen = generation->seen.items,
            .seen_count = generation->adjusts ? (int32_t)generation->seen.count : 0,
            .vocab = vocab,
            .position = row->position,
            .params = options->sample,
        };
        struct sample_args keyed = args;
        keyed.params.seed += (uint64_t)generation->choice;
        engine->options.kernels->sample(&engine->work.stream, &keyed);
    }
    step->top_counts[index] = 0;
    if (chosen->id < 0 || !(options->logprobs || options->prompt_logprobs)) return;
    double log_sum = logits_log_sum(logits, vocab);
    chosen->logprob = logits_logprob(logits, log_sum, chosen->id);
    step->top_counts[index] = logits_top(step->tops + (int64_t)index * LOGPROBS_MAX_TOP,
                                         options->top_logprobs, logits, log_sum, vocab);
    if (isnan(chosen->logprob)) chosen->id = -1;
}

/* Keeps the figure of a prompt token; a preempted prompt comes by twice. */
static void keep_score(struct generation *generation, const struct logit_row *row,
                       struct token_chance chosen, const struct token_chance *tops,
                       int32_t top_count) {
    int32_t width = generation->options->top_logprobs;
    if (row->position < generation->scored) return;
    generation->prompt_chances[row->position] = chosen;
    memcpy(generation->prompt_tops + (int64_t)row->position * width, tops,
           (size_t)top_count * sizeof *tops);
    generation->scored = row->position + 1;
}

/* What a drawn token means for its generation; FINISH_NONE when it goes on. */
static enum status append_token(struct engine *engine, struct generation *generation,
                                struct token_chance chosen, const struct token_chance *tops,
                                int32_t top_count, enum finish *finish) {
    const struct generation_options *options = generation->options;
    struct transcript *transcript = &generation->transcript;
    int32_t drawn = ++generation->drawn;
    bool ends = is_end_token(engine, options, chosen.id);
    bool known = chosen.id < tokenizer_size(engine->options.tokenizer);
    if (!ends)
        TRY(transcript_push(transcript, chosen, tops, top_count, !known,
                            drawn >= options->min_tokens));
    if (generation->adjusts) TRY(seen_add_output(&generation->seen, chosen.id));
    if (options->min_tokens > 0 && drawn == options->min_tokens)
        TRY(ban_end_tokens(engine, generation, false));
    if (ends || transcript->stopped)
        *finish = FINISH_STOP;
    else if (drawn >= options->max_tokens)
        *finish = FINISH_LENGTH;
    return STATUS_OK;
}

static void note_time(struct engine *engine, struct generation *generation) {
    struct generation_times *times = &generation->times;
    double now = clock_seconds();
    pthread_mutex_lock(&engine->lock);
    if (times->first_token == 0.0) {
        times->first_token = now;
        histogram_add(&engine->stats.first_token, now - times->submitted);
    } else {
        histogram_add(&engine->stats.between_tokens, now - times->last_token);
    }
    pthread_mutex_unlock(&engine->lock);
    times->last_token = now;
}

/* Row `index` of the group has its token: to the reader, and to the scheduler's commit. */
static void take_row(struct engine *engine, const struct logit_row *row, int32_t index) {
    struct step_arrays *step = &engine->step;
    struct generation *generation = row->generation;
    struct token_chance chosen = step->chosen[index];
    const struct token_chance *tops = step->tops + (int64_t)index * LOGPROBS_MAX_TOP;
    enum finish finish = FINISH_NONE;
    if (engine->options.observe)
        engine->options.observe(engine->options.observer, generation, row->position,
                                step->logits + (int64_t)index * engine->options.model->config.vocab,
                                engine->options.model->config.vocab);
    if (chosen.id < 0) {
        generation_finish(generation, FINISH_ERROR, "the model's logits hold a NaN");
        step->ended[row->item] = true;
        return;
    }
    pthread_mutex_lock(&generation->lock);
    enum status status = STATUS_OK;
    if (row->draws)
        status = append_token(engine, generation, chosen, tops, step->top_counts[index], &finish);
    else
        keep_score(generation, row, chosen, tops, step->top_counts[index]);
    pthread_mutex_unlock(&generation->lock);
    if (row->draws) {
        note_time(engine, generation);
        step->drawn[row->item] = chosen.id;
    }
    if (status != STATUS_OK) generation_finish(generation, FINISH_ERROR, status_message());
    if (finish != FINISH_NONE) generation_finish(generation, finish, NULL);
    step->ended[row->item] |= status != STATUS_OK || finish != FINISH_NONE;
}

/* Before the first draw. Sequences that only score their prompt end without one. */
static void prepare_items(struct engine *engine) {
    for (int32_t i = 0; i < engine->plan.count; i++) {
        const struct plan_item *item = &engine->plan.items[i];
        struct generation *generation = generation_of(item->sequence);
        pthread_mutex_lock(&generation->lock);
        generation->cached = item->sequence->reused;
        pthread_mutex_unlock(&generation->lock);
        engine->step.drawn[i] = -1;
        engine->step.ended[i] = item->draws && item->sequence->count == item->sequence->limit;
        if (item->draws && generation->drawn == 0 && generation->options->min_tokens > 0 &&
            ban_end_tokens(engine, generation, true) != STATUS_OK)
            generation_finish(generation, FINISH_ERROR, status_message());
    }
}

static void finish_scored_items(struct engine *engine) {
    for (int32_t i = 0; i < engine->plan.count; i++)
        if (engine->step.ended[i] && engine->step.drawn[i] < 0)
            generation_finish(generation_of(engine->plan.items[i].sequence), FINISH_LENGTH, NULL);
}

static void fail_items(struct engine *engine, const char *why) {
    for (int32_t i = 0; i < engine->plan.count; i++) {
        generation_finish(generation_of(engine->plan.items[i].sequence), FINISH_ERROR, why);
        engine->step.ended[i] = true;
    }
}

void engine_draw_tokens(struct engine *engine) {
    struct step_arrays *step = &engine->step;
    int32_t group = engine->layout.max_batch;
    prepare_items(engine);
    for (int32_t first = 0; first < engine->row_count; first += group) {
        int32_t count = engine->row_count - first < group ? engine->row_count - first : group;
        head_logits(&engine->work.exec, engine->options.model, step->logits,
                    engine->work.acts.hidden, step->row_tokens + first, count);
        if (stream_check(&engine->work.stream) != STATUS_OK) {
            fail_items(engine, status_message());
            return;
        }
#pragma omp parallel for num_threads(engine->layout.threads) schedule(dynamic)
        for (int32_t i = 0; i < count; i++)
            draw_row(engine, &step->rows[first + i], i, omp_get_thread_num());
        for (int32_t i = 0; i < count; i++) take_row(engine, &step->rows[first + i], i);
    }
    finish_scored_items(engine);
}
