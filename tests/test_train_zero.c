/* Training whose data-parallel ranks share optimizer state, gradients and weights (ZeRO) equals one
 * rank: first gradients, losses, gradient norms and final weights; weights have the same bits on
 * every replica; a checkpoint of one level goes on under any other, with any number of ranks. */
#define _GNU_SOURCE
#include "tests/layouts.h"

#include "parallel/comm_mpi.h"

static struct parallel job; /* cmocka's tests take no arguments */

#define LORA "train.mode=lora", "lora.rank=4", "train.global_batch=5"
#define SHAPE                                                                                      \
    "\"vocab_size\": 101, \"hidden_size\": 32, \"intermediate_size\": 72, "                        \
    "\"num_hidden_layers\": 8, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "           \
    "\"head_dim\": 16, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-5, "                  \
    "\"rope_theta\": 10000.0, \"hidden_act\": \"silu\", \"torch_dtype\": \"float32\""
#define UNTIED                                                                                     \
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", "                      \
    "\"tie_word_embeddings\": false, \"attention_bias\": true, " SHAPE "}"
#define TIED                                                                                       \
    "{\"architectures\": [\"Qwen3ForCausalLM\"], \"model_type\": \"qwen3\", "                      \
    "\"tie_word_embeddings\": true, " SHAPE "}"
#define PP2 "parallel.pp=2"
#define INTERLEAVED "parallel.schedule=interleaved", "parallel.chunks=2"
#define ZERO1 "parallel.zero=1"
#define ZERO2 "parallel.zero=2"
#define ZERO3 "parallel.zero=3"

