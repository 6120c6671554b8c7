/* Serving on a GPU has the bits of training on it: a sequence that was attended to as one packed
 * batch gives the same o and lse when its tokens come in prefill chunks, as decodes and as drafts
 * of a few tokens, through pages of any size, in any order and company. Unwritten pages hold NaN.
 */
#define _GNU_SOURCE
#include "tests/gpu_attention.h"

struct server {
    struct gpu_case *c;
    const struct packed *p; /* the same tokens as one contiguous batch */
    char *want_o;           /* what it gave */
    float *want_lse;
    struct kv_source kv;          /* of the device */
    int32_t *pages;               /* (sequences, max_pages) */
    int32_t done[MOST_SEQUENCES]; /* tokens of each that are written */
    size_t q_row, kv_row;         /* bytes */
};

static void server_open(struct server *s, int page_size, enum dtype dtype) {
    struct gpu_case *c = s->c;
    const struct packed *p = s->p;
    int32_t count = p->segments.count, most = 0;
    for (int i = 0; i < count; i++) {
        int32_t pages = (p->start[i + 1] - p->start[i] + page_size - 1) / page_size;
        most = pages > most ? pages : most;
    }
    s->pages = gpu_shared_bytes(c, (size_t)(count * most) * sizeof *s->pages);
    for (int i = 0; i < count * most; i++) {
        int other = random_int(&c->random, 0, i);
        s->pages[i] = s->pages[other];
        s->pages[other] = i;
    }
    size_t width = (size_t)(p->shape.kv_heads * p->shape.head_dim);
    size_t bytes = dtype_bytes(dtype, (size_t)(count * most * page_size) * width);
    void *k = gpu_bytes(c, bytes), *v = gpu_bytes(c, bytes);
    s->kv = (struct kv_source){gpu_of(c, k), gpu_of(c, v), dtype, NULL, page_size, most};
    stream_fill(&c->stream, s->kv.k, 0xff, bytes);
    stream_fill(&c->stream, s->kv.v, 0xff, bytes);
    s->q_row = act_bytes(c->cuda, (size_t)(p->shape.heads * p->shape.head_dim));
    s->kv_row = act_bytes(c->cuda, width);
    s->want_o = gpu_fetch(c, p->o);
    s->want_lse = gpu_fetch(c, p->lse);
}

/* One step's arrays: taken from the contiguous batch, and freed after it. */
struct step {
    struct segments segments;
    int32_t tokens[512]; /* of the contiguous batch */
    void *q, *k, *v, *o; /* of the device */
    float *lse;
};

static void *step_array(struct server *s, const struct step *step, size_t row_bytes,
                        const void *from) {
    struct gpu_case *c = s->c;
    size_t n = (size_t)step->segments.start[step->segments.count];
    void *array;
    assert_ok(device_allocate(&c->gpu, &array, n * row_bytes));
    for (size_t i = 0; from && i < n; i++)
        stream_copy(&c->stream, (char *)array + i * row_bytes,
                    (const char *)from + (size_t)step->tokens[i] * row_bytes, row_bytes);
    return array;
}

/* Takes `take[i]` next tokens of each sequence, sequences in the order that begins with `first`. */
static void choose_tokens(struct server *s, struct step *step, const int *take, int first,
                          int32_t *start, int32_t *past, int32_t *table) {
    int32_t count = s->p->segments.count, n = 0;
    start[0] = 0;
    for (int i = 0; i < count; i++) {
        int sequence = (i + first) % count;
        past[i] = s->done[sequence];
        for (int j = 0; j < take[sequence]; j++)
            step->tokens[n++] = s->p->start[sequence] + past[i] + j;
        start[i + 1] = n;
        s->done[sequence] += take[sequence];
        memcpy(table + i * s->kv.max_pages, s->pages + sequence * s->kv.max_pages,
               (size_t)s->kv.max_pages * sizeof *table);
    }
    step->segments = (struct segments){count, start, past};
}

static void expect_step(struct server *s, const struct step *step, const void *o,
                        const float *lse) {
    size_t heads = (size_t)s->p->shape.heads;
    for (int i = 0; i < step->segments.start[step->segments.count]; i++) {
        size_t token = (size_t)step->tokens[i];
        bool same = memcmp((const char *)o + (size_t)i * s->q_row, s->want_o + token * s->q_row,
                           s->q_row) == 0;
        same = same && memcmp(lse + (size_t)i * heads, s->want_lse + token * heads,
                              heads * sizeof *lse) == 0;
        if (!same)
            fail_msg(
                "token %zu has other bits (case %d, head dim %d, group %d, window %d, schedule "
                "%s)",
                token, s->c->number, s->p->shape.head_dim, s->p->shape.heads / s->p->shape.kv_heads,
                (int)s->p->shape.window, s->c->schedule);
    }
}

