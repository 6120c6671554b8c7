/* make_tokens OUT.h5 DOCUMENTS LENGTH [VOCABULARY] [TOKENIZER_HASH] [masked]: a token file of
 * documents of about LENGTH random tokens; `masked` gives every token the loss weight 0. */
#include "data/token_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LENGTH = 1 << 16 };

static enum status write_documents(struct token_writer *writer, int documents, int length,
                                   uint32_t vocabulary, const float *weights) {
    static int32_t ids[MAX_LENGTH];
    uint32_t random = 1;
    for (int d = 0; d < documents; d++) {
        int count = length - d * 7 % (length / 2 + 1);
        for (int i = 0; i < count; i++) {
            random = random * 1664525u + 1013904223u;
            /* half of the tokens follow from the one before: there is something to learn */
            bool follows = i > 0 && random >> 31;
            ids[i] = follows ? (int32_t)(((uint32_t)ids[i - 1] * 7 + 3) % vocabulary)
                             : (int32_t)((random >> 8) % vocabulary);
        }
        TRY(token_writer_append(writer, ids, weights, count));
    }
    return STATUS_OK;
}

int main(int argc, char **argv) {
    static const float zeros[MAX_LENGTH];
    if (argc < 4) {
        fprintf(stderr, "usage: make_tokens OUT DOCUMENTS LENGTH [VOCABULARY] [HASH] [masked]\n");
        return 2;
    }
    int documents = atoi(argv[2]), length = atoi(argv[3]);
    if (documents < 1 || length < 4 || length > MAX_LENGTH) return 2;
    struct token_file_info info = {.vocabulary = argc > 4 ? atoi(argv[4]) : 96,
                                   .tokenizer_hash = argc > 5 ? strtoull(argv[5], NULL, 0) : 0,
                                   .tokenizer = "make_tokens"};
    struct token_writer *writer;
    enum status status = token_writer_create(&writer, argv[1], &info);
    if (status == STATUS_OK) {
        status = write_documents(writer, documents, length, (uint32_t)info.vocabulary,
                                 argc > 6 ? zeros : NULL);
        if (status == STATUS_OK)
            status = token_writer_finish(writer);
        else
            token_writer_discard(writer);
    }
    if (status == STATUS_OK) return 0;
    fprintf(stderr, "make_tokens: %s\n", status_message());
    return 1;
}
