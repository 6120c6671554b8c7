#define _GNU_SOURCE
#include "tests/check.h"

#include "data/loader.h"
#include "data/shuffle.h"
#include "data/token_file.h"
#include "kernels/base/rng.h"

#include <unistd.h>

/* Two files whose token ids count on through both, so that an id says which token it is. */
enum { FILES = 2, DOCUMENTS = 60, MOST_TOKENS = 4096 };

struct corpus {
    char folder[64], paths[FILES][128];
    char *items[FILES];
    struct config_list files;
    int64_t tokens;
    bool first[MOST_TOKENS];   /* of its document */
    float weight[MOST_TOKENS]; /* 0 for every fifth */
    int document[MOST_TOKENS];
    int64_t length[FILES * DOCUMENTS];
};

static const struct loader_expect anything = {0};

static void write_part(struct corpus *corpus, int part) {
    struct token_file_info info = {.tokenizer_hash = 42, .vocabulary = 1 << 20};
    struct token_writer *writer;
    assert_ok(token_writer_create(&writer, corpus->paths[part], &info));
    for (int d = 0; d < DOCUMENTS; d++) {
        /* lengths 0, 1 (many in a row, too), short, and much longer than a sequence */
        uint32_t draw = rng_draw(3, RNG_TEST, (uint64_t)part, (uint64_t)d).word[0];
        int64_t length = d >= 20 && d < 50 ? 1 : d % 7 == 0 ? draw % 200 : draw % 20;
        int32_t ids[256];
        for (int64_t i = 0; i < length; i++) {
            ids[i] = (int32_t)corpus->tokens;
            corpus->first[corpus->tokens] = i == 0;
            corpus->weight[corpus->tokens] = corpus->tokens % 5 != 0;
            corpus->document[corpus->tokens++] = part * DOCUMENTS + d;
        }
        corpus->length[part * DOCUMENTS + d] = length;
        assert_ok(
            token_writer_append(writer, ids, corpus->weight + corpus->tokens - length, length));
    }
    assert_ok(token_writer_finish(writer));
}

static int write_corpus(void **state) {
    struct corpus *corpus = calloc(1, sizeof *corpus);
    strcpy(corpus->folder, "/tmp/strata_loader_XXXXXX");
    if (!mkdtemp(corpus->folder)) return -1;
    for (int i = 0; i < FILES; i++) {
        snprintf(corpus->paths[i], sizeof corpus->paths[i], "%s/%d.h5", corpus->folder, i);
        corpus->items[i] = corpus->paths[i];
        write_part(corpus, i);
    }
    corpus->files = (struct config_list){corpus->items, FILES};
    *state = corpus;
    return 0;
}

static int remove_corpus(void **state) {
    struct corpus *corpus = *state;
    for (int i = 0; i < FILES; i++) unlink(corpus->paths[i]);
    rmdir(corpus->folder);
    free(corpus);
    return 0;
}

static struct loader *open_loader(const struct corpus *corpus, int64_t length, enum packing packing,
                                  bool shuffle, int64_t seed) {
    struct loader_options options = {.sequence_length = length, .packing = packing, .seed = seed};
    struct loader *loader;
    assert_ok(loader_open(&loader, &options, &corpus->files, shuffle, &anything));
    return loader;
}

struct buffers {
    struct arena arena;
    struct loader_batch batch;
};

static void buffers_init(struct buffers *buffers, int64_t sequences, int64_t length) {
    struct arena counted;
    arena_count(&counted, "batch");
    loader_batch_layout(&buffers->batch, &counted, sequences, length);
    assert_ok(arena_create(&buffers->arena, "batch", counted.peak));
    loader_batch_layout(&buffers->batch, &buffers->arena, sequences, length);
    assert_int_equal(buffers->arena.used, counted.used);
}

/* Every segment is a run of one document from position 0, targets are the next tokens, and what
 * weighs nothing has none. */
