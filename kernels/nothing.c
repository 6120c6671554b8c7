/* The table whose ops do nothing. One function an op: calling through a pointer of another type is
 * undefined. */
#include "kernels/kernels.h"

#define UNUSED4(a, b, c, d) (void)(a), (void)(b), (void)(c), (void)(d)

static void no_matmul_forward(struct stream *s, const struct matmul_forward_args *args) {
    (void)s, (void)args;
}
static void no_matmul_backward_input(struct stream *s,
                                     const struct matmul_backward_input_args *args) {
    (void)s, (void)args;
}
static void no_matmul_backward_weight(struct stream *s,
                                      const struct matmul_backward_weight_args *args) {
    (void)s, (void)args;
}
static void no_bias_backward(struct stream *s, float *dbias, const void *dy, int64_t tokens,
                             int64_t width) {
    (void)s, UNUSED4(dbias, dy, tokens, width);
}
static void no_rmsnorm_forward(struct stream *s, void *y, float *rstd, const void *x,
                               const float *w, int64_t rows, int64_t width, float eps) {
    UNUSED4(s, y, rstd, x), UNUSED4(w, rows, width, eps);
}
static void no_rmsnorm_backward(struct stream *s, const struct rmsnorm_backward_args *args) {
    (void)s, (void)args;
}
static void no_rope_table(struct stream *s, float *table, const int32_t *positions,
                          const double *inverse_frequency, double factor, int64_t tokens,
                          int rotary_dim) {
    UNUSED4(s, table, positions, inverse_frequency), (void)factor, (void)tokens, (void)rotary_dim;
}
static void no_rope(struct stream *s, const struct rope_args *args) {
    (void)s, (void)args;
}
static void no_attention_forward(struct stream *s, const struct attention_forward_args *args) {
    (void)s, (void)args;
}
static void no_attention_backward(struct stream *s, const struct attention_backward_args *args) {
    (void)s, (void)args;
}
static void no_attention_part_forward(struct stream *s,
                                      const struct attention_part_forward_args *args) {
    (void)s, (void)args;
}
static void no_attention_part_backward(struct stream *s,
                                       const struct attention_part_backward_args *args) {
    (void)s, (void)args;
}
static void no_kv_write(struct stream *s, const struct kv_source *kv, const void *k, const void *v,
                        const struct segments *segments, int kv_heads, int head_dim) {
    UNUSED4(s, kv, k, v), (void)segments, (void)kv_heads, (void)head_dim;
}
static void no_add(struct stream *s, void *y, const void *a, const void *b, int64_t n) {
    UNUSED4(s, y, a, b), (void)n;
}
static void no_scale(struct stream *s, void *y, float scale, int64_t n) {
    UNUSED4(s, y, scale, n);
}
static void no_accumulate_f32(struct stream *s, float *y, const float *x, int64_t n) {
    UNUSED4(s, y, x, n);
}
static void no_round_f32(struct stream *s, void *y, const float *x, int64_t n) {
    UNUSED4(s, y, x, n);
}
static void no_swiglu_forward(struct stream *s, void *y, const void *gate, const void *up,
                              int64_t n) {
    UNUSED4(s, y, gate, up), (void)n;
}
static void no_swiglu_backward(struct stream *s, void *dgate, void *dup, const void *dy,
                               const void *gate, const void *up, int64_t n) {
    UNUSED4(s, dgate, dup, dy), (void)gate, (void)up, (void)n;
}
static void no_dropout(struct stream *s, const struct dropout_args *args) {
    (void)s, (void)args;
}
static void no_embedding_forward(struct stream *s, void *y, const int32_t *tokens,
                                 const struct weight *w, int64_t first, int64_t vocab,
                                 int64_t count) {
    UNUSED4(s, y, tokens, w), (void)first, (void)vocab, (void)count;
}
static void no_embedding_backward(struct stream *s, const struct weight *dw, const int32_t *tokens,
                                  const void *dy, int64_t first, int64_t count) {
    UNUSED4(s, dw, tokens, dy), (void)first, (void)count;
}
static void no_cross_entropy_forward(struct stream *s, struct cross_entropy_row *rows,
                                     const float *logits, const int32_t *targets, int64_t first,
                                     int64_t tokens, int64_t vocab) {
    UNUSED4(s, rows, logits, targets), (void)first, (void)tokens, (void)vocab;
}
static void no_cross_entropy_backward(struct stream *s, void *dlogits, const float *logits,
                                      const struct cross_entropy_row *rows, const int32_t *targets,
                                      const float *weight, int64_t first, int64_t tokens,
                                      int64_t vocab) {
    UNUSED4(s, dlogits, logits, rows), UNUSED4(targets, weight, first, tokens), (void)vocab;
}
static void no_adamw(struct stream *s, const struct adamw_args *args) {
    (void)s, (void)args;
}
static void no_adamw8(struct stream *s, const struct adamw_args *args, struct moment8 *m,
                      struct moment8 *v) {
    UNUSED4(s, args, m, v);
}
static void no_sum_squares(struct stream *s, double *sum, const float *x, int64_t n) {
    UNUSED4(s, sum, x, n);
}
static void no_sample(struct stream *s, const struct sample_args *args) {
    (void)s, (void)args;
}

static double no_peak_fma(int threads) {
    (void)threads;
    return 0.0;
}

#define OPS                                                                                        \
    .matmul_forward = no_matmul_forward, .matmul_backward_input = no_matmul_backward_input,        \
    .matmul_backward_weight = no_matmul_backward_weight, .bias_backward = no_bias_backward,        \
    .rmsnorm_forward = no_rmsnorm_forward, .rmsnorm_backward = no_rmsnorm_backward,                \
    .rope_table = no_rope_table, .rope = no_rope, .attention_forward = no_attention_forward,       \
    .attention_backward = no_attention_backward, .kv_write = no_kv_write,                          \
    .attention_part_forward = no_attention_part_forward,                                           \
    .attention_part_backward = no_attention_part_backward, .round_f32 = no_round_f32,              \
    .add = no_add, .scale = no_scale, .accumulate_f32 = no_accumulate_f32,                         \
    .swiglu_forward = no_swiglu_forward, .swiglu_backward = no_swiglu_backward,                    \
    .dropout = no_dropout, .embedding_forward = no_embedding_forward,                              \
    .embedding_backward = no_embedding_backward,                                                   \
    .cross_entropy_forward = no_cross_entropy_forward,                                             \
    .cross_entropy_backward = no_cross_entropy_backward, .adamw = no_adamw, .adamw8 = no_adamw8,   \
    .sum_squares = no_sum_squares, .sample = no_sample, .peak_fma = no_peak_fma

const struct kernels *kernels_nothing(enum dtype act) {
    static const struct kernels f32 = {.name = "nothing", .act = DTYPE_F32, OPS};
    static const struct kernels bf16 = {.name = "nothing", .act = DTYPE_BF16, OPS};
    return act == DTYPE_BF16 ? &bf16 : &f32;
}
