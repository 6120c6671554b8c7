/* A model opened for serving: file, weights, tokenizer, chat template, adapters, engine. What
 * `strata serve` and `strata chat` share, and their options. */
#ifndef STRATA_SERVE_SERVING_H
#define STRATA_SERVE_SERVING_H

#include "core/config.h"
#include "serve/server.h"

enum { SERVING_MAX_ADAPTERS = 256 };

enum serving_dtype { SERVING_AUTO, SERVING_FP32, SERVING_BF16 };
enum serving_weights { SERVING_PLAIN, SERVING_NF4, SERVING_STORED };

struct serving_options {
    const char *model;                          /* borrowed, like the adapters */
    const char *adapters[SERVING_MAX_ADAPTERS]; /* NAME=DIR */
    int adapter_count;
    char *alias, *host, *isa, *template; /* "" = not said; NULL where the command has none */
    int64_t port, context, threads, http_threads, page_size, max_batch, token_budget;
    double kv_gib, max_body_mib, grace;
    int dtype, kv_dtype; /* enum serving_dtype */
    int weights;         /* enum serving_weights */
    bool dry_run;        /* strata serve */
    /* strata chat */
    char *url, *system, *ask;
    double temperature;
    int64_t max_tokens;
};

/* Which command an option belongs to. */
enum { OPTION_SERVE = 1, OPTION_CHAT = 2 };

/* Reads `--name value` and `--name=value` arguments behind argv[0]; one bare argument is the model.
 * Failures are STATUS_CONFIG. `--help` sets *help, `--dry-run` of OPTION_SERVE options->dry_run.
 * The caller gives serving_options_free. */
enum status serving_options_read(struct serving_options *options, int command, int argc,
                                 char **argv, bool *help);
void serving_options_free(struct serving_options *options);
void serving_options_print(int command);

struct serving {
    struct model_file file;
    struct model model;
    struct tokenizer *tokenizer;
    const struct kernels *kernels;
    struct adapter *adapters; /* (adapter_count) */
    const struct adapter **served;
    int adapter_count;
    char *base_name;
    struct served_name *names; /* (adapter_count + 1) */
    struct engine *engine;
};

/* Opens everything and starts the engine; fills `server` in, all but `ready`. Frees everything on
 * failure. */
enum status serving_open(struct serving *serving, const struct serving_options *options,
                         struct server *server);

/* What serving_open would allocate, counted by the same code; no weight is read. */
enum status serving_plan(struct engine_layout *layout, const struct serving_options *options);

/* May be called twice, and on a zeroed struct. */
void serving_close(struct serving *serving);

/* A zeroed server that can answer /health. */
void server_init(struct server *server);

#endif
