#define _GNU_SOURCE
#include "data/loader.h"

#include "data/shuffle.h"
#include "data/token_file.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const packing_words[] = {
    [PACKING_SPLIT] = "split", [PACKING_WHOLE] = "whole", [PACKING_OFF] = "off", NULL};

const struct config_row loader_rows[] = {
    {"train", CONFIG_LIST, offsetof(struct loader_options, train), NULL,
     .help = "token files to train on (`strata data tokenize` makes them)"},
    {"validation", CONFIG_LIST, offsetof(struct loader_options, validation), "",
     .help = "held-out token files; each validation goes through all of them"},
    {"sequence_length", CONFIG_INT, offsetof(struct loader_options, sequence_length), "1024",
     .low = 2, .high = 1 << 22, .help = "most tokens in a sequence"},
    {"packing", CONFIG_ENUM, offsetof(struct loader_options, packing), "whole",
     .words = packing_words,
     .help = "several documents a sequence: cut where it is full (`split`), cut only those longer "
             "than a sequence (`whole`), or one document a sequence (`off`)"},
    {"shuffle", CONFIG_BOOL, offsetof(struct loader_options, shuffle), "true",
     .help = "another order of the sequences each epoch; false keeps the files' order"},
    {"seed", CONFIG_INT, offsetof(struct loader_options, seed), "1", .low = 0, .high = 1e15,
     .help = "of the order"},
};
const int loader_row_count = sizeof loader_rows / sizeof *loader_rows;

struct part {
    struct token_file *file;
    struct sequences sequences;
    int64_t first; /* number of its first sequence among all */
};

struct loader {
    struct part *parts;
    int64_t part_count;
    int64_t sequence_length, sequences, inputs;
    uint64_t seed;
    bool shuffle;
    int32_t *tokens; /* (2 * sequence_length) the run of one sequence */
    float *weights;  /* (2 * sequence_length) */
};

static enum status check_tokenizer(const struct loader *loader, const struct token_file *file,
                                   const struct loader_expect *expect) {
    const struct token_file_info *info = token_file_info(file);
    const char *path = token_file_path(file);
    if (expect->tokenizer_hash)
        TRY(token_file_check_tokenizer(file, expect->tokenizer_hash, expect->tokenizer));
    if (expect->vocabulary && info->vocabulary > expect->vocabulary)
        return status_fail(STATUS_CONFIG,
                           "%s has token ids up to %lld, the model's vocabulary ends at %lld", path,
                           (long long)info->vocabulary, (long long)expect->vocabulary);
    const struct token_file *other = loader->parts[0].file;
    if (other && token_file_info(other)->tokenizer_hash != info->tokenizer_hash)
        return status_fail(STATUS_CONFIG, "%s and %s were made with different tokenizers",
                           token_file_path(other), path);
    return STATUS_OK;
}

static enum status open_part(struct loader *loader, struct part *part, const char *path,
                             const struct loader_options *options,
                             const struct loader_expect *expect) {
    struct token_file *file;
    TRY(token_file_open(&file, path));
    enum status status = check_tokenizer(loader, file, expect);
    if (status == STATUS_OK)
        status = sequences_build(&part->sequences, token_file_documents(file),
                                 token_file_info(file)->documents, options->sequence_length,
                                 options->packing);
    if (status != STATUS_OK) {
        token_file_close(file);
        return status;
    }
    part->file = file;
    part->first = loader->sequences;
    loader->sequences += part->sequences.count;
    loader->inputs += part->sequences.inputs;
    return STATUS_OK;
}

