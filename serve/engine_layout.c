#define _GNU_SOURCE
#include "core/memory.h"
#include "kernels/base/units.h"
#include "serve/engine_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t engine_kv_token_bytes(const struct model_config *config, enum dtype dtype) {
    return 2 * (size_t)config->layers *
           dtype_bytes(dtype, (size_t)config->kv_heads * (size_t)config->head_dim);
}

static int32_t max_pages(const struct engine *engine) {
    int32_t size = engine->layout.page_size;
    return (int32_t)((engine->layout.context + size - 1) / size);
}

static void push_arrays(struct engine *engine, struct arena *arena) {
    const struct engine_layout *layout = &engine->layout;
    struct step_arrays *step = &engine->step;
    size_t tokens = (size_t)layout->token_budget, batch = (size_t)layout->max_batch;
    size_t vocab = (size_t)engine->options.model->config.vocab, threads = (size_t)layout->threads;
    step->ids = arena_push(arena, tokens * sizeof *step->ids);
    step->positions = arena_push(arena, tokens * sizeof *step->positions);
    step->start = arena_push(arena, (batch + 1) * sizeof *step->start);
    step->past = arena_push(arena, batch * sizeof *step->past);
    step->page_table =
        arena_push(arena, batch * (size_t)max_pages(engine) * sizeof *step->page_table);
    step->spans = arena_push(arena, batch * sizeof *step->spans);
    step->order = arena_push(arena, batch * sizeof *step->order);
    step->rows = arena_push(arena, tokens * sizeof *step->rows);
    step->row_tokens = arena_push(arena, tokens * sizeof *step->row_tokens);
    step->logits = arena_push(arena, batch * vocab * sizeof *step->logits);
    step->sample_scratch = arena_push(arena, threads * vocab * sizeof *step->sample_scratch);
    step->sample_ids = arena_push(arena, threads * vocab * sizeof *step->sample_ids);
    step->chosen = arena_push(arena, batch * sizeof *step->chosen);
    step->tops = arena_push(arena, batch * LOGPROBS_MAX_TOP * sizeof *step->tops);
    step->top_counts = arena_push(arena, batch * sizeof *step->top_counts);
    step->drawn = arena_push(arena, batch * sizeof *step->drawn);
    step->ended = arena_push(arena, batch * sizeof *step->ended);
}

/* The adapter whose factors take the most scratch: the one of the highest rank. */
static const struct adapter *widest_adapter(const struct engine_options *options) {
    const struct adapter *widest = NULL;
    for (int i = 0; i < options->adapter_count; i++)
        if (!widest || options->adapters[i]->config.rank > widest->config.rank)
            widest = options->adapters[i];
    return widest;
}

/* Half of what is free once the weights are there: a planned model's are still to come. */
static size_t room_for_pages(const struct engine *engine) {
    const struct engine_layout *layout = &engine->layout;
    size_t to_come =
        engine->options.model->arena.counting ? layout->weight_bytes + layout->adapter_bytes : 0;
    size_t available;
    if (!memory_available("", &available)) return 0;
    return available > to_come ? (available - to_come) / 2 : 0;
}

/* As many pages as max_batch full contexts need, as far as memory goes. */
static enum status choose_pages(struct engine *engine) {
    struct engine_layout *layout = &engine->layout;
    size_t token_bytes = engine_kv_token_bytes(&engine->options.model->config, layout->kv_dtype);
    size_t page_bytes = token_bytes * (size_t)layout->page_size;
    size_t room = engine->options.kv_bytes;
    if (room == 0) room = room_for_pages(engine);
    size_t wanted = (size_t)max_pages(engine) * (size_t)layout->max_batch;
    size_t found = room / page_bytes < wanted ? room / page_bytes : wanted;
    if (found > INT32_MAX / (size_t)layout->page_size)
        found = INT32_MAX / (size_t)layout->page_size;
    if (found < (size_t)max_pages(engine)) {
        int64_t fits = (int64_t)found * layout->page_size;
        if (engine->options.context > 0 || fits == 0)
            return status_fail(STATUS_MEMORY,
                               "a context of %lld tokens needs %.1f MiB of KV pages, but there is "
                               "room for %.1f MiB, which is %lld tokens",
                               (long long)layout->context,
                               to_mib(token_bytes * (size_t)layout->context), to_mib(room),
                               (long long)fits);
        layout->context = fits;
    }
    layout->pages = (int32_t)found;
    layout->kv_bytes = found * page_bytes;
    return STATUS_OK;
}

