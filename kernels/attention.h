/* Causal grouped-query attention over packed sequences of different lengths, contiguous or paged,
 * by blockwise online softmax: memory linear in the sequence length. FlashAttention-2
 * (arXiv:2307.08691), PagedAttention (arXiv:2309.06180).
 *
 * N packed query tokens; sequence i has queries start[i] .. start[i+1]-1, and past[i] keys before
 * the first of them. Query number t of sequence i (position p = past[i] + t) sees keys max(0, p -
 * window + 1) .. p. Query head h reads key head h / (H / Hkv).
 *
 * The rule of every forward: keys are walked in blocks of ATTENTION_BLOCK aligned to absolute key
 * positions, and within a row the order of operations depends on that row's position alone. So
 * training, chunked prefill and decode give the same bits for any chunk, page size, batch or
 * threads. Softmax and accumulation are fp32; o is rounded once to act. */
#ifndef STRATA_KERNELS_ATTENTION_H
#define STRATA_KERNELS_ATTENTION_H

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include <stdbool.h>
#include <stdint.h>

enum { ATTENTION_BLOCK = 64, ATTENTION_MAX_HEAD_DIM = 512 };

struct attention_shape {
    int heads, kv_heads, head_dim; /* of this rank */
    int64_t window;                /* sliding window in tokens; 0 = all */
    float scale;                   /* on q.k, usually 1 / sqrt(head_dim) */
};

/* The packed batch; arrays are borrowed. */
struct segments {
    int32_t count;        /* sequences */
    const int32_t *start; /* (count + 1) first packed token of each; start[count] = N */
    const int32_t *past;  /* (count) keys that precede its first query; all 0 when contiguous */
};

/* Where keys and values lie.
 * contiguous (page_table NULL): k, v (N, Hkv, D) act, packed like q, past all 0.
 * paged: k, v (pages, page_size, Hkv, D) of `dtype` (F32 or BF16); page_table (count, max_pages):
 * key j of sequence i is row j % page_size of page page_table[i * max_pages + j / page_size]. Only
 * rows below past + queries are read; page_size is a multiple of 16. */
struct kv_source {
    void *k, *v;
    enum dtype dtype;
    const int32_t *page_table;
    int32_t page_size, max_pages;
};

/* o (N, H, D) out act, must not alias q; lse (N, H) out f32, natural log, or NULL; q (N, H, D) act
 */
struct attention_forward_args {
    void *o;
    float *lse;
    const void *q;
    const struct kv_source *kv;
    const struct segments *segments;
    struct attention_shape shape;
};
typedef void attention_forward_fn(struct stream *s, const struct attention_forward_args *args);

/* Contiguous only. dq (N, H, D), dk, dv (N, Hkv, D) out act (overwritten); scratch (N, H) f32 holds
 * rowsum(do * o). Deterministic: each (sequence, key head) is one chain. */
struct attention_backward_args {
    void *dq, *dk, *dv;
    float *scratch;
    const void *dout, *q, *k, *v, *o;
    const float *lse;
    const struct segments *segments;
    struct attention_shape shape;
};
typedef void attention_backward_fn(struct stream *s, const struct attention_backward_args *args);

/* Attention in parts, for keys that come one block of rows after the other: packed queries against
 * packed keys of the same documents. Query number t of a part (position past + t, key 0 being the
 * part's first) sees those of its keys max(0, past + t - window + 1) .. min(past + t, keys - 1):
 * none, where all of them come later or lie before the window.
 *
 *     keys of the document     0 ......... key 0 | ... | keys - 1 .........
 *     its queries                                   past | ... | past + queries - 1
 *
 * Parts of one document are neighbours in their array, and in these those with the same queries;
 * runs of queries, and runs of keys, are the same or apart. */
struct attention_part {
    int32_t document;       /* any number that tells documents apart */
    int32_t query, queries; /* first packed query; how many */
    int32_t key, keys;      /* first packed key; how many */
    int32_t past;           /* position of the first query, less that of the first key */
};

/* o (N, H, D), lse (N, H) in and out f32: attention over the keys that a query has seen, and the
 * log of its softmax's denominator; 0 and -infinity for none. Each call takes the parts' keys in,
 * in the order of the parts; with `first` o and lse begin as none. q (N, H, D) act, k, v (rows that
 * the parts name, Hkv, D) act. Deterministic. */
struct attention_part_forward_args {
    float *o, *lse;
    const void *q, *k, *v;
    int64_t tokens; /* N */
    bool first;
    int32_t count;
    const struct attention_part *parts; /* (count) */
    struct attention_shape shape;
};
typedef void attention_part_forward_fn(struct stream *s,
                                       const struct attention_part_forward_args *args);

/* The gradients of attention over all keys by those of the parts. dk, dv (K, Hkv, D) out f32
 * (overwritten); dq (N, H, D) f32 += , with `first` = . scratch (N, H) f32 holds rowsum(do * o),
 * which the first call makes. dout, q, o (N, H, D), k, v (K, Hkv, D) act; o, lse are of all keys.
 * Deterministic: each (document, key head) is one chain. */
struct attention_part_backward_args {
    float *dq, *dk, *dv, *scratch;
    const void *dout, *q, *k, *v, *o;
    const float *lse;
    int64_t tokens, keys; /* N, K */
    bool first;
    int32_t count;
    const struct attention_part *parts; /* (count) */
    struct attention_shape shape;
};
typedef void attention_part_backward_fn(struct stream *s,
                                        const struct attention_part_backward_args *args);

/* Stores the batch's new k, v (N, Hkv, D) act into pages: token t of sequence i becomes key
 * past[i] + t. Rounds to kv->dtype. Two sequences never share a page they write. */
typedef void kv_write_fn(struct stream *s, const struct kv_source *kv, const void *k, const void *v,
                         const struct segments *segments, int kv_heads, int head_dim);

#endif
