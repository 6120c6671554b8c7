#define _GNU_SOURCE
#include "serve/serving.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const dtype_words[] = {"auto", "fp32", "bf16", NULL};

static const char *const weights_words[] = {"auto", "nf4", "stored", NULL};

#define AT(member) offsetof(struct serving_options, member)
static const struct config_row shared_rows[] = {
    {"context", CONFIG_INT, AT(context), "0", 0, 1e8, NULL,
     "tokens of a sequence; 0 = the model's, less where memory is short"},
    {"threads", CONFIG_INT, AT(threads), "0", 0, 4096, NULL,
     "threads of the engine; 0 = all cores"},
    {"isa", CONFIG_STRING, AT(isa), "auto", 0, 0, NULL,
     "instruction set: auto, reference, avx2, avx512"},
    {"dtype", CONFIG_ENUM, AT(dtype), "auto", 0, 0, dtype_words,
     "weights and activations: auto (as stored), fp32, bf16"},
    {"weights", CONFIG_ENUM, AT(weights), "auto", 0, 0, weights_words,
     "what weights are kept in: auto (as dtype), nf4, stored (a file's quantized blocks as they are)"},
    {"kv-dtype", CONFIG_ENUM, AT(kv_dtype), "auto", 0, 0, dtype_words,
     "keys and values: auto (as activations), fp32, bf16"},
    {"page-size", CONFIG_INT, AT(page_size), "16", 16, 4096, NULL,
     "tokens a KV page, a multiple of 16"},
    {"token-budget", CONFIG_INT, AT(token_budget), "512", 1, 1 << 20, NULL,
     "tokens a step; long prompts are cut into such chunks"},
    {"kv-gib", CONFIG_DOUBLE, AT(kv_gib), "0", 0, 1e6, NULL,
     "GiB of KV pages; 0 = what max-batch contexts need, at most half of free memory"},
    {"chat-template", CONFIG_STRING, AT(template), "", 0, 0, NULL,
     "name of a built-in chat template; default: the model's own, recognised"},
};
static const struct config_row serve_rows[] = {
    {"max-batch", CONFIG_INT, AT(max_batch), "32", 1, 4096, NULL, "sequences that run at once"},
    {"alias", CONFIG_STRING, AT(alias), "", 0, 0, NULL, "name to serve the model as"},
    {"host", CONFIG_STRING, AT(host), "127.0.0.1", 0, 0, NULL, "address to listen on"},
    {"port", CONFIG_INT, AT(port), "8000", 0, 65535, NULL, "port; 0 = any free one"},
    {"http-threads", CONFIG_INT, AT(http_threads), "2", 1, 64, NULL,
     "threads that talk to clients"},
    {"max-body-mib", CONFIG_DOUBLE, AT(max_body_mib), "8", 0.001, 1024, NULL,
     "largest request in MiB"},
    {"grace", CONFIG_DOUBLE, AT(grace), "10", 0, 3600, NULL,
     "seconds that requests may take to finish at shutdown"},
};
static const struct config_row chat_rows[] = {
    {"url", CONFIG_STRING, AT(url), "", 0, 0, NULL,
     "talk to a server instead of opening a model: http://host:port"},
    {"model", CONFIG_STRING, AT(ask), "", 0, 0, NULL,
     "name of the model to talk to; default: the last --adapter of this command, else the base "
     "(with --url: the server's first)"},
    {"system", CONFIG_STRING, AT(system), "", 0, 0, NULL, "system message"},
    {"temperature", CONFIG_DOUBLE, AT(temperature), "-1", -1, 100, NULL,
     "0 = always the likeliest token; -1 = the model's default"},
    {"max-tokens", CONFIG_INT, AT(max_tokens), "0", 0, 1e9, NULL,
     "tokens an answer; 0 = what the context leaves"},
};
#undef AT

enum { COUNT_SHARED = sizeof shared_rows / sizeof *shared_rows };

static int make_tables(int command, struct serving_options *options,
                       struct config_table tables[2]) {
    bool serve = command == OPTION_SERVE;
    tables[0] = (struct config_table){"", shared_rows, COUNT_SHARED, options};
    tables[1] = (struct config_table){"", serve ? serve_rows : chat_rows,
                                      serve ? (int)(sizeof serve_rows / sizeof *serve_rows)
                                            : (int)(sizeof chat_rows / sizeof *chat_rows),
                                      options};
    return 2;
}

