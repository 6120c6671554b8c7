#include "tests/forward_f64.h"

#include "tests/check.h"

/* --- a GGUF file as a network ---------------------------------------------------------------- */

static double number(const struct model_file *file, const char *key, double otherwise) {
    const struct gguf_value *value = gguf_find(file, key);
    double result = otherwise;
    if (value) assert_true(gguf_get_f64(value, 0, &result));
    assert_false(isnan(result));
    return result;
}

static int whole(const struct model_file *file, const char *key, double otherwise) {
    const struct gguf_value *value = gguf_find(file, key);
    int64_t result;
    if (!value) return (int)otherwise;
    assert_true(gguf_get_i64(value, 0, &result));
    return (int)result;
}

/* A tensor's values in float64 and its rows (1 for a vector); NULL where there is none. */
static double *read_tensor(const struct model_file *file, const char *name, int *rows) {
    const struct file_tensor *tensor = model_file_find(file, name);
    if (!tensor) return NULL;
    float *values = malloc((size_t)tensor->elements * sizeof *values);
    double *wide = malloc((size_t)tensor->elements * sizeof *wide);
    assert_ok(file_tensor_read_f32(tensor, 0, tensor->elements, values));
    for (int64_t i = 0; i < tensor->elements; i++) wide[i] = (double)values[i];
    free(values);
    if (rows) *rows = tensor->dims == 2 ? (int)tensor->shape[0] : 1;
    return wide;
}

static double *read_present(const struct model_file *file, const char *name, int *rows) {
    double *values = read_tensor(file, name, rows);
    if (!values) fail_msg("%s: no tensor %s", file->path, name);
    return values;
}

