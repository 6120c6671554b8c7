/* Reductions of gradients run beside the backward: a communicator that keeps a record sees, in a
 * training step, each bucket's sum start while the gradients of lower layers are still to come, and
 * sees nobody wait before the backward is over. No clock. */
#define _GNU_SOURCE
#include "tests/check.h"
#include "tests/temporary.h"

#include "data/token_file.h"
#include "train/trainer.h"

#include <xxhash.h>

enum { VOCABULARY = 64, LENGTH = 16, SEQUENCES = 8, LAYERS = 3, BUCKETS = LAYERS + 1 };

/* A layer has just more than a bucket's 16 MiB of gradients. */
static const char shape[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 64,"
    " \"hidden_size\": 512, \"intermediate_size\": 2048, \"num_hidden_layers\": 3,"
    " \"num_attention_heads\": 8, \"num_key_value_heads\": 8, \"max_position_embeddings\": 64,"
    " \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"tie_word_embeddings\": false,"
    " \"hidden_act\": \"silu\", \"torch_dtype\": \"float32\"}\n";

/* What the buckets held when the sum of bucket b started, and at the first wait. */
struct record {
    const struct dp *dp;
    int starts, waits;
    uint64_t at_start[BUCKETS][BUCKETS], at_wait[BUCKETS];
};

static void hash_buckets(const struct dp *dp, uint64_t hashes[BUCKETS]) {
    assert_int_equal(dp->bucket_count, BUCKETS);
    for (int b = 0; b < BUCKETS; b++)
        hashes[b] = XXH3_64bits(dp->buckets[b].data, (size_t)dp->buckets[b].count * sizeof(float));
}

static void record_start(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                         enum dtype type, struct comm_request *request) {
    struct record *record = comm->state;
    (void)s, (void)count, (void)type;
    request->state = NULL;
    assert_int_equal(record->waits, 0);
    assert_true(record->starts < BUCKETS);
    assert_ptr_equal(buffer, record->dp->buckets[record->starts].data);
    hash_buckets(record->dp, record->at_start[record->starts++]);
}

static void record_wait(struct comm *comm, struct stream *s, struct comm_request *request) {
    struct record *record = comm->state;
    (void)s, (void)request;
    if (record->waits++ == 0) hash_buckets(record->dp, record->at_wait);
}

/* One rank, of which the sum over ranks is what it has. */
static void open_recorder(struct comm *comm, struct comm_ops *ops, struct record *record) {
    comm_open_self(comm, "replicas");
    *ops = *comm->ops;
    ops->start_all_reduce = record_start;
    ops->wait = record_wait;
    comm->ops = ops;
    comm->state = record;
}

static void write_tokens(const char *path) {
    const struct token_file_info info = {.vocabulary = VOCABULARY};
    struct token_writer *writer;
    int32_t ids[LENGTH + 1];
    assert_ok(token_writer_create(&writer, path, &info));
    for (int s = 0; s < SEQUENCES; s++) {
        for (int i = 0; i <= LENGTH; i++) ids[i] = (i * 37 + s * 11) % VOCABULARY;
        assert_ok(token_writer_append(writer, ids, NULL, LENGTH + 1));
    }
    assert_ok(token_writer_finish(writer));
}

static void check_step(struct trainer *trainer, struct record *record) {
    struct step_report report;
    *record = (struct record){.dp = &trainer->dp};
    assert_ok(trainer_step(trainer, &report));
    assert_int_equal(record->starts, BUCKETS);
    assert_int_equal(record->waits, BUCKETS);
    for (int b = 0; b < BUCKETS; b++)
        for (int other = b; other < BUCKETS; other++) {
            bool same = record->at_start[b][other] == record->at_wait[other];
            if (other == b && !same) fail_msg("bucket %d was not complete when its sum started", b);
            if (other > b && same)
                fail_msg("the sum of bucket %d started after the backward of bucket %d", b, other);
        }
}

static void check_training(const char *train) {
    struct temporary folder;
    struct run_options options;
    struct config_table tables[RUN_TABLES];
    struct parallel job = {.node_size = 1, .threads = 1};
    static struct trainer trainer;
    struct record record = {0};
    struct comm_ops ops;
    char text[2048];
    temporary_open(&folder);
    write_tokens(temporary_file(&folder, "tokens.h5"));
    temporary_write(&folder, "config.json", shape, sizeof shape - 1);
    int bytes = snprintf(text, sizeof text,
                         "model: {config: %s/config.json}\n"
                         "data: {train: [%s/tokens.h5], sequence_length: %d}\n"
                         "train: {out: %s/run, steps: 2, threads: 2, mode: full, %s}\n",
                         folder.path, folder.path, LENGTH, folder.path, train);
    run_options_tables(&options, tables);
    assert_ok(config_parse(tables, RUN_TABLES, text, (size_t)bytes, "run.yaml", NULL, 0));
    comm_open_self(&job.world, "world");
    assert_ok(trainer_open(&trainer, &options, &job));
    open_recorder(&trainer.comms.replicas, &ops, &record);
    for (int step = 0; step < 2; step++) check_step(&trainer, &record);
    trainer_close(&trainer);
    config_free(tables, RUN_TABLES);
    temporary_close(&folder);
}

static void test_sums_start_while_lower_layers_compute(void **state) {
    (void)state;
    check_training("global_batch: 2");
}

/* The sums belong to the last microbatch: the first one's gradients are added to. */
static void test_accumulation_starts_with_the_last_microbatch(void **state) {
    (void)state;
    check_training("global_batch: 3, micro_batch: 1");
}

static void test_recomputation_too(void **state) {
    (void)state;
    check_training("global_batch: 2, recompute: full");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums_start_while_lower_layers_compute),
        cmocka_unit_test(test_accumulation_starts_with_the_last_microbatch),
        cmocka_unit_test(test_recomputation_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
