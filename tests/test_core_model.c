/* Every family against Hugging Face transformers: logits, hidden states, loss and gradients. */
#include "tests/fixture.h"

static const char *const families[] = {
    "llama",         "llama_tied_llama3", "llama_linear", "llama_yarn",
    "llama_dynamic", "mistral",           "qwen2",        "qwen25",
    "qwen3"};
static const char *const with_gradients[] = {"llama", "mistral", "qwen2", "qwen3"};
static const char *const tables[] = {"reference", "auto"};
enum { FAMILIES = sizeof families / sizeof *families };

static void check_logits(struct fixture *f, const char *what) {
    const struct batch *batch = &f->packed.batch;
    int64_t vocab = f->model.config.vocab;
    float *logits = malloc((size_t)(batch->tokens * vocab) * sizeof *logits);
    int32_t *rows = malloc((size_t)batch->tokens * sizeof *rows);
    for (int64_t t = 0; t < batch->tokens; t++) rows[t] = (int32_t)t;
    head_logits(&f->ws.exec, &f->model, logits, f->ws.acts.hidden, rows, batch->tokens);
    assert_ok(stream_check(&f->ws.stream));
    for (int i = 0; i < f->sequences; i++) {
        char name[64];
        int64_t count;
        snprintf(name, sizeof name, "%slogits.%d", f->prefix, i);
        float *want = fixture_expected(f, name, &count);
        snprintf(name, sizeof name, "%s logits.%d", what, i);
        assert_all_close(logits + batch->segments.start[i] * vocab, want, (size_t)count, 1e-4, 0.0,
                         name);
        free(want);
    }
    free(rows);
    free(logits);
}

/* The hidden states of sequence 2: residual stream after each layer. */
static void check_hidden(struct fixture *f) {
    int64_t first = f->packed.batch.segments.start[2];
    for (int layer = 0; layer + 1 < f->model.config.layers; layer++) {
        char name[32];
        int64_t count;
        snprintf(name, sizeof name, "hidden.layer.%d", layer);
        float *want = fixture_expected(f, name, &count);
        const float *got = f->ws.acts.blocks[layer].out;
        assert_all_close(got + first * f->model.config.hidden, want, (size_t)count, 1e-4, 0.0,
                         name);
        free(want);
    }
}

static void check_loss(struct fixture *f, void *d_hidden) {
    double loss = 0.0;
    char name[32];
    snprintf(name, sizeof name, "%sloss", f->prefix);
    float *want = fixture_expected(f, name, NULL);
    head_loss(&f->ws.exec, &f->model, &f->packed.batch, f->ws.acts.hidden, d_hidden, &loss, NULL);
    assert_ok(stream_check(&f->ws.stream));
    assert_true(fabs(loss - (double)want[0]) < 1e-5);
    free(want);
}

static void test_forward_matches_transformers(void **state) {
    (void)state;
    for (int i = 0; i < FAMILIES; i++)
        for (int j = 0; j < 2; j++) {
            struct fixture f;
            fixture_open(&f, families[i], families[i], tables[j]);
            stage_forward(&f.ws.exec, &f.model, &f.packed.batch, &f.ws.acts);
            check_logits(&f, families[i]);
            if (!*f.prefix) check_hidden(&f);
            check_loss(&f, NULL);
            fixture_close(&f);
        }
}

/* Relative to the tensor's norm: 1e-4. */
static void check_gradient(const struct fixture *f, const struct param *param, const char *prefix) {
    char name[sizeof param->name + 16];
    snprintf(name, sizeof name, "%s%s", prefix, param->name);
    int64_t count;
    float *want = fixture_expected(f, name, &count);
    float *got = malloc((size_t)count * sizeof *got);
    assert_int_equal(count, param->w.rows * param->w.cols);
    weight_unpack(got, &param->grad, 0, param->w.rows);
    double norm = 0.0, difference = 0.0;
    for (int64_t i = 0; i < count; i++) {
        norm += (double)want[i] * (double)want[i];
        difference += pow((double)got[i] - (double)want[i], 2);
    }
    if (!(sqrt(difference) <= 1e-4 * sqrt(norm) + 1e-9))
        fail_msg("%s: difference %g of norm %g", name, sqrt(difference), sqrt(norm));
    free(got);
    free(want);
}

