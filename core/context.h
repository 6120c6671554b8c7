/* Context parallelism: ranks share the tokens of a batch, and attention alone reaches across them,
 * keys and values going round a ring of ranks (Liu et al., Ring Attention, arXiv:2310.01889).
 *
 * The batch's packed tokens are cut into 2 * ranks chunks as equal as can be, regardless of where
 * documents begin, and rank r has chunks r and 2 * ranks - 1 - r: what a token sees grows along its
 * document, so an early chunk and a late one balance (zigzag, as in Llama 3, arXiv:2407.21783).
 *
 *     chunk    | 0 | 1 | 2 | 3 | 4 | 5 |      3 ranks; a chunk has a token more than another or
 *     rank     | 0 | 1 | 2 | 2 | 1 | 0 |      not, and is empty where there are too few
 *
 * So the ranks' numbers of tokens differ by at most one, whatever the documents' lengths, the work
 * of documents of one length is even, and only a document that an edge between chunks cuts needs
 * keys of other ranks. Cutting each document instead would balance long ones no better, and leave
 * ranks without tokens of short ones.
 *
 * Forward: step s of the ring has the keys and values of the rank s places before me, while those
 * for step s + 1 travel; (out, lse) of all queries take them in, in fp32, in this order. Backward:
 * the same way round, and the gradients of a block follow it a step behind, each rank adding its
 * part, until they come home. What a step computes depends on the cut alone: the same bits on every
 * run. */
#ifndef STRATA_CORE_CONTEXT_H
#define STRATA_CORE_CONTEXT_H

#include "core/batch.h"
#include "core/exec.h"

/* Tokens first .. first + count - 1 of a batch. */
struct context_run {
    int64_t first, count;
};

/* What `rank` of `ranks` has of `tokens`: its early chunk and its late one. */
void context_runs(int64_t tokens, int ranks, int rank, struct context_run runs[2]);

int64_t context_tokens(int64_t tokens, int ranks, int rank);

/* Most tokens of any rank. */
static inline int64_t context_room(int64_t tokens, int ranks) {
    return (tokens + ranks - 1) / ranks;
}

/* Which of my queries see which keys of another rank; both packed as that rank has them, the early
 * chunk before the late one. */
struct context_step {
    int32_t count;
    const struct attention_part *parts; /* (count) */
};

/* How the batch at hand is a part of a larger one. Borrows all. */
struct context {
    int64_t tokens;                   /* of all ranks */
    const struct context_step *steps; /* (ranks) keys of the rank that many places before me; NULL:
                                         nothing is seen (to count memory) */
};

/* attention_forward and attention_backward of contiguous keys, for whatever a batch is: the ops
 * themselves where batch->context is NULL. All ranks of exec->cp make the same calls, those without
 * tokens too. */
void context_attention_forward(const struct exec *exec, const struct batch *batch,
                               const struct attention_forward_args *args);
void context_attention_backward(const struct exec *exec, const struct batch *batch,
                                const struct attention_backward_args *args);

#endif