static void read_layer(struct network_f64 *n, const struct model_file *file, int layer) {
    static const struct {
        enum weight_id id;
        const char *name;
    } names[] = {{WEIGHT_ATTN_NORM, "attn_norm"},
                 {WEIGHT_Q, "attn_q"},
                 {WEIGHT_K, "attn_k"},
                 {WEIGHT_V, "attn_v"},
                 {WEIGHT_O, "attn_output"},
                 {WEIGHT_MLP_NORM, "ffn_norm"},
                 {WEIGHT_UP, "ffn_up"},
                 {WEIGHT_DOWN, "ffn_down"},
                 {WEIGHT_GATE, "ffn_gate"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.%s.weight", layer, names[i].name);
        int *rows = names[i].id == WEIGHT_GATE ? &n->inner : NULL;
        n->weight[layer + 1][names[i].id] = read_present(file, name, rows);
    }
}

void network_f64_read_gguf(struct network_f64 *n, const struct model_file *file) {
    *n =
        (struct network_f64){.layers = whole(file, "llama.block_count", 0),
                             .width = whole(file, "llama.embedding_length", 0),
                             .heads = whole(file, "llama.attention.head_count", 0),
                             .base = number(file, "llama.rope.freq_base", 10000.0),
                             .epsilon = number(file, "llama.attention.layer_norm_rms_epsilon", NAN),
                             .neighbours = true};
    assert_true(n->layers > 0 && n->layers <= F64_MAX_LAYERS && n->width > 0 && n->heads > 0);
    n->kv_heads = whole(file, "llama.attention.head_count_kv", n->heads);
    n->head = whole(file, "llama.attention.key_length", n->width / n->heads);
    n->weight[0][WEIGHT_EMBED] = read_present(file, "token_embd.weight", &n->vocab);
    n->weight[0][WEIGHT_FINAL_NORM] = read_present(file, "output_norm.weight", NULL);
    n->weight[0][WEIGHT_HEAD] = read_tensor(file, "output.weight", NULL);
    for (int layer = 0; layer < n->layers; layer++) read_layer(n, file, layer);
}

void network_f64_free(struct network_f64 *n) {
    for (int layer = -1; layer < n->layers; layer++)
        for (int id = 0; id < WEIGHT_COUNT; id++) free(n->weight[layer + 1][id]);
    *n = (struct network_f64){0};
}

/* --- the arithmetic --------------------------------------------------------------------------- */

static double *zeros(int rows, int cols) {
    double *values = calloc((size_t)rows * (size_t)cols, sizeof *values);
    assert_non_null(values);
    return values;
}

/* y (count, rows) = x (count, cols) w^T + bias */
static double *times(const double *x, int count, const double *w, const double *bias, int rows,
                     int cols) {
    double *y = zeros(count, rows);
    for (int t = 0; t < count; t++)
        for (int r = 0; r < rows; r++) {
            double sum = bias ? bias[r] : 0.0;
            for (int c = 0; c < cols; c++) sum += w[r * cols + c] * x[t * cols + c];
            y[t * rows + r] = sum;
        }
    return y;
}

/* y = x / sqrt(mean(x^2) + epsilon) * w, row by row; y may be x. */
static void norm_rows(double *y, const double *x, int rows, int cols, const double *w,
                      double epsilon) {
    for (int t = 0; t < rows; t++) {
        double sum = 0.0;
        for (int c = 0; c < cols; c++) sum += x[t * cols + c] * x[t * cols + c];
        double scale = 1.0 / sqrt(sum / cols + epsilon);
        for (int c = 0; c < cols; c++) y[t * cols + c] = x[t * cols + c] * scale * w[c];
    }
}

static double *normed(const double *x, int count, int cols, const double *w, double epsilon) {
    double *y = zeros(count, cols);
    norm_rows(y, x, count, cols, w, epsilon);
    return y;
}

static void rotate(double *x, int count, int heads, const struct network_f64 *n) {
    int stride = n->neighbours ? 1 : n->head / 2;
    for (int t = 0; t < count; t++)
        for (int h = 0; h < heads; h++)
            for (int i = 0; i < n->head / 2; i++) {
                double *pair = x + (t * heads + h) * n->head + (n->neighbours ? 2 * i : i);
                double angle = t * pow(n->base, -2.0 * i / n->head);
                double first = pair[0], second = pair[stride];
                pair[0] = first * cos(angle) - second * sin(angle);
                pair[stride] = first * sin(angle) + second * cos(angle);
            }
}

/* One head of one token: softmax over the tokens [from, token]. */
static void attend(double *out, const double *q, const double *k, const double *v, int from,
                   int token, int stride, int head) {
    double *weight = zeros(1, token + 1), largest = -INFINITY, sum = 0.0;
    for (int j = from; j <= token; j++) {
        for (int d = 0; d < head; d++) weight[j] += q[d] * k[j * stride + d];
        weight[j] /= sqrt(head);
        largest = fmax(largest, weight[j]);
    }
    for (int j = from; j <= token; j++) sum += weight[j] = exp(weight[j] - largest);
    for (int j = from; j <= token; j++)
        for (int d = 0; d < head; d++) out[d] += weight[j] / sum * v[j * stride + d];
    free(weight);
}

static void add_to(double *x, double *y, int elements) {
    for (int i = 0; i < elements; i++) x[i] += y[i];
    free(y);
}

/* o (count, H D) of the rotated q, k and of v */
static double *attend_all(const struct network_f64 *n, int layer, int count, const double *q,
                          const double *k, const double *v) {
    double *o = zeros(count, n->heads * n->head);
    int stride = n->kv_heads * n->head, window = n->window[layer];
    for (int t = 0; t < count; t++)
        for (int h = 0; h < n->heads; h++) {
            int at = (t * n->heads + h) * n->head,
                from = window && t >= window ? t - window + 1 : 0;
            int shared = h / (n->heads / n->kv_heads) * n->head;
            attend(o + at, q + at, k + shared, v + shared, from, t, stride, n->head);
        }
    return o;
}

static void attention(double *x, const struct network_f64 *n, int layer, int count) {
    double *const *w = n->weight[layer + 1];
    int q_width = n->heads * n->head, kv_width = n->kv_heads * n->head;
    double *m = normed(x, count, n->width, w[WEIGHT_ATTN_NORM], n->epsilon);
    double *q = times(m, count, w[WEIGHT_Q], w[WEIGHT_Q_BIAS], q_width, n->width);
    double *k = times(m, count, w[WEIGHT_K], w[WEIGHT_K_BIAS], kv_width, n->width);
    double *v = times(m, count, w[WEIGHT_V], w[WEIGHT_V_BIAS], kv_width, n->width);
    if (w[WEIGHT_Q_NORM]) {
        norm_rows(q, q, count * n->heads, n->head, w[WEIGHT_Q_NORM], n->epsilon);
        norm_rows(k, k, count * n->kv_heads, n->head, w[WEIGHT_K_NORM], n->epsilon);
    }
    rotate(q, count, n->heads, n);
    rotate(k, count, n->kv_heads, n);
    double *o = attend_all(n, layer, count, q, k, v);
    add_to(x, times(o, count, w[WEIGHT_O], w[WEIGHT_O_BIAS], n->width, q_width), count * n->width);
    free(m);
    free(q);
    free(k);
    free(v);
    free(o);
}

static void feed_forward(double *x, const struct network_f64 *n, int layer, int count) {
    double *const *w = n->weight[layer + 1];
    double *m = normed(x, count, n->width, w[WEIGHT_MLP_NORM], n->epsilon);
    double *gate = times(m, count, w[WEIGHT_GATE], w[WEIGHT_GATE_BIAS], n->inner, n->width);
    double *up = times(m, count, w[WEIGHT_UP], w[WEIGHT_UP_BIAS], n->inner, n->width);
    for (int i = 0; i < count * n->inner; i++) up[i] *= gate[i] / (1.0 + exp(-gate[i]));
    add_to(x, times(up, count, w[WEIGHT_DOWN], w[WEIGHT_DOWN_BIAS], n->width, n->inner),
           count * n->width);
    free(m);
    free(gate);
    free(up);
}

double *network_f64_logits(const struct network_f64 *n, const int32_t *ids, int count,
                           double *hidden) {
    size_t stream = (size_t)count * (size_t)n->width;
    double *const *w = n->weight[0];
    double *x = zeros(count, n->width);
    for (int t = 0; t < count; t++)
        memcpy(x + t * n->width, w[WEIGHT_EMBED] + ids[t] * n->width, (size_t)n->width * sizeof *x);
    for (int layer = 0; layer < n->layers; layer++) {
        attention(x, n, layer, count);
        feed_forward(x, n, layer, count);
        if (hidden) memcpy(hidden + (size_t)layer * stream, x, stream * sizeof *x);
    }
    norm_rows(x, x, count, n->width, w[WEIGHT_FINAL_NORM], n->epsilon);
    const double *head = w[WEIGHT_HEAD] ? w[WEIGHT_HEAD] : w[WEIGHT_EMBED];
    double *logits = times(x, count, head, NULL, n->vocab, n->width);
    free(x);
    return logits;
}

double network_f64_loss(const struct network_f64 *n, const int32_t *ids, int count) {
    double *logits = network_f64_logits(n, ids, count, NULL), loss = 0.0;
    for (int t = 0; t + 1 < count; t++) {
        const double *row = logits + t * n->vocab;
        double largest = row[0], sum = 0.0;
        for (int i = 1; i < n->vocab; i++) largest = fmax(largest, row[i]);
        for (int i = 0; i < n->vocab; i++) sum += exp(row[i] - largest);
        loss += largest + log(sum) - row[ids[t + 1]];
    }
    free(logits);
    return loss;
}
