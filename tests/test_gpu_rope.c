/* Rotary embedding on a GPU against the reference table: the rotation bit for bit, the angles
 * within a rounding of fp32. */
#define _GNU_SOURCE
#include "tests/gpu_case.h"

static void run_rope(struct gpu_case *c, void *context) {
    (void)context;
    static const int dims[] = {2, 6, 16, 64, 80, 128};
    int tokens = random_int(&c->random, 1, 9), heads = random_int(&c->random, 1, 5);
    int rotary_dim = dims[c->number % 6];
    int head_dim = rotary_dim + (c->number % 4 == 1 ? random_int(&c->random, 1, 9) : 0);
    int32_t *positions = gpu_shared_bytes(c, (size_t)tokens * sizeof *positions);
    for (int t = 0; t < tokens; t++) positions[t] = random_int(&c->random, 0, 131071);
    struct rope_config config = {.theta = 10000.0};
    double *frequency = gpu_bytes(c, (size_t)rotary_dim / 2 * sizeof *frequency);
    double factor = 1.25 * rope_frequencies(frequency, &config, rotary_dim);
    gpu_send(c, frequency);
    float *table = gpu_bytes(c, (size_t)(tokens * rotary_dim) * sizeof *table);
    c->cuda->rope_table(&c->stream, gpu_of(c, table), positions, gpu_of(c, frequency), factor,
                        tokens, rotary_dim);
    c->reference->rope_table(&c->host_stream, table, positions, frequency, factor, tokens,
                             rotary_dim);
    gpu_expect_f32(c, table, 1e-10, 1.2e-7, "table");
    gpu_send(c, table);

    void *x = gpu_act(c, (size_t)(tokens * heads * head_dim), 2.0f);
    struct rope_args args = {.tokens = tokens,
                             .heads = heads,
                             .head_dim = head_dim,
                             .rotary_dim = rotary_dim,
                             .style = c->number % 2 ? ROPE_INTERLEAVED : ROPE_HALF_SPLIT,
                             .backward = c->number % 3 == 2};
    args.x = gpu_of(c, x), args.table = gpu_of(c, table);
    c->cuda->rope(&c->stream, &args);
    args.x = x, args.table = table;
    c->reference->rope(&c->host_stream, &args);
    gpu_expect_bytes(c, x, "x");
}

static void test_rope(void **state) {
    (void)state;
    gpu_each(24, run_rope, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rope)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