static void run_backward(struct fixture *f) {
    stage_forward(&f->ws.exec, &f->model, &f->packed.batch, &f->ws.acts);
    void *d = calloc((size_t)(f->packed.batch.tokens * f->model.config.hidden), sizeof(float));
    check_loss(f, d);
    stage_backward(&f->ws.exec, &f->model, &f->packed.batch, &f->ws.acts, d, NULL, NULL);
    assert_ok(stream_check(&f->ws.stream));
    free(d);
}

static void test_gradients_match_autograd(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof with_gradients / sizeof *with_gradients; i++)
        for (int j = 0; j < 2; j++) {
            struct fixture f;
            fixture_open(&f, with_gradients[i], with_gradients[i], tables[j]);
            fixture_train(&f, f.model.params, f.model.param_count);
            run_backward(&f);
            int checked = 0;
            for (int p = 0; p < f.model.param_count; p++)
                if (f.model.params[p].w.data) {
                    check_gradient(&f, &f.model.params[p], "grad.");
                    checked++;
                }
            assert_true(checked > 20);
            fixture_close(&f);
        }
}

/* transformers 4's spelling of the configuration means the same. */
static void test_old_configs_read_alike(void **state) {
    (void)state;
    for (int i = 0; i < FAMILIES; i++) {
        struct model_config new_style, old_style;
        char path[256], text[8192];
        snprintf(path, sizeof path, "tests/fixtures/%s", families[i]);
        assert_ok(model_config_read_hf(&new_style, path));
        snprintf(path, sizeof path, "tests/fixtures/%s/config_v4.json", families[i]);
        FILE *file = fopen(path, "rb");
        assert_non_null(file);
        size_t bytes = fread(text, 1, sizeof text, file);
        fclose(file);
        assert_ok(model_config_parse_hf(&old_style, text, bytes, path));
        assert_memory_equal(&new_style.rope, &old_style.rope, sizeof new_style.rope);
        assert_memory_equal(new_style.sliding, old_style.sliding, sizeof new_style.sliding);
        assert_int_equal(new_style.window, old_style.window);
        assert_int_equal(new_style.head_dim, old_style.head_dim);
        assert_int_equal(new_style.tied, old_style.tied);
    }
}

static void test_adapters_match_peft(void **state) {
    (void)state;
    static const char *const adapters[][2] = {{"lora_llama_all", "llama"},
                                              {"lora_llama_qv_rslora", "llama"},
                                              {"lora_qwen2_all", "qwen2"},
                                              {"lora_qwen2_qv_rslora", "qwen2"}};
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 2; j++) {
            struct fixture f;
            struct adapter adapter;
            char path[256];
            fixture_open(&f, adapters[i][0], adapters[i][1], tables[j]);
            snprintf(path, sizeof path, "tests/fixtures/%s", adapters[i][0]);
            assert_ok(adapter_load(&adapter, "test", &f.model, path));
            struct adapter_span span = {0, f.packed.batch.tokens, &adapter};
            f.packed.batch.spans = &span;
            f.packed.batch.span_count = 1;
            workspace_close(&f.ws); /* laid out without the adapter */
            const struct workspace_plan plan = {.tokens = f.packed.batch.tokens,
                                                .logit_rows = f.packed.batch.tokens,
                                                .keep = ACTS_INPUT,
                                                .backward = true,
                                                .adapter = &adapter};
            const struct kernels *kernels = f.ws.exec.k;
            assert_ok(workspace_open(&f.ws, &f.model, kernels, 2, NULL, &plan));
            fixture_train(&f, adapter.params, adapter.param_count);
            run_backward(&f);
            for (int p = 0; p < adapter.param_count; p++)
                if (adapter.params[p].w.data) check_gradient(&f, &adapter.params[p], "grad.");
            stage_forward(&f.ws.exec, &f.model, &f.packed.batch, &f.ws.acts);
            check_logits(&f, adapters[i][0]);
            adapter_free(&adapter);
            fixture_close(&f);
        }
}

/* Counts the products of a backward pass; an op table's functions can reach nothing but a global.
 */
static struct {
    const struct kernels *inner;
    int forward_products;
} counted;

static void count_matmul_forward(struct stream *s, const struct matmul_forward_args *args) {
    counted.forward_products++;
    counted.inner->matmul_forward(s, args);
}

