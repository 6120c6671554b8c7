#include "parallel/data_parallel.h"
#include "kernels/base/units.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* --- layout ---------------------------------------------------------------------------------- */

/* Vectors beside sharded matrices: all in the last bucket. */
static bool set_apart(const struct dp *dp, const struct param *param) {
    return dp->weights_sharded && weight_is_vector(param->id);
}

/* Buckets that take turns hold whole groups, so that what a layer's backward writes is in one. */
enum { APART = -2 };
static int group_of(const struct dp *dp, const struct param *param) {
    return set_apart(dp, param) ? APART : param_completing_layer(param, dp->layers);
}

/* Its gradient is written to by the head's backward and completed by the embedding's. */
static bool lasts(const struct dp *dp, const struct param *param) {
    return set_apart(dp, param) || (dp->tied && param->id == WEIGHT_EMBED);
}

/* Backward order: upper layers first. Stable, so a layer's parameters keep the caller's order. */
static void sort_backward(struct dp *dp, struct param *const *params) {
    int n = 0;
    for (int group = dp->layers; group >= APART; group--)
        for (int i = 0; i < dp->param_count; i++)
            if (group_of(dp, params[i]) == group) dp->params[n++] = params[i];
    assert(n == dp->param_count);
}

static int64_t gradient_elements(const struct param *param) {
    const struct weight *w = &param->w;
    return weight_elements(layout_of_gradient(w->layout), w->rows, w->cols);
}

static int64_t round_up(int64_t value, int64_t unit) {
    return (value + unit - 1) / unit * unit;
}

/* Whether a bucket of `elements` so far ends behind parameter i. */
static bool ends_bucket(const struct dp *dp, int i, int64_t elements, size_t bucket_bytes) {
    if (i + 1 == dp->param_count) return true;
    bool full = (size_t)elements * sizeof(float) >= bucket_bytes;
    const struct param *next = dp->params[i + 1];
    if (dp->zero && lasts(dp, next) != lasts(dp, dp->params[i])) return true;
    if (dp->zero < 2) return full;
    int group = group_of(dp, dp->params[i]), below = group_of(dp, next);
    if (group == below) return false;
    return full || dp->weights_sharded || below != group - 1;
}

static void cut_buckets(struct dp *dp, size_t bucket_bytes) {
    int64_t unit = dp->zero ? DP_CUT : ARENA_ALIGN / (int64_t)sizeof(float), elements = 0;
    for (int i = 0, first = 0; i < dp->param_count; i++) {
        dp->offsets[i] = elements;
        elements += round_up(gradient_elements(dp->params[i]), unit);
        if (!ends_bucket(dp, i, elements, bucket_bytes)) continue;
        const struct param *param = dp->params[first];
        dp->buckets[dp->bucket_count++] =
            (struct dp_bucket){.count = round_up(elements, unit * dp->shares),
                               .first = first,
                               .last = i + 1,
                               .lasting = dp->zero >= 2 && lasts(dp, param),
                               .whole = !dp->weights_sharded || set_apart(dp, param),
                               .pending = i + 1 - first};
        first = i + 1;
        elements = 0;
    }
}

static float *push_floats(struct arena *arena, int64_t count) {
    return arena_push(arena, (size_t)count * sizeof(float));
}

/* Zero 2 and 3: my shares, and buffers that the buckets take turns in, but for lasting ones. */
static void push_turns(struct dp *dp, struct arena *grads) {
    int64_t largest[2] = {0, 0};
    for (int b = 0, turn = 0; b < dp->bucket_count; b++) {
        struct dp_bucket *bucket = &dp->buckets[b];
        bucket->share = push_floats(grads, bucket->count / dp->shares);
        if (bucket->lasting)
            bucket->data = push_floats(grads, bucket->count);
        else
            largest[turn] = max_i64(largest[turn], bucket->count), turn = !turn;
    }
    float *const turns[2] = {push_floats(grads, largest[0]), push_floats(grads, largest[1])};
    for (int b = 0, turn = 0; b < dp->bucket_count; b++)
        if (!dp->buckets[b].lasting) dp->buckets[b].data = turns[turn], turn = !turn;
}

static bool scatters_at_once(const struct dp_bucket *bucket) {
    return bucket->count > DP_SCATTER_BYTES / (int64_t)sizeof(float);
}

