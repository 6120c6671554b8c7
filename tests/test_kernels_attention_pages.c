/* Attention over pages, as a server feeds it: the bits of the same tokens in one batch. */
#define _GNU_SOURCE
#include "tests/attention_fixture.h"

/* Serving as an engine does it: each step every sequence feeds a random number of its next tokens,
 * through pages of a random table, in random order of sequences. Unwritten pages hold NaN. */
struct server {
    const struct kernels *kernels;
    const struct attention_fixture *f; /* the same tokens as one contiguous batch */
    const struct attention_tensors *t;
    struct kv_source kv;
    int32_t done[MAX_SEQUENCES]; /* tokens of each that are written */
};

static void server_open(struct server *server, int page_size, enum dtype dtype,
                        struct random *random) {
    const struct attention_fixture *f = server->f;
    int32_t count = f->segments.count, max_pages = 0;
    for (int i = 0; i < count; i++) {
        int pages = (f->start[i + 1] - f->start[i] + page_size - 1) / page_size;
        if (pages > max_pages) max_pages = pages;
    }
    int32_t pages = count * max_pages;
    int32_t *table = new_bytes((size_t)pages * sizeof *table);
    for (int i = 0; i < pages; i++) table[i] = i;
    for (int i = pages - 1; i > 0; i--) {
        int other = random_int(random, 0, i), swap = table[i];
        table[i] = table[other];
        table[other] = swap;
    }
    size_t row = (size_t)f->shape.kv_heads * (size_t)f->shape.head_dim;
    size_t bytes = dtype_bytes(dtype, (size_t)pages * (size_t)page_size * row);
    server->kv =
        (struct kv_source){new_bytes(bytes), new_bytes(bytes), dtype, table, page_size, max_pages};
    memset(server->kv.k, 0xff, bytes);
    memset(server->kv.v, 0xff, bytes);
}

/* Copies token rows of `from` (N, width) act, one row of the step after the other. */
static void gather(char *to, const char *from, size_t row_bytes, const int32_t *tokens, int count) {
    for (int i = 0; i < count; i++)
        memcpy(to + (size_t)i * row_bytes, from + (size_t)tokens[i] * row_bytes, row_bytes);
}