static enum status choose_sizes(struct engine *engine) {
    const struct engine_options *o = &engine->options;
    struct engine_layout *layout = &engine->layout;
    if (o->page_size <= 0 || o->page_size % 16 != 0)
        return status_fail(STATUS_CONFIG, "page size is %d tokens, not a multiple of 16",
                           o->page_size);
    if (o->max_batch < 1 || o->token_budget < 1)
        return status_fail(STATUS_CONFIG, "max batch and token budget must be at least 1");
    int64_t context = o->context > 0 ? o->context : o->model->config.max_context;
    if (context < 1 || context > INT32_MAX / 4)
        return status_fail(STATUS_CONFIG, "a context of %lld tokens is out of bounds",
                           (long long)context);
    *layout = (struct engine_layout){
        .context = context,
        .page_size = o->page_size,
        .max_batch = o->max_batch,
        .token_budget = o->token_budget > o->max_batch ? o->token_budget : o->max_batch,
        .kv_dtype = o->kv_dtype == DTYPE_COUNT ? o->kernels->act : o->kv_dtype,
        .weight_bytes = o->model->arena.used,
    };
    for (int i = 0; i < o->adapter_count; i++) layout->adapter_bytes += o->adapters[i]->arena.used;
    return choose_pages(engine);
}

static void lay_out_pages(struct engine *engine) {
    const struct engine_layout *layout = &engine->layout;
    int layers = engine->options.model->config.layers;
    char *base = arena_push(&engine->kv, layout->kv_bytes);
    memset(base, 0, layout->kv_bytes); /* the system's promise is called in now, not in mid-reply */
    engine->kv_view = (struct kv_pages_view){
        .k = base,
        .v = base + layout->kv_bytes / 2,
        .layer_bytes = layout->kv_bytes / 2 / (size_t)layers,
        .dtype = layout->kv_dtype,
        .page_table = engine->step.page_table,
        .page_size = layout->page_size,
        .max_pages = max_pages(engine),
    };
}

static struct workspace_plan plan_workspace(const struct engine *engine) {
    return (struct workspace_plan){
        .tokens = engine->layout.token_budget,
        .logit_rows = engine->layout.max_batch,
        .keep = ACTS_NONE,
        .adapter = widest_adapter(&engine->options),
    };
}

static enum status count_arenas(struct engine *engine) {
    const struct engine_options *o = &engine->options;
    struct engine_layout *layout = &engine->layout;
    TRY(choose_sizes(engine));
    const struct workspace_plan plan = plan_workspace(engine);
    TRY(workspace_count(o->model, o->kernels->act, &plan, &layout->work_bytes,
                        &layout->scratch_bytes));
    struct stream stream;
    stream_open_cpu(&stream, o->threads);
    layout->threads = stream.threads;
    struct arena counted;
    arena_count(&counted, "step");
    push_arrays(engine, &counted);
    layout->step_bytes = counted.peak;
    return STATUS_OK;
}

enum status engine_plan(struct engine_layout *layout, const struct engine_options *options) {
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine) return status_fail(STATUS_MEMORY, "no memory to plan an engine");
    engine->options = *options;
    enum status status = count_arenas(engine);
    *layout = engine->layout;
    free(engine);
    return status;
}

enum status engine_lay_out(struct engine *engine) {
    const struct engine_options *o = &engine->options;
    struct engine_layout *layout = &engine->layout;
    TRY(count_arenas(engine));
    const struct workspace_plan plan = plan_workspace(engine);
    TRY(workspace_open(&engine->work, o->model, o->kernels, o->threads, NULL, &plan));
    TRY(arena_create(&engine->arrays, "step", layout->step_bytes));
    push_arrays(engine, &engine->arrays);
    TRY(arena_create(&engine->kv, "kv pages", layout->kv_bytes + ARENA_ALIGN));
    lay_out_pages(engine);
    const struct scheduler_config config = {
        .context = (int32_t)layout->context,
        .max_batch = layout->max_batch,
        .token_budget = layout->token_budget,
    };
    TRY(kv_pages_create(&engine->pages, layout->pages, layout->page_size));
    TRY(scheduler_create(&engine->scheduler, &config, &engine->pages));
    return scheduler_plan_create(&engine->plan, &config);
}

void engine_free_memory(struct engine *engine) {
    scheduler_plan_free(&engine->plan);
    scheduler_free(&engine->scheduler);
    kv_pages_free(&engine->pages);
    arena_free(&engine->kv);
    arena_free(&engine->arrays);
    workspace_close(&engine->work);
}
