#include "parallel/data_parallel.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* The layer whose completion completes the parameter, as stage_backward reports it. */
static int completing_layer(const struct param *param, int layers) {
    if (param->layer >= 0) return param->layer;
    return param->id == WEIGHT_EMBED ? -1 : layers;
}

/* Backward order: upper layers first. Stable, so a layer's parameters keep the caller's order. */
static void sort_backward(struct param **sorted, struct param *const *params, int count,
                          int layers) {
    int n = 0;
    for (int layer = layers; layer >= -1; layer--)
        for (int i = 0; i < count; i++)
            if (completing_layer(params[i], layers) == layer) sorted[n++] = params[i];
    assert(n == count);
}

static size_t aligned_bytes(const struct param *param) {
    const struct weight *w = &param->w;
    size_t bytes = weight_bytes(layout_of_gradient(w->layout), w->rows, w->cols);
    return (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
}

/* One push a bucket: its parameters are adjacent, each aligned as weights are. */
static void push_bucket(struct dp *dp, struct dp_bucket *bucket, size_t bytes,
                        struct arena *grads) {
    char *data = arena_push(grads, bytes);
    bucket->data = (float *)data;
    bucket->count = (int64_t)(bytes / sizeof(float));
    bucket->pending = bucket->last - bucket->first;
    size_t offset = 0;
    for (int i = bucket->first; i < bucket->last; i++) {
        struct param *param = dp->params[i];
        param->grad = (struct weight){.layout = layout_of_gradient(param->w.layout),
                                      .rows = param->w.rows,
                                      .cols = param->w.cols,
                                      .data = data ? data + offset : NULL};
        offset += aligned_bytes(param);
    }
    assert(offset == bytes);
}

enum status dp_plan(struct dp *dp, struct comm *comm, struct stream *stream,
                    struct param *const *params, int param_count, int layers, size_t bucket_bytes,
                    struct arena *grads) {
    *dp = (struct dp){.comm = comm, .stream = stream, .layers = layers, .param_count = param_count};
    dp->params = calloc((size_t)param_count + 1, sizeof(struct param *));
    dp->buckets = calloc((size_t)param_count + 1, sizeof *dp->buckets);
    if (!dp->params || !dp->buckets) {
        dp_free(dp);
        return status_fail(STATUS_MEMORY, "no memory for the buckets of %d parameters",
                           param_count);
    }
    sort_backward(dp->params, params, param_count, layers);
    size_t bytes = 0;
    for (int i = 0, first = 0; i < param_count; i++) {
        bytes += aligned_bytes(dp->params[i]);
        if (bytes < bucket_bytes && i + 1 < param_count) continue;
        struct dp_bucket *bucket = &dp->buckets[dp->bucket_count++];
        bucket->first = first;
        bucket->last = i + 1;
        push_bucket(dp, bucket, bytes, grads);
        first = i + 1;
        bytes = 0;
    }
    return STATUS_OK;
}

void dp_free(struct dp *dp) {
    free(dp->params);
    free(dp->buckets);
    *dp = (struct dp){0};
}

void dp_zero(const struct dp *dp) {
    for (int b = 0; b < dp->bucket_count; b++)
        memset(dp->buckets[b].data, 0, (size_t)dp->buckets[b].count * sizeof(float));
}

static void start_bucket(struct dp *dp, struct dp_bucket *bucket) {
    bucket->started = true;
    comm_start_all_reduce(dp->comm, dp->stream, bucket->data, bucket->count, DTYPE_F32,
                          &bucket->request);
}

void dp_layer_done(void *context, int layer) {
    struct dp *dp = context;
    for (int b = 0; b < dp->bucket_count; b++) {
        struct dp_bucket *bucket = &dp->buckets[b];
        if (bucket->started) {
            comm_test(dp->comm, dp->stream, &bucket->request);
            continue;
        }
        for (int i = bucket->first; i < bucket->last; i++)
            bucket->pending -= completing_layer(dp->params[i], dp->layers) == layer;
        assert(bucket->pending >= 0); /* a layer is reported once a step */
        if (bucket->pending == 0) start_bucket(dp, bucket);
    }
}

void dp_finish(struct dp *dp) {
    for (int b = 0; b < dp->bucket_count; b++)
        if (!dp->buckets[b].started) start_bucket(dp, &dp->buckets[b]);
    for (int b = 0; b < dp->bucket_count; b++) {
        struct dp_bucket *bucket = &dp->buckets[b];
        comm_wait(dp->comm, dp->stream, &bucket->request);
        bucket->started = false;
        bucket->pending = bucket->last - bucket->first;
    }
}
