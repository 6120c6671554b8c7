#define _GNU_SOURCE
#include "train/commands.h"

#include "core/adapter.h"
#include "core/options.h"
#include "core/path_hint.h"
#include "data/evaluate.h"
#include "data/tokenizer.h"
#include "parallel/parallel.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { TEXT_CONTEXT = 2048, LEAVE_SECONDS = 30, WATCHDOG_SECONDS = 600 };

static const char usage[] =
    "usage: strata eval MODEL [--adapter DIR] --tokens FILE [--logits OUT.safetensors]\n"
    "                   [--gradients OUT.safetensors] [--dtype fp32|bf16]\n"
    "                   [--weights auto|nf4|stored] [--context N] [--threads N]\n"
    "       strata eval MODEL [--adapter DIR] --text FILE ... [--context N] [--dtype fp32|bf16]\n"
    "                   [--weights auto|nf4|stored] [--threads N]\n"
    "  --tokens     prints the mean loss of predicting each next token. FILE has lines\n"
    "               {\"tokens\": [...]} or {\"ids\": [...]} (strata tokenize --jsonl writes those), or\n"
    "               is a token file of strata data tokenize: its documents, longer ones in pieces\n"
    "               of --context tokens that overlap by one; the mean is by its loss weights\n"
    "  --logits     gets logits.0, logits.1, ... (F32, positions x vocabulary) and loss\n"
    "  --gradients  gets the loss's gradients under Hugging Face's names (with --adapter: the\n"
    "               adapter's, under PEFT's) and loss\n"
    "  --text       perplexity of texts under the model's own tokenizer, in pieces of --context\n"
    "               tokens (2048, or the model's context when that is shorter), each after BOS\n"
    "               where the tokenizer adds one\n"
    "  --dtype      compute in fp32 or bf16; bf16 by default where the weights are stored so\n"
    "  --weights    what the weights are kept in: as --dtype says (auto), nf4 (4.13 bits a weight of\n"
    "               the layers), or stored (a file's quantized blocks as they are)\n"
    "  --context    the longest sequence allowed; the model's own context by default\n"
    "Started by mpirun -n N or srun --mpi=pmix, N ranks share the model (tensor parallel).\n"
    "  --watchdog   seconds that one collective of theirs may take, 600: then the job ends, and a\n"
    "               line names the rank that holds it up; 0 waits for ever\n";

struct eval {
    const char *path, *adapter_path, *tokens, *logits, *gradients, *dtype, *weights;
    struct option_list texts;
    int64_t context, threads, watchdog;
    enum layout matrices; /* what model_load is asked for */
    enum dtype act;
    struct model_file file;
    struct model model;
    struct adapter adapter;
    struct token_lines lines;
    const struct kernels *kernels;
    struct parallel parallel;
};

static enum status parse_dtype(const char *text, enum layout *layout) {
    static const char *const fp32[] = {"fp32", "f32", "float32"};
    static const char *const bf16[] = {"bf16", "bfloat16"};
    *layout = LAYOUT_COUNT;
    for (size_t i = 0; text && i < sizeof fp32 / sizeof *fp32; i++)
        if (strcmp(text, fp32[i]) == 0) *layout = LAYOUT_PANEL_F32;
    for (size_t i = 0; text && i < sizeof bf16 / sizeof *bf16; i++)
        if (strcmp(text, bf16[i]) == 0) *layout = LAYOUT_PANEL_BF16;
    if (!text || *layout != LAYOUT_COUNT) return STATUS_OK;
    return status_fail(STATUS_CONFIG, "--dtype: '%s' is not fp32 or bf16", text);
}

/* The layout of the matrices: --dtype's, unless --weights says otherwise. */
static enum status parse_weights(const char *text, enum layout *layout) {
    static const struct {
        const char *word;
        enum layout layout;
    } words[] = {{"nf4", LAYOUT_NF4}, {"stored", LAYOUT_STORED}};
    if (!text || strcmp(text, "auto") == 0) return STATUS_OK;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(text, words[i].word) == 0) {
            *layout = words[i].layout;
            return STATUS_OK;
        }
    return status_fail(STATUS_CONFIG, "--weights: '%s' is not auto, nf4 or stored", text);
}

/* How many positions the rotation is made for. */
static int64_t context_of(const struct model_config *config) {
    if (config->rope.scaling == ROPE_SCALING_NONE) return config->max_context;
    int64_t scaled = (int64_t)(config->rope.factor * (double)config->rope.original_context);
    return scaled > config->max_context ? scaled : config->max_context;
}

static enum status check_arguments(const struct eval *eval) {
    if (!eval->tokens == !eval->texts.count)
        return status_fail(STATUS_CONFIG, "one of --tokens and --text is needed");
    if (eval->texts.count && (eval->logits || eval->gradients))
        return status_fail(STATUS_CONFIG, "--logits and --gradients go with --tokens");
    if (eval->gradients && eval->parallel.world.size > 1)
        return status_fail(STATUS_CONFIG, "--gradients: %d ranks share the model, start one",
                           eval->parallel.world.size);
    if (eval->gradients && !eval->adapter_path && layout_is_quantized(eval->matrices))
        return status_fail(STATUS_CONFIG,
                           "--gradients: weights that stay %s have none; name an "
                           "--adapter",
                           eval->weights);
    return STATUS_OK;
}

