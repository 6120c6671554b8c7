/* Products by cuBLASLt. Row-major C = A B^T is column-major C^T = B A^T, whose first operand is B:
 * rows of a stored matrix are the library's columns. */
#include "kernels/gpu/cublaslt.h"
#include "kernels/gpu/launch.h"
#include "kernels/product_cuda.h"

#include <stdlib.h>

static constexpr size_t WORKSPACE_BYTES = 32 << 20;
static constexpr int MOST_CHOICES = 256, ALIGNMENT = 256;

/* What an algorithm is chosen by. */
struct library_shape {
    int64_t m, n, k, a_stride, b_stride, c_stride;
    int a_by_depth, b_by_depth, c_bf16;
    int a_alignment, b_alignment, c_alignment; /* bytes */
};

struct library_plan {
    struct library_shape shape;
    struct cublaslt_algorithm algorithm;
    bool usable;
};

struct product_library {
    struct cublaslt calls;
    void *file, *handle, *workspace;
    struct library_plan plans[MOST_CHOICES];
    int planned;
};

static bool find_calls(struct product_library *library) {
    const struct {
        void **call;
        const char *name;
    } names[] = {{(void **)&library->calls.create, "cublasLtCreate"},
                 {(void **)&library->calls.destroy, "cublasLtDestroy"},
                 {(void **)&library->calls.desc_create, "cublasLtMatmulDescCreate"},
                 {(void **)&library->calls.desc_set, "cublasLtMatmulDescSetAttribute"},
                 {(void **)&library->calls.desc_destroy, "cublasLtMatmulDescDestroy"},
                 {(void **)&library->calls.layout_create, "cublasLtMatrixLayoutCreate"},
                 {(void **)&library->calls.layout_destroy, "cublasLtMatrixLayoutDestroy"},
                 {(void **)&library->calls.preference_create, "cublasLtMatmulPreferenceCreate"},
                 {(void **)&library->calls.preference_set, "cublasLtMatmulPreferenceSetAttribute"},
                 {(void **)&library->calls.preference_destroy, "cublasLtMatmulPreferenceDestroy"},
                 {(void **)&library->calls.choose, "cublasLtMatmulAlgoGetHeuristic"},
                 {(void **)&library->calls.matmul, "cublasLtMatmul"}};
    for (const auto &name : names) {
        *name.call = cublaslt_symbol(&library->file, name.name);
        if (!*name.call) return false;
    }
    return true;
}

struct product_library *product_library_open(void) {
    struct product_library *library = (struct product_library *)calloc(1, sizeof *library);
    if (!library) return NULL;
    if (find_calls(library) && library->calls.create(&library->handle) == 0 &&
        cudaMalloc(&library->workspace, WORKSPACE_BYTES) == cudaSuccess)
        return library;
    cudaGetLastError();
    if (library->handle) library->calls.destroy(library->handle);
    library->handle = NULL; /* asked once: products go on without it */
    return library;
}

void product_library_close(struct product_library *library) {
    if (!library) return;
    if (library->handle) {
        library->calls.destroy(library->handle);
        cudaFree(library->workspace);
    }
    free(library);
}

static int alignment_of(const void *data) {
    const uintptr_t lowest = (uintptr_t)data & (0 - (uintptr_t)data);
    return lowest > ALIGNMENT ? ALIGNMENT : (int)lowest;
}

static struct library_shape shape_of(const struct cuda_product *p) {
    struct library_shape shape;
    memset(&shape, 0, sizeof shape); /* shapes are compared as bytes */
    shape.m = p->m, shape.n = p->n, shape.k = p->k;
    shape.a_stride = p->a.stride, shape.b_stride = p->b.stride, shape.c_stride = p->c_stride;
    shape.a_by_depth = p->a.by_depth, shape.b_by_depth = p->b.by_depth, shape.c_bf16 = p->c_bf16;
    shape.a_alignment = alignment_of(p->a.data);
    shape.b_alignment = alignment_of(p->b.data);
    shape.c_alignment = alignment_of(p->c);
    return shape;
}

/* The library's descriptions of one product; zero where they were not made. */
struct library_call {
    void *desc, *first, *second, *result, *preference;
};

static void call_destroy(const struct cublaslt *calls, struct library_call *call) {
    if (call->desc) calls->desc_destroy(call->desc);
    if (call->first) calls->layout_destroy(call->first);
    if (call->second) calls->layout_destroy(call->second);
    if (call->result) calls->layout_destroy(call->result);
    if (call->preference) calls->preference_destroy(call->preference);
}

