#include "tests/fixture.h"

float *fixture_expected(const struct fixture *fixture, const char *name, int64_t *count) {
    const struct file_tensor *tensor = model_file_find(&fixture->expected, name);
    if (!tensor) fail_msg("%s: no tensor %s", fixture->expected.path, name);
    float *values = malloc((size_t)tensor->elements * sizeof *values + 1);
    assert_ok(file_tensor_read_f32(tensor, 0, tensor->elements, values));
    if (count) *count = tensor->elements;
    return values;
}

static void read_sequences(struct fixture *fixture, const struct model_file *file) {
    int64_t tokens = 0, predicted = 0;
    for (int i = 0; i < FIXTURE_MAX_SEQUENCES; i++) {
        char name[32];
        snprintf(name, sizeof name, "tokens.%d", i);
        const struct file_tensor *tensor = model_file_find(file, name);
        if (!tensor) break;
        fixture->sequences++;
        tokens += tensor->elements;
        predicted += tensor->elements - 1;
    }
    assert_true(fixture->sequences > 0);
    assert_ok(packed_batch_create(&fixture->packed, tokens, fixture->sequences));
    for (int i = 0; i < fixture->sequences; i++) {
        char name[32];
        snprintf(name, sizeof name, "tokens.%d", i);
        const struct file_tensor *tensor = model_file_find(file, name);
        int32_t ids[512];
        assert_true(tensor->dtype == DTYPE_I32 && tensor->elements <= 512);
        memcpy(ids, tensor->data, tensor->bytes);
        packed_batch_add(&fixture->packed, ids, tensor->elements, 1.0f / (float)predicted);
    }
}

void fixture_open(struct fixture *fixture, const char *name, const char *model, const char *table) {
    char path[256];
    memset(fixture, 0, sizeof *fixture);
    snprintf(path, sizeof path, "tests/fixtures/%s/expected.safetensors", name);
    assert_ok(model_file_open(&fixture->expected, path, false));
    snprintf(path, sizeof path, "tests/fixtures/%s", model);
    struct model_file file;
    assert_ok(model_file_open(&file, path, false));
    bool dynamic = strcmp(name, "llama_dynamic") == 0;
    fixture->prefix = dynamic ? "context48." : "";
    assert_ok(model_load(&fixture->model, &file, NULL, LAYOUT_PANEL_F32, dynamic ? 48 : 0, 2));
    model_file_close(&file);
    snprintf(path, sizeof path, "tests/fixtures/%s/expected.safetensors", model);
    assert_ok(model_file_open(&file, path, false)); /* adapters share their model's tokens */
    read_sequences(fixture, &file);
    model_file_close(&file);
    const struct kernels *kernels;
    assert_ok(kernels_cpu(&kernels, table, DTYPE_F32));
    const struct workspace_plan plan = {.tokens = fixture->packed.batch.tokens,
                                        .logit_rows = fixture->packed.batch.tokens,
                                        .keep = ACTS_ALL,
                                        .backward = true};
    assert_ok(workspace_open(&fixture->ws, &fixture->model, kernels, 2, NULL, &plan));
}

void fixture_close(struct fixture *fixture) {
    workspace_close(&fixture->ws);
    arena_free(&fixture->gradients);
    packed_batch_free(&fixture->packed);
    model_free(&fixture->model);
    model_file_close(&fixture->expected);
}

float *model_logits(const struct model *model, const int32_t *ids, int64_t count, float *hidden) {
    const struct kernels *kernels;
    const struct workspace_plan plan = {.tokens = count, .logit_rows = count, .keep = ACTS_ALL};
    struct workspace *ws = calloc(1, sizeof *ws);
    struct packed_batch packed;
    size_t layer_elements = (size_t)(count * model->config.hidden);
    float *logits = malloc((size_t)(count * model->config.vocab) * sizeof *logits);
    int32_t *rows = malloc((size_t)count * sizeof *rows);
    for (int64_t i = 0; i < count; i++) rows[i] = (int32_t)i;
    assert_ok(kernels_cpu(&kernels, NULL, DTYPE_F32));
    assert_ok(workspace_open(ws, model, kernels, 2, NULL, &plan));
    assert_ok(packed_batch_create(&packed, count, 1));
    packed_batch_add(&packed, ids, count, 1.0f);
    stage_forward(&ws->exec, model, &packed.batch, &ws->acts);
    head_logits(&ws->exec, model, logits, ws->acts.hidden, rows, count);
    assert_ok(stream_check(&ws->stream));
    for (int layer = 0; hidden && layer < model->config.layers; layer++)
        memcpy(hidden + (size_t)layer * layer_elements, ws->acts.blocks[layer].out,
               layer_elements * sizeof *hidden);
    packed_batch_free(&packed);
    workspace_close(ws);
    free(ws);
    free(rows);
    return logits;
}

void fixture_train(struct fixture *fixture, struct param *params, int count) {
    size_t bytes = 0;
    for (int i = 0; i < count; i++) {
        const struct weight *w = &params[i].w;
        bytes += weight_bytes(layout_of_gradient(w->layout), w->rows, w->cols) + ARENA_ALIGN;
    }
    assert_ok(arena_create(&fixture->gradients, "gradients", bytes));
    for (int i = 0; i < count; i++) {
        const struct weight *w = &params[i].w;
        if (!w->data) continue;
        enum layout layout = layout_of_gradient(w->layout);
        params[i].grad = (struct weight){
            layout, w->rows, w->cols,
            arena_push(&fixture->gradients, weight_bytes(layout, w->rows, w->cols))};
    }
}
