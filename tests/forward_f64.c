#include "tests/forward_f64.h"

#include "tests/check.h"

/* A tensor of the file in float64, row-major. */
struct matrix {
    double *at;
    int rows, cols;
};

struct shape {
    int layers, width, heads, kv_heads, head;
    double base, epsilon;
};

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

static struct shape read_shape(const struct model_file *file) {
    struct shape s = {.layers = whole(file, "llama.block_count", 0),
                      .width = whole(file, "llama.embedding_length", 0),
                      .heads = whole(file, "llama.attention.head_count", 0),
                      .base = number(file, "llama.rope.freq_base", 10000.0),
                      .epsilon = number(file, "llama.attention.layer_norm_rms_epsilon", NAN)};
    assert_true(s.layers > 0 && s.width > 0 && s.heads > 0);
    s.kv_heads = whole(file, "llama.attention.head_count_kv", s.heads);
    s.head = whole(file, "llama.attention.key_length", s.width / s.heads);
    return s;
}

static struct matrix read_matrix(const struct model_file *file, const char *name) {
    const struct file_tensor *tensor = model_file_find(file, name);
    if (!tensor) fail_msg("%s: no tensor %s", file->path, name);
    float *values = malloc((size_t)tensor->elements * sizeof *values);
    struct matrix m = {malloc((size_t)tensor->elements * sizeof(double)),
                       tensor->dims == 2 ? (int)tensor->shape[0] : 1,
                       (int)tensor->shape[tensor->dims - 1]};
    assert_ok(file_tensor_read_f32(tensor, 0, tensor->elements, values));
    for (int64_t i = 0; i < tensor->elements; i++) m.at[i] = (double)values[i];
    free(values);
    return m;
}

static struct matrix read_layer(const struct model_file *file, int layer, const char *rest) {
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s.weight", layer, rest);
    return read_matrix(file, name);
}

static double *zeros(int rows, int cols) {
    double *values = calloc((size_t)rows * (size_t)cols, sizeof *values);
    assert_non_null(values);
    return values;
}

/* y (count, w.rows) = x (count, w.cols) w^T; frees w. */
static double *times(const double *x, int count, struct matrix w) {
    double *y = zeros(count, w.rows);
    for (int t = 0; t < count; t++)
        for (int r = 0; r < w.rows; r++)
            for (int c = 0; c < w.cols; c++)
                y[t * w.rows + r] += w.at[r * w.cols + c] * x[t * w.cols + c];
    free(w.at);
    return y;
}

/* x / sqrt(mean(x^2) + epsilon) * w; frees w. */
static double *normed(const double *x, int count, struct matrix w, double epsilon) {
    double *y = zeros(count, w.cols);
    for (int t = 0; t < count; t++) {
        double sum = 0.0;
        for (int c = 0; c < w.cols; c++) sum += x[t * w.cols + c] * x[t * w.cols + c];
        double scale = 1.0 / sqrt(sum / w.cols + epsilon);
        for (int c = 0; c < w.cols; c++) y[t * w.cols + c] = x[t * w.cols + c] * scale * w.at[c];
    }
    free(w.at);
    return y;
}

static void rotate(double *x, int count, int heads, const struct shape *s) {
    for (int t = 0; t < count; t++)
        for (int h = 0; h < heads; h++)
            for (int i = 0; i < s->head; i += 2) {
                double *pair = x + (t * heads + h) * s->head + i;
                double angle = t * pow(s->base, -(double)i / s->head);
                double first = pair[0], second = pair[1];
                pair[0] = first * cos(angle) - second * sin(angle);
                pair[1] = first * sin(angle) + second * cos(angle);
            }
}

/* One head of one token: softmax over the tokens up to it. */
static void attend(double *out, const double *q, const double *k, const double *v, int token,
                   int stride, int head) {
    double *weight = zeros(1, token + 1), largest = -INFINITY, sum = 0.0;
    for (int j = 0; j <= token; j++) {
        for (int d = 0; d < head; d++) weight[j] += q[d] * k[j * stride + d];
        weight[j] /= sqrt(head);
        largest = fmax(largest, weight[j]);
    }
    for (int j = 0; j <= token; j++) sum += weight[j] = exp(weight[j] - largest);
    for (int j = 0; j <= token; j++)
        for (int d = 0; d < head; d++) out[d] += weight[j] / sum * v[j * stride + d];
    free(weight);
}

static void add_to(double *x, double *y, int elements) {
    for (int i = 0; i < elements; i++) x[i] += y[i];
    free(y);
}

static void attention(double *x, const struct model_file *file, int layer, int count,
                      const struct shape *s) {
    double *n = normed(x, count, read_layer(file, layer, "attn_norm"), s->epsilon);
    double *q = times(n, count, read_layer(file, layer, "attn_q"));
    double *k = times(n, count, read_layer(file, layer, "attn_k"));
    double *v = times(n, count, read_layer(file, layer, "attn_v"));
    double *o = zeros(count, s->heads * s->head);
    int stride = s->kv_heads * s->head;
    rotate(q, count, s->heads, s);
    rotate(k, count, s->kv_heads, s);
    for (int t = 0; t < count; t++)
        for (int h = 0; h < s->heads; h++) {
            int at = (t * s->heads + h) * s->head, shared = h / (s->heads / s->kv_heads) * s->head;
            attend(o + at, q + at, k + shared, v + shared, t, stride, s->head);
        }
    add_to(x, times(o, count, read_layer(file, layer, "attn_output")), count * s->width);
    free(n);
    free(q);
    free(k);
    free(v);
    free(o);
}

static void feed_forward(double *x, const struct model_file *file, int layer, int count,
                         const struct shape *s) {
    double *n = normed(x, count, read_layer(file, layer, "ffn_norm"), s->epsilon);
    struct matrix gates = read_layer(file, layer, "ffn_gate");
    int inner = gates.rows;
    double *gate = times(n, count, gates);
    double *up = times(n, count, read_layer(file, layer, "ffn_up"));
    for (int i = 0; i < count * inner; i++) up[i] *= gate[i] / (1.0 + exp(-gate[i]));
    add_to(x, times(up, count, read_layer(file, layer, "ffn_down")), count * s->width);
    free(n);
    free(gate);
    free(up);
}

double *forward_f64(const struct model_file *file, const int32_t *ids, int count, int *vocab) {
    struct shape s = read_shape(file);
    struct matrix embedding = read_matrix(file, "token_embd.weight");
    double *x = zeros(count, s.width);
    *vocab = embedding.rows;
    for (int t = 0; t < count; t++)
        memcpy(x + t * s.width, embedding.at + ids[t] * s.width, (size_t)s.width * sizeof *x);
    free(embedding.at);
    for (int layer = 0; layer < s.layers; layer++) {
        attention(x, file, layer, count, &s);
        feed_forward(x, file, layer, count, &s);
    }
    double *n = normed(x, count, read_matrix(file, "output_norm.weight"), s.epsilon);
    bool tied = !model_file_find(file, "output.weight");
    double *logits =
        times(n, count, read_matrix(file, tied ? "token_embd.weight" : "output.weight"));
    free(x);
    free(n);
    return logits;
}