static int64_t longest_of(const struct token_lines *lines) {
    int64_t longest = 1;
    for (size_t i = 0; i < lines->count; i++)
        if (token_lines_length(lines, i) > longest) longest = token_lines_length(lines, i);
    return longest;
}

/* The same verdict on every rank. */
static enum status agree(struct eval *eval, enum status mine) {
    return parallel_agree(&eval->parallel.world, mine);
}

/* This rank's part of the weights. */
static enum status load_model(struct eval *eval, int64_t context, int threads) {
    const struct comm *world = &eval->parallel.world;
    struct model_config config;
    TRY(model_config_read(&config, &eval->file));
    TRY(shard_check(&config, world->size));
    struct shard shard = shard_whole(&config);
    shard.tp_rank = world->rank;
    shard.tp_size = world->size;
    TRY(model_load(&eval->model, &eval->file, &shard, eval->matrices, context, threads));
    return eval->adapter_path
               ? adapter_load(&eval->adapter, "adapter", &eval->model, eval->adapter_path)
               : STATUS_OK;
}

/* The weights, once it is known how long the longest sequence is: the angles of dynamic scaling are
 * made for that length, which is the context of this run. */
static enum status load(struct eval *eval, int64_t context) {
    struct stream stream;
    stream_open_cpu(&stream, (int)eval->threads);
    TRY(agree(eval, load_model(eval, context, stream.threads)));
    return parallel_kernels(&eval->parallel.world, &eval->kernels, NULL, eval->act);
}

static enum status run_lines(struct eval *eval, struct evaluate_result *result) {
    const struct evaluate_request request = {.model = &eval->model,
                                             .adapter = eval->adapter_path ? &eval->adapter : NULL,
                                             .kernels = eval->kernels,
                                             .threads = (int)eval->threads,
                                             .tp = &eval->parallel.world,
                                             .lines = &eval->lines,
                                             .logits = eval->logits,
                                             .gradients = eval->gradients};
    enum status status = evaluate(&request, result);
    /* the others may be waiting for this rank */
    if (status != STATUS_OK && eval->parallel.world.size > 1)
        parallel_abort(&eval->parallel, "evaluation");
    return status;
}

static void print_result(const struct eval *eval, const char *what, size_t sequences,
                         const struct evaluate_result *r) {
    if (eval->parallel.world.rank > 0) return;
    printf("file=%s sequences=%zu tokens=%lld predicted=%lld loss=%.9g perplexity=%.6g "
           "seconds=%.3f tokens_per_second=%.1f\n",
           what, sequences, (long long)r->tokens, (long long)r->predicted, r->loss, exp(r->loss),
           r->seconds, (double)r->tokens / r->seconds);
    fflush(stdout);
}

static enum status open_tokenizer(const struct eval *eval, struct tokenizer **tokenizer) {
    return eval->file.format == MODEL_GGUF ? tokenizer_open_gguf(tokenizer, &eval->file)
                                           : tokenizer_open(tokenizer, eval->file.directory);
}

/* Token files, like all HDF5, begin with its signature. */
static bool is_token_file(const char *path) {
    char start[sizeof path_hdf5_signature];
    FILE *file = fopen(path, "rb");
    bool is = file && fread(start, sizeof start, 1, file) == 1 &&
              memcmp(start, path_hdf5_signature, sizeof start) == 0;
    if (file) fclose(file);
    return is;
}

/* A model without a tokenizer has none to compare the file's with. */
static enum status read_token_file(struct eval *eval, int64_t vocab, int64_t context) {
    struct tokenizer *tokenizer = NULL;
    if (context < 2) return status_fail(STATUS_CONFIG, "--context: a token file needs at least 2");
    if (open_tokenizer(eval, &tokenizer) != STATUS_OK) tokenizer = NULL;
    enum status status = token_lines_read_token_file(&eval->lines, eval->tokens, tokenizer,
                                                     eval->path, vocab, context);
    tokenizer_close(tokenizer);
    return status;
}

static enum status run_tokens(struct eval *eval, const struct model_config *config) {
    struct evaluate_result result;
    int64_t context = eval->context ? eval->context : context_of(config);
    TRY(agree(eval, is_token_file(eval->tokens)
                        ? read_token_file(eval, config->vocab, context)
                        : token_lines_read(&eval->lines, eval->tokens, config->vocab, context)));
    TRY(load(eval, longest_of(&eval->lines)));
    TRY(run_lines(eval, &result));
    print_result(eval, eval->tokens, eval->lines.count, &result);
    return STATUS_OK;
}

