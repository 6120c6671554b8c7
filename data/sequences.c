#include "data/sequences.h"
#include "kernels/base/units.h"

#include <stdbool.h>
#include <stdlib.h>

struct packer {
    struct sequences *sequences;
    struct sequence open; /* inputs 0: none is open */
    int64_t length;
    enum packing packing;
};

static enum status close_sequence(struct packer *packer) {
    struct sequences *sequences = packer->sequences;
    if (packer->open.inputs == 0) return STATUS_OK;
    if (sequences->count == sequences->capacity) {
        int64_t capacity = 2 * sequences->capacity + 64;
        struct sequence *items =
            realloc(sequences->items, (size_t)capacity * sizeof *sequences->items);
        if (!items)
            return status_fail(STATUS_MEMORY, "no memory for an index of %lld sequences",
                               (long long)capacity);
        sequences->items = items;
        sequences->capacity = capacity;
    }
    sequences->items[sequences->count++] = packer->open;
    sequences->inputs += packer->open.inputs;
    packer->open = (struct sequence){0};
    return STATUS_OK;
}

/* Whether the open sequence must end before a piece of `inputs`, which is the rest of a document
 * that begins at `token` and has `whole` inputs in all, can go on. */
static bool must_close(const struct packer *packer, int64_t token, int64_t inputs, int64_t whole) {
    const struct sequence *open = &packer->open;
    int64_t room = packer->length - open->inputs;
    int64_t taken = min_i64(inputs, room);
    if (open->inputs == 0) return false;
    if (room == 0 || packer->packing == PACKING_OFF) return true;
    if (token + taken + 1 - open->token > 2 * packer->length) return true; /* too much skipped */
    return packer->packing == PACKING_WHOLE && whole <= packer->length && inputs > room;
}

static enum status add_document(struct packer *packer, int64_t document, int64_t first,
                                int64_t end) {
    int64_t whole = end - first - 1;
    for (int64_t token = first; token < end - 1;) {
        int64_t rest = end - 1 - token;
        if (must_close(packer, token, rest, whole)) TRY(close_sequence(packer));
        struct sequence *open = &packer->open;
        if (open->inputs == 0) *open = (struct sequence){.token = token, .document = document};
        int64_t room = packer->length - open->inputs, taken = min_i64(rest, room);
        open->inputs += (int32_t)taken;
        token += taken;
        open->tokens = (int32_t)(token + 1 - open->token);
    }
    return STATUS_OK;
}

enum status sequences_build(struct sequences *sequences, const int64_t *documents, int64_t count,
                            int64_t length, enum packing packing) {
    *sequences = (struct sequences){0};
    struct packer packer = {.sequences = sequences, .length = length, .packing = packing};
    enum status status = STATUS_OK;
    for (int64_t d = 0; d < count && status == STATUS_OK; d++)
        status = add_document(&packer, d, documents[d], documents[d + 1]);
    if (status == STATUS_OK) status = close_sequence(&packer);
    if (status != STATUS_OK) sequences_free(sequences);
    return status;
}

void sequences_free(struct sequences *sequences) {
    free(sequences->items);
    *sequences = (struct sequences){0};
}