static void check_batch(const struct corpus *corpus, const struct loader_batch *batch) {
    double sum = 0;
    int64_t trained = 0;
    assert_int_equal(batch->start[0], 0);
    assert_int_equal(batch->start[batch->segments], batch->tokens);
    for (int32_t s = 0; s < batch->segments; s++) {
        assert_true(batch->start[s] < batch->start[s + 1]);
        assert_int_equal(batch->past[s], 0);
        for (int64_t i = batch->start[s]; i < batch->start[s + 1]; i++) {
            int32_t id = batch->ids[i];
            assert_int_equal(batch->positions[i], i - batch->start[s]);
            assert_int_equal(id - batch->ids[batch->start[s]], batch->positions[i]);
            assert_int_equal(corpus->document[id], corpus->document[id + 1]);
            bool weighs = corpus->weight[id + 1] > 0;
            assert_int_equal(batch->targets[i], weighs ? id + 1 : -1);
            assert_true(batch->weights[i] == corpus->weight[id + 1]);
            sum += (double)batch->weights[i];
            trained += weighs;
        }
    }
    assert_true(batch->weight_sum == sum);
    assert_int_equal(batch->trained, trained);
}

static void test_every_token_once_an_epoch(void **state) {
    const struct corpus *corpus = *state;
    static const int64_t lengths[] = {1, 2, 7, 16, 64, 1000};
    for (int variant = 0; variant < 6 * 3 * 2; variant++) {
        int64_t length = lengths[variant % 6];
        struct loader *loader =
            open_loader(corpus, length, (enum packing)(variant / 6 % 3), variant >= 18, 5);
        struct buffers buffers;
        buffers_init(&buffers, 3, length);
        int inputs[MOST_TOKENS] = {0};
        int64_t count = loader_sequences(loader), seen = 0;
        for (int64_t first = 2 * count; first < 3 * count; first += 3) { /* the third epoch */
            int64_t rest = 3 * count - first;
            assert_ok(loader_read(loader, first, rest < 3 ? rest : 3, &buffers.batch));
            check_batch(corpus, &buffers.batch);
            for (int64_t i = 0; i < buffers.batch.tokens; i++) inputs[buffers.batch.ids[i]]++;
            seen += buffers.batch.tokens;
        }
        assert_int_equal(seen, loader_inputs(loader));
        for (int64_t id = 0; id < corpus->tokens; id++) {
            bool last = id + 1 == corpus->tokens || corpus->first[id + 1];
            if (inputs[id] != !last)
                fail_msg("variant %d: token %lld is an input %d times", variant, (long long)id,
                         inputs[id]);
        }
        arena_free(&buffers.arena);
        loader_close(loader);
    }
}

static void test_packings(void **state) {
    const struct corpus *corpus = *state;
    enum { LENGTH = 32 };
    struct buffers buffers;
    buffers_init(&buffers, 1, LENGTH);
    int64_t counts[3];
    for (int packing = 0; packing < 3; packing++) {
        struct loader *loader = open_loader(corpus, LENGTH, (enum packing)packing, false, 0);
        counts[packing] = loader_sequences(loader);
        int64_t full = 0;
        for (int64_t g = 0; g < counts[packing]; g++) {
            assert_ok(loader_read(loader, g, 1, &buffers.batch));
            const struct loader_batch *batch = &buffers.batch;
            assert_in_range(batch->tokens, 1, LENGTH);
            full += batch->tokens == LENGTH;
            if (packing == PACKING_OFF) assert_int_equal(batch->segments, 1);
            for (int32_t s = 0; packing != PACKING_SPLIT && s < batch->segments; s++) {
                int64_t inputs = batch->start[s + 1] - batch->start[s];
                int64_t length = corpus->length[corpus->document[batch->ids[batch->start[s]]]];
                if (length - 1 <= LENGTH) assert_int_equal(inputs, length - 1);
            }
        }
        /* short: the last of a file, and one before the run of documents without pairs */
        if (packing == PACKING_SPLIT) assert_true(counts[packing] - full <= 2 * FILES);
        loader_close(loader);
    }
    assert_true(counts[PACKING_SPLIT] < counts[PACKING_WHOLE]);
    assert_true(counts[PACKING_WHOLE] < counts[PACKING_OFF]);
    arena_free(&buffers.arena);
}