static void server_step(struct server *s, const int *take, int first) {
    struct gpu_case *c = s->c;
    const struct attention_shape shape = s->p->shape;
    int32_t count = s->p->segments.count;
    void *start, *past, *table;
    assert_ok(device_allocate_shared(&c->gpu, &start, ((size_t)count + 1) * sizeof(int32_t)));
    assert_ok(device_allocate_shared(&c->gpu, &past, (size_t)count * sizeof(int32_t)));
    assert_ok(device_allocate_shared(&c->gpu, &table,
                                     (size_t)(count * s->kv.max_pages) * sizeof(int32_t)));
    struct step step;
    choose_tokens(s, &step, take, first, start, past, table);
    size_t n = (size_t)step.segments.start[count], lse_row = (size_t)shape.heads * sizeof(float);
    step.q = step_array(s, &step, s->q_row, s->p->q);
    step.k = step_array(s, &step, s->kv_row, s->p->k);
    step.v = step_array(s, &step, s->kv_row, s->p->v);
    step.o = step_array(s, &step, s->q_row, NULL);
    step.lse = step_array(s, &step, lse_row, NULL);
    struct kv_source kv = s->kv;
    kv.page_table = table;
    c->cuda->kv_write(&c->stream, &kv, step.k, step.v, &step.segments, shape.kv_heads,
                      shape.head_dim);
    c->cuda->attention_forward(
        &c->stream,
        &(struct attention_forward_args){step.o, step.lse, step.q, &kv, &step.segments, shape});
    void *o = new_bytes(n * s->q_row);
    float *lse = new_bytes(n * lse_row);
    stream_copy(&c->stream, o, step.o, n * s->q_row);
    stream_copy(&c->stream, lse, step.lse, n * lse_row);
    assert_ok(stream_check(&c->stream));
    expect_step(s, &step, o, lse);
    void *arrays[] = {step.q, step.k, step.v, step.o, step.lse};
    for (int i = 0; i < 5; i++) device_free(&c->gpu, arrays[i]);
    void *shared[] = {start, past, table};
    for (int i = 0; i < 3; i++) device_free_shared(&c->gpu, shared[i]);
    free(o);
    free(lse);
}

/* Chunks of up to `most` tokens, decodes of one, drafts of a few, and nothing, by chance. */
static void serve(struct server *s, int most) {
    struct gpu_case *c = s->c;
    int32_t count = s->p->segments.count, left = s->p->start[count];
    while (left > 0) {
        int take[MOST_SEQUENCES];
        for (int i = 0; i < count; i++) {
            int rest = s->p->start[i + 1] - s->p->start[i] - s->done[i];
            const int chunks[] = {random_int(&c->random, 0, most), 1, random_int(&c->random, 2, 5)};
            int chunk = chunks[s->done[i] == 0 ? 0 : random_int(&c->random, 0, 2)];
            take[i] = chunk < rest ? chunk : rest;
            left -= take[i];
        }
        server_step(s, take, random_int(&c->random, 0, count - 1));
    }
    free(s->want_o);
    free(s->want_lse);
}

static const int page_sizes[] = {16, 32, 48, 64, 128};

static void chunks_case(struct gpu_case *c, void *context) {
    (void)context;
    struct packed p;
    pack_case(c, &p, 100);
    run_forward(c, &p);
    struct server s = {.c = c, .p = &p};
    server_open(&s, page_sizes[c->number % 5], c->cuda->act);
    serve(&s, 80);
}

/* Histories of several splits of a decode, the last steps decodes. */
static void long_case(struct gpu_case *c, void *context) {
    (void)context;
    struct packed p;
    struct attention_shape shape = shape_of_case(c);
    shape.heads /= shape.kv_heads;
    shape.kv_heads = 1;
    if (shape.heads > 4) shape.heads = c->number == 3 ? 8 : 4;
    if (shape.head_dim > 128) shape.head_dim = 72;
    if (shape.window > 0) shape.window += 200;
    int lengths[] = {random_int(&c->random, 270, 350), 3};
    pack(c, &p, shape, lengths, 2);
    run_forward(c, &p);
    struct server s = {.c = c, .p = &p};
    server_open(&s, page_sizes[(c->number + 2) % 5], c->cuda->act);
    server_step(&s, (const int[]){lengths[0] - 4, 0}, 0);
    server_step(&s, (const int[]){2, 1}, 1);
    server_step(&s, (const int[]){1, 1}, 0);
    server_step(&s, (const int[]){1, 1}, 1);
    free(s.want_o);
    free(s.want_lse);
}

/* Pages in fp32 hold bf16 activations as they are; bf16 pages under fp32 are the attention over the
 * rounded keys and values. */
static void cache_case(struct gpu_case *c, void *context) {
    (void)context;
    struct packed p;
    pack_case(c, &p, 70);
    bool narrow = c->cuda->act == DTYPE_BF16;
    for (size_t i = 0; !narrow && i < p.kv_count; i++) {
        ((float *)p.k)[i] = bf16_to_f32(f32_to_bf16(((float *)p.k)[i]));
        ((float *)p.v)[i] = bf16_to_f32(f32_to_bf16(((float *)p.v)[i]));
    }
    gpu_send(c, p.k);
    gpu_send(c, p.v);
    run_forward(c, &p);
    struct server s = {.c = c, .p = &p};
    server_open(&s, page_sizes[c->number % 5], narrow ? DTYPE_F32 : DTYPE_BF16);
    serve(&s, 60);
}

static void test_chunks(void **state) {
    (void)state;
    gpu_each(10, chunks_case, NULL);
}

static void test_long_histories(void **state) {
    (void)state;
    gpu_each(4, long_case, NULL);
}

static void test_caches_of_other_types(void **state) {
    (void)state;
    gpu_each(3, cache_case, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_chunks),
                                       cmocka_unit_test(test_long_histories),
                                       cmocka_unit_test(test_caches_of_other_types)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
