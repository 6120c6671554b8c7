/* The promise that no rival keeps: the logits a model is trained with are, bit for bit, those it
 * serves with. A training forward (packed whole sequences, activations kept, several threads)
 * against chunked prefill and single-token decode over shuffled pages of a KV cache. */
#include "tests/fixture.h"

#include "kernels/base/rng.h"

static const char *const families[] = {"llama", "llama_tied_llama3", "mistral", "qwen2", "qwen3"};
enum { FAMILIES = sizeof families / sizeof *families, MAX_PAGES = 8 };

/* How a served sequence is cut: tokens a step, page size, threads. */
struct cut {
    int64_t chunk;
    int32_t page_size;
    int threads;
};
static const struct cut cuts[] = {{64, 16, 2}, {1, 32, 1}, {5, 16, 3}, {17, 64, 2}};

static void open_model(struct model *model, const char *name, enum dtype act) {
    char path[256];
    struct model_file file;
    snprintf(path, sizeof path, "tests/fixtures/%s", name);
    assert_ok(model_file_open(&file, path, false));
    enum layout layout = act == DTYPE_BF16 ? LAYOUT_PANEL_BF16 : LAYOUT_PANEL_F32;
    assert_ok(model_load(model, &file, NULL, layout, 0, 1));
    model_file_close(&file);
}

static void all_logits(struct workspace *ws, const struct model *model, int64_t tokens,
                       float *logits) {
    int32_t rows[512];
    assert_true(tokens <= 512);
    for (int64_t t = 0; t < tokens; t++) rows[t] = (int32_t)t;
    head_logits(&ws->exec, model, logits, ws->acts.hidden, rows, tokens);
    assert_ok(stream_check(&ws->stream));
}

static void train_forward(const struct model *model, const struct kernels *kernels,
                          const struct packed_batch *packed, float *logits) {
    struct workspace ws;
    const struct workspace_plan plan = {.tokens = packed->batch.tokens,
                                        .logit_rows = packed->batch.tokens,
                                        .keep = ACTS_ALL,
                                        .backward = true};
    assert_ok(workspace_open(&ws, model, kernels, 2, NULL, &plan));
    stage_forward(&ws.exec, model, &packed->batch, &ws.acts);
    all_logits(&ws, model, packed->batch.tokens, logits);
    workspace_close(&ws);
}

/* One sequence, alone, a chunk a step over pages in shuffled order. */
static void serve_forward(const struct model *model, const struct kernels *kernels,
                          const int32_t *ids, int64_t count, const struct cut *cut, float *logits) {
    struct workspace ws;
    const struct workspace_plan plan = {
        .tokens = cut->chunk, .logit_rows = cut->chunk, .keep = ACTS_NONE};
    assert_ok(workspace_open(&ws, model, kernels, cut->threads, NULL, &plan));
    const struct model_config *c = &model->config;
    size_t layer =
        dtype_bytes(kernels->act, (size_t)(MAX_PAGES * cut->page_size * c->kv_heads * c->head_dim));
    int32_t table[MAX_PAGES], positions[512];
    for (int32_t i = 0; i < MAX_PAGES; i++) table[i] = (i * 5 + 3) % MAX_PAGES;
    char *k = malloc(layer * (size_t)c->layers), *v = malloc(layer * (size_t)c->layers);
    memset(k, 0xff, layer * (size_t)c->layers); /* NaN: what nobody wrote must not be read */
    memset(v, 0xff, layer * (size_t)c->layers);
    const struct kv_pages_view pages = {k,        v, layer, kernels->act, table, cut->page_size,
                                        MAX_PAGES};
    for (int64_t first = 0; first < count; first += cut->chunk) {
        int32_t n = (int32_t)(count - first < cut->chunk ? count - first : cut->chunk);
        const int32_t start[2] = {0, n}, past = (int32_t)first;
        for (int32_t i = 0; i < n; i++) positions[i] = past + i;
        const struct batch batch = {.tokens = n,
                                    .ids = ids + first,
                                    .positions = positions,
                                    .segments = {1, start, &past},
                                    .kv = &pages};
        stage_forward(&ws.exec, model, &batch, &ws.acts);
        all_logits(&ws, model, n, logits + first * c->vocab);
    }
    free(k);
    free(v);
    workspace_close(&ws);
}

static void check_family(const char *name, const char *table, enum dtype act) {
    enum { SEQUENCES = 3 };
    static const int64_t lengths[SEQUENCES] = {47, 1, 100};
    struct model model;
    struct packed_batch packed;
    const struct kernels *kernels;
    assert_ok(kernels_cpu(&kernels, table, act));
    open_model(&model, name, act);
    assert_ok(packed_batch_create(&packed, 148, SEQUENCES));
    int32_t ids[148];
    for (int i = 0; i < 148; i++)
        ids[i] = (int32_t)(rng_draw(7, RNG_TEST, 0, (uint64_t)i).word[0] % 96);
    for (int i = 0, at = 0; i < SEQUENCES; at += (int)lengths[i++])
        packed_batch_add(&packed, ids + at, lengths[i], 1.0f);
    size_t vocab = (size_t)model.config.vocab;
    float *trained = malloc(148 * vocab * sizeof *trained);
    float *served = malloc(148 * vocab * sizeof *served);
    train_forward(&model, kernels, &packed, trained);
    for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++)
        for (int i = 0, at = 0; i < SEQUENCES; at += (int)lengths[i++]) {
            serve_forward(&model, kernels, ids + at, lengths[i], &cuts[c], served);
            if (memcmp(served, trained + (size_t)at * vocab,
                       (size_t)lengths[i] * vocab * sizeof *served) != 0)
                fail_msg("%s %s %s: sequence %d in chunks of %lld on pages of %d differs", name,
                         table, dtype_info(act)->name, i, (long long)cuts[c].chunk,
                         cuts[c].page_size);
        }
    free(trained);
    free(served);
    packed_batch_free(&packed);
    model_free(&model);
}

static void test_served_bits_are_trained_bits(void **state) {
    (void)state;
    static const char *const tables[] = {"reference", "avx2", "avx512", "avx512_bf16"};
    const struct kernels *kernels;
    int checked = 0;
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++) {
        if (kernels_cpu(&kernels, tables[t], DTYPE_F32) != STATUS_OK) {
            print_message("skipped: the machine lacks op table %s\n", tables[t]);
            continue;
        }
        for (int i = 0; i < FAMILIES; i++) {
            check_family(families[i], tables[t], DTYPE_F32);
            check_family(families[i], tables[t], DTYPE_BF16);
            checked += 2;
        }
    }
    print_message("compared %d families, dtypes and tables\n", checked);
    assert_true(checked >= 2 * FAMILIES);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_served_bits_are_trained_bits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