/* One line a text, and one for all of them. */
static enum status run_each_text(struct eval *eval, const struct tokenizer *tokenizer,
                                 int64_t context) {
    struct evaluate_result all = {0};
    size_t sequences = 0;
    double sum = 0.0;
    for (int i = 0; i < eval->texts.count; i++) {
        struct evaluate_result one;
        token_lines_free(&eval->lines);
        TRY(agree(eval, token_lines_read_text(&eval->lines, eval->texts.items[i], tokenizer,
                                              eval->model.config.vocab, context)));
        TRY(run_lines(eval, &one));
        print_result(eval, eval->texts.items[i], eval->lines.count, &one);
        sequences += eval->lines.count;
        sum += one.predicted > 0 ? one.loss * (double)one.predicted : 0.0;
        all.tokens += one.tokens;
        all.predicted += one.predicted;
        all.seconds += one.seconds;
    }
    all.loss = sum / (double)all.predicted;
    if (eval->texts.count > 1) print_result(eval, "all", sequences, &all);
    return STATUS_OK;
}

static enum status run_texts(struct eval *eval, const struct model_config *config) {
    struct tokenizer *tokenizer;
    int64_t limit = context_of(config), context = limit < TEXT_CONTEXT ? limit : TEXT_CONTEXT;
    if (eval->context) context = eval->context;
    if (context < 2) return status_fail(STATUS_CONFIG, "--context: a text needs at least 2");
    TRY(agree(eval, open_tokenizer(eval, &tokenizer)));
    enum status status = load(eval, context);
    if (status == STATUS_OK)
        status = agree(eval, tokenizer_check_vocabulary(tokenizer, config->vocab, eval->path));
    if (status == STATUS_OK) status = run_each_text(eval, tokenizer, context);
    tokenizer_close(tokenizer);
    return status;
}

/* What is asked for, and of what model. */
static enum status open_model(struct eval *eval, struct model_config *config) {
    enum layout plain;
    TRY(parse_dtype(eval->dtype, &plain));
    eval->matrices = plain;
    TRY(parse_weights(eval->weights, &eval->matrices));
    TRY(check_arguments(eval));
    TRY(model_file_open(&eval->file, eval->path, false));
    TRY(model_config_read(config, &eval->file));
    if (plain == LAYOUT_COUNT) plain = model_layout_auto(config, &eval->file);
    eval->act = plain == LAYOUT_PANEL_BF16 ? DTYPE_BF16 : DTYPE_F32;
    return STATUS_OK;
}

static enum status run(struct eval *eval) {
    struct model_config config;
    TRY(agree(eval, open_model(eval, &config)));
    TRY(parallel_watch(&eval->parallel, (double)eval->watchdog, NULL));
    return eval->tokens ? run_tokens(eval, &config) : run_texts(eval, &config);
}

int cmd_eval(int argc, char **argv) {
    struct eval eval = {.watchdog = WATCHDOG_SECONDS};
    const struct option_row rows[] = {
        {NULL, OPTION_TEXT, &eval.path, true, 0, 0},
        {"--adapter", OPTION_TEXT, &eval.adapter_path, false, 0, 0},
        {"--tokens", OPTION_TEXT, &eval.tokens, false, 0, 0},
        {"--logits", OPTION_TEXT, &eval.logits, false, 0, 0},
        {"--gradients", OPTION_TEXT, &eval.gradients, false, 0, 0},
        {"--text", OPTION_LIST, &eval.texts, false, 0, 0},
        {"--dtype", OPTION_TEXT, &eval.dtype, false, 0, 0},
        {"--weights", OPTION_TEXT, &eval.weights, false, 0, 0},
        {"--context", OPTION_INTEGER, &eval.context, false, 1, INT32_MAX},
        {"--threads", OPTION_INTEGER, &eval.threads, false, 1, 1024},
        {"--watchdog", OPTION_INTEGER, &eval.watchdog, false, 0, 1000000},
    };
    if (options_ask_help(argc, argv)) {
        fputs(usage, stdout);
        return 0;
    }
    if (options_parse(rows, sizeof rows / sizeof *rows, argc, argv) != STATUS_OK) {
        fprintf(stderr, "strata eval: %s\n%s", status_message(), usage);
        return 2;
    }
    enum status status = parallel_start(&eval.parallel, &argc, &argv);
    if (status != STATUS_OK) {
        fprintf(stderr, "strata eval: %s\n", status_message());
        return 1;
    }
    if (eval.threads == 0 && eval.parallel.mpi) eval.threads = eval.parallel.threads;
    status = run(&eval);
    token_lines_free(&eval.lines);
    adapter_free(&eval.adapter);
    model_free(&eval.model);
    model_file_close(&eval.file);
    if (status == STATUS_PEER) parallel_abort(&eval.parallel, "evaluation");
    if (status != STATUS_OK && eval.parallel.world.rank == 0)
        fprintf(stderr, "strata eval: %s\n", status_message());
    if (status != STATUS_OK) {
        parallel_finish_failed(&eval.parallel, LEAVE_SECONDS);
        return status == STATUS_CONFIG ? 2 : 1;
    }
    parallel_finish(&eval.parallel);
    return 0;
}
