/* A real server on a tiny model: clients that leave, are slow, or only watch. */
#define _GNU_SOURCE
#include "tests/serving_site.h"

#include <curl/curl.h>
#include <sys/socket.h>

static void test_disconnected_clients_are_cancelled(void **state) {
    const struct site *site = *state;
    const char *cancelled = "strata_requests_total{reason=\"cancelled\"}";
    long before = metric(site, cancelled);
    for (int stream = 0; stream < 2; stream++) {
        char body[128];
        snprintf(body, sizeof body,
                 "{\"prompt\": \"x\", \"max_tokens\": 8000, \"ignore_eos\": true, \"stream\": %s}",
                 stream ? "true" : "false");
        int fd = http_begin(site->port, "/v1/completions", body);
        await_metric(site, "strata_requests_running", 1);
        close(fd);
        await_metric(site, cancelled, before + stream + 1);
        await_metric(site, "strata_requests_running", 0);
        await_metric(site, "strata_kv_pages_used", 0);
    }
}

/* Reads to the end of the connection; the text after the last header of the reply. */
static char *read_rest(int fd, char *reply, size_t room) {
    size_t count = 0;
    for (ssize_t got; (got = recv(fd, reply + count, room - 1 - count, 0)) > 0;)
        count += (size_t)got;
    reply[count] = '\0';
    return reply;
}

/* A client that has sent all it will send, and says so, gets its answer. */
static void test_half_closed_clients_are_answered(void **state) {
    const struct site *site = *state;
    const char *cancelled = "strata_requests_total{reason=\"cancelled\"}";
    static char reply[1 << 20];
    long before = metric(site, cancelled);
    for (int stream = 0; stream < 2; stream++) {
        char body[256];
        snprintf(body, sizeof body,
                 "{\"prompt\": \"x\", \"max_tokens\": 1500, \"ignore_eos\": true, \"stream\": %s, "
                 "\"stream_options\": {\"include_usage\": true}}",
                 stream ? "true" : "false");
        int fd = http_begin(site->port, "/v1/completions", body);
        await_metric(site, "strata_requests_running", 1);
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        read_rest(fd, reply, sizeof reply);
        close(fd);
        if (!strstr(reply, "HTTP/1.1 200 OK\r\n")) fail_msg("%.200s", reply);
        assert_non_null(strstr(reply, "\"completion_tokens\":1500"));
        assert_int_equal(!strstr(reply, "[DONE]"), !stream);
    }
    assert_int_equal(metric(site, cancelled), before);
}

/* Connections that send nothing, and one that sends its request byte by byte, hold nobody up. */
static void test_idle_and_slow_clients(void **state) {
    const struct site *site = *state;
    enum { IDLE = 300 };
    static char reply[1 << 16];
    int idle[IDLE];
    for (int i = 0; i < IDLE; i++) idle[i] = http_connect(site->port);
    static const char request[] =
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        "Content-Length: 32\r\n\r\n"
        "{\"prompt\": \"x\", \"max_tokens\": 1}";
    int slow = http_connect(site->port);
    for (size_t i = 0; i + 1 < sizeof request; i++) {
        assert_int_equal(send(slow, request + i, 1, MSG_NOSIGNAL), 1);
        if (i % 16 > 0) continue;
        struct http_answer answer = http_get(site->port, "/health");
        assert_int_equal(answer.status, 200);
        http_answer_free(&answer);
    }
    read_rest(slow, reply, sizeof reply);
    assert_non_null(strstr(reply, " 200 OK"));
    assert_non_null(strstr(reply, "\"completion_tokens\":1"));
    close(slow);
    for (int i = 0; i < IDLE; i++) close(idle[i]);
}

/* A proxy might take the other length, and see another request where this one ends. */
static void test_two_lengths_are_refused(void **state) {
    const struct site *site = *state;
    static const char *const lengths[] = {"32\r\nContent-Length: 5", "5\r\nContent-Length: 32",
                                          "32\r\ncontent-length: 32"};
    for (size_t i = 0; i < 3; i++) {
        static char reply[1 << 16];
        char request[512];
        int bytes = snprintf(request, sizeof request,
                             "POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
                             "%sContent-Length: %s\r\n\r\n%s",
                             i < 2 ? "" : "Connection: close\r\n", lengths[i],
                             /* an unread body would reset the connection under the reply */
                             i < 2 ? "" : "{\"prompt\": \"x\", \"max_tokens\": 1}");
        int fd = http_connect(site->port);
        assert_int_equal(send(fd, request, (size_t)bytes, MSG_NOSIGNAL), bytes);
        read_rest(fd, reply, sizeof reply); /* until the server closes */
        close(fd);
        if (i < 2) {
            if (!strstr(reply, "HTTP/1.1 400 ")) fail_msg("%.300s", reply);
            assert_non_null(strstr(reply, "two Content-Length headers"));
            assert_null(strstr(strstr(reply, "HTTP/1.1 400 ") + 9, "HTTP/1.1 "));
        } else if (!strstr(reply, " 200 OK")) {
            fail_msg("equal lengths: %.300s", reply);
        }
    }
}

