#include "serve/kv_pages.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum status kv_pages_create(struct kv_pages *pages, int32_t count, int32_t page_size) {
    assert(count > 0 && page_size > 0);
    uint32_t buckets = 16;
    while (buckets < (uint32_t)count) buckets *= 2;
    *pages = (struct kv_pages){
        .count = count,
        .page_size = page_size,
        .pages = calloc((size_t)count, sizeof *pages->pages),
        .tokens = calloc((size_t)count * (size_t)page_size, sizeof *pages->tokens),
        .buckets = malloc(buckets * sizeof *pages->buckets),
        .bucket_mask = buckets - 1,
        .idle_first = -1,
        .idle_last = -1,
        .next_stamp = KV_ROOTS,
    };
    if (!pages->pages || !pages->tokens || !pages->buckets) {
        kv_pages_free(pages);
        return status_fail(STATUS_MEMORY, "no memory for the bookkeeping of %d KV pages", count);
    }
    memset(pages->buckets, 0xff, buckets * sizeof *pages->buckets);
    for (int32_t page = count - 1; page >= 0; page--) {
        pages->pages[page].references = 1;
        kv_drop_page(pages, page);
    }
    return STATUS_OK;
}

void kv_pages_free(struct kv_pages *pages) {
    free(pages->pages);
    free(pages->tokens);
    free(pages->buckets);
    *pages = (struct kv_pages){0};
}

static void idle_push_front(struct kv_pages *pages, int32_t page) {
    struct kv_page *entry = &pages->pages[page];
    entry->previous = -1;
    entry->next = pages->idle_first;
    if (entry->next >= 0) pages->pages[entry->next].previous = page;
    pages->idle_first = page;
    if (pages->idle_last < 0) pages->idle_last = page;
    pages->idle_count++;
}

static void idle_push_back(struct kv_pages *pages, int32_t page) {
    struct kv_page *entry = &pages->pages[page];
    entry->next = -1;
    entry->previous = pages->idle_last;
    if (entry->previous >= 0) pages->pages[entry->previous].next = page;
    pages->idle_last = page;
    if (pages->idle_first < 0) pages->idle_first = page;
    pages->idle_count++;
}

static void idle_remove(struct kv_pages *pages, int32_t page) {
    struct kv_page *entry = &pages->pages[page];
    if (entry->previous >= 0)
        pages->pages[entry->previous].next = entry->next;
    else
        pages->idle_first = entry->next;
    if (entry->next >= 0)
        pages->pages[entry->next].previous = entry->previous;
    else
        pages->idle_last = entry->previous;
    pages->idle_count--;
}

static int32_t *bucket_of(struct kv_pages *pages, uint64_t parent, const int32_t *tokens) {
    uint64_t hash = XXH3_64bits_withSeed(tokens, (size_t)pages->page_size * sizeof *tokens, parent);
    return &pages->buckets[(uint32_t)hash & pages->bucket_mask];
}

static int32_t *tokens_of(const struct kv_pages *pages, int32_t page) {
    return pages->tokens + (int64_t)page * pages->page_size;
}

static void unpublish(struct kv_pages *pages, int32_t page) {
    struct kv_page *entry = &pages->pages[page];
    int32_t *link = bucket_of(pages, entry->parent, tokens_of(pages, page));
    while (*link != page) link = &pages->pages[*link].chain;
    *link = entry->chain;
    entry->published = false;
}

static void hold(struct kv_pages *pages, int32_t page) {
    if (pages->pages[page].references++ == 0) idle_remove(pages, page);
}

int32_t kv_take_page(struct kv_pages *pages) {
    int32_t page = pages->idle_first;
    if (page < 0) return -1;
    if (pages->pages[page].published) {
        unpublish(pages, page);
        pages->evictions++;
    }
    hold(pages, page);
    return page;
}

void kv_drop_page(struct kv_pages *pages, int32_t page) {
    struct kv_page *entry = &pages->pages[page];
    assert(entry->references > 0);
    if (--entry->references > 0) return;
    if (entry->published)
        idle_push_back(pages, page);
    else
        idle_push_front(pages, page);
}

static int32_t find(struct kv_pages *pages, uint64_t parent, const int32_t *tokens) {
    size_t bytes = (size_t)pages->page_size * sizeof *tokens;
    int32_t page = *bucket_of(pages, parent, tokens);
    while (page >= 0 && (pages->pages[page].parent != parent ||
                         memcmp(tokens_of(pages, page), tokens, bytes) != 0))
        page = pages->pages[page].chain;
    return page;
}

int32_t kv_find_page(struct kv_pages *pages, uint64_t parent, const int32_t *tokens,
                     uint64_t *stamp) {
    int32_t page = find(pages, parent, tokens);
    if (page < 0) return -1;
    hold(pages, page);
    *stamp = pages->pages[page].stamp;
    return page;
}

int32_t kv_publish_page(struct kv_pages *pages, int32_t page, uint64_t parent,
                        const int32_t *tokens, uint64_t *stamp) {
    struct kv_page *entry = &pages->pages[page];
    assert(entry->references > 0 && !entry->published);
    int32_t known = kv_find_page(pages, parent, tokens, stamp);
    if (known >= 0) {
        kv_drop_page(pages, page);
        return known;
    }
    memcpy(tokens_of(pages, page), tokens, (size_t)pages->page_size * sizeof *tokens);
    int32_t *bucket = bucket_of(pages, parent, tokens);
    entry->published = true;
    entry->parent = parent;
    entry->stamp = *stamp = pages->next_stamp++;
    entry->chain = *bucket;
    *bucket = page;
    return page;
}

void kv_forget_all(struct kv_pages *pages) {
    for (int32_t page = 0; page < pages->count; page++)
        if (pages->pages[page].published) unpublish(pages, page);
}
