/* LoRA on a quantized base under other layouts equals one rank: shards dequantize to the same
 * weights, also where the feed-forward width has an odd number of blocks. */
#define _GNU_SOURCE
#include "tests/layouts.h"

static struct parallel job; /* cmocka's tests take no arguments */

#define NF4 LORA " global_batch=5 model.weights=nf4"
#define STORED LORA " global_batch=5 model.weights=stored"

static const struct layout_case cases[] = {
    {2, "blocks", NF4, "tp=2"},
    {2, "blocks", NF4 " lora.dropout=0.2 micro_batch=1 recompute=full", "tp=2"},
    {2, "blocks.gguf", STORED, "tp=2"},
    {2, "blocks.gguf", STORED " micro_batch=1", "pp=2"},
    {2, "blocks", NF4, "dp=2 zero=0"},
};

static void test_ranks_equal_one(void **state) {
    (void)state;
    layout_compare_all(&job, cases, sizeof cases / sizeof *cases);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks_equal_one),
    };
    layout_start(&job, &argc, &argv);
    return layout_finish(&job, cmocka_run_group_tests(tests, NULL, NULL));
}
