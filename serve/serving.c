#define _GNU_SOURCE
#include "serve/serving.h"

#include "kernels/base/clock.h"

#include "core/log.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

void server_init(struct server *server) {
    memset(server, 0, sizeof *server);
    atomic_init(&server->ready, false);
    atomic_init(&server->id_counter, 0);
    server->created = time(NULL);
    server->started = clock_seconds();
    if (getrandom(&server->id_key, sizeof server->id_key, 0) < 0)
        server->id_key = (uint64_t)server->created;
}

/* The last component of a path, without .gguf or .safetensors. */
static char *name_of_path(const char *path) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') start--;
    static const char *const endings[] = {".gguf", ".safetensors"};
    for (size_t i = 0; i < 2; i++) {
        size_t bytes = strlen(endings[i]);
        if (end - start > bytes && strncmp(path + end - bytes, endings[i], bytes) == 0)
            end -= bytes;
    }
    return strndup(path + start, end - start);
}

static enum layout matrix_layout(const struct serving_options *options) {
    if (options->weights == SERVING_NF4) return LAYOUT_NF4;
    if (options->weights == SERVING_STORED) return LAYOUT_STORED;
    return options->dtype == SERVING_FP32   ? LAYOUT_PANEL_F32
           : options->dtype == SERVING_BF16 ? LAYOUT_PANEL_BF16
                                            : LAYOUT_COUNT;
}

static enum status choose_kernels(struct serving *serving, const struct serving_options *options) {
    bool bf16 = options->dtype == SERVING_BF16;
    if (options->dtype == SERVING_AUTO)
        bf16 = model_layout_auto(&serving->model.config, &serving->file) == LAYOUT_PANEL_BF16;
    return kernels_cpu(&serving->kernels, options->isa, bf16 ? DTYPE_BF16 : DTYPE_F32);
}

static enum status load_weights(struct serving *serving, const struct serving_options *options) {
    TRY(model_file_open(&serving->file, options->model, false));
    TRY(model_load(&serving->model, &serving->file, NULL, matrix_layout(options), options->context,
                   (int)options->threads));
    if (options->context > serving->model.config.max_context)
        log_line(LOG_WARN,
                 "event=context asked=%lld model=%lld text=\"beyond what the model was "
                 "made for\"",
                 (long long)options->context, (long long)serving->model.config.max_context);
    return choose_kernels(serving, options);
}

static enum status list_adapters(struct serving *serving, int adapter_count) {
    size_t count = (size_t)adapter_count;
    serving->adapters = calloc(count + 1, sizeof *serving->adapters);
    serving->served = calloc(count + 1, sizeof *serving->served);
    serving->names = calloc(count + 1, sizeof *serving->names);
    if (!serving->adapters || !serving->served || !serving->names)
        return status_fail(STATUS_MEMORY, "no memory for the list of adapters");
    return STATUS_OK;
}

static enum status load_adapters(struct serving *serving, const struct serving_options *options) {
    TRY(list_adapters(serving, options->adapter_count));
    if (!serving->base_name) return status_fail(STATUS_MEMORY, "no memory for the model's name");
    serving->names[0] = (struct served_name){serving->base_name, ADAPTER_NONE};
    for (int i = 0; i < options->adapter_count; i++) {
        const char *equals = strchr(options->adapters[i], '=');
        char *name = strndup(options->adapters[i], (size_t)(equals - options->adapters[i]));
        enum status status =
            name ? adapter_load(&serving->adapters[i], name, &serving->model, equals + 1)
                 : status_fail(STATUS_MEMORY, "no memory for an adapter's name");
        free(name);
        TRY(status);
        serving->adapter_count = i + 1;
        serving->served[i] = &serving->adapters[i];
        for (int j = 0; j <= i; j++)
            if (strcmp(serving->names[j].name, serving->adapters[i].name) == 0)
                return status_fail(STATUS_CONFIG, "two models are called '%s'",
                                   serving->names[j].name);
        serving->names[i + 1] = (struct served_name){serving->adapters[i].name, i};
    }
    return STATUS_OK;
}

/* The named template, or the one that came with the tokenizer; a model without a template, or with
 * one that is not built in, gets the plain one. */