static enum status open_parts(struct loader *loader, const struct loader_options *options,
                              const struct config_list *files, const struct loader_expect *expect) {
    size_t run = 2 * (size_t)options->sequence_length;
    loader->parts = calloc((size_t)files->count + 1, sizeof *loader->parts);
    loader->tokens = malloc(run * sizeof *loader->tokens);
    loader->weights = malloc(run * sizeof *loader->weights);
    if (!loader->parts || !loader->tokens || !loader->weights)
        return status_fail(STATUS_MEMORY, "no memory to load %lld token files",
                           (long long)files->count);
    for (; loader->part_count < files->count; loader->part_count++)
        TRY(open_part(loader, &loader->parts[loader->part_count], files->items[loader->part_count],
                      options, expect));
    if (files->count == 0) return status_fail(STATUS_CONFIG, "no token files are named");
    if (loader->sequences == 0)
        return status_fail(STATUS_FORMAT, "%s: no document has two tokens to train on",
                           files->items[0]);
    return STATUS_OK;
}

enum status loader_open(struct loader **out, const struct loader_options *options,
                        const struct config_list *files, bool shuffle,
                        const struct loader_expect *expect) {
    struct loader *loader = calloc(1, sizeof *loader);
    if (!loader) return status_fail(STATUS_MEMORY, "no memory to load token files");
    loader->sequence_length = options->sequence_length;
    loader->seed = (uint64_t)options->seed;
    loader->shuffle = shuffle;
    enum status status = open_parts(loader, options, files, expect);
    if (status == STATUS_OK)
        *out = loader;
    else
        loader_close(loader);
    return status;
}

void loader_close(struct loader *loader) {
    if (!loader) return;
    for (int64_t i = 0; i < loader->part_count; i++) {
        token_file_close(loader->parts[i].file);
        sequences_free(&loader->parts[i].sequences);
    }
    free(loader->parts);
    free(loader->tokens);
    free(loader->weights);
    free(loader);
}

int64_t loader_sequences(const struct loader *loader) {
    return loader->sequences;
}

int64_t loader_inputs(const struct loader *loader) {
    return loader->inputs;
}

enum status loader_describe_file(struct loader *loader, int64_t i, char text[LOADER_FILE_BYTES]) {
    assert(i >= 0 && i < loader->part_count);
    struct token_file *file = loader->parts[i].file;
    const struct token_file_info *info = token_file_info(file);
    uint64_t hash;
    TRY(token_file_fingerprint(file, &hash));
    snprintf(text, LOADER_FILE_BYTES, "tokens=%lld documents=%lld hash=%016llx",
             (long long)info->tokens, (long long)info->documents, (unsigned long long)hash);
    return STATUS_OK;
}

struct loader_share loader_share(int64_t count, int rank, int ranks) {
    int64_t base = count / ranks, rest = count % ranks;
    return (struct loader_share){base * rank + (rank < rest ? rank : rest), base + (rank < rest)};
}

void loader_batch_layout(struct loader_batch *batch, struct arena *arena, int64_t sequences,
                         int64_t sequence_length) {
    int64_t capacity = sequences * sequence_length;
    size_t count = (size_t)capacity;
    *batch = (struct loader_batch){
        .capacity = capacity,
        .ids = arena_push(arena, count * sizeof(int32_t)),
        .positions = arena_push(arena, count * sizeof(int32_t)),
        .targets = arena_push(arena, count * sizeof(int32_t)),
        .weights = arena_push(arena, count * sizeof(float)),
        .row_ids = arena_push(arena, count * sizeof(int64_t)),
        .start = arena_push(arena, (count + 1) * sizeof(int32_t)),
        .past = arena_push(arena, count * sizeof(int32_t)),
    };
}

/* The sequence of a sample and the part it lies in. */
static const struct sequence *find_sequence(const struct loader *loader, int64_t sample,
                                            const struct part **part) {
    int64_t number = sample % loader->sequences;
    if (loader->shuffle)
        number = shuffle_index(loader->seed, sample / loader->sequences, loader->sequences, number);
    int64_t low = 0, high = loader->part_count - 1; /* the last part that begins at or before it */
    while (low < high) {
        int64_t middle = (low + high + 1) / 2;
        if (loader->parts[middle].first <= number)
            low = middle;
        else
            high = middle - 1;
    }
    *part = &loader->parts[low];
    return &(*part)->sequences.items[number - (*part)->first];
}

