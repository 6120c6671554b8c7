#ifndef STRATA_TESTS_FAKE_TOKENIZER_H
#define STRATA_TESTS_FAKE_TOKENIZER_H

#include "data/tokenizer.h"

/* `size` ids: letters, then BOS and EOS. */
struct tokenizer *fake_tokenizer_create(int32_t size);
void fake_tokenizer_free(struct tokenizer *tokenizer);

#endif