static void push_scratch(struct dp *dp, struct arena *grads) {
    int64_t largest = 0;
    for (int b = 0; b < dp->bucket_count; b++)
        if (!scatters_at_once(&dp->buckets[b])) largest = max_i64(largest, dp->buckets[b].count);
    if (dp->shares > 1) dp->scratch = push_floats(grads, largest);
}

static void push_buckets(struct dp *dp, struct arena *grads) {
    push_scratch(dp, grads);
    if (dp->zero >= 2) push_turns(dp, grads);
    for (int b = 0; b < dp->bucket_count && dp->zero < 2; b++) {
        struct dp_bucket *bucket = &dp->buckets[b];
        bucket->data = push_floats(grads, bucket->count);
        bucket->share = bucket->data + dp->mine * (bucket->count / dp->shares);
    }
    for (int b = 0; b < dp->bucket_count; b++)
        for (int i = dp->buckets[b].first; i < dp->buckets[b].last; i++) {
            const struct weight *w = &dp->params[i]->w;
            dp->params[i]->grad = (struct weight){.layout = layout_of_gradient(w->layout),
                                                  .rows = w->rows,
                                                  .cols = w->cols,
                                                  .data = dp->buckets[b].data + dp->offsets[i]};
        }
}

enum status dp_plan(struct dp *dp, const struct dp_options *options, struct param *const *params,
                    int param_count, struct arena *grads) {
    const struct comm *comm = options->comm;
    *dp = (struct dp){.comm = options->comm,
                      .stream = options->stream,
                      .zero = options->zero,
                      .shares = options->zero ? comm->size : 1,
                      .mine = options->zero ? comm->rank : 0,
                      .layers = options->layers,
                      .tied = options->tied,
                      .weights_sharded = options->weights_sharded,
                      .param_count = param_count};
    dp->params = calloc((size_t)param_count + 1, sizeof(struct param *));
    dp->offsets = calloc((size_t)param_count + 1, sizeof *dp->offsets);
    dp->buckets = calloc((size_t)param_count + 1, sizeof *dp->buckets);
    if (!dp->params || !dp->offsets || !dp->buckets) {
        dp_free(dp);
        return status_fail(STATUS_MEMORY, "no memory for the buckets of %d parameters",
                           param_count);
    }
    sort_backward(dp, params);
    cut_buckets(dp, options->bucket_bytes);
    push_buckets(dp, grads);
    return STATUS_OK;
}

void dp_free(struct dp *dp) {
    free(dp->params);
    free(dp->offsets);
    free(dp->buckets);
    *dp = (struct dp){0};
}

/* --- a step ---------------------------------------------------------------------------------- */

static void clear(float *values, int64_t count) {
    memset(values, 0, (size_t)count * sizeof *values);
}

void dp_zero(const struct dp *dp) {
    for (int b = 0; b < dp->bucket_count; b++) {
        struct dp_bucket *bucket = &dp->buckets[b];
        bucket->open = dp->zero < 2;
        if (dp->zero >= 2)
            clear(bucket->share, bucket->count / dp->shares);
        else
            clear(bucket->data, bucket->count);
    }
}

static float *share_of_data(const struct dp *dp, const struct dp_bucket *bucket) {
    return bucket->data + dp->mine * (bucket->count / dp->shares);
}

/* Waits for a reduction; what was scattered in turns is added to the shares. */
static void settle(struct dp *dp, struct dp_bucket *bucket) {
    if (!bucket->started) return;
    comm_wait(dp->comm, dp->stream, &bucket->request);
    bucket->started = bucket->open = false;
    bucket->pending = bucket->last - bucket->first;
    if (dp->zero < 2) return;
    const float *sum = share_of_data(dp, bucket);
    for (int64_t i = 0; i < bucket->count / dp->shares; i++) bucket->share[i] += sum[i];
}

/* One scatter is in flight: it had the time in which the next bucket was filled. */
static void start_scatter(struct dp *dp, struct dp_bucket *bucket) {
    float *share = share_of_data(dp, bucket);
    for (int b = 0; b < dp->bucket_count; b++) settle(dp, &dp->buckets[b]);
    if (scatters_at_once(bucket))
        comm_reduce_scatter(dp->comm, dp->stream, share, bucket->data, bucket->count, DTYPE_F32);
    else
        comm_start_reduce_scatter(dp->comm, dp->stream, share, bucket->data, dp->scratch,
                                  bucket->count, DTYPE_F32, &bucket->request);
}

