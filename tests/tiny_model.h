/* A tiny model as users have them: a directory with config.json, model.safetensors, tokenizer.json
 * (bytes, no merges) and a ChatML template, and adapters in PEFT's format; random weights. */
#ifndef STRATA_TESTS_TINY_MODEL_H
#define STRATA_TESTS_TINY_MODEL_H

enum { TINY_CONTEXT = 8192 };

struct tiny_model {
    char directory[64]; /* of the model */
    char adapter[64];   /* of an adapter that changes every logit */
};

/* Writes both below /tmp. */
void tiny_model_write(struct tiny_model *tiny);
void tiny_model_remove(const struct tiny_model *tiny);

#endif
