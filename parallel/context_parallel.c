#include "parallel/context_parallel.h"

#include "kernels/base/units.h"

#include <assert.h>
#include <string.h>

/* Parts of all steps: against my own keys one for each document of a chunk, and one that both have;
 * against another rank's at most two, as only one document reaches from one chunk to another. */
static int64_t most_parts(int64_t tokens, int ranks) {
    return context_room(tokens, ranks) + 1 + 2 * (int64_t)(ranks - 1);
}

void context_cut_layout(struct context_cut *cut, struct arena *arena, int ranks, int rank,
                        int64_t tokens) {
    *cut = (struct context_cut){.ranks = ranks, .rank = rank};
    if (ranks == 1) return;
    cut->steps = arena_push(arena, (size_t)ranks * sizeof *cut->steps);
    cut->parts = arena_push(arena, (size_t)most_parts(tokens, ranks) * sizeof *cut->parts);
    cut->context.steps = cut->steps;
}

/* The segment of a token. */
static int32_t segment_of(const struct loader_batch *batch, int64_t token) {
    int32_t low = 0, high = batch->segments - 1; /* the last that begins at or before it */
    while (low < high) {
        int32_t middle = low + (high - low + 1) / 2;
        if (batch->start[middle] <= token)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* A chunk of a rank: its tokens of the whole batch, and where the rank packs them. */
struct piece {
    int number; /* of the chunk */
    struct context_run run;
    int64_t packed;
};

static struct piece piece_of(const struct context_cut *cut, int rank, int late) {
    struct context_run runs[2];
    context_runs(cut->context.tokens, cut->ranks, rank, runs);
    return (struct piece){late ? 2 * cut->ranks - 1 - rank : rank, runs[late],
                          late ? runs[0].count : 0};
}

/* The documents of a chunk among themselves. */
static struct attention_part *list_documents(struct attention_part *parts,
                                             const struct loader_batch *batch,
                                             const struct piece *piece) {
    int64_t token = piece->run.first, end = token + piece->run.count;
    while (token < end) {
        int32_t document = segment_of(batch, token);
        int64_t count = min_i64(batch->start[document + 1], end) - token;
        int32_t at = (int32_t)(piece->packed + token - piece->run.first);
        *parts++ = (struct attention_part){document, at, (int32_t)count, at, (int32_t)count, 0};
        token += count;
    }
    return parts;
}

/* The queries of a chunk against the keys of an earlier one: those of the document that reaches
 * from it into the later one, if there is one. */
static struct attention_part *list_reaching(struct attention_part *parts,
                                            const struct loader_batch *batch,
                                            const struct piece *queries, const struct piece *keys) {
    if (keys->number >= queries->number || keys->run.count == 0 || queries->run.count == 0)
        return parts;
    int64_t end = keys->run.first + keys->run.count;
    int32_t document = segment_of(batch, end - 1);
    int64_t seen = batch->start[document + 1] - queries->run.first;
    if (seen <= 0) return parts;
    int64_t first = max_i64(batch->start[document], keys->run.first);
    *parts++ = (struct attention_part){
        .document = document,
        .query = (int32_t)queries->packed,
        .queries = (int32_t)min_i64(seen, queries->run.count),
        .key = (int32_t)(keys->packed + first - keys->run.first),
        .keys = (int32_t)(end - first),
        .past = (int32_t)(queries->run.first - first),
    };
    return parts;
}

/* Parts of my queries against the keys of `rank`, in the order that struct attention_part asks for:
 * the document that reaches from chunk to chunk is the last of the earlier and the first of the
 * later. */
static struct attention_part *list_step(const struct context_cut *cut, struct attention_part *parts,
                                        const struct loader_batch *batch, int rank) {
    for (int late = 0; late < 2; late++) {
        const struct piece mine = piece_of(cut, cut->rank, late);
        for (int other = 0; other < 2; other++) {
            const struct piece keys = piece_of(cut, rank, other);
            parts = list_reaching(parts, batch, &mine, &keys);
        }
        if (rank == cut->rank) parts = list_documents(parts, batch, &mine);
    }
    return parts;
}

static void keep(void *values, size_t width, const struct context_run runs[2]) {
    char *at = values;
    for (int i = 0; i < 2; i++) {
        size_t bytes = (size_t)runs[i].count * width;
        memmove(at, (char *)values + (size_t)runs[i].first * width, bytes);
        at += bytes;
    }
}

static void keep_tokens(struct loader_batch *batch, const struct context_run runs[2]) {
    keep(batch->ids, sizeof *batch->ids, runs);
    keep(batch->positions, sizeof *batch->positions, runs);
    keep(batch->targets, sizeof *batch->targets, runs);
    keep(batch->weights, sizeof *batch->weights, runs);
    keep(batch->row_ids, sizeof *batch->row_ids, runs);
    batch->tokens = runs[0].count + runs[1].count;
    batch->segments = 0;
    batch->start[0] = 0;
    batch->trained = 0;
    batch->weight_sum = 0.0;
    for (int64_t i = 0; i < batch->tokens; i++) {
        batch->trained += batch->targets[i] >= 0;
        batch->weight_sum += (double)batch->weights[i];
    }
}

void context_cut(struct context_cut *cut, struct loader_batch *batch) {
    cut->context.tokens = batch->tokens;
    if (cut->ranks == 1) return;
    struct attention_part *parts = cut->parts;
    struct context_run runs[2];
    for (int step = 0; step < cut->ranks; step++) {
        int rank = (cut->rank + cut->ranks - step) % cut->ranks;
        struct attention_part *end = list_step(cut, parts, batch, rank);
        cut->steps[step] = (struct context_step){(int32_t)(end - parts), parts};
        parts = end;
    }
    assert(parts - cut->parts <= most_parts(batch->tokens, cut->ranks));
    context_runs(batch->tokens, cut->ranks, cut->rank, runs);
    keep_tokens(batch, runs);
}
