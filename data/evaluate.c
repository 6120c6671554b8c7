#define _GNU_SOURCE
#include "data/evaluate.h"

#include "core/packed_batch.h"
#include "core/safetensors_write.h"
#include "kernels/base/clock.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    EVAL_TOKENS = 2048,    /* packed at once, unless one sequence is longer */
    EVAL_LOGITS = 4 << 20, /* floats of logits held at once, unless one row is longer */
    LOGITS_NAME_BYTES = 32
};

static const struct file_note note = {"format", "pt"};

/* All that a run holds. */
struct run {
    const struct evaluate_request *request;
    struct workspace ws;
    struct packed_batch packed;
    struct adapter_span span;
    struct arena gradients;
    struct tensor_sink sink; /* of the logits */
    struct param *trained;   /* what gets gradients: the model's or the adapter's */
    int trained_count;
    int64_t capacity, logit_rows, predicted;
    double weight_sum; /* of all targets */
    float *logits;     /* (logit_rows, vocab) */
    int32_t *rows;     /* (logit_rows) */
    void *d_hidden;    /* (capacity, C) act */
    double loss;
};

/* All ranks make logits, one has the file. */
static bool writes_logits(const struct run *run) {
    return run->request->logits && (!run->request->tp || run->request->tp->rank == 0);
}

/* The loss weight of token t as a target. */
static double weight_of(const struct token_lines *lines, int64_t t) {
    return lines->weights ? (double)lines->weights[t] : 1.0;
}

static void count_targets(struct run *run) {
    const struct token_lines *lines = run->request->lines;
    for (size_t i = 0; i < lines->count; i++)
        for (int64_t t = lines->start[i] + 1; t < lines->start[i + 1]; t++) {
            run->predicted += weight_of(lines, t) > 0.0;
            run->weight_sum += weight_of(lines, t);
        }
}

static void measure(struct run *run) {
    const struct evaluate_request *request = run->request;
    const struct token_lines *lines = request->lines;
    int64_t longest = 0, tokens = (int64_t)lines->ids.count, vocab = request->model->config.vocab;
    for (size_t i = 0; i < lines->count; i++)
        if (token_lines_length(lines, i) > longest) longest = token_lines_length(lines, i);
    count_targets(run);
    run->capacity = longest > EVAL_TOKENS ? longest : EVAL_TOKENS;
    if (run->capacity > tokens) run->capacity = tokens;
    run->logit_rows = vocab > EVAL_LOGITS ? 1 : EVAL_LOGITS / vocab;
    if (run->logit_rows > run->capacity) run->logit_rows = run->capacity;
    run->trained = request->adapter ? request->adapter->params : request->model->params;
    run->trained_count =
        request->adapter ? request->adapter->param_count : request->model->param_count;
}

static enum status make_gradients(struct run *run) {
    size_t bytes = 0;
    for (int i = 0; i < run->trained_count; i++) {
        const struct weight *w = &run->trained[i].w;
        if (w->data)
            bytes += weight_bytes(layout_of_gradient(w->layout), w->rows, w->cols) + ARENA_ALIGN;
    }
    TRY(arena_create(&run->gradients, "gradients", bytes));
    for (int i = 0; i < run->trained_count; i++) {
        const struct weight *w = &run->trained[i].w;
        enum layout layout = layout_of_gradient(w->layout);
        if (!w->data) continue;
        void *data = arena_push(&run->gradients, weight_bytes(layout, w->rows, w->cols));
        run->trained[i].grad = (struct weight){layout, w->rows, w->cols, data};
    }
    return STATUS_OK;
}

/* "logits.i" of each sequence, then the loss. */
static enum status create_logits(struct run *run) {
    const struct token_lines *lines = run->request->lines;
    int64_t vocab = run->request->model->config.vocab;
    struct tensor_spec *specs = calloc(lines->count + 1, sizeof *specs);
    char(*names)[LOGITS_NAME_BYTES] = calloc(lines->count, sizeof *names);
    enum status status =
        specs && names ? STATUS_OK
                       : status_fail(STATUS_MEMORY, "no memory for %zu sequences", lines->count);
    for (size_t i = 0; i < lines->count && status == STATUS_OK; i++) {
        snprintf(names[i], sizeof names[i], "logits.%zu", i);
        specs[i] =
            (struct tensor_spec){names[i], DTYPE_F32, 2, {token_lines_length(lines, i), vocab}};
    }
    int count = (int)lines->count;
    if (status == STATUS_OK && run->predicted > 0)
        specs[count++] = (struct tensor_spec){.name = "loss", .dtype = DTYPE_F32};
    if (status == STATUS_OK)
        status = safetensors_create(&run->sink, run->request->logits, specs, count, &note, 1);
    free(specs);
    free(names);
    return status;
}