/* Gradients of all parameters of `f` by the given way of keeping activations, one after another. */
static float *gradients(struct fixture *f, const struct kernels *kernels, enum acts_keep keep,
                        size_t *count) {
    struct workspace ws;
    const struct workspace_plan plan = {
        .tokens = f->packed.batch.tokens, .logit_rows = 1, .keep = keep, .backward = true};
    assert_ok(workspace_open(&ws, &f->model, kernels, 2, NULL, &plan));
    fixture_train(f, f->model.params, f->model.param_count);
    size_t bytes = (size_t)(f->packed.batch.tokens * f->model.config.hidden) * sizeof(float);
    void *d = calloc(1, bytes);
    double loss = 0.0;
    stage_forward(&ws.exec, &f->model, &f->packed.batch, &ws.acts);
    head_loss(&ws.exec, &f->model, &f->packed.batch, ws.acts.hidden, d, &loss, NULL);
    counted.forward_products = 0;
    stage_backward(&ws.exec, &f->model, &f->packed.batch, &ws.acts, d, NULL, NULL);
    assert_ok(stream_check(&ws.stream));
    free(d);
    workspace_close(&ws);
    *count = f->gradients.used;
    float *copy = malloc(*count);
    memcpy(copy, f->gradients.base, *count);
    arena_free(&f->gradients);
    return copy;
}

/* Recomputing activations gives the gradients of kept ones, bit for bit, and makes the six products
 * that backward needs: the seventh, of the down projection, nobody does. Selective recomputation
 * makes two, of gate and up. */
static void test_recomputation_changes_no_bit(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof with_gradients / sizeof *with_gradients; i++) {
        struct fixture f;
        size_t kept_bytes, made_bytes;
        fixture_open(&f, with_gradients[i], with_gradients[i], "auto");
        struct kernels kernels = *f.ws.exec.k;
        counted.inner = f.ws.exec.k;
        kernels.matmul_forward = count_matmul_forward;
        static const struct {
            enum acts_keep keep;
            int products;
        } ways[] = {{ACTS_INPUT, 6}, {ACTS_DEAR, 2}};
        float *kept = gradients(&f, &kernels, ACTS_ALL, &kept_bytes);
        assert_int_equal(counted.forward_products, 0);
        for (int way = 0; way < 2; way++) {
            float *made = gradients(&f, &kernels, ways[way].keep, &made_bytes);
            assert_int_equal(counted.forward_products, ways[way].products * f.model.config.layers);
            assert_int_equal(kept_bytes, made_bytes);
            assert_memory_equal(kept, made, kept_bytes);
            free(made);
        }
        free(kept);
        fixture_close(&f);
    }
}

static size_t activation_bytes(const struct model *model, enum dtype act, int sets,
                               enum acts_keep keep, int64_t tokens) {
    size_t bytes, scratch;
    const struct workspace_parts parts = {1, model, sets, sets};
    const struct workspace_plan plan = {
        .tokens = tokens, .logit_rows = 1, .keep = keep, .backward = true, .parts = &parts};
    assert_ok(workspace_count(model, act, &plan, &bytes, &scratch));
    return bytes;
}

/* Of each layer and microbatch in flight selective recomputation saves gate and up, 2F elements a
 * token, and with QK norm the normed and rotated heads, (H + Hkv)D, and their (H + Hkv) fp32
 * factors; all share one layer's. */
static void test_selective_recomputation_saves_what_it_says(void **state) {
    (void)state;
    enum { TOKENS = 64 }; /* alignment does not show */
    for (size_t i = 0; i < sizeof with_gradients / sizeof *with_gradients; i++)
        for (int j = 0; j < 4; j++) {
            enum dtype act = j % 2 ? DTYPE_BF16 : DTYPE_F32;
            struct fixture f;
            int sets = j / 2 ? 3 : 1;
            fixture_open(&f, with_gradients[i], with_gradients[i], "auto");
            const struct model_config *c = &f.model.config;
            int64_t heads = c->qk_norm ? c->heads + c->kv_heads : 0;
            size_t layer = dtype_bytes(act, (size_t)(TOKENS * (2 * c->ffn + heads * c->head_dim))) +
                           (size_t)(TOKENS * heads) * sizeof(float);
            size_t kept = activation_bytes(&f.model, act, sets, ACTS_ALL, TOKENS);
            size_t made = activation_bytes(&f.model, act, sets, ACTS_DEAR, TOKENS);
            assert_int_equal(kept - made, (size_t)(c->layers * sets - 1) * layer);
            fixture_close(&f);
        }
}