static int call_create(const struct cublaslt *calls, struct library_call *call,
                       const struct library_shape *p) {
    const int first = !p->b_by_depth, second = p->a_by_depth;
    const uint64_t m = (uint64_t)p->m, n = (uint64_t)p->n, k = (uint64_t)p->k;
    int error = calls->desc_create(&call->desc, CUBLASLT_COMPUTE_F32, CUBLASLT_F32);
    if (error) return error;
    error |= calls->desc_set(call->desc, CUBLASLT_DESC_TRANSPOSE_A, &first, sizeof first);
    error |= calls->desc_set(call->desc, CUBLASLT_DESC_TRANSPOSE_B, &second, sizeof second);
    error |= calls->layout_create(&call->first, CUBLASLT_BF16, first ? k : n, first ? n : k,
                                  p->b_stride);
    error |= calls->layout_create(&call->second, CUBLASLT_BF16, second ? m : k, second ? k : m,
                                  p->a_stride);
    error |= calls->layout_create(&call->result, p->c_bf16 ? CUBLASLT_BF16 : CUBLASLT_F32, n, m,
                                  p->c_stride);
    return error;
}

static int preference_create(const struct cublaslt *calls, struct library_call *call,
                             const struct library_shape *p) {
    const size_t bytes = WORKSPACE_BYTES;
    const uint32_t reductions = CUBLASLT_REDUCTIONS_IN_ORDER;
    const uint32_t alignments[] = {(uint32_t)p->b_alignment, (uint32_t)p->a_alignment,
                                   (uint32_t)p->c_alignment, (uint32_t)p->c_alignment};
    int error = calls->preference_create(&call->preference);
    if (error) return error;
    error |=
        calls->preference_set(call->preference, CUBLASLT_PREFER_WORKSPACE, &bytes, sizeof bytes);
    error |= calls->preference_set(call->preference, CUBLASLT_PREFER_REDUCTIONS, &reductions,
                                   sizeof reductions);
    for (int i = 0; i < 4; i++)
        error |= calls->preference_set(call->preference, CUBLASLT_PREFER_ALIGNMENT_A + i,
                                       &alignments[i], sizeof alignments[i]);
    return error;
}

static void choose(const struct product_library *library, struct library_plan *plan,
                   struct library_call *call) {
    const struct cublaslt *calls = &library->calls;
    struct cublaslt_choice choice = {};
    int found = 0;
    plan->usable =
        preference_create(calls, call, &plan->shape) == 0 &&
        calls->choose(library->handle, call->desc, call->first, call->second, call->result,
                      call->result, call->preference, 1, &choice, &found) == 0 &&
        found == 1 && choice.status == 0;
    plan->algorithm = choice.algorithm;
}

/* The plan of a shape, made when it is met first; where there is no more room, the last one's place
 * is taken. */
static struct library_plan *plan_of(struct product_library *library,
                                    const struct library_shape *shape, struct library_call *call) {
    for (int i = 0; i < library->planned; i++)
        if (memcmp(&library->plans[i].shape, shape, sizeof *shape) == 0) return &library->plans[i];
    if (library->planned < MOST_CHOICES) library->planned++;
    struct library_plan *plan = &library->plans[library->planned - 1];
    plan->shape = *shape;
    choose(library, plan, call);
    return plan;
}

bool product_library_cuda(struct stream *s, const char *op, const struct cuda_product *p) {
    struct product_library *library = s->products;
    if (s->status != STATUS_OK) return true;
    if (!library || !library->handle || p->bias || !p->a.bf16 || !p->b.bf16) return false;
    const struct library_shape shape = shape_of(p);
    const struct cublaslt *calls = &library->calls;
    struct library_call call = {};
    int error = call_create(calls, &call, &shape);
    const struct library_plan *plan = error ? NULL : plan_of(library, &shape, &call);
    const bool usable = plan && plan->usable;
    if (usable) {
        const float alpha = 1.0f, beta = p->accumulate ? 1.0f : 0.0f;
        error = calls->matmul(library->handle, call.desc, &alpha, p->b.data, call.first, p->a.data,
                              call.second, &beta, p->c, call.result, p->c, call.result,
                              &plan->algorithm, library->workspace, WORKSPACE_BYTES, s->device);
        if (error) stream_fail(s, STATUS_DEVICE, op, "cuBLASLt returned status %d", error);
    }
    call_destroy(calls, &call);
    return usable;
}
