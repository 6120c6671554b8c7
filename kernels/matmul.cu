/* The matrix products of a GPU: which kernel takes which operands.
 *
 * bf16 activations with a bf16 weight, and the gradients of bf16 activations, go to tensor cores
 * (the gradients through cuBLASLt where it is there, by our own kernel elsewhere); whatever has an
 * fp32 operand is a chain of fused multiply-adds. A quantized weight is widened to act's type in a
 * workspace, a piece at a time, so that the product of each piece has the bits of the whole; few
 * rows of bf16 go to the fused kernel instead. */
#include "kernels/gpu/cuda_ops.h"
#include "kernels/gpu/launch.h"
#include "kernels/product_cuda.h"
#include "kernels/quantized_cuda.h"
extern "C" {
#include "kernels/quantized.h"
}

static const bool AS_STORED = false, BY_DEPTH = true;

static struct cuda_operand operand(const void *data, int64_t stride, bool by_depth, bool bf16) {
    struct cuda_operand operand = {};
    operand.data = data;
    operand.stride = stride;
    operand.by_depth = by_depth;
    operand.bf16 = bf16;
    return operand;
}

static void product_run(struct stream *s, const char *op, const struct cuda_product *p) {
    if (product_tensor_takes(p))
        product_tensor_cuda(s, op, p);
    else
        product_chain_cuda(s, op, p);
}

/* A gradient, whose order of sums is free. */
static void gradient_run(struct stream *s, const char *op, const struct cuda_product *p) {
    if (product_tensor_takes(p) && !s->own_products) {
        if (!s->products) s->products = product_library_open();
        if (product_library_cuda(s, op, p)) return;
    }
    product_run(s, op, p);
}

/* How many of `unit`s of `extent` fit into a workspace where one takes `bytes`; at least one. */
static int64_t piece_of(int64_t extent, int64_t unit, int64_t bytes) {
    const int64_t most = PRODUCT_PIECE_BYTES / (unit * bytes) * unit;
    const int64_t piece = most < unit ? unit : most;
    return piece < extent ? piece : extent;
}

/* Rows of W are columns of y: pieces of rows. */
static void forward_quantized(struct stream *s, const struct cuda_product *p,
                              const struct weight *w) {
    const bool bf16 = p->a.bf16;
    const int64_t element = bf16 ? 2 : 4, c_element = p->c_bf16 ? 2 : 4;
    const int64_t piece = piece_of(w->rows, PANEL_ROWS, w->cols * element);
    void *values = device_scratch(s, (size_t)(piece * w->cols * element));
    for (int64_t row = 0; values && row < w->rows; row += piece) {
        const int64_t rows = w->rows - row < piece ? w->rows - row : piece;
        struct dequantize_part part = {values, bf16, row, rows, 0, w->cols};
        dequantize_cuda(s, w, &part);
        struct cuda_product q = *p;
        q.b = operand(values, w->cols, AS_STORED, bf16);
        q.c = (char *)p->c + row * c_element;
        q.bias = p->bias ? p->bias + row : NULL;
        q.n = rows;
        product_run(s, "matmul_forward", &q);
    }
}

/* Columns of W are columns of dx: pieces of columns. */
static void backward_quantized(struct stream *s, const struct cuda_product *p,
                               const struct weight *w) {
    const bool bf16 = p->a.bf16;
    const int64_t element = bf16 ? 2 : 4;
    const int64_t piece = piece_of(w->cols, QUANTIZED_CHUNK, w->rows * element);
    void *values = device_scratch(s, (size_t)(w->rows * piece * element));
    for (int64_t col = 0; values && col < w->cols; col += piece) {
        const int64_t cols = w->cols - col < piece ? w->cols - col : piece;
        struct dequantize_part part = {values, bf16, 0, w->rows, col, cols};
        dequantize_cuda(s, w, &part);
        struct cuda_product q = *p;
        q.b = operand(values, cols, BY_DEPTH, bf16);
        q.c = (char *)p->c + col * element;
        q.n = cols;
        gradient_run(s, "matmul_backward_input", &q);
    }
}

/* A block sums BIAS_COLUMNS columns: the t-th row goes to lane t % BIAS_ROWS, and the lanes' sums
 * are added in order. */
static constexpr int BIAS_COLUMNS = 32, BIAS_ROWS = 16, BIAS_THREADS = BIAS_COLUMNS * BIAS_ROWS;
struct bias_shared {
    float sums[BIAS_ROWS][BIAS_COLUMNS];
};

