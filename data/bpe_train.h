/* Trains a byte-level BPE: the most frequent pair of neighbouring symbols becomes a token, again
 * and again (Sennrich et al., arXiv:1508.07909). Words are cut by Llama 3's regex and counted; pair
 * counts are kept up to date word by word. Of equally frequent pairs the one with the smaller ids
 * wins, so the same text always gives the same vocabulary. Ids: special tokens, the 256 bytes in
 * the order of the characters that stand for them, then merges in their order. */
#ifndef STRATA_DATA_BPE_TRAIN_H
#define STRATA_DATA_BPE_TRAIN_H

#include "kernels/base/status.h"
#include <stddef.h>
#include <stdint.h>

struct bpe_trainer; /* opaque */

/* Special tokens are cut out of the text and never merged. The caller frees the trainer. */
enum status bpe_trainer_create(struct bpe_trainer **trainer, const char *const *specials,
                               size_t special_count);
void bpe_trainer_free(struct bpe_trainer *trainer);

/* Counts the words of a text; what is no UTF-8 is left out. */
enum status bpe_trainer_add(struct bpe_trainer *trainer, const char *text, size_t bytes);

/* Merges until there are `size` tokens or no pair occurs twice. Once. STATUS_CONFIG when the
 * special tokens and bytes alone are more. */
enum status bpe_trainer_run(struct bpe_trainer *trainer, int32_t size);

int32_t bpe_trainer_size(const struct bpe_trainer *trainer); /* tokens so far */
size_t bpe_trainer_words(const struct bpe_trainer *trainer); /* different words counted */

/* Writes a tokenizer.json. */
enum status bpe_trainer_write(const struct bpe_trainer *trainer, const char *path);

#endif