static enum status choose_template(struct server *server, const struct serving_options *options) {
    if (options->template && *options->template)
        return chat_template_named(&server->template, options->template);
    const char *jinja = tokenizer_chat_template(server->tokenizer);
    if (jinja && chat_template_recognise(&server->template, jinja) == STATUS_OK) return STATUS_OK;
    if (jinja)
        log_line(LOG_WARN, "event=chat_template reason=%s use=plain hint=--chat-template",
                 log_value(&(struct log_text){0}, status_message()));
    return chat_template_named(&server->template, "plain");
}

static struct engine_options engine_options_of(const struct serving *serving,
                                               const struct serving_options *options) {
    static const enum dtype kv_dtypes[] = {DTYPE_COUNT, DTYPE_F32, DTYPE_BF16};
    return (struct engine_options){
        .model = &serving->model,
        .tokenizer = serving->tokenizer,
        .adapters = serving->served,
        .adapter_count = serving->adapter_count,
        .kernels = serving->kernels,
        .threads = (int)options->threads,
        .context = options->context,
        .page_size = (int32_t)options->page_size,
        .max_batch = (int32_t)options->max_batch,
        .token_budget = (int32_t)options->token_budget,
        .kv_bytes = (size_t)(options->kv_gib * 1024.0 * 1024.0 * 1024.0),
        .kv_dtype = kv_dtypes[options->kv_dtype],
    };
}

static struct token_bytes special_text(const struct tokenizer *tokenizer, int32_t id) {
    return id < 0 ? (struct token_bytes){"", 0} : tokenizer_token(tokenizer, id, true);
}

static enum status open_all(struct serving *serving, const struct serving_options *options,
                            struct server *server) {
    TRY(load_weights(serving, options));
    const char *place =
        serving->file.format == MODEL_GGUF ? serving->file.path : serving->file.directory;
    TRY(tokenizer_open(&serving->tokenizer, place));
    TRY(tokenizer_check_vocabulary(serving->tokenizer, serving->model.config.vocab,
                                   options->model));
    serving->base_name =
        options->alias && *options->alias ? strdup(options->alias) : name_of_path(options->model);
    TRY(load_adapters(serving, options));
    server->tokenizer = serving->tokenizer;
    server->config = &serving->model.config;
    server->bos = special_text(serving->tokenizer, tokenizer_bos(serving->tokenizer));
    server->eos = special_text(serving->tokenizer, tokenizer_eos(serving->tokenizer));
    server->names = serving->names;
    server->name_count = serving->adapter_count + 1;
    TRY(choose_template(server, options));
    const struct engine_options engine = engine_options_of(serving, options);
    TRY(engine_open(&serving->engine, &engine));
    server->engine = serving->engine;
    return STATUS_OK;
}

enum status serving_open(struct serving *serving, const struct serving_options *options,
                         struct server *server) {
    *serving = (struct serving){0};
    enum status status = open_all(serving, options, server);
    if (status != STATUS_OK) serving_close(serving);
    return status;
}

static enum status plan_all(struct serving *serving, const struct serving_options *options,
                            struct engine_layout *layout) {
    TRY(model_file_open(&serving->file, options->model, false));
    TRY(model_plan(&serving->model, &serving->file, NULL, matrix_layout(options),
                   options->context));
    TRY(choose_kernels(serving, options));
    TRY(list_adapters(serving, options->adapter_count));
    for (int i = 0; i < options->adapter_count; i++) {
        TRY(adapter_plan(&serving->adapters[i], &serving->model,
                         strchr(options->adapters[i], '=') + 1));
        serving->adapter_count = i + 1;
        serving->served[i] = &serving->adapters[i];
    }
    const struct engine_options engine = engine_options_of(serving, options);
    return engine_plan(layout, &engine);
}

enum status serving_plan(struct engine_layout *layout, const struct serving_options *options) {
    struct serving serving = {0};
    enum status status = plan_all(&serving, options, layout);
    serving_close(&serving);
    return status;
}

void serving_close(struct serving *serving) {
    engine_close(serving->engine);
    for (int i = 0; serving->adapters && i < serving->adapter_count; i++)
        adapter_free(&serving->adapters[i]);
    free(serving->adapters);
    free(serving->served);
    free(serving->names);
    free(serving->base_name);
    if (serving->tokenizer) tokenizer_close(serving->tokenizer);
    model_free(&serving->model);
    model_file_close(&serving->file);
    *serving = (struct serving){0};
}