template <class A>
static __global__ void __launch_bounds__(BIAS_THREADS)
    bias_kernel(float *dbias, const A *dy, int64_t tokens, int64_t width) {
    GPU_SHARED(struct bias_shared, shared);
    const int lane = (int)threadIdx.x % BIAS_COLUMNS, line = (int)threadIdx.x / BIAS_COLUMNS;
    const int64_t column = (int64_t)blockIdx.x * BIAS_COLUMNS + lane;
    float sum = 0.0f;
    for (int64_t t = line; t < tokens && column < width; t += BIAS_ROWS)
        sum += to_f32(dy[t * width + column]);
    shared.sums[line][lane] = sum;
    __syncthreads();
    if (line > 0 || column >= width) return;
    for (int i = 1; i < BIAS_ROWS; i++) sum += shared.sums[i][lane];
    dbias[column] += sum;
}

/* ---- entry points ---- */

template <class A> static bool is_bf16(void) {
    return sizeof(A) == sizeof(struct bf16);
}

template <class A>
static void matmul_forward(struct stream *s, const struct matmul_forward_args *args) {
    const struct weight *w = args->w;
    struct cuda_product p = {};
    p.a = operand(args->x, w->cols, AS_STORED, is_bf16<A>());
    p.c = args->y;
    p.bias = args->bias;
    p.m = args->tokens;
    p.n = w->rows;
    p.k = w->cols;
    p.c_stride = w->rows;
    p.accumulate = args->accumulate;
    p.c_bf16 = is_bf16<A>() && !args->y_is_f32;
    if (p.m == 0) return;
    if (!layout_is_quantized(w->layout)) {
        assert(layout_is_rows(w->layout));
        p.b = operand(w->data, w->cols, AS_STORED, layout_is_bf16(w->layout));
        product_run(s, "matmul_forward", &p);
    } else if (is_bf16<A>() && p.m <= FUSED_ROWS)
        product_quantized_cuda(s, "matmul_forward", &p, w);
    else
        forward_quantized(s, &p, w);
}

template <class A>
static void matmul_backward_input(struct stream *s, const struct matmul_backward_input_args *args) {
    const struct weight *w = args->w;
    struct cuda_product p = {};
    p.a = operand(args->dy, w->rows, AS_STORED, is_bf16<A>());
    p.c = args->dx;
    p.m = args->tokens;
    p.n = w->cols;
    p.k = w->rows;
    p.c_stride = w->cols;
    p.accumulate = args->accumulate;
    p.c_bf16 = is_bf16<A>();
    if (p.m == 0) return;
    if (layout_is_quantized(w->layout)) {
        backward_quantized(s, &p, w);
        return;
    }
    assert(layout_is_rows(w->layout));
    p.b = operand(w->data, w->cols, BY_DEPTH, layout_is_bf16(w->layout));
    gradient_run(s, "matmul_backward_input", &p);
}

template <class A>
static void matmul_backward_weight(struct stream *s,
                                   const struct matmul_backward_weight_args *args) {
    const struct weight *dw = args->dw;
    assert(dw->layout == LAYOUT_ROWS_F32);
    struct cuda_product p = {};
    p.a = operand(args->dy, dw->rows, BY_DEPTH, is_bf16<A>());
    p.b = operand(args->x, dw->cols, BY_DEPTH, is_bf16<A>());
    p.c = dw->data;
    p.m = dw->rows;
    p.n = dw->cols;
    p.k = args->tokens;
    p.c_stride = dw->cols;
    p.accumulate = true;
    if (p.k > 0) gradient_run(s, "matmul_backward_weight", &p);
}

template <class A>
static void bias_backward(struct stream *s, float *dbias, const void *dy, int64_t tokens,
                          int64_t width) {
    if (tokens == 0) return;
    const int64_t blocks = (width + BIAS_COLUMNS - 1) / BIAS_COLUMNS;
    gpu_launch(s, "bias_backward",
               gpu_grid{.blocks = dim3((unsigned)blocks), .threads = BIAS_THREADS}, bias_kernel<A>,
               dbias, (const A *)dy, tokens, width);
}

template <class A> static void fill(struct kernels *table) {
    table->matmul_forward = matmul_forward<A>;
    table->matmul_backward_input = matmul_backward_input<A>;
    table->matmul_backward_weight = matmul_backward_weight<A>;
    table->bias_backward = bias_backward<A>;
}

void cuda_matmul(struct kernels *table) {
    if (table->act == DTYPE_BF16)
        fill<struct bf16>(table);
    else
        fill<float>(table);
}