/* One segment: tokens[0 .. inputs] with their weights; the last is a target only. */
static void append_segment(struct loader_batch *batch, const int32_t *tokens, const float *weights,
                           int64_t inputs, int64_t row_id) {
    assert(batch->tokens + inputs <= batch->capacity);
    int64_t base = batch->tokens;
    batch->start[batch->segments] = (int32_t)base;
    batch->past[batch->segments++] = 0;
    for (int64_t i = 0; i < inputs; i++) {
        bool trained = weights[i + 1] > 0;
        batch->ids[base + i] = tokens[i];
        batch->positions[base + i] = (int32_t)i;
        batch->targets[base + i] = trained ? tokens[i + 1] : -1;
        batch->weights[base + i] = trained ? weights[i + 1] : 0;
        batch->row_ids[base + i] = row_id + i;
        batch->trained += trained;
        batch->weight_sum += (double)batch->weights[base + i];
    }
    batch->tokens += inputs;
}

static enum status append_sample(struct loader *loader, int64_t sample,
                                 struct loader_batch *batch) {
    const struct part *part;
    const struct sequence *sequence = find_sequence(loader, sample, &part);
    TRY(token_file_read(part->file, sequence->token, sequence->tokens, loader->tokens,
                        loader->weights));
    const int64_t *documents = token_file_documents(part->file);
    int64_t document = sequence->document, token = sequence->token;
    int64_t end = sequence->token + sequence->tokens;
    int64_t row_id = sample * loader->sequence_length;
    for (; token < end; token = documents[++document]) {
        int64_t stop = documents[document + 1] < end ? documents[document + 1] : end;
        int64_t inputs = stop - token - 1;
        if (inputs < 1) continue;
        append_segment(batch, loader->tokens + (token - sequence->token),
                       loader->weights + (token - sequence->token), inputs, row_id);
        row_id += inputs;
    }
    return STATUS_OK;
}

enum status loader_read(struct loader *loader, int64_t first, int64_t count,
                        struct loader_batch *batch) {
    assert(first >= 0 && count * loader->sequence_length <= batch->capacity);
    batch->tokens = batch->trained = batch->segments = 0;
    batch->weight_sum = 0;
    for (int64_t i = 0; i < count; i++) TRY(append_sample(loader, first + i, batch));
    batch->start[batch->segments] = (int32_t)batch->tokens;
    return STATUS_OK;
}

struct batch loader_batch_view(const struct loader_batch *batch) {
    return (struct batch){
        .tokens = batch->tokens,
        .ids = batch->ids,
        .positions = batch->positions,
        .segments = {batch->segments, batch->start, batch->past},
        .targets = batch->targets,
        .loss_weights = batch->weights,
        .row_ids = batch->row_ids,
    };
}

/* "a.h5: documents 3-5" of a sample, after what `text` holds; whether there was room. */
static bool name_documents(const struct loader *loader, int64_t sample, char *text,
                           size_t capacity) {
    const struct part *part;
    const struct sequence *sequence = find_sequence(loader, sample, &part);
    const int64_t *documents = token_file_documents(part->file);
    int64_t last = sequence->document;
    while (documents[last + 1] < sequence->token + sequence->tokens) last++;
    size_t used = strlen(text);
    int written =
        snprintf(text + used, capacity - used, "%s%s: documents %lld-%lld", used ? ", " : "",
                 token_file_path(part->file), (long long)sequence->document, (long long)last);
    if (written >= 0 && (size_t)written < capacity - used) return true;
    text[used] = 0;
    return false;
}

enum status loader_check_trained(const struct loader *loader, int64_t trained, int64_t step,
                                 int64_t first, int64_t count) {
    if (trained > 0) return STATUS_OK;
    char text[640] = "";
    int64_t named = 0;
    while (named < count && name_documents(loader, first + named, text, sizeof text)) named++;
    char more[48] = "";
    if (named < count) snprintf(more, sizeof more, " and %lld more", (long long)(count - named));
    return status_fail(STATUS_FORMAT,
                       "step %lld: no token of its %lld sequences has a loss weight above 0 "
                       "(%s%s)",
                       (long long)step, (long long)count, text, more);
}
