/* N ranks of data parallelism equal one rank: losses and weights after 20 steps, for what training
 * can be asked to do. Every rank also runs the whole job alone and compares. */
#define _GNU_SOURCE
#include "tests/check.h"
#include "tests/temporary.h"

#include "data/token_file.h"
#include "train/trainer.h"

enum { STEPS = 20, MAX_ARGUMENTS = 8, VOCABULARY = 96, DOCUMENTS = 23 };

static struct parallel job; /* cmocka's tests take no arguments */

struct variant {
    const char *name, *model;
    double tolerance; /* relative, of losses and weights */
    const char *arguments[MAX_ARGUMENTS];
};

/* With 3 and 4 ranks, 5 sequences leave some rank a microbatch short, 3 leave one rank with
 * nothing. */
static const struct variant variants[] = {
    {"full", "llama", 1e-6, {"train.global_batch=12"}},
    {"full, accumulation", "llama", 1e-6, {"train.global_batch=12", "train.micro_batch=1"}},
    {"full, 5 sequences, microbatches of 1",
     "llama",
     1e-6,
     {"train.global_batch=5", "train.micro_batch=1"}},
    {"full, 3 sequences", "llama", 1e-6, {"train.global_batch=3"}},
    {"full, packed",
     "llama",
     1e-6,
     {"train.global_batch=5", "data.packing=whole", "train.micro_batch=2"}},
    {"full, split, recomputed",
     "llama",
     1e-6,
     {"train.global_batch=6", "data.packing=split", "train.recompute=full"}},
    {"full, tied embeddings", "llama_tied_llama3", 1e-6, {"train.global_batch=7"}},
    {"full, qk norm", "qwen3", 1e-6, {"train.global_batch=7", "train.micro_batch=2"}},
    {"lora", "llama", 1e-6, {"train.mode=lora", "lora.rank=4", "train.global_batch=5"}},
    {"lora, packed, accumulation, tied",
     "llama_tied_llama3",
     1e-6,
     {"train.mode=lora", "lora.rank=4", "train.global_batch=6", "train.micro_batch=1",
      "data.packing=whole"}},
    {"lora, dropout",
     "llama",
     1e-6,
     {"train.mode=lora", "lora.rank=4", "lora.dropout=0.2", "train.global_batch=5",
      "train.micro_batch=1"}},
    /* sums of bf16 products differ by more than fp32's rounding, and so do 20 steps of them */
    {"full, bf16", "llama", 2e-3, {"model.dtype=bf16", "train.global_batch=5"}},
    {"lora, bf16",
     "llama",
     2e-3,
     {"model.dtype=bf16", "train.mode=lora", "lora.rank=4", "train.global_batch=5"}},
};

struct result {
    double losses[STEPS];
    float *weights; /* all trained elements, unpacked; owned */
    int64_t count;
};

struct run {
    struct temporary folder;
    struct run_options options;
    struct config_table tables[RUN_TABLES];
    struct trainer trainer;
};

/* Documents of 2 to 33 tokens, the same on every rank. */
static void write_tokens(const char *path) {
    const struct token_file_info info = {.vocabulary = VOCABULARY};
    struct token_writer *writer;
    uint32_t random = 12345;
    assert_ok(token_writer_create(&writer, path, &info));
    for (int d = 0; d < DOCUMENTS; d++) {
        int32_t ids[64], count = 2 + d * 7 % 32;
        for (int i = 0; i < count; i++) {
            random = random * 1664525u + 1013904223u;
            ids[i] = (int32_t)((random >> 16) % VOCABULARY);
        }
        assert_ok(token_writer_append(writer, ids, NULL, count));
    }
    assert_ok(token_writer_finish(writer));
}