/* One step: attention of `take[i]` next tokens of each sequence must have the bits of t->o. */
static void server_step(struct server *server, const int32_t *order, const int32_t *take,
                        int threads) {
    const struct attention_fixture *f = server->f;
    const struct kernels *kernels = server->kernels;
    int32_t start[MAX_SEQUENCES + 1] = {0}, past[MAX_SEQUENCES], tokens[2048];
    int32_t count = f->segments.count, n = 0;
    int32_t *table = new_bytes((size_t)(count * server->kv.max_pages) * sizeof *table);
    for (int i = 0; i < count; i++) {
        int sequence = order[i];
        past[i] = server->done[sequence];
        for (int j = 0; j < take[sequence]; j++) tokens[n++] = f->start[sequence] + past[i] + j;
        start[i + 1] = n;
        server->done[sequence] += take[sequence];
        memcpy(table + i * server->kv.max_pages,
               server->kv.page_table + sequence * server->kv.max_pages,
               (size_t)server->kv.max_pages * sizeof *table);
    }
    struct segments segments = {count, start, past};
    struct kv_source kv = server->kv;
    kv.page_table = table;
    size_t q_row = act_bytes(kernels, (size_t)(f->shape.heads * f->shape.head_dim));
    size_t kv_row = act_bytes(kernels, (size_t)(f->shape.kv_heads * f->shape.head_dim));
    char *q = new_bytes((size_t)n * q_row), *o = new_bytes((size_t)n * q_row);
    char *k = new_bytes((size_t)n * kv_row), *v = new_bytes((size_t)n * kv_row);
    char *want = new_bytes((size_t)n * q_row);
    gather(q, server->t->q, q_row, tokens, n);
    gather(k, server->t->k, kv_row, tokens, n);
    gather(v, server->t->v, kv_row, tokens, n);
    gather(want, server->t->o, q_row, tokens, n);
    struct stream stream;
    stream_open_cpu(&stream, threads);
    kernels->kv_write(&stream, &kv, k, v, &segments, f->shape.kv_heads, f->shape.head_dim);
    kernels->attention_forward(
        &stream, &(struct attention_forward_args){o, NULL, q, &kv, &segments, f->shape});
    assert_ok(stream_check(&stream));
    assert_memory_equal(o, want, (size_t)n * q_row);
    void *all[] = {table, q, o, k, v, want};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void serve_in_chunks(const struct kernels *kernels, const struct attention_fixture *f,
                            const struct attention_tensors *t, int page_size,
                            struct random *random) {
    struct server server = {.kernels = kernels, .f = f, .t = t};
    server_open(&server, page_size, kernels->act, random);
    int32_t count = f->segments.count, left = f->start[count];
    while (left > 0) {
        int32_t order[MAX_SEQUENCES], take[MAX_SEQUENCES];
        int rotate = random_int(random, 0, count - 1);
        for (int i = 0; i < count; i++) {
            order[i] = (i + rotate) % count;
            int rest = f->start[i + 1] - f->start[i] - server.done[i];
            int most = random_int(random, 0, 1) ? 1 : 90; /* a decode or a prefill chunk */
            take[i] = random_int(random, 0, most < rest ? most : rest);
            left -= take[i];
        }
        server_step(&server, order, take, random_int(random, 1, 4));
    }
    free(server.kv.k);
    free(server.kv.v);
    free((void *)(uintptr_t)server.kv.page_table);
}

static void test_serving_has_the_bits_of_training(void **state) {
    (void)state;
    static const int head_dims[] = {64, 20, 128, 80}, page_sizes[] = {16, 32, 64, 128, 48};
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < 2 * count; i++) {
        const struct kernels *kernels = i % 2 ? pairs[i / 2].fast : pairs[i / 2].reference;
        for (int c = 0; c < 10; c++) {
            if (i % 2 == 0 && c >= 2) break; /* the plain loops take longer */
            struct random random = {.seed = (uint64_t)(500 + c)};
            struct attention_fixture f;
            attention_random_fixture(&f, &random, head_dims[c % 4]);
            struct attention_tensors t = attention_tensors_new(kernels, &f, &random);
            attention_run_forward(kernels, &f, &t, 1);
            serve_in_chunks(kernels, &f, &t, page_sizes[c % 5], &random);
            attention_tensors_free(&t);
        }
    }
}

/* A cache in bf16 under fp32 activations is the attention over the rounded keys and values. */
static void test_bf16_cache_under_f32(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < count; i++) {
        const struct kernels *kernels = pairs[i].fast;
        if (kernels->act != DTYPE_F32) continue;
        struct random random = {.seed = 3};
        struct attention_fixture f;
        attention_random_fixture(&f, &random, 64);
        struct attention_tensors t = attention_tensors_new(kernels, &f, &random);
        struct server server = {.kernels = kernels, .f = &f, .t = &t};
        for (size_t e = 0; e < f.kv_count; e++) {
            ((float *)t.k)[e] = bf16_to_f32(f32_to_bf16(((float *)t.k)[e]));
            ((float *)t.v)[e] = bf16_to_f32(f32_to_bf16(((float *)t.v)[e]));
        }
        attention_run_forward(kernels, &f, &t, 1);
        server_open(&server, 32, DTYPE_BF16, &random);
        int32_t order[MAX_SEQUENCES], take[MAX_SEQUENCES];
        for (int s = 0; s < f.segments.count; s++) {
            order[s] = s;
            take[s] = f.start[s + 1] - f.start[s];
        }
        server_step(&server, order, take, 2);
        free(server.kv.k);
        free(server.kv.v);
        free((void *)(uintptr_t)server.kv.page_table);
        attention_tensors_free(&t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_serving_has_the_bits_of_training),
        cmocka_unit_test(test_bf16_cache_under_f32),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
