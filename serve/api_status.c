/* Health, version and metrics: what monitors ask. Metrics are Prometheus' text format, version
 * 0.0.4. */
#define _GNU_SOURCE
#include "kernels/base/clock.h"
#include "serve/api.h"

struct http_source *api_health(struct server *server, const struct http_request *request,
                               struct http_reply *reply, struct http_exchange *exchange) {
    (void)request, (void)exchange;
    if (!atomic_load(&server->ready))
        return api_error(reply, 503, NULL, "loading", "the model is still being loaded");
    return api_reply_json(reply, json_pack("{s:s}", "status", "ok"));
}

struct http_source *api_version(struct server *server, const struct http_request *request,
                                struct http_reply *reply, struct http_exchange *exchange) {
    (void)server, (void)request, (void)exchange;
    return api_reply_json(reply, json_pack("{s:s}", "version", STRATA_VERSION));
}

struct http_source *api_root(struct server *server, const struct http_request *request,
                             struct http_reply *reply, struct http_exchange *exchange) {
    (void)server, (void)request, (void)exchange;
    reply->type = "text/plain; charset=utf-8";
    http_printf(reply, "Strata is running: POST /v1/chat/completions or /v1/completions.\n");
    return NULL;
}

static void write_value(struct http_reply *reply, const char *name, const char *type,
                        const char *help, double value) {
    http_printf(reply, "# HELP strata_%s %s\n# TYPE strata_%s %s\nstrata_%s %.17g\n", name, help,
                name, type, name, value);
}

static void write_histogram(struct http_reply *reply, const char *name, const char *help,
                            const struct histogram *histogram) {
    uint64_t sum = 0;
    http_printf(reply, "# HELP strata_%s %s\n# TYPE strata_%s histogram\n", name, help, name);
    for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
        sum += histogram->counts[i];
        http_printf(reply, "strata_%s_bucket{le=\"%g\"} %llu\n", name, histogram_bounds[i],
                    (unsigned long long)sum);
    }
    sum += histogram->counts[HISTOGRAM_BUCKETS];
    http_printf(reply,
                "strata_%s_bucket{le=\"+Inf\"} %llu\nstrata_%s_sum %.9g\n"
                "strata_%s_count %llu\n",
                name, (unsigned long long)sum, name, histogram->sum, name, (unsigned long long)sum);
}

static void write_engine(struct http_reply *reply, const struct server *server) {
    struct engine_stats stats;
    engine_read_stats(server->engine, &stats);
    const struct engine_layout *layout = engine_layout(server->engine);
    write_value(reply, "requests_running", "gauge", "Sequences in the batch.",
                (double)stats.running);
    write_value(reply, "requests_waiting", "gauge", "Sequences in line.", (double)stats.waiting);
    write_value(reply, "kv_pages_used", "gauge", "KV pages held by sequences.",
                (double)stats.pages_used);
    write_value(reply, "kv_pages", "gauge", "KV pages in all.", (double)layout->pages);
    write_value(reply, "steps_total", "counter", "Steps of the engine.", (double)stats.steps);
    write_value(reply, "batch_largest", "gauge", "Sequences of the largest step so far.",
                (double)stats.largest_batch);
    write_value(reply, "preemptions_total", "counter", "Sequences that gave their pages back.",
                (double)stats.preemptions);
    write_value(reply, "kv_evictions_total", "counter", "Reusable pages that were overwritten.",
                (double)stats.evictions);
    write_value(reply, "prompt_tokens_total", "counter", "Prompt tokens of finished sequences.",
                (double)stats.prompt_tokens);
    write_value(reply, "prompt_tokens_cached_total", "counter",
                "Those of them that were not computed again.", (double)stats.cached_tokens);
    write_value(reply, "prefix_cache_hits_total", "counter",
                "Finished sequences that reused pages of earlier ones.", (double)stats.cache_hits);
    write_value(reply, "generation_tokens_total", "counter", "Output tokens.",
                (double)stats.output_tokens);
    http_printf(reply, "# HELP strata_requests_total Finished sequences.\n"
                       "# TYPE strata_requests_total counter\n");
    for (int i = FINISH_STOP; i <= FINISH_ERROR; i++)
        http_printf(reply, "strata_requests_total{reason=\"%s\"} %lld\n",
                    finish_name((enum finish)i), (long long)stats.finished[i]);
    write_histogram(reply, "time_to_first_token_seconds", "From submission to the first token.",
                    &stats.first_token);
    write_histogram(reply, "time_between_tokens_seconds", "From token to token.",
                    &stats.between_tokens);
    write_histogram(reply, "request_seconds", "From submission to the end.", &stats.whole);
}

struct http_source *api_metrics(struct server *server, const struct http_request *request,
                                struct http_reply *reply, struct http_exchange *exchange) {
    (void)request, (void)exchange;
    bool ready = atomic_load(&server->ready);
    reply->type = "text/plain; version=0.0.4; charset=utf-8";
    write_value(reply, "ready", "gauge", "1 when requests are served.", ready);
    write_value(reply, "uptime_seconds", "gauge", "Seconds since the start.",
                clock_seconds() - server->started);
    if (ready) write_engine(reply, server);
    return NULL;
}