static void test_random_weights_are_the_same_for_any_threads(void **state) {
    (void)state;
    static const enum layout layouts[] = {LAYOUT_PANEL_F32, LAYOUT_PANEL_BF16};
    struct model_config config;
    assert_ok(model_config_read_hf(&config, "tests/fixtures/qwen3"));
    for (int i = 0; i < 2; i++) {
        struct model one, many;
        assert_ok(model_create(&one, &config, NULL, layouts[i]));
        model_init_random(&one, 7, 0.02f, 1);
        for (int threads = 2; threads <= 5; threads++) {
            assert_ok(model_create(&many, &config, NULL, layouts[i]));
            model_init_random(&many, 7, 0.02f, threads);
            for (int p = 0; p < one.param_count; p++) {
                const struct weight *w = &one.params[p].w;
                if (!w->data) continue;
                assert_memory_equal(w->data, many.params[p].w.data,
                                    weight_bytes(w->layout, w->rows, w->cols));
            }
            model_free(&many);
        }
        model_free(&one);
    }
}

/* A configuration that would compute NaN or nonsense is refused, naming the key and its value. */
static void test_absurd_numbers_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *fields, *reason;
    } cases[] = {
        {"\"rope_theta\": 0", "rope_theta is 0, not from"},
        {"\"rope_theta\": -1e4", "rope_theta is -10000, not from"},
        {"\"rope_theta\": 1e300", "rope_theta is 1e+300, not from"},
        {"\"rope_theta\": 1e999", "not valid JSON"},
        {"\"rms_norm_eps\": 0", "rms_norm_eps is 0, not from"},
        {"\"rms_norm_eps\": -1e-6", "rms_norm_eps is -1e-06, not from"},
        {"\"rms_norm_eps\": 1.5", "rms_norm_eps is 1.5, not from"},
        {"\"rope_parameters\": {\"rope_theta\": -5.5}", "rope_theta is -5.5, not from"},
        {"\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}", "factor is 0, not from"},
        {"\"rope_scaling\": {\"type\": \"linear\", \"factor\": 1e7}", "factor is 1e+07, not"},
        {"\"rope_scaling\": {\"type\": \"llama3\", \"low_freq_factor\": -1}",
         "low_freq_factor is -1"},
        {"\"rope_scaling\": {\"type\": \"llama3\", \"high_freq_factor\": 2e6}",
         "high_freq_factor is 2e+06"},
        {"\"rope_scaling\": {\"type\": \"yarn\", \"beta_fast\": 0}", "beta_fast is 0"},
        {"\"rope_scaling\": {\"type\": \"yarn\", \"attention_factor\": -1}",
         "attention_factor is -1"},
        {"\"rope_scaling\": {\"type\": \"yarn\", \"mscale\": 1e9}", "mscale is 1e+09"},
        {"\"rope_scaling\": 5", "must be an object"},
        {"\"head_dim\": 7", "head_dim 7 is odd"},
    };
    struct model_config config;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1024];
        int bytes = snprintf(text, sizeof text,
                             "{\"model_type\": \"llama\", \"vocab_size\": 9, \"hidden_size\": 8, "
                             "\"intermediate_size\": 8, \"num_hidden_layers\": 1, "
                             "\"num_attention_heads\": 2, %s}",
                             cases[i].fields);
        /* not STATUS_CONFIG, which commands take for their own options' faults */
        assert_int_equal(model_config_parse_hf(&config, text, (size_t)bytes, "config.json"),
                         STATUS_FORMAT);
        if (strncmp(status_message(), "config.json: ", 13) != 0 ||
            !strstr(status_message(), cases[i].reason))
            fail_msg("%s: %s", cases[i].fields, status_message());
    }
    static const double wrong[] = {NAN, INFINITY, -INFINITY, 0.0, 1.1};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(model_config_check_number("f", "k", wrong[i], 1e-9, 1.0), STATUS_FORMAT);
    assert_ok(model_config_check_number("f", "k", 1.0, 1e-9, 1.0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward_matches_transformers),
        cmocka_unit_test(test_gradients_match_autograd),
        cmocka_unit_test(test_old_configs_read_alike),
        cmocka_unit_test(test_adapters_match_peft),
        cmocka_unit_test(test_recomputation_changes_no_bit),
        cmocka_unit_test(test_selective_recomputation_saves_what_it_says),
        cmocka_unit_test(test_absurd_numbers_are_refused),
        cmocka_unit_test(test_random_weights_are_the_same_for_any_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
