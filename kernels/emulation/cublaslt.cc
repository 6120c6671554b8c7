/* A stand-in for cuBLASLt: the same functions, the same column-major matrices, one kernel of plain
 * loops. Like the library it refuses what it can't do, by finding no algorithm. */
#include "kernels/gpu/cublaslt.h"

#include "kernels/gpu/launch.h"

#include <stdlib.h>

namespace {

enum { INVALID = 7, UNSUPPORTED = 15 }; /* CUBLAS_STATUS_INVALID_VALUE, _NOT_SUPPORTED */

struct desc {
    int transpose_a, transpose_b;
};

struct layout {
    int type;
    uint64_t rows, cols;
    int64_t stride;
};

struct preference {
    size_t workspace;
    uint32_t reductions, alignments[4];
};

template <class T> int make(void **object) {
    *object = calloc(1, sizeof(T));
    return *object ? 0 : INVALID;
}

int release(void *object) {
    free(object);
    return 0;
}

int create(void **handle) {
    return make<int>(handle);
}

int desc_create(void **object, int compute, int scale_type) {
    return compute == CUBLASLT_COMPUTE_F32 && scale_type == CUBLASLT_F32 ? make<struct desc>(object)
                                                                         : UNSUPPORTED;
}

int desc_set(void *object, int attribute, const void *value, size_t bytes) {
    struct desc *desc = (struct desc *)object;
    if (bytes != sizeof(int)) return INVALID;
    if (attribute != CUBLASLT_DESC_TRANSPOSE_A && attribute != CUBLASLT_DESC_TRANSPOSE_B)
        return INVALID;
    int *to = attribute == CUBLASLT_DESC_TRANSPOSE_A ? &desc->transpose_a : &desc->transpose_b;
    memcpy(to, value, bytes);
    return 0;
}

int layout_create(void **object, int type, uint64_t rows, uint64_t cols, int64_t stride) {
    if (rows == 0 || cols == 0 || (uint64_t)stride < rows) return INVALID;
    if (make<struct layout>(object)) return INVALID;
    *(struct layout *)*object = {type, rows, cols, stride};
    return 0;
}

int preference_set(void *object, int attribute, const void *value, size_t bytes) {
    struct preference *preference = (struct preference *)object;
    const int operand = attribute - CUBLASLT_PREFER_ALIGNMENT_A;
    if (attribute == CUBLASLT_PREFER_WORKSPACE && bytes == sizeof preference->workspace)
        memcpy(&preference->workspace, value, bytes);
    else if (attribute == CUBLASLT_PREFER_REDUCTIONS && bytes == sizeof preference->reductions)
        memcpy(&preference->reductions, value, bytes);
    else if (operand >= 0 && operand < 4 && bytes == sizeof(uint32_t))
        memcpy(&preference->alignments[operand], value, bytes);
    else
        return INVALID;
    return 0;
}

/* Do the shapes fit: op(A) (m, k), op(B) (k, n), C (m, n)? */
bool fits(const struct desc *desc, const struct layout *a, const struct layout *b,
          const struct layout *c) {
    const uint64_t m = desc->transpose_a ? a->cols : a->rows;
    const uint64_t k = desc->transpose_a ? a->rows : a->cols;
    const uint64_t depth = desc->transpose_b ? b->cols : b->rows;
    const uint64_t n = desc->transpose_b ? b->rows : b->cols;
    return m == c->rows && n == c->cols && k == depth && a->type == CUBLASLT_BF16 &&
           b->type == CUBLASLT_BF16;
}

/* Tensor cores want lines at multiples of 4 bytes. */
int choose(void *, void *desc, void *a, void *b, void *c, void *d, void *preference, int wanted,
           struct cublaslt_choice *choices, int *found) {
    const struct preference *p = (const struct preference *)preference;
    *found = 0;
    if (wanted < 1 || c != d) return INVALID;
    if (!fits((struct desc *)desc, (struct layout *)a, (struct layout *)b, (struct layout *)c))
        return INVALID;
    for (int i = 0; i < 4; i++)
        if (p->alignments[i] < 4) return UNSUPPORTED;
    if (((struct layout *)a)->stride % 2 || ((struct layout *)b)->stride % 2) return UNSUPPORTED;
    choices[0] = {};
    choices[0].algorithm.data[0] = 1;
    *found = 1;
    return 0;
}

struct operands {
    struct layout a, b, c;
    struct desc desc;
    const struct bf16 *a_data, *b_data;
    void *c_data;
    float alpha, beta;
};

/* A thread an element of C. */
void plain_kernel(struct operands o) {
    const uint64_t at = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const uint64_t row = at % o.c.rows, col = at / o.c.rows;
    const uint64_t depth = o.desc.transpose_a ? o.a.rows : o.a.cols;
    if (col >= o.c.cols) return;
    float sum = 0.0f;
    for (uint64_t k = 0; k < depth; k++) {
        const uint64_t i =
            o.desc.transpose_a ? k + row * (uint64_t)o.a.stride : row + k * (uint64_t)o.a.stride;
        const uint64_t j =
            o.desc.transpose_b ? col + k * (uint64_t)o.b.stride : k + col * (uint64_t)o.b.stride;
        sum = fmaf(to_f32(o.a_data[i]), to_f32(o.b_data[j]), sum);
    }
    const uint64_t to = row + col * (uint64_t)o.c.stride;
    float *f32 = (float *)o.c_data;
    struct bf16 *half = (struct bf16 *)o.c_data;
    const bool is_f32 = o.c.type == CUBLASLT_F32;
    sum *= o.alpha;
    if (o.beta != 0.0f) sum += o.beta * (is_f32 ? f32[to] : to_f32(half[to]));
    if (is_f32)
        f32[to] = sum;
    else
        half[to] = from_f32<struct bf16>(sum);
}

int matmul(void *, void *desc, const void *alpha, const void *a, void *a_layout, const void *b,
           void *b_layout, const void *beta, const void *c, void *c_layout, void *d, void *d_layout,
           const struct cublaslt_algorithm *algorithm, void *, size_t, void *stream) {
    struct operands o = {*(struct layout *)a_layout,
                         *(struct layout *)b_layout,
                         *(struct layout *)c_layout,
                         *(struct desc *)desc,
                         (const struct bf16 *)a,
                         (const struct bf16 *)b,
                         d,
                         *(const float *)alpha,
                         *(const float *)beta};
    if (c != d || c_layout != d_layout || algorithm->data[0] != 1) return INVALID;
    if (!fits(&o.desc, &o.a, &o.b, &o.c)) return INVALID;
    struct stream s = {};
    s.device = stream;
    const uint64_t blocks = (o.c.rows * o.c.cols + 127) / 128;
    gpu_launch(&s, "cublasLtMatmul", gpu_grid{.blocks = dim3((unsigned)blocks), .threads = 128},
               plain_kernel, o);
    return s.status == STATUS_OK ? 0 : INVALID;
}

} // namespace

void *cublaslt_symbol(void **library, const char *name) {
    static const struct {
        const char *name;
        void *call;
    } calls[] = {{"cublasLtCreate", (void *)create},
                 {"cublasLtDestroy", (void *)release},
                 {"cublasLtMatmulDescCreate", (void *)desc_create},
                 {"cublasLtMatmulDescSetAttribute", (void *)desc_set},
                 {"cublasLtMatmulDescDestroy", (void *)release},
                 {"cublasLtMatrixLayoutCreate", (void *)layout_create},
                 {"cublasLtMatrixLayoutDestroy", (void *)release},
                 {"cublasLtMatmulPreferenceCreate", (void *)make<struct preference>},
                 {"cublasLtMatmulPreferenceSetAttribute", (void *)preference_set},
                 {"cublasLtMatmulPreferenceDestroy", (void *)release},
                 {"cublasLtMatmulAlgoGetHeuristic", (void *)choose},
                 {"cublasLtMatmul", (void *)matmul}};
    (void)library;
    for (const auto &call : calls)
        if (strcmp(call.name, name) == 0) return call.call;
    return NULL;
}