static void assert_same_tokens(const struct loader_batch *part, const struct loader_batch *whole,
                               int64_t at) {
    size_t count = (size_t)part->tokens;
    assert_true(at + part->tokens <= whole->tokens);
    assert_memory_equal(part->ids, whole->ids + at, count * sizeof *part->ids);
    assert_memory_equal(part->positions, whole->positions + at, count * sizeof *part->positions);
    assert_memory_equal(part->targets, whole->targets + at, count * sizeof *part->targets);
    assert_memory_equal(part->weights, whole->weights + at, count * sizeof *part->weights);
    assert_memory_equal(part->row_ids, whole->row_ids + at, count * sizeof *part->row_ids);
}

/* Over two epochs: the batches of all ranks and microbatches, one after another, are the batch of
 * one rank. */
static void test_ranks_split_the_same_batch(void **state) {
    const struct corpus *corpus = *state;
    enum { GLOBAL = 7, MICRO = 2, LENGTH = 16 };
    struct loader *loader = open_loader(corpus, LENGTH, PACKING_WHOLE, true, 9);
    struct buffers whole, part;
    buffers_init(&whole, GLOBAL, LENGTH);
    buffers_init(&part, MICRO, LENGTH);
    int64_t steps = 2 * loader_sequences(loader) / GLOBAL;
    assert_true(steps > 6);
    for (int64_t step = 0; step < steps; step++) {
        assert_ok(loader_read(loader, step * GLOBAL, GLOBAL, &whole.batch));
        for (int ranks = 1; ranks <= 9; ranks++) {
            int64_t at = 0, segments = 0;
            for (int rank = 0; rank < ranks; rank++) {
                struct loader_share share = loader_share(GLOBAL, rank, ranks);
                for (int64_t done = 0; done < share.count; done += MICRO) {
                    int64_t rest = share.count - done;
                    assert_ok(loader_read(loader, step * GLOBAL + share.first + done,
                                          rest < MICRO ? rest : MICRO, &part.batch));
                    assert_same_tokens(&part.batch, &whole.batch, at);
                    at += part.batch.tokens;
                    segments += part.batch.segments;
                }
            }
            assert_int_equal(at, whole.batch.tokens);
            assert_int_equal(segments, whole.batch.segments);
        }
    }
    arena_free(&whole.arena);
    arena_free(&part.arena);
    loader_close(loader);
}

static void test_share(void **state) {
    (void)state;
    for (int64_t count = 0; count < 20; count++)
        for (int ranks = 1; ranks < 8; ranks++) {
            int64_t next = 0;
            for (int rank = 0; rank < ranks; rank++) {
                struct loader_share share = loader_share(count, rank, ranks);
                assert_int_equal(share.first, next);
                assert_in_range(share.count, count / ranks, (count + ranks - 1) / ranks);
                next += share.count;
            }
            assert_int_equal(next, count);
        }
}

static void test_row_ids_are_unique(void **state) {
    const struct corpus *corpus = *state;
    enum { LENGTH = 16 };
    struct loader *loader = open_loader(corpus, LENGTH, PACKING_SPLIT, true, 9);
    struct buffers buffers;
    int64_t count = 2 * loader_sequences(loader);
    buffers_init(&buffers, count, LENGTH);
    assert_ok(loader_read(loader, 0, count, &buffers.batch));
    for (int64_t i = 1; i < buffers.batch.tokens; i++)
        assert_true(buffers.batch.row_ids[i - 1] < buffers.batch.row_ids[i]);
    struct batch view = loader_batch_view(&buffers.batch);
    assert_int_equal(view.tokens, buffers.batch.tokens);
    assert_int_equal(view.segments.start[view.segments.count], view.tokens);
    assert_ptr_equal(view.loss_weights, buffers.batch.weights);
    arena_free(&buffers.arena);
    loader_close(loader);
}

