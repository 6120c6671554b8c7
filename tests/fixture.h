/* A model of tests/fixtures with what transformers and PEFT computed on it (tests/peers). */
#ifndef STRATA_TESTS_FIXTURE_H
#define STRATA_TESTS_FIXTURE_H

#include "tests/check.h"

#include "core/model.h"
#include "core/packed_batch.h"
#include "core/workspace.h"

enum { FIXTURE_MAX_SEQUENCES = 8 };

struct fixture {
    struct model_file expected;
    struct model model;
    struct packed_batch packed; /* all sequences, loss weights = 1 / predicted tokens */
    int sequences;
    const char *prefix; /* of the expected logits and loss: dynamic RoPE has a fixed context here */
    struct workspace ws;
    struct arena gradients;
};

/* Opens tests/fixtures/`name` on the op table `table`, with its weights from `model` (another
 * fixture's name for adapters, else the same). */
void fixture_open(struct fixture *fixture, const char *name, const char *model, const char *table);
void fixture_close(struct fixture *fixture);

/* fp32 values of an expected tensor; the caller frees them. */
float *fixture_expected(const struct fixture *fixture, const char *name, int64_t *count);

/* Logits (count, V) of one sequence in fp32 by the best op table; the caller frees them. The
 * residual streams after each layer go to `hidden` (L, count, C) unless it is NULL. */
float *model_logits(const struct model *model, const int32_t *ids, int64_t count, float *hidden);

/* Gives every parameter of the list a zeroed gradient out of fixture->gradients. */
void fixture_train(struct fixture *fixture, struct param *params, int count);

#endif