/* Value of an option: behind '=' or in the next argument. */
static enum status take_value(int argc, char **argv, int *i, const char **value, int *name_bytes) {
    const char *name = argv[*i] + 2, *equals = strchr(name, '=');
    *name_bytes = equals ? (int)(equals - name) : (int)strlen(name);
    if (equals) {
        *value = equals + 1;
        return STATUS_OK;
    }
    if (*i + 1 >= argc) return status_fail(STATUS_CONFIG, "--%s needs a value", name);
    *value = argv[++*i];
    return STATUS_OK;
}

static enum status add_adapter(struct serving_options *options, const char *value) {
    const char *equals = strchr(value, '=');
    if (!equals || equals == value || !equals[1])
        return status_fail(STATUS_CONFIG, "--adapter %s is not NAME=DIR", value);
    for (int i = 0; i < options->adapter_count; i++)
        if (strncmp(options->adapters[i], value, (size_t)(equals - value) + 1) == 0)
            return status_fail(STATUS_CONFIG, "two adapters are called '%.*s'",
                               (int)(equals - value), value);
    if (options->adapter_count == SERVING_MAX_ADAPTERS)
        return status_fail(STATUS_CONFIG, "more than %d adapters", SERVING_MAX_ADAPTERS);
    options->adapters[options->adapter_count++] = value;
    return STATUS_OK;
}

/* Sorts the arguments into adapters, the model, and name=value texts for the rows. */
static enum status sort_arguments(struct serving_options *options, int command, int argc,
                                  char **argv, char **settings, int *count, bool *help) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            *help = true;
            return STATUS_OK;
        }
        if (command == OPTION_SERVE && strcmp(argv[i], "--dry-run") == 0) {
            options->dry_run = true;
            continue;
        }
        if (strncmp(argv[i], "--", 2) != 0) {
            if (options->model)
                return status_fail(STATUS_CONFIG, "two models: %s and %s", options->model, argv[i]);
            options->model = argv[i];
            continue;
        }
        const char *name = argv[i] + 2, *value = NULL;
        int name_bytes = 0;
        TRY(take_value(argc, argv, &i, &value, &name_bytes));
        if (name_bytes == 7 && strncmp(name, "adapter", 7) == 0) {
            TRY(add_adapter(options, value));
        } else if (asprintf(&settings[*count], "%.*s=%s", name_bytes, name, value) < 0) {
            return status_fail(STATUS_MEMORY, "no memory for the arguments");
        } else {
            ++*count;
        }
    }
    return STATUS_OK;
}

enum status serving_options_read(struct serving_options *options, int command, int argc,
                                 char **argv, bool *help) {
    *options = (struct serving_options){0};
    *help = false;
    char **settings = calloc((size_t)argc + 1, sizeof *settings);
    if (!settings) return status_fail(STATUS_MEMORY, "no memory for the arguments");
    int count = 0;
    enum status status = sort_arguments(options, command, argc, argv, settings, &count, help);
    struct config_table tables[2];
    int table_count = make_tables(command, options, tables);
    if (status == STATUS_OK && !*help)
        status = config_parse_options(tables, table_count, settings, count);
    if (status == STATUS_OK && !*help && !options->model && !(options->url && *options->url)) {
        serving_options_free(options);
        status =
            status_fail(STATUS_CONFIG, "which model? (a directory, a .gguf or a .safetensors)");
    }
    if (command == OPTION_CHAT) options->max_batch = 1; /* one person types */
    for (int i = 0; i < count; i++) free(settings[i]);
    free(settings);
    return status;
}

void serving_options_free(struct serving_options *options) {
    free(options->alias);
    free(options->ask);
    free(options->host);
    free(options->isa);
    free(options->template);
    free(options->url);
    free(options->system);
    *options = (struct serving_options){0};
}

void serving_options_print(int command) {
    struct config_table tables[2];
    int table_count = make_tables(command, NULL, tables);
    printf("  --%-20s an adapter to serve under a name of its own; may be repeated\n",
           "adapter NAME=DIR");
    if (command == OPTION_SERVE)
        printf("  --%-20s print the bytes that would be allocated, and end\n", "dry-run");
    for (int t = 0; t < table_count; t++)
        for (int i = 0; i < tables[t].count; i++) {
            const struct config_row *row = &tables[t].rows[i];
            printf("  --%-20s %s", row->name, row->help);
            if (row->standard && *row->standard) printf(" [%s]", row->standard);
            printf("\n");
        }
}
