/* A transformer block, forward and backward: the same code for training, evaluation, prefill and
 * decode.
 *
 *   n1  = rmsnorm(x)                      q, k, v = Wq n1, Wk n1, Wv n1   [QK norm]   rope(q, k)
 *   mid = x + sum(Wo attention(q, k, v))
 *   n2  = rmsnorm(mid)
 *   out = mid + sum(Wd (silu(Wg n2) * (Wu n2)))
 *
 * sum is over the tensor-parallel ranks, each of which has its heads and its part of gate and up.
 * Under sequence parallelism x, mid, out and the norms are of a rank's own tokens, n1 and n2 are
 * gathered, and the sum is scattered (core/sequence.h).
 *
 * What is rounded where, for every device: each named value above is rounded once to act when it is
 * stored (fp32 act: not at all). Inside an op everything is fp32: products accumulate in fp32 over
 * k in ascending order, norms, softmax and SwiGLU are computed in fp32 from the stored values. The
 * residual sums are single fp32 additions, rounded to act. */
#ifndef STRATA_CORE_BLOCK_H
#define STRATA_CORE_BLOCK_H

#include "core/batch.h"
#include "core/exec.h"
#include "core/model.h"

/* What a block leaves behind; (N, ...) act unless said; M = N, or sequence_part(...).room. n1, n2
 * and the SwiGLU product are always recomputed in backward (4C + 2F bytes a token in bf16 saved).
 *
 *   dear    what takes attention, or a sum over ranks, to have again: v, o, lse, mid, and q_raw and
 *           k_raw, which attention is made of
 *   cheap   q and k where there is QK norm; gate and up: two products of mid, which is kept */
struct block_acts {
    void *x;                /* (M, C) input */
    float *rstd1, *rstd2;   /* (M) */
    void *q_raw, *k_raw;    /* before QK norm; q and k themselves where there is none */
    float *q_rstd, *k_rstd; /* (N, H), (N, Hkv) */
    void *q, *k, *v;        /* (N, H, D), (N, Hkv, D): after rope */
    void *o;                /* (N, H, D) */
    float *lse;             /* (N, H) */
    void *mid;              /* (M, C) */
    void *gate, *up;        /* (N, F) */
    void *out;              /* (M, C) */
    /* For block_backward_weights, of all tokens under sequence parallelism; NULL where gradients
     * are made at once: those of out and mid (N, C), of q_raw, k_raw and v, and Wd's input (N, F).
     * d_out and product alone are NULL where gate and up don't stay for it. */
    void *d_out, *d_mid, *d_q, *d_k, *d_v, *product;
};

/* Push for `tokens` tokens what is dear, and what is cheap, to compute again: together all but x
 * and out. */
void block_acts_push_dear(struct block_acts *acts, struct arena *arena, const struct exec *exec,
                          const struct model_config *config, int64_t tokens);
void block_acts_push_cheap(struct block_acts *acts, struct arena *arena, const struct exec *exec,
                           const struct model_config *config, int64_t tokens);

/* Pushes what block_backward_weights needs besides; `mlp`: also for gate, up and down, whose
 * gradients are made at once otherwise. */
void block_acts_push_late(struct block_acts *acts, struct arena *arena, const struct exec *exec,
                          const struct model_config *config, int64_t tokens, bool mlp);

/* rope_table (N, D/2, 2) f32. */
void block_forward(const struct exec *exec, const struct model *model, int layer,
                   const struct batch *batch, const float *rope_table, struct block_acts *acts);

/* Makes what backward needs, from x: all of forward but out, which the layer above has seen. */
void block_recompute(const struct exec *exec, const struct model *model, int layer,
                     const struct batch *batch, const float *rope_table, struct block_acts *acts);

/* Makes what is cheap of what is dear, the same bits. Under sequence parallelism it gathers n2. */
void block_recompute_cheap(const struct exec *exec, const struct model *model, int layer,
                           const struct batch *batch, const float *rope_table,
                           struct block_acts *acts);

/* d (M, C) act: in the gradient of out, on return that of x (garbage unless need_dx). acts->gate
 * and acts->up are overwritten. Training batches only (no pages). */
void block_backward(const struct exec *exec, const struct model *model, int layer,
                    const struct batch *batch, const float *rope_table, struct block_acts *acts,
                    void *d, bool need_dx);

/* The second half of a backward with batch->weights_later: the gradients of the block's matrices,
 * from what its first half kept in `acts` (Qi et al., arXiv:2401.10241, call them B and W). Norms,
 * biases and adapters have theirs already. */
void block_backward_weights(const struct exec *exec, const struct model *model, int layer,
                            const struct batch *batch, struct block_acts *acts);

#endif