static enum status prepare(struct run *run) {
    const struct evaluate_request *request = run->request;
    const struct model_config *c = &request->model->config;
    bool backward = request->gradients != NULL;
    if (backward && run->predicted == 0)
        return status_fail(
            STATUS_CONFIG,
            "gradients need a sequence of at least 2 tokens, one of which is a target");
    const struct workspace_plan plan = {.tokens = run->capacity,
                                        .logit_rows = run->logit_rows,
                                        .keep = backward ? ACTS_INPUT : ACTS_NONE,
                                        .backward = backward,
                                        .adapter = request->adapter};
    TRY(workspace_open(&run->ws, request->model, request->kernels, request->threads, request->tp,
                       &plan));
    int64_t sequences = (int64_t)request->lines->count;
    if (sequences > run->capacity) sequences = run->capacity;
    TRY(packed_batch_create(&run->packed, run->capacity, (int32_t)sequences));
    run->logits = malloc((size_t)(run->logit_rows * c->vocab) * sizeof *run->logits);
    run->rows = malloc((size_t)run->logit_rows * sizeof *run->rows);
    run->d_hidden = backward ? malloc(act_bytes(&run->ws.exec, run->capacity * c->hidden)) : NULL;
    if (!run->logits || !run->rows || (backward && !run->d_hidden))
        return status_fail(STATUS_MEMORY, "no memory for %lld rows of logits",
                           (long long)run->logit_rows);
    if (backward) TRY(make_gradients(run));
    return writes_logits(run) ? create_logits(run) : STATUS_OK;
}

/* Sequence i, appended: its targets weigh what they weigh, over the sum of all. */
static void add_sequence(struct run *run, size_t i) {
    const struct token_lines *lines = run->request->lines;
    struct packed_batch *packed = &run->packed;
    int64_t base = packed->batch.tokens, first = lines->start[i];
    float share = run->predicted > 0 ? (float)(1.0 / run->weight_sum) : 0.0f;
    packed_batch_add(packed, lines->ids.ids + first, token_lines_length(lines, i), share);
    if (!lines->weights) return;
    for (int64_t t = 0; t + 1 < token_lines_length(lines, i); t++) {
        packed->loss_weights[base + t] = share * lines->weights[first + t + 1];
        if (!(lines->weights[first + t + 1] > 0.0f)) packed->targets[base + t] = -1;
    }
}

/* Packs sequences from `first` on; returns the one behind the last. */
static size_t pack(struct run *run, size_t first) {
    const struct token_lines *lines = run->request->lines;
    size_t i = first;
    packed_batch_clear(&run->packed);
    while (i < lines->count &&
           run->packed.batch.tokens + token_lines_length(lines, i) <= run->capacity &&
           run->packed.batch.segments.count < run->packed.sequence_capacity) {
        add_sequence(run, i);
        i++;
    }
    if (!run->request->adapter) return i;
    run->span = (struct adapter_span){0, run->packed.batch.tokens, run->request->adapter};
    run->packed.batch.spans = &run->span;
    run->packed.batch.span_count = 1;
    return i;
}

/* Sequences follow each other in the file as they do in the batch. */
static enum status write_logits(struct run *run) {
    int64_t tokens = run->packed.batch.tokens, vocab = run->request->model->config.vocab;
    for (int64_t first = 0; first < tokens; first += run->logit_rows) {
        int64_t count = tokens - first < run->logit_rows ? tokens - first : run->logit_rows;
        for (int64_t i = 0; i < count; i++) run->rows[i] = (int32_t)(first + i);
        head_logits(&run->ws.exec, run->request->model, run->logits, run->ws.acts.hidden, run->rows,
                    count);
        TRY(stream_check(&run->ws.stream));
        for (int64_t i = 0; i < count && writes_logits(run); i++) /* a row never crosses tensors */
            TRY(tensor_sink_append_f32(&run->sink, run->logits + i * vocab, (size_t)vocab));
    }
    return STATUS_OK;
}