/* For 2 and for 4 ranks; where 4 share 3 sequences, one has none. */
static const struct layout_case cases[] = {
    {"zero 1", 0, "llama", LIMITS_FP32, {"train.global_batch=5"}, {ZERO1}},
    {"zero 1, packed, accumulation, tied",
     0,
     "llama_tied_llama3",
     LIMITS_FP32,
     {"train.global_batch=5", "train.micro_batch=1", "data.packing=whole"},
     {ZERO1}},
    {"zero 1, lora, dropout", 0, "llama", LIMITS_FP32, {LORA, "lora.dropout=0.2"}, {ZERO1}},
    {"zero 1, bf16",
     0,
     "llama",
     LIMITS_BF16,
     {"model.dtype=bf16", "train.global_batch=5"},
     {ZERO1}},
    {"zero 2", 0, "llama", LIMITS_FP32, {"train.global_batch=5"}, {ZERO2}},
    {"zero 2, 3 sequences, one at a time",
     0,
     "llama",
     LIMITS_FP32,
     {"train.global_batch=3", "train.micro_batch=1"},
     {ZERO2}},
    {"zero 2, packed, accumulation, tied",
     0,
     "llama_tied_llama3",
     LIMITS_FP32,
     {"train.global_batch=5", "train.micro_batch=1", "data.packing=whole"},
     {ZERO2}},
    {"zero 2, qk norm, recomputed",
     0,
     "qwen3",
     LIMITS_FP32,
     {"train.global_batch=7", "train.micro_batch=2", "train.recompute=full"},
     {ZERO2}},
    {"zero 2, lora, dropout, accumulation",
     0,
     "llama",
     LIMITS_FP32,
     {LORA, "lora.dropout=0.2", "train.micro_batch=1"},
     {ZERO2}},
    {"zero 2, bf16",
     0,
     "llama",
     LIMITS_BF16,
     {"model.dtype=bf16", "train.global_batch=5"},
     {ZERO2}},
    {"zero 3", 0, "llama", LIMITS_FP32, {"train.global_batch=5"}, {ZERO3}},
    {"zero 3, 3 sequences, one at a time",
     0,
     "llama",
     LIMITS_FP32,
     {"train.global_batch=3", "train.micro_batch=1"},
     {ZERO3}},
    {"zero 3, packed, accumulation, tied",
     0,
     "llama_tied_llama3",
     LIMITS_FP32,
     {"train.global_batch=5", "train.micro_batch=1", "data.packing=whole"},
     {ZERO3}},
    {"zero 3, qk norm, recomputed",
     0,
     "qwen3",
     LIMITS_FP32,
     {"train.global_batch=7", "train.micro_batch=2", "train.recompute=full"},
     {ZERO3}},
    {"zero 3, biases", 0, "qwen2", LIMITS_FP32, {"train.global_batch=5"}, {ZERO3}},
    {"zero 3, lora, dropout, accumulation, tied",
     0,
     "llama_tied_llama3",
     LIMITS_FP32,
     {LORA, "lora.dropout=0.2", "train.micro_batch=1"},
     {ZERO3}},
    {"zero 3, bf16",
     0,
     "llama",
     LIMITS_BF16,
     {"model.dtype=bf16", "train.global_batch=5"},
     {ZERO3}},
    {"zero 3, lora, bf16", 0, "llama", LIMITS_BF16, {LORA, "model.dtype=bf16"}, {ZERO3}},
    {"zero 1, tp2 x dp2, accumulation",
     4,
     "qwen2",
     LIMITS_FP32_CUT,
     {"train.global_batch=5", "train.micro_batch=1"},
     {ZERO1, "parallel.tp=2"}},
    {"zero 2, tp2 x dp2, qk norm, accumulation",
     4,
     "qwen3",
     LIMITS_FP32_CUT,
     {"train.global_batch=5", "train.micro_batch=1"},
     {ZERO2, "parallel.tp=2"}},
    {"zero 3, tp2 x dp2, a rank without sequences",
     4,
     "llama",
     LIMITS_FP32_CUT,
     {"train.global_batch=3", "train.micro_batch=1"},
     {ZERO3, "parallel.tp=2"}},
    {"zero 3, tp2 x dp2, lora",
     4,
     "llama",
     LIMITS_FP32_CUT,
     {LORA, "train.micro_batch=1"},
     {ZERO3, "parallel.tp=2"}},
    {"zero 1, pp2 x dp2, tied, uneven",
     4,
     TIED,
     LIMITS_FP32,
     {"train.global_batch=9", "train.micro_batch=2"},
     {ZERO1, PP2}},
    {"zero 2, pp2 x dp2, tied, uneven",
     4,
     TIED,
     LIMITS_FP32,
     {"train.global_batch=9", "train.micro_batch=2"},
     {ZERO2, PP2}},
    {"zero 2, pp2 x dp2, interleaved, a replica without sequences",
     4,
     UNTIED,
     LIMITS_FP32,
     {"train.global_batch=1", "train.micro_batch=1"},
     {ZERO2, PP2, INTERLEAVED}},
    {"zero 3, pp2 x dp2, interleaved",
     4,
     UNTIED,
     LIMITS_FP32,
     {"train.global_batch=8", "train.micro_batch=1"},
     {ZERO3, PP2, INTERLEAVED}},
    {"zero 3, pp2 x dp2, gpipe, tied, recomputed",
     4,
     TIED,
     LIMITS_FP32,
     {"train.global_batch=7", "train.micro_batch=1", "train.recompute=full"},
     {ZERO3, PP2, "parallel.schedule=gpipe"}},
    {"zero 1, pp2 x dp2, zb-h1, tied",
     4,
     TIED,
     LIMITS_FP32,
     {"train.global_batch=7", "train.micro_batch=1"},
     {ZERO1, PP2, "parallel.schedule=zb-h1"}},
    {"zero 2, pp2 x dp2, zb-h1",
     4,
     UNTIED,
     LIMITS_FP32,
     {"train.global_batch=8", "train.micro_batch=1"},
     {ZERO2, PP2, "parallel.schedule=zb-h1"}},
    {"zero 3, pp2 x dp2, lora",
     4,
     UNTIED,
     LIMITS_FP32,
     {LORA, "train.micro_batch=1"},
     {ZERO3, PP2}},
    {"zero 3, layers in shares of nf4, lora",
     4,
     "llama",
     LIMITS_BF16,
     {LORA, "model.dtype=bf16", "model.weights=nf4"},
     {ZERO3}},
};

static void test_ranks_equal_one(void **state) {
    struct layout_site site;
    (void)state;
    layout_site_open(&site, &job);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct layout_case row = cases[i];
        if (row.ranks != 0 && row.ranks != job.world.size) continue;
        row.ranks = job.world.size;
        layout_compare(&site, &row);
    }
    layout_site_close(&site);
}