static void start_bucket(struct dp *dp, struct dp_bucket *bucket) {
    if (!dp->zero)
        comm_start_all_reduce(dp->comm, dp->stream, bucket->data, bucket->count, DTYPE_F32,
                              &bucket->request);
    else
        start_scatter(dp, bucket);
    bucket->started = true;
}

static bool concerns(const struct dp *dp, const struct dp_bucket *bucket, int layer) {
    if (bucket->lasting) return true;
    for (int i = bucket->first; i < bucket->last; i++)
        if (param_completing_layer(dp->params[i], dp->layers) == layer) return true;
    return false;
}

void dp_layer_begins(struct dp *dp, int layer) {
    for (int b = 0; b < dp->bucket_count; b++) {
        struct dp_bucket *bucket = &dp->buckets[b];
        if (dp->zero < 2 || (bucket->open && !bucket->started) || !concerns(dp, bucket, layer))
            continue;
        for (int other = 0; other < dp->bucket_count; other++)
            if (dp->buckets[other].data == bucket->data) settle(dp, &dp->buckets[other]);
        clear(bucket->data, bucket->count);
        bucket->open = true;
    }
}

void dp_layer_done(void *context, int layer) {
    struct dp *dp = context;
    for (int b = 0; b < dp->bucket_count; b++) {
        struct dp_bucket *bucket = &dp->buckets[b];
        if (bucket->started) {
            comm_test(dp->comm, dp->stream, &bucket->request);
            continue;
        }
        for (int i = bucket->first; i < bucket->last && bucket->open && !bucket->lasting; i++)
            bucket->pending -= param_completing_layer(dp->params[i], dp->layers) == layer;
        assert(bucket->pending >= 0); /* a layer is reported once a backward */
        if (bucket->pending == 0) start_bucket(dp, bucket);
    }
}

void dp_pass_done(struct dp *dp) {
    for (int b = 0; b < dp->bucket_count; b++) {
        struct dp_bucket *bucket = &dp->buckets[b];
        if (bucket->lasting && bucket->open && !bucket->started) start_bucket(dp, bucket);
    }
}

void dp_finish(struct dp *dp) {
    for (int b = 0; b < dp->bucket_count; b++)
        if (dp->buckets[b].open && !dp->buckets[b].started) start_bucket(dp, &dp->buckets[b]);
    for (int b = 0; b < dp->bucket_count; b++) settle(dp, &dp->buckets[b]);
}

/* --- shares ---------------------------------------------------------------------------------- */

void dp_sum_shares(struct dp *dp, double *values, int count) {
    if (dp->shares > 1) comm_all_reduce(dp->comm, dp->stream, values, count, DTYPE_F64, COMM_SUM);
}

int64_t dp_piece_count(const struct dp *dp, int bucket, int i, int rank) {
    int64_t size = dp->buckets[bucket].count / dp->shares, begin = rank * size;
    int64_t from = max_i64(dp->offsets[i], begin);
    int64_t to = min_i64(dp->offsets[i] + gradient_elements(dp->params[i]), begin + size);
    return max_i64(to - from, 0);
}

struct dp_piece dp_piece(const struct dp *dp, const struct param *param) {
    int i = 0, b = 0;
    while (dp->params[i] != param) assert(i < dp->param_count), i++;
    while (dp->buckets[b].last <= i) b++;
    const struct dp_bucket *bucket = &dp->buckets[b];
    int64_t begin = dp->mine * (bucket->count / dp->shares), offset = dp->offsets[i];
    int64_t from = max_i64(offset, begin);
    return (struct dp_piece){.bucket = b,
                             .first = from - offset,
                             .count = dp_piece_count(dp, b, i, dp->mine),
                             .grad = bucket->share + (from - begin),
                             .staged = bucket->data + from};
}

void dp_gather(struct dp *dp, int b) {
    const struct dp_bucket *bucket = &dp->buckets[b];
    assert(bucket->whole);
    comm_all_gather(dp->comm, dp->stream, bucket->data, share_of_data(dp, bucket),
                    bucket->count / dp->shares, DTYPE_F32);
    for (int i = bucket->first; i < bucket->last; i++)
        weight_round(dp->stream, &dp->params[i]->w, bucket->data + dp->offsets[i]);
}
