/* Pages of the KV cache as integers: who holds which, which full pages can be used again, which go
 * first when memory is dry. Knows no tensors. PagedAttention (arXiv:2309.06180); reuse of prefixes
 * as a tree of full pages (RadixAttention, arXiv:2312.07104).
 *
 * A page is held by one or more sequences (references > 0) or idle. A page whose `page_size` tokens
 * are all computed is published under (what precedes it, its tokens): another sequence that begins
 * alike takes it instead of computing. "What precedes it" is a stamp: a number given once to a
 * published page, or a root chosen by the caller (one an adapter, since an adapter changes keys and
 * values). Tokens are compared one by one, so a collision of hashes can't mix up two prefixes.
 *
 * Idle pages wait in one list: never published ones in front, published ones behind them in the
 * order of their last use. Whoever needs a page takes the front.
 *
 * Not thread-safe: the engine's thread owns it. */
#ifndef STRATA_SERVE_KV_PAGES_H
#define STRATA_SERVE_KV_PAGES_H

#include "kernels/base/status.h"
#include <stdbool.h>
#include <stdint.h>

enum { KV_ROOTS = 1 << 20 }; /* stamps below are roots: 0 .. KV_ROOTS - 1 */

struct kv_page {
    int32_t references;
    int32_t previous, next; /* in the idle list; -1 at its ends */
    int32_t chain;          /* next page of the same hash bucket */
    bool published;
    uint64_t parent, stamp;
};

struct kv_pages {
    int32_t count, page_size;
    struct kv_page *pages;
    int32_t *tokens; /* (count, page_size) of published pages */
    int32_t *buckets;
    uint32_t bucket_mask;
    int32_t idle_first, idle_last, idle_count;
    uint64_t next_stamp;
    int64_t evictions; /* published pages that were taken for something else */
};

enum status kv_pages_create(struct kv_pages *pages, int32_t count, int32_t page_size);

/* May be called twice, and on a zeroed struct. */
void kv_pages_free(struct kv_pages *pages);

/* A page that nobody holds, now held once; -1 when all are held. */
int32_t kv_take_page(struct kv_pages *pages);

/* One holder less. At zero the page is idle; if published it can still be found. A sequence drops
 * its last page first, so that prefixes outlive what follows them. */
void kv_drop_page(struct kv_pages *pages, int32_t page);

/* Publishes a held page whose tokens (page_size) are all computed, after `parent`. If an equal page
 * is published already, `page` is dropped and that one is held instead. Returns the page to use and
 * sets *stamp, the parent of what follows it. */
int32_t kv_publish_page(struct kv_pages *pages, int32_t page, uint64_t parent,
                        const int32_t *tokens, uint64_t *stamp);

/* The published page of `tokens` (page_size) after `parent`, held once more; -1 when there is none.
 */
int32_t kv_find_page(struct kv_pages *pages, uint64_t parent, const int32_t *tokens,
                     uint64_t *stamp);

/* Forgets what is published (the weights or adapters changed). Held pages stay held. */
void kv_forget_all(struct kv_pages *pages);

#endif
