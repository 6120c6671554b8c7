/* One record of a corpus to the tokens of one document and their loss weights.
 *
 *   record                        tokens                            loss on
 *   text, {"text": T}             [BOS] T EOS                       all
 *   {"prompt": P, "completion": C}[BOS] P C EOS                     C and EOS
 *   {"messages": [{role, content}]}  as the chat template renders   the assistant's turns with
 *                                 them: it places BOS and EOS       their end marker
 *   {"tokens": [..], "labels": [..]}  as they are                   labels that are not -100
 *   {"tokens": [..]}              as they are                       all
 *
 * [BOS] where the tokenizer's configuration adds one; EOS where it has one. P C is encoded as one
 * text; a token that holds any byte of C counts as C's (so for the assistant's turns). A label is
 * -100 or its token. Special tokens in letters ("<|im_end|>") are tokens, unless `literal` (then
 * only in the chat template's text). */
#ifndef STRATA_DATA_DOCUMENT_H
#define STRATA_DATA_DOCUMENT_H

#include "data/chat_template.h"
#include "data/corpus.h"
#include "data/tokenizer.h"

/* How records are read; immutable, may be used by many threads. */
struct document_rules {
    const struct tokenizer *tokenizer; /* borrowed; NULL where all records are tokens already */
    int32_t vocabulary;                /* ids of {"tokens"} are below it */
    struct chat_template template;     /* for messages */
    enum status template_status;       /* why there is none; */
    const char *template_message;      /* told when messages come along; borrowed */
    bool literal;
};

/* Buffers that are used again for the next record. */
struct document {
    struct token_list tokens;
    float *weights; /* (tokens.count) */
    size_t capacity;
    struct token_list prefix; /* scratch */
};
void document_free(struct document *document);

/* Overwrites `document`. A failure names the record's file and line. */
enum status document_build(struct document *document, const struct document_rules *rules,
                           const struct record *record);

#endif