static void read_order(const struct corpus *corpus, bool shuffle, int64_t seed, int64_t epoch,
                       int32_t *order, int64_t *count) {
    struct loader *loader = open_loader(corpus, 16, PACKING_WHOLE, shuffle, seed);
    struct buffers buffers;
    buffers_init(&buffers, 1, 16);
    *count = loader_sequences(loader);
    for (int64_t i = 0; i < *count; i++) {
        assert_ok(loader_read(loader, epoch * *count + i, 1, &buffers.batch));
        order[i] = buffers.batch.ids[0];
    }
    arena_free(&buffers.arena);
    loader_close(loader);
}

static void test_order(void **state) {
    const struct corpus *corpus = *state;
    int32_t kept[MOST_TOKENS], again[MOST_TOKENS], first[MOST_TOKENS], second[MOST_TOKENS],
        other[MOST_TOKENS];
    int64_t count;
    read_order(corpus, false, 1, 0, kept, &count);
    read_order(corpus, false, 1, 4, again, &count);
    read_order(corpus, true, 1, 0, first, &count);
    read_order(corpus, true, 1, 1, second, &count);
    read_order(corpus, true, 2, 0, other, &count);
    size_t bytes = (size_t)count * sizeof *kept;
    assert_true(count > 20);
    for (int64_t i = 1; i < count; i++) assert_true(kept[i - 1] < kept[i]);
    assert_memory_equal(kept, again, bytes);
    assert_memory_not_equal(kept, first, bytes);
    assert_memory_not_equal(first, second, bytes);
    assert_memory_not_equal(first, other, bytes);
    read_order(corpus, true, 1, 1, again, &count);
    assert_memory_equal(second, again, bytes);
}

static void test_shuffle_is_a_permutation(void **state) {
    (void)state;
    static const int64_t counts[] = {1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 1000, 4097};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
        for (int64_t epoch = 0; epoch < 3; epoch++) {
            int64_t count = counts[c], moved = 0;
            bool seen[5000] = {false};
            for (int64_t i = 0; i < count; i++) {
                int64_t to = shuffle_index(7, epoch, count, i);
                assert_true(to >= 0 && to < count && !seen[to]);
                seen[to] = true;
                moved += llabs(to - i) > count / 8;
            }
            if (count >= 1000) assert_true(moved > count / 2);
        }
    /* larger than 32 bits, and equal on every machine */
    int64_t large = (int64_t)1 << 40;
    assert_in_range(shuffle_index(7, 0, large, large - 1), 0, large - 1);
    assert_int_not_equal(shuffle_index(7, 0, large, 0), shuffle_index(7, 0, large, 1));
}

static void test_all_masked_batch_names_its_documents(void **state) {
    struct corpus *corpus = *state;
    struct token_file_info info = {.tokenizer_hash = 42, .vocabulary = 100};
    struct token_writer *writer;
    assert_ok(token_writer_create(&writer, corpus->paths[0], &info));
    static const int32_t ids[] = {1, 2, 3};
    static const float zero[3] = {0, 0, 0};
    for (int d = 0; d < 40; d++) assert_ok(token_writer_append(writer, ids, zero, 3));
    assert_ok(token_writer_finish(writer));
    corpus->files.count = 1;
    struct loader *loader = open_loader(corpus, 4, PACKING_WHOLE, false, 0);
    struct buffers buffers;
    buffers_init(&buffers, 20, 4);
    assert_ok(loader_read(loader, 0, 20, &buffers.batch));
    assert_int_equal(buffers.batch.trained, 0);
    assert_int_equal(buffers.batch.tokens, 80);
    assert_int_equal(loader_check_trained(loader, 0, 31, 2, 2), STATUS_FORMAT);
    assert_non_null(strstr(status_message(), "step 31: no token of its 2 sequences"));
    assert_non_null(strstr(status_message(), "0.h5: documents 4-5, "));
    assert_non_null(strstr(status_message(), "0.h5: documents 6-7)"));
    assert_int_equal(loader_check_trained(loader, 0, 0, 0, 20), STATUS_FORMAT);
    assert_non_null(strstr(status_message(), " more)"));
    assert_ok(loader_check_trained(loader, 1, 0, 0, 20));
    assert_ok(loader_read(loader, 5, 0, &buffers.batch));
    assert_int_equal(buffers.batch.tokens, 0);
    arena_free(&buffers.arena);
    loader_close(loader);
}