/* The type that was announced for the family of a sample; NULL for a sample without a family. */
static const char *type_of(const char *text, const char *sample, size_t bytes) {
    static char type[32];
    static const char *const endings[] = {"", "_bucket", "_sum", "_count"};
    for (size_t i = 0; i < 4; i++) {
        char line[160];
        size_t tail = strlen(endings[i]);
        if (bytes < tail || strncmp(sample + bytes - tail, endings[i], tail) != 0) continue;
        snprintf(line, sizeof line, "# TYPE %.*s ", (int)(bytes - tail), sample);
        const char *at = strstr(text, line);
        if (at && sscanf(at + strlen(line), "%31s", type) == 1) return type;
    }
    return NULL;
}

/* Prometheus' rules: help and type before the samples, _total for counters and for nothing else,
 * buckets that only grow up to the count. */
static void test_metrics_keep_the_rules(void **state) {
    const struct site *site = *state;
    char body[256];
    snprintf(body, sizeof body, "{\"prompt\": \"%0100d\", \"max_tokens\": 2}", 7);
    for (int i = 0; i < 2; i++) { /* the second takes the first one's pages */
        struct http_answer done = post_ok(site, "/v1/completions", body);
        http_answer_free(&done);
    }
    await_metric(site, "strata_prefix_cache_hits_total", 1); /* counted after the answer is sent */
    struct http_answer answer = http_get(site->port, "/metrics");
    int samples = 0;
    double bucket = 0.0;
    for (const char *line = answer.body; *line; line = strchr(line, '\n') + 1) {
        size_t bytes = strcspn(line, "{ \n");
        if (*line == '#') continue;
        assert_int_equal(strncmp(line, "strata_", 7), 0);
        const char *type = type_of(answer.body, line, bytes);
        if (!type) fail_msg("no type: %.60s", line);
        bool total = bytes > 6 && strncmp(line + bytes - 6, "_total", 6) == 0;
        assert_int_equal(total, strcmp(type, "counter") == 0);
        double value = strtod(line + strcspn(line, " \n"), NULL);
        bool is_bucket = bytes > 7 && strncmp(line + bytes - 7, "_bucket", 7) == 0;
        if (is_bucket) assert_true(value >= bucket);
        if (bytes > 6 && strncmp(line + bytes - 6, "_count", 6) == 0)
            assert_true(value == bucket && value > 0.0);
        bucket = is_bucket || strncmp(line + bytes - 4, "_sum", 4) == 0
                     ? (is_bucket ? value : bucket)
                     : 0.0;
        samples++;
    }
    static const char *const wanted[] = {"requests_running",
                                         "requests_waiting",
                                         "batch_largest",
                                         "kv_pages_used",
                                         "kv_pages",
                                         "prompt_tokens_total",
                                         "generation_tokens_total",
                                         "requests_total",
                                         "prefix_cache_hits_total",
                                         "time_to_first_token_seconds",
                                         "time_between_tokens_seconds"};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        char line[128];
        snprintf(line, sizeof line, "# HELP strata_%s ", wanted[i]);
        if (!strstr(answer.body, line)) fail_msg("no %s", line);
    }
    assert_true(samples > 60);
    http_answer_free(&answer);
}

/* Stopping with a reply under way ends the reply instead of hanging. */
static void test_stops_with_a_request_running(void **state) {
    struct site *site = *state;
    int fd = http_begin(site->port, "/v1/completions",
                        "{\"prompt\": \"x\", \"max_tokens\": 8000, \"ignore_eos\": true}");
    await_metric(site, "strata_requests_running", 1);
    site_stop(site);
    char reply[64] = {0};
    assert_true(recv(fd, reply, sizeof reply - 1, 0) > 0);
    assert_non_null(strstr(reply, " 503 "));
    close(fd);
    site_start(site, false);
}

int main(void) {
    const struct CMUnitTest pair[] = {
        cmocka_unit_test(test_disconnected_clients_are_cancelled),
        cmocka_unit_test(test_half_closed_clients_are_answered),
        cmocka_unit_test(test_idle_and_slow_clients),
        cmocka_unit_test(test_two_lengths_are_refused),
        cmocka_unit_test(test_metrics_keep_the_rules),
    };
    const struct CMUnitTest lone[] = {
        cmocka_unit_test(test_stops_with_a_request_running),
    };
    curl_global_init(CURL_GLOBAL_DEFAULT);
    int failed = cmocka_run_group_tests(pair, open_pair, close_site);
    failed += cmocka_run_group_tests(lone, open_lone, close_site);
    curl_global_cleanup();
    return failed;
}