static enum status run_batch(struct run *run) {
    const struct exec *exec = &run->ws.exec;
    const struct model *model = run->request->model;
    const struct batch *batch = &run->packed.batch;
    stage_forward(exec, model, batch, &run->ws.acts);
    if (run->request->logits) TRY(write_logits(run));
    head_loss(exec, model, batch, run->ws.acts.hidden, run->d_hidden, &run->loss, NULL);
    if (run->d_hidden) stage_backward(exec, model, batch, &run->ws.acts, run->d_hidden, NULL, NULL);
    return stream_check(&run->ws.stream);
}

static enum status append_loss(struct tensor_sink *sink, const struct run *run) {
    float loss = (float)run->loss;
    return run->predicted > 0 ? tensor_sink_append_f32(sink, &loss, 1) : STATUS_OK;
}

static enum status append_gradient(struct tensor_sink *sink, const struct param *param) {
    size_t elements = (size_t)(param->w.rows * param->w.cols);
    float *values = malloc(elements * sizeof *values);
    if (!values) return status_fail(STATUS_MEMORY, "no memory to write the gradients");
    weight_unpack(values, &param->grad, 0, param->w.rows);
    enum status status = tensor_sink_append_f32(sink, values, elements);
    free(values);
    return status;
}

static enum status write_gradients(const struct run *run) {
    struct tensor_spec *specs = calloc((size_t)run->trained_count + 1, sizeof *specs);
    struct tensor_sink sink = {0};
    int count = 0;
    if (!specs) return status_fail(STATUS_MEMORY, "no memory for the list of gradients");
    for (int i = 0; i < run->trained_count; i++) {
        const struct param *param = &run->trained[i];
        if (!param->grad.data) continue;
        specs[count] =
            (struct tensor_spec){param->name, DTYPE_F32, 2, {param->w.rows, param->w.cols}};
        if (!run->request->adapter && weight_is_vector(param->id))
            specs[count] = (struct tensor_spec){param->name, DTYPE_F32, 1, {param->w.cols}};
        count++;
    }
    specs[count++] = (struct tensor_spec){.name = "loss", .dtype = DTYPE_F32};
    enum status status = safetensors_create(&sink, run->request->gradients, specs, count, &note, 1);
    free(specs);
    if (status != STATUS_OK) return status;
    for (int i = 0; i < run->trained_count && status == STATUS_OK; i++)
        if (run->trained[i].grad.data) status = append_gradient(&sink, &run->trained[i]);
    if (status == STATUS_OK) status = append_loss(&sink, run);
    if (status == STATUS_OK) status = tensor_sink_finish(&sink);
    tensor_sink_close(&sink);
    return status;
}

static enum status run_all(struct run *run) {
    TRY(prepare(run));
    for (size_t next = 0; next < run->request->lines->count;) {
        next = pack(run, next);
        TRY(run_batch(run));
    }
    if (writes_logits(run)) {
        TRY(append_loss(&run->sink, run));
        TRY(tensor_sink_finish(&run->sink));
    }
    return run->request->gradients ? write_gradients(run) : STATUS_OK;
}

static void close_run(struct run *run) {
    for (int i = 0; i < run->trained_count; i++) run->trained[i].grad = (struct weight){0};
    if (run->request->logits) tensor_sink_close(&run->sink);
    arena_free(&run->gradients);
    packed_batch_free(&run->packed);
    workspace_close(&run->ws);
    free(run->logits);
    free(run->rows);
    free(run->d_hidden);
}

enum status evaluate(const struct evaluate_request *request, struct evaluate_result *result) {
    double start = clock_seconds();
    struct run *run = calloc(1, sizeof *run); /* a workspace is large */
    if (!run) return status_fail(STATUS_MEMORY, "no memory for an evaluation");
    run->request = request;
    measure(run);
    enum status status = run_all(run);
    *result = (struct evaluate_result){.loss = run->predicted > 0 ? run->loss : (double)NAN,
                                       .tokens = (int64_t)request->lines->ids.count,
                                       .predicted = run->predicted,
                                       .seconds = clock_seconds() - start};
    close_run(run);
    free(run);
    return status;
}
