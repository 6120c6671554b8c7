/* A run's tokenizer and token files, and how many steps they make. */
#include "core/log.h"
#include "kernels/base/units.h"
#include "train/trainer_parts.h"

#include <math.h>

/* A tokenizer is needed only to notice a wrong one, so its absence is no failure unless it was
 * named. */
static enum status open_tokenizer(struct trainer *t) {
    const struct model_options *o = &t->options->model;
    if (*o->tokenizer) return tokenizer_open(&t->tokenizer, o->tokenizer);
    if (*o->path && tokenizer_open(&t->tokenizer, o->path) != STATUS_OK) {
        t->tokenizer = NULL;
        log_line(LOG_WARN, "event=no_tokenizer_check reason=%s",
                 log_value(&(struct log_text){0}, status_message()));
    }
    return STATUS_OK;
}

/* What a fine-tuned model would be served with. */
static enum status check_tokenizer(const struct trainer *t) {
    if (!t->tokenizer) return STATUS_OK;
    return tokenizer_check_vocabulary(t->tokenizer, t->model.config.vocab,
                                      *t->options->model.path ? t->options->model.path
                                                              : "the model");
}

enum status trainer_open_data(struct trainer *t) {
    const struct loader_options *o = &t->options->data;
    TRY(open_tokenizer(t));
    TRY(check_tokenizer(t));
    const struct model_options *model = &t->options->model;
    const struct loader_expect expect = {
        .tokenizer_hash = t->tokenizer ? tokenizer_hash(t->tokenizer) : 0,
        .tokenizer = *model->tokenizer ? model->tokenizer : model->path,
        .vocabulary = t->model.config.vocab};
    TRY(loader_open(&t->train, o, &o->train, o->shuffle, &expect));
    if (o->validation.count > 0)
        TRY(loader_open(&t->validation, o, &o->validation, false, &expect));
    if (t->model.config.rope.scaling != ROPE_SCALING_LINEAR &&
        t->model.config.rope.scaling != ROPE_SCALING_DYNAMIC && /* they stretch the context */
        o->sequence_length > t->model.config.max_context)
        return status_fail(STATUS_CONFIG,
                           "data.sequence_length %lld is above the model's context of %lld",
                           (long long)o->sequence_length, (long long)t->model.config.max_context);
    return STATUS_OK;
}

void trainer_plan_steps(struct trainer *t) {
    const struct train_options *o = &t->options->train;
    double samples = o->epochs * (double)loader_sequences(t->train);
    t->steps = o->steps ? o->steps : (int64_t)ceil(samples / (double)o->global_batch);
}

static void warn_of_rank(const struct adapter *adapter) {
    for (int id = 0; id < WEIGHT_COUNT; id++) {
        struct lora_pair pair = adapter_pair(adapter, (enum weight_id)id, 0);
        if (!pair.a || !pair.a->w.data) continue;
        int64_t rows = pair.b->slice.rows, cols = pair.a->slice.cols;
        if (adapter->config.rank <= min_i64(rows, cols)) continue;
        log_line(LOG_WARN,
                 "event=lora_rank rank=%d module=%s rows=%lld columns=%lld reason=\"a rank above "
                 "the smaller side of the matrix adds nothing but memory: lower lora.rank\"",
                 adapter->config.rank, weight_table[id].module, (long long)rows, (long long)cols);
        return;
    }
}

void trainer_warn(const struct trainer *t) {
    const struct train_options *o = &t->options->train;
    if (t->trained) warn_of_rank(t->trained);
    if (o->warmup >= t->steps)
        log_line(LOG_WARN,
                 "event=long_warmup warmup=%lld steps=%lld reason=\"the rate never reaches "
                 "train.lr: lower train.warmup\"",
                 (long long)o->warmup, (long long)t->steps);
}
