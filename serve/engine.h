/* The engine: a model, memory laid out once, and one thread that runs the serving loop. HTTP
 * threads submit generations and read what comes of them; nothing else is shared.
 *
 * What a generation draws depends on its prompt, options, adapter and the model alone, never on
 * what else runs, on chunks, pages, preemption or reused prefixes (HOUSE: one forward path). */
#ifndef STRATA_SERVE_ENGINE_H
#define STRATA_SERVE_ENGINE_H

#include "core/adapter.h"
#include "core/exec.h"
#include "serve/generation.h"

/* Sees the logits (vocab) f32 that token number `position` of a generation's sequence is drawn from
 * or, in a prompt that is scored, given by. Called on the engine's thread. */
typedef void engine_observe(void *context, const struct generation *generation, int32_t position,
                            const float *logits, int64_t vocab);

struct engine_options {
    const struct model *model; /* this and the next four are borrowed */
    const struct tokenizer *tokenizer;
    const struct adapter *const *adapters; /* (adapter_count), in the order of their indices */
    int adapter_count;
    const struct kernels *kernels;
    int threads;             /* 0: one a core */
    int64_t context;         /* tokens of a sequence; 0: the model's, less where memory is short */
    int32_t page_size;       /* tokens, a multiple of 16 */
    int32_t max_batch;       /* sequences at once */
    int32_t token_budget;    /* tokens a step; at least max_batch is used */
    size_t kv_bytes;         /* of the KV pages; 0: what max_batch full contexts need, at most half
                                of the memory that is free */
    enum dtype kv_dtype;     /* F32 or BF16; DTYPE_COUNT: that of the activations */
    engine_observe *observe; /* NULL: nobody looks */
    void *observer;
};

struct engine;

/* What the layout came to. */
struct engine_layout {
    int64_t context;
    int32_t pages, page_size, max_batch, token_budget;
    int threads;
    enum dtype kv_dtype;
    size_t weight_bytes, adapter_bytes, work_bytes, scratch_bytes, step_bytes, kv_bytes;
};

static inline size_t engine_layout_total(const struct engine_layout *layout) {
    return layout->weight_bytes + layout->adapter_bytes + layout->work_bytes +
           layout->scratch_bytes + layout->step_bytes + layout->kv_bytes;
}

enum { HISTOGRAM_BUCKETS = 14 };

/* Seconds, counted in buckets whose upper bounds are histogram_bounds; the last one has none. */
struct histogram {
    uint64_t counts[HISTOGRAM_BUCKETS + 1];
    double sum;
};
extern const double histogram_bounds[HISTOGRAM_BUCKETS];

struct engine_stats {
    int64_t running, waiting;
    int64_t pages_used;
    int64_t steps, preemptions, evictions;
    int64_t largest_batch; /* sequences that went through one step together, at most */
    int64_t prompt_tokens, cached_tokens, output_tokens;
    int64_t cache_hits;                 /* sequences with cached tokens */
    int64_t finished[FINISH_ERROR + 1]; /* by enum finish */
    struct histogram first_token, between_tokens, whole;
};

/* Lays out memory, runs one step to warm up, and starts the thread. STATUS_MEMORY when the asked
 * context finds no room, STATUS_CONFIG for bad sizes. */
enum status engine_open(struct engine **engine, const struct engine_options *options);

/* What engine_open would lay out, by the same code, with nothing allocated. Model and adapters may
 * be planned ones (model_plan, adapter_plan). The statuses are engine_open's. */
enum status engine_plan(struct engine_layout *layout, const struct engine_options *options);

/* engine_cut, then frees everything. NULL is allowed. */
void engine_close(struct engine *engine);

/* Hands over a generation: the engine takes a reference of its own. STATUS_CONFIG when it can never
 * fit, STATUS_CANCELLED when the engine is closing. */
enum status engine_submit(struct engine *engine, struct generation *generation);

/* The reader has lost interest: the generation ends at the next step. */
void engine_cancel(struct engine *engine, struct generation *generation);

/* Takes no more generations and waits at most `seconds` for the rest to finish; true when they
 * have. */
bool engine_drain(struct engine *engine, double seconds);

/* Takes no more generations, cancels what is left and stops the thread. Readers may still look at
 * their generations, and must be gone before engine_close. */
void engine_cut(struct engine *engine);

const struct engine_layout *engine_layout(const struct engine *engine);
void engine_read_stats(struct engine *engine, struct engine_stats *stats);

/* Bytes of keys and values of one token in all layers. */
size_t engine_kv_token_bytes(const struct model_config *config, enum dtype dtype);

#endif
