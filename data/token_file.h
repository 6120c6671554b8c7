/* Token files: HDF5 with a corpus as one long row of token ids and where its documents begin.
 *
 *     /tokens     (N)   uint16 (vocabulary <= 65536) or uint32, chunked
 *     /documents  (D+1) int64: document d is tokens[documents[d] .. documents[d+1])
 *     /weights    (N)   uint8 or float32: the loss weight of each token as a target; absent = 1
 *     attributes of /: format_version (int64, 1), tokenizer_hash (uint64, tokenizer_hash()),
 *                      vocabulary (int64), tokenizer (text: where it was read from)
 *
 * Any HDF5 program can write or read one. A file is written under a temporary name beside its own,
 * synced and renamed, so a reader never sees half of one. Errors name the file: STATUS_IO what the
 * system refuses, STATUS_FORMAT what is not such a file.
 *
 * HDF5's own printing of errors is turned off by both open and create, for the whole process. The
 * writer takes room on the disk before HDF5 needs it, under a name of core/atomic_file;
 * checkpoints, whose sizes are known and whose folder is what is renamed, have parallel/durable_h5
 * instead. */
#ifndef STRATA_DATA_TOKEN_FILE_H
#define STRATA_DATA_TOKEN_FILE_H

#include "kernels/base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TOKEN_FILE_VERSION = 1, TOKEN_FILE_MAX_PATH = 4096 };

struct token_file_info {
    uint64_t tokenizer_hash;
    int64_t vocabulary;                  /* ids are below it */
    char tokenizer[TOKEN_FILE_MAX_PATH]; /* path, for people */
    bool fractional; /* weights are float32; uint8 holds only 0 .. 255 (writer) */
    /* set by the reader and as the writer goes on */
    int64_t tokens, documents;
    bool weighted; /* /weights is there */
};

struct token_writer; /* opaque */

/* Begins PATH. Of `info` the first four fields are read. Close with token_writer_finish or
 * token_writer_discard. */
enum status token_writer_create(struct token_writer **writer, const char *path,
                                const struct token_file_info *info);

/* Appends one document. tokens (count) ids in [0, vocabulary): another is STATUS_FORMAT. weights
 * (count) or NULL for all 1; whole numbers up to 255 unless info.fractional. After a failure the
 * writer can only be discarded. Buffered: what is wrong with the disk may be told later. */
enum status token_writer_append(struct token_writer *writer, const int32_t *tokens,
                                const float *weights, int64_t count);

const struct token_file_info *token_writer_info(const struct token_writer *writer);

/* Writes the rest, syncs, renames and frees the writer, also on failure (then nothing is left on
 * the disk and an older PATH is as it was). */
enum status token_writer_finish(struct token_writer *writer);

/* Removes what was written and frees the writer; NULL is fine. */
void token_writer_discard(struct token_writer *writer);

struct token_file; /* opaque; one thread at a time */

enum status token_file_open(struct token_file **file, const char *path);
void token_file_close(struct token_file *file); /* NULL is fine */

const struct token_file_info *token_file_info(const struct token_file *file);

/* STATUS_FORMAT, with both hashes and the cure, where it was made with another tokenizer than that
 * of `tokenizer_hash`, which is read from the path `tokenizer`. */
enum status token_file_check_tokenizer(const struct token_file *file, uint64_t tokenizer_hash,
                                       const char *tokenizer);
const char *token_file_path(const struct token_file *file);

/* (documents + 1), borrowed until close. */
const int64_t *token_file_documents(const struct token_file *file);

/* tokens[first .. first + count), within the file: ids are checked against the vocabulary. weights
 * (count) or NULL; filled with 1 where the file has none. A weight that is negative or not finite
 * is STATUS_FORMAT. */
enum status token_file_read(struct token_file *file, int64_t first, int64_t count, int32_t *tokens,
                            float *weights);

/* A number that files of other contents have not, but for rare chance: a hash over the attributes,
 * the list of documents and samples of the tokens and weights all over the file (of a small file,
 * all of them). Reads well under a MiB besides what is open, however large the file is. */
enum status token_file_fingerprint(struct token_file *file, uint64_t *fingerprint);

#endif
