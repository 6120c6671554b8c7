#define _GNU_SOURCE
#include "serve/engine_parts.h"

#include "core/log.h"

const double histogram_bounds[HISTOGRAM_BUCKETS] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                    0.25,  0.5,    1.0,   2.5,  5.0,   10.0, 60.0};

void histogram_add(struct histogram *histogram, double seconds) {
    int bucket = 0;
    while (bucket < HISTOGRAM_BUCKETS && seconds > histogram_bounds[bucket]) bucket++;
    histogram->counts[bucket]++;
    histogram->sum += seconds;
}

static void log_generation(const struct generation *generation) {
    const struct generation_times *times = &generation->times;
    double decoding = times->last_token - times->first_token;
    log_line(LOG_INFO,
             "event=finished id=%s choice=%d reason=%s prompt_tokens=%d cached_tokens=%d "
             "output_tokens=%d ttft_ms=%.1f total_ms=%.1f tok_s=%.1f preemptions=%d",
             log_value(&(struct log_text){0}, generation->options->id), generation->choice,
             finish_name(generation->finish), generation->sequence.prompt, generation->cached,
             generation->drawn,
             times->first_token > 0.0 ? 1e3 * (times->first_token - times->submitted) : 0.0,
             1e3 * (times->finished - times->submitted),
             decoding > 0.0 ? (generation->drawn - 1) / decoding : 0.0,
             generation->sequence.preemptions);
}

void engine_account(struct engine *engine, const struct generation *generation) {
    struct engine_stats *stats = &engine->stats;
    pthread_mutex_lock(&engine->lock);
    stats->finished[generation->finish]++;
    stats->prompt_tokens += generation->sequence.prompt;
    stats->cached_tokens += generation->cached;
    stats->cache_hits += generation->cached > 0;
    stats->output_tokens += generation->drawn;
    histogram_add(&stats->whole, generation->times.finished - generation->times.submitted);
    pthread_mutex_unlock(&engine->lock);
    if (generation->options->id[0]) log_generation(generation);
}

void engine_read_stats(struct engine *engine, struct engine_stats *stats) {
    pthread_mutex_lock(&engine->lock);
    *stats = engine->stats;
    pthread_mutex_unlock(&engine->lock);
}
