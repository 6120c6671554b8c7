/* N ranks of data parallelism equal one rank, for what training can be asked to do. */
#define _GNU_SOURCE
#include "tests/layouts.h"

static struct parallel job; /* cmocka's tests take no arguments */

/* Each rank updates all weights; without a word of it, its share (test_train_zero has the rest).
 * With 3 and 4 ranks, 5 sequences leave some rank a microbatch short, 3 leave one rank with
 * nothing. */
static const struct layout_case cases[] = {
    {0, "llama", "global_batch=12", ""},
    {0, "llama", "global_batch=12", "zero=0"},
    {0, "llama", "global_batch=12 steps=20 eps=1e-8", "zero=0"},
    {0, "qwen3", "global_batch=7 micro_batch=2 steps=20 eps=1e-8", "zero=0"},
    {0, "llama", "global_batch=12 micro_batch=1", "zero=0"},
    {0, "llama", "global_batch=5 micro_batch=1", "zero=0"},
    {0, "llama", "global_batch=3", "zero=0"},
    {0, "llama", "global_batch=5 data.packing=whole micro_batch=2", "zero=0"},
    {0, "llama", "global_batch=6 data.packing=split recompute=full", "zero=0"},
    {0, "llama_tied_llama3", "global_batch=7", "zero=0"},
    {0, "qwen3", "global_batch=7 micro_batch=2", "zero=0"},
    {0, "llama", LORA " global_batch=5", "zero=0"},
    {0, "llama_tied_llama3", LORA " global_batch=6 micro_batch=1 data.packing=whole", "zero=0"},
    {0, "llama", LORA " lora.dropout=0.2 global_batch=5 micro_batch=1", "zero=0"},
    {0, "llama", "model.dtype=bf16 global_batch=5", "zero=0"},
    {0, "llama", "model.dtype=bf16 mode=lora lora.rank=4 global_batch=5", "zero=0"},
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