static void run_open(struct run *run, const struct variant *variant, struct parallel *parallel) {
    char text[2048], *arguments[MAX_ARGUMENTS];
    int count = 0;
    memset(run, 0, sizeof *run);
    temporary_open(&run->folder);
    write_tokens(temporary_file(&run->folder, "tokens.h5"));
    snprintf(text, sizeof text,
             "model: {path: tests/fixtures/%s}\n"
             "data: {train: [%s], sequence_length: 24, packing: off}\n"
             "train: {out: %s, steps: %d, lr: 1e-3, warmup: 4, threads: 1}\n",
             variant->model, run->folder.file, run->folder.path, STEPS);
    for (; count < MAX_ARGUMENTS && variant->arguments[count]; count++)
        arguments[count] = (char *)(uintptr_t)variant->arguments[count];
    run_options_tables(&run->options, run->tables);
    assert_ok(
        config_parse(run->tables, RUN_TABLES, text, strlen(text), "test.yaml", arguments, count));
    assert_ok(trainer_open(&run->trainer, &run->options, parallel));
}

static void run_close(struct run *run) {
    trainer_close(&run->trainer);
    config_free(run->tables, RUN_TABLES);
    temporary_close(&run->folder);
}

static void read_weights(const struct trainer *trainer, struct result *result) {
    result->count = trainer->trained_elements; /* every rank holds all */
    result->weights = malloc((size_t)result->count * sizeof *result->weights);
    assert_non_null(result->weights);
    float *next = result->weights;
    for (int i = 0; i < trainer->optimizer.count; i++) {
        const struct optimizer_slot *slot = &trainer->optimizer.slots[i];
        struct weight_part parts[WEIGHT_PARTS];
        struct weight master[WEIGHT_PARTS];
        assert_int_equal(optimizer_views(slot, slot->master, parts, master), 1); /* the whole */
        weight_unpack(next, master, 0, master->rows);
        next += master->rows * master->cols;
    }
}

static void train(const struct variant *variant, struct parallel *parallel, struct result *result) {
    struct run run;
    run_open(&run, variant, parallel);
    for (int step = 0; step < STEPS; step++) {
        struct step_report report;
        assert_ok(trainer_step(&run.trainer, &report));
        result->losses[step] = report.loss;
    }
    read_weights(&run.trainer, result);
    run_close(&run);
}

static double loss_difference(const struct result *a, const struct result *b) {
    double worst = 0.0;
    for (int i = 0; i < STEPS; i++) {
        double difference = fabs(a->losses[i] - b->losses[i]) / fabs(a->losses[i]);
        worst = difference > worst || isnan(difference) ? difference : worst;
    }
    return worst;
}

/* |a - b| / |a| over all trained elements. */
static double weight_difference(const struct result *a, const struct result *b) {
    double norm = 0.0, difference = 0.0;
    assert_int_equal(a->count, b->count);
    for (int64_t i = 0; i < a->count; i++) {
        double d = (double)a->weights[i] - (double)b->weights[i];
        norm += (double)a->weights[i] * (double)a->weights[i];
        difference += d * d;
    }
    return sqrt(difference / norm);
}

static void compare(const struct variant *variant) {
    struct parallel alone = {.node_size = 1, .threads = 1};
    struct result want, got;
    comm_open_self(&alone.world, "world");
    train(variant, &alone, &want);
    train(variant, &job, &got);
    double losses = loss_difference(&want, &got), weights = weight_difference(&want, &got);
    if (job.world.rank == 0)
        print_message("%d ranks  %-38s loss %.4f -> %.4f   relative difference: losses %.1e, "
                      "weights %.1e (limit %.0e)\n",
                      job.world.size, variant->name, want.losses[0], want.losses[STEPS - 1], losses,
                      weights, variant->tolerance);
    free(want.weights);
    free(got.weights);
    if (!(losses <= variant->tolerance && weights <= variant->tolerance))
        fail_msg("%s: losses differ by %.2e, weights by %.2e", variant->name, losses, weights);
}

static void test_ranks_equal_one(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) compare(&variants[i]);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ranks_equal_one)};
    if (parallel_start(&job, &argc, &argv) != STATUS_OK) return 1;
    job.threads = 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) parallel_abort(&job, "comparing with one rank");
    parallel_finish(&job);
    return failed;
}