static void test_refusals(void **state) {
    struct corpus *corpus = *state;
    struct loader_options options = {.sequence_length = 8};
    struct loader *loader;
    struct loader_expect hash = {.tokenizer_hash = 43, .tokenizer = "the/model"},
                         size = {.vocabulary = 1000};
    struct loader_expect fitting = {.tokenizer_hash = 42, .vocabulary = 1 << 20};
    assert_int_equal(loader_open(&loader, &options, &corpus->files, false, &hash), STATUS_FORMAT);
    assert_non_null(strstr(status_message(), "0.h5 was made with another tokenizer ("));
    assert_non_null(strstr(status_message(),
                           "hash 000000000000002a) than the model's (the/model, hash "
                           "000000000000002b): make it again with strata data "
                           "tokenize --tokenizer the/model"));
    assert_int_equal(loader_open(&loader, &options, &corpus->files, false, &size), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "vocabulary ends at 1000"));
    assert_ok(loader_open(&loader, &options, &corpus->files, false, &fitting));
    loader_close(loader);

    struct config_list none = {0};
    assert_int_equal(loader_open(&loader, &options, &none, false, &anything), STATUS_CONFIG);
    struct token_file_info info = {.tokenizer_hash = 7, .vocabulary = 10};
    struct token_writer *writer;
    assert_ok(token_writer_create(&writer, corpus->paths[1], &info));
    static const int32_t id = 1;
    assert_ok(token_writer_append(writer, &id, NULL, 1));
    assert_ok(token_writer_finish(writer));
    assert_int_equal(loader_open(&loader, &options, &corpus->files, false, &anything),
                     STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "different tokenizers"));
    struct config_list single = {corpus->items + 1, 1};
    assert_int_equal(loader_open(&loader, &options, &single, false, &anything), STATUS_FORMAT);
    assert_non_null(strstr(status_message(), "no document has two tokens"));
    unlink(corpus->paths[1]);
    assert_int_equal(loader_open(&loader, &options, &corpus->files, false, &anything), STATUS_IO);
}

static void test_rows(void **state) {
    (void)state;
    struct loader_options options;
    struct config_table table = {"data", loader_rows, loader_row_count, &options};
    char *arguments[] = {"data.train=a.h5,b.h5", "data.packing=split", "data.shuffle=no"};
    assert_ok(config_load(&table, 1, NULL, arguments, 3));
    assert_int_equal(options.train.count, 2);
    assert_int_equal(options.validation.count, 0);
    assert_int_equal(options.packing, PACKING_SPLIT);
    assert_int_equal(options.sequence_length, 1024);
    assert_false(options.shuffle);
    config_free(&table, 1);
}

#define WITH_CORPUS(test) cmocka_unit_test_setup_teardown(test, write_corpus, remove_corpus)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_CORPUS(test_every_token_once_an_epoch),
        WITH_CORPUS(test_packings),
        WITH_CORPUS(test_ranks_split_the_same_batch),
        cmocka_unit_test(test_share),
        WITH_CORPUS(test_row_ids_are_unique),
        WITH_CORPUS(test_order),
        cmocka_unit_test(test_shuffle_is_a_permutation),
        WITH_CORPUS(test_all_masked_batch_names_its_documents),
        WITH_CORPUS(test_refusals),
        cmocka_unit_test(test_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
