#define _GNU_SOURCE
#include "core/adapter.h"
#include "core/log.h"
#include "kernels/base/clock.h"
#include "kernels/base/units.h"
#include "serve/commands.h"
#include "serve/serving.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* A run of `strata serve`. The port is bound before the model is loaded, so that a port in use is
 * said at once; /health answers 503 until it has run once, and only then "listening" is printed. */
struct run {
    struct serving_options options;
    struct server server;
    struct http_server *http;
    struct serving serving;
    pthread_t loader;
    pthread_t waiter; /* the thread that waits for signals */
    enum status loaded;
    char reason[1024];
};

static void report(const struct run *run, double seconds) {
    const struct serving *serving = &run->serving;
    const struct engine_layout *layout = engine_layout(serving->engine);
    log_line(LOG_INFO,
             "event=model name=%s family=%s parameters=%lld adapters=%d isa=%s act=%s "
             "chat_template=%s",
             log_value(&(struct log_text){0}, serving->base_name),
             model_family_name(serving->model.config.family),
             (long long)model_config_parameters(&serving->model.config), serving->adapter_count,
             serving->kernels->name, dtype_info(serving->kernels->act)->name,
             chat_template_name(&run->server.template));
    log_line(LOG_INFO,
             "event=memory weights_mib=%.1f adapters_mib=%.1f activations_mib=%.1f "
             "scratch_mib=%.1f step_mib=%.1f kv_mib=%.1f",
             to_mib(layout->weight_bytes), to_mib(layout->adapter_bytes),
             to_mib(layout->work_bytes), to_mib(layout->scratch_bytes), to_mib(layout->step_bytes),
             to_mib(layout->kv_bytes));
    log_line(LOG_INFO,
             "event=ready context=%lld kv_dtype=%s pages=%d page_size=%d max_batch=%d "
             "token_budget=%d threads=%d seconds=%.1f",
             (long long)layout->context, dtype_info(layout->kv_dtype)->name, layout->pages,
             layout->page_size, layout->max_batch, layout->token_budget, layout->threads, seconds);
}

/* Loads while the main thread already waits for signals, and wakes it when that fails. */
static void *load(void *argument) {
    struct run *run = argument;
    double start = clock_seconds();
    run->loaded = serving_open(&run->serving, &run->options, &run->server);
    if (run->loaded == STATUS_OK) {
        report(run, clock_seconds() - start);
        atomic_store(&run->server.ready, true);
        printf("listening on http://%s:%d\n", run->options.host, http_port(run->http));
        fflush(stdout);
    } else {
        snprintf(run->reason, sizeof run->reason, "%s", status_message());
        pthread_kill(run->waiter, SIGTERM);
    }
    return NULL;
}

/* What can be told of the adapters before their model is there. */
static enum status check_adapters(const struct serving_options *options) {
    struct adapter_config config;
    for (int i = 0; i < options->adapter_count; i++)
        TRY(adapter_read_config(&config, strchr(options->adapters[i], '=') + 1));
    return STATUS_OK;
}

static enum status start(struct run *run) {
    const struct serving_options *o = &run->options;
    const struct http_options http = {
        .host = o->host,
        .port = (int)o->port,
        .threads = (int)o->http_threads,
        .max_body_bytes = (size_t)(o->max_body_mib * 1024.0 * 1024.0),
        .route = server_route,
        .too_large = server_too_large,
        .two_lengths = server_two_lengths,
        .context = &run->server,
    };
    TRY(check_adapters(o));
    TRY(http_open(&run->http, &http));
    log_line(LOG_INFO, "event=loading model=\"%s\" port=%d", o->model, http_port(run->http));
    run->waiter = pthread_self();
    if (pthread_create(&run->loader, NULL, load, run) == 0) return STATUS_OK;
    http_close(run->http, 0.0);
    return status_fail(STATUS_MEMORY, "the loading thread could not be started");
}

/* Lets running requests finish for `grace` seconds, or until a second signal. */
static void wind_down(struct run *run, const sigset_t *signals) {
    double until = clock_seconds() + run->options.grace;
    log_line(LOG_INFO, "event=stopping grace_seconds=%g", run->options.grace);
    http_refuse(run->http);
    while (!engine_drain(run->serving.engine, 0.1) && clock_seconds() < until)
        if (sigtimedwait(signals, NULL, &(struct timespec){0}) > 0) break;
}

static int run_until_signal(struct run *run, const sigset_t *signals) {
    int signal;
    sigwait(signals, &signal);
    bool ready = atomic_load(&run->server.ready);
    if (!ready && pthread_tryjoin_np(run->loader, NULL) != 0) {
        /* Told to stop while loading: nobody is served yet, and reading weights can't be cut. */
        struct timespec moment;
        clock_gettime(CLOCK_REALTIME, &moment);
        moment.tv_sec += 1;
        if (pthread_timedjoin_np(run->loader, NULL, &moment) != 0) _exit(0);
        ready = atomic_load(&run->server.ready);
    } else if (ready) {
        pthread_join(run->loader, NULL);
    }
    if (ready) {
        wind_down(run, signals);
        /* Ends what is left, so that its readers hear of it before they are closed. */
        engine_cut(run->serving.engine);
    }
    http_close(run->http, ready ? 2.0 : 0.0);
    serving_close(&run->serving);
    if (run->loaded != STATUS_OK) fprintf(stderr, "strata serve: %s\n", run->reason);
    return run->loaded == STATUS_OK ? 0 : 1;
}

/* A connection is a file; the usual limit of 1024 is a default that programs may raise. */
static void raise_file_limit(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

static enum status print_plan(const struct serving_options *options) {
    struct engine_layout layout;
    TRY(serving_plan(&layout, options));
    const struct {
        const char *name;
        size_t bytes;
    } rows[] = {{"weights", layout.weight_bytes},
                {"adapters", layout.adapter_bytes},
                {"activations", layout.work_bytes},
                {"scratch", layout.scratch_bytes},
                {"step", layout.step_bytes},
                {"kv", layout.kv_bytes},
                {"total", engine_layout_total(&layout)}};
    printf("%-12s %16s %12s\n", "arena", "bytes", "MiB");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        printf("%-12s %16zu %12.1f\n", rows[i].name, rows[i].bytes, to_mib(rows[i].bytes));
    return STATUS_OK;
}

/* Opens the port, loads, serves. */
static int serve(struct run *run) {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* before there are threads: all inherit it */
    signal(SIGPIPE, SIG_IGN);
    raise_file_limit();
    server_init(&run->server);
    if (start(run) == STATUS_OK) return run_until_signal(run, &signals);
    fprintf(stderr, "strata serve: %s\n", status_message());
    return 1;
}

static int plan(const struct run *run) {
    if (print_plan(&run->options) == STATUS_OK) return 0;
    fprintf(stderr, "strata serve: %s\n", status_message());
    return 1;
}

int cmd_serve(int argc, char **argv) {
    bool help;
    struct run *run = calloc(1, sizeof *run);
    if (!run) return 1;
    if (serving_options_read(&run->options, OPTION_SERVE, argc, argv, &help) != STATUS_OK) {
        fprintf(stderr, "strata serve: %s\n", status_message());
        free(run);
        return 2;
    }
    if (help) {
        printf("usage: strata serve MODEL [--option value]...\n\n");
        serving_options_print(OPTION_SERVE);
        free(run);
        return 0;
    }
    int code = run->options.dry_run ? plan(run) : serve(run);
    serving_options_free(&run->options);
    free(run);
    return code;
}