/* --- levels against each other --------------------------------------------------------------- */

static const struct layout_case changing = {
    "", 4, "llama", LIMITS_FP32, {"train.global_batch=6", "train.micro_batch=1"}, {NULL}};
static const struct layout_case changing_adapter = {
    "", 4, "llama", LIMITS_FP32, {LORA, "train.micro_batch=2"}, {NULL}};

/* The first `ranks` ranks of the job, as a job of its own; false on the others. */
static bool open_part(struct parallel *part, int ranks) {
    bool in = job.world.rank < ranks;
    *part = job;
    assert_ok(comm_mpi_open_split(&part->world, &job.world, "part", !in, job.world.rank));
    return in;
}

static void wait_for_all(void) {
    struct stream stream;
    stream_open_cpu(&stream, 1);
    comm_barrier(&job.world, &stream);
    assert_ok(stream_check(&stream));
}

/* Steps [first, end) of `run` by the first `ranks` ranks. */
static void train_part(const struct layout_site *site, const struct layout_case *row, int ranks,
                       const char *zero, int first, int end, struct layout_result *result) {
    struct parallel part;
    const char *const layout[] = {zero, NULL};
    if (open_part(&part, ranks))
        layout_train(site, "changing", row, layout, &part, first, end, result);
    comm_close(&part.world);
    wait_for_all();
}

/* Zero 2 on all ranks, zero 0 on one, zero 3 on half of them, zero 1 on all: losses of the run that
 * never changed. */
static void check_changes(const struct layout_site *site, const struct layout_case *row) {
    struct layout_result want = {0}, got = {0};
    int all = job.world.size;
    layout_train(site, "steady", row, NULL, &job, 0, LAYOUT_STEPS, &want);
    train_part(site, row, all, ZERO2, 0, 3, &got);
    train_part(site, row, 1, "parallel.zero=0", 3, 5, &got);
    train_part(site, row, all / 2, ZERO3, 5, 7, &got);
    train_part(site, row, all, ZERO1, 7, LAYOUT_STEPS, &got);
    if (job.world.rank == 0) {
        layout_check(row, &want, &got, 0);
        layout_remove(site, "steady");
        layout_remove(site, "changing");
    }
    wait_for_all();
}

static void test_checkpoints_fit_any_level(void **state) {
    (void)state;
    if (job.world.size < 2) return;
    struct layout_site site;
    struct layout_case row = changing;
    layout_site_open(&site, &job);
    row.ranks = job.world.size;
    row.name = "zero 2, 0 on one rank, 3 on half, 1";
    check_changes(&site, &row);
    row = changing_adapter;
    row.ranks = job.world.size;
    row.name = "zero 2, 0 on one rank, 3 on half, 1; lora";
    check_changes(&site, &row);
    layout_site_close(&site);
}

/* On the same layout to the last bit. */
static void test_resuming_changes_nothing(void **state) {
    (void)state;
    static const char *const levels[] = {ZERO1, ZERO2, ZERO3};
    struct layout_site site;
    layout_site_open(&site, &job);
    for (int i = 0; i < 3; i++) {
        struct layout_result want = {0}, got = {0};
        const char *const layout[] = {levels[i], NULL};
        layout_train(&site, "whole", &changing, layout, &job, 0, LAYOUT_STEPS, &want);
        layout_train(&site, "parts", &changing, layout, &job, 0, 4, &got);
        layout_train(&site, "parts", &changing, layout, &job, 4, LAYOUT_STEPS, &got);
        assert_memory_equal(want.losses, got.losses, sizeof want.losses);
        assert_memory_equal(want.norms, got.norms, sizeof want.norms);
        wait_for_all();
        if (job.world.rank == 0) {
            layout_remove(&site, "whole");
            layout_remove(&site, "parts");
        }
        wait_for_all();
    }
    layout_site_close(&site);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks_equal_one),
        cmocka_unit_test(test_checkpoints_fit_any_level),
        cmocka_unit_test(test_resuming_changes_nothing),
    };
    if (parallel_start(&job, &argc, &argv) != STATUS_OK) return 1;
    job.threads = 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) parallel_abort(&job, "comparing levels of ZeRO");
    parallel_finish(&job);
    return failed;
}
