#define _GNU_SOURCE
#include "data/commands.h"

#include "core/atomic_file.h"
#include "core/directory.h"
#include "core/log.h"
#include "core/options.h"
#include "core/progress.h"
#include "data/document.h"
#include "data/token_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: strata data tokenize --tokenizer PATH --out FILE.h5 [options] INPUT...   (-: stdin)\n"
    "       strata data tokenize --vocabulary N --out FILE.h5 INPUT...\n"
    "  --tokenizer PATH   a model or its directory, tokenizer.json, tokenizer.model, ...\n"
    "  --vocabulary N     no tokenizer: all lines are {\"tokens\"}, of ids below N\n"
    "  --out FILE.h5      the token file to write\n"
    "  --format FORMAT    text (a file is a document), paragraphs (blank lines between documents),\n"
    "                     jsonl, or auto (default): jsonl by the file's name, else text\n"
    "  --template NAME    chat template of {\"messages\"}; auto (default) is the tokenizer's own\n"
    "  --literal          special tokens in texts (<|im_end|>) are letters like any other\n"
    "\n"
    "lines of JSON hold one of\n"
    "  {\"text\": T}                            loss on all tokens\n"
    "  {\"prompt\": P, \"completion\": C}         loss on C and the end of the text\n"
    "  {\"messages\": [{\"role\", \"content\"}]}    loss on the assistant's turns\n"
    "  {\"tokens\": [...], \"labels\": [...]}     no loss where a label is -100; labels may be left out\n";

enum { BATCH_RECORDS = 2048, BATCH_BYTES = 1 << 23 };

struct arguments {
    const char *tokenizer, *vocabulary, *out, *template;
    int32_t ids; /* below this */
    enum corpus_format format;
    bool literal;
    char **inputs;
    int input_count;
};

/* Records that are tokenized at once, by all threads. */
struct work {
    struct record records[BATCH_RECORDS];
    struct document documents[BATCH_RECORDS];
    enum status statuses[BATCH_RECORDS];
    char *messages[BATCH_RECORDS]; /* of statuses that are not OK */
    int count;
};

struct totals {
    int64_t documents, tokens, trained, masked; /* masked: documents without any loss */
};

static bool parse_format(const char *word, enum corpus_format *format) {
    static const char *const words[] = {[CORPUS_AUTO] = "auto",
                                        [CORPUS_TEXT] = "text",
                                        [CORPUS_PARAGRAPHS] = "paragraphs",
                                        [CORPUS_JSONL] = "jsonl"};
    for (int i = 0; i <= CORPUS_JSONL; i++) {
        if (strcmp(word, words[i]) != 0) continue;
        *format = (enum corpus_format)i;
        return true;
    }
    return false;
}

/* Inputs are gathered at the front of argv. */
static enum status parse(int argc, char **argv, struct arguments *arguments) {
    arguments->inputs = argv + 1;
    for (int i = 1; i < argc; i++) {
        const char **value = strcmp(argv[i], "--tokenizer") == 0    ? &arguments->tokenizer
                             : strcmp(argv[i], "--vocabulary") == 0 ? &arguments->vocabulary
                             : strcmp(argv[i], "--out") == 0        ? &arguments->out
                             : strcmp(argv[i], "--template") == 0   ? &arguments->template
                                                                    : NULL;
        bool format = strcmp(argv[i], "--format") == 0;
        if ((value || format) && i + 1 == argc)
            return status_fail(STATUS_CONFIG, "%s needs a value", argv[i]);
        if (value)
            *value = argv[++i];
        else if (format && !parse_format(argv[++i], &arguments->format))
            return status_fail(STATUS_CONFIG,
                               "--format: '%s' is not auto, text, paragraphs or jsonl", argv[i]);
        else if (strcmp(argv[i], "--literal") == 0)
            arguments->literal = true;
        else if (!format && strncmp(argv[i], "--", 2) == 0)
            return status_fail(STATUS_CONFIG, "unknown option '%s'", argv[i]);
        else if (!format)
            arguments->inputs[arguments->input_count++] = argv[i];
    }
    if (arguments->vocabulary) {
        char *end;
        long ids = strtol(arguments->vocabulary, &end, 10);
        if (*end || ids < 1 || ids > INT32_MAX)
            return status_fail(STATUS_CONFIG, "--vocabulary: '%s' is no number from 1 to %d",
                               arguments->vocabulary, INT32_MAX);
        arguments->ids = (int32_t)ids;
    }
    if (!arguments->tokenizer == !arguments->vocabulary)
        return status_fail(STATUS_CONFIG, "exactly one of --tokenizer and --vocabulary is needed");
    if (arguments->out && arguments->input_count > 0) return STATUS_OK;
    return status_fail(STATUS_CONFIG, "%s is missing", arguments->out ? "an input" : "--out");
}

/* A template that is missing is told only when messages come along. */
static enum status choose_template(struct document_rules *rules, const char *name) {
    if (name && strcmp(name, "auto") != 0) return chat_template_named(&rules->template, name);
    const char *jinja = rules->tokenizer ? tokenizer_chat_template(rules->tokenizer) : NULL;
    if (!jinja) {
        rules->template_status = STATUS_CONFIG;
        rules->template_message =
            "messages need a chat template, and the tokenizer has none: name one with --template";
        return STATUS_OK;
    }
    rules->template_status = chat_template_recognise(&rules->template, jinja);
    if (rules->template_status != STATUS_OK)
        rules->template_message = "messages need a chat template, and the tokenizer's own is none "
                                  "of the built-in ones: name one with --template";
    return STATUS_OK;
}

static enum status read_work(struct work *work, struct corpus *corpus) {
    size_t bytes = 0;
    for (work->count = 0; work->count < BATCH_RECORDS && bytes < BATCH_BYTES; work->count++) {
        bool found;
        TRY(corpus_next(corpus, &work->records[work->count], &found));
        if (!found) break;
        bytes += work->records[work->count].bytes;
    }
    return STATUS_OK;
}

/* The message of a failure is its thread's own, so it is copied for the thread that reports. */
static void build_documents(struct work *work, const struct document_rules *rules) {
#pragma omp parallel for schedule(dynamic, 8)
    for (int i = 0; i < work->count; i++) {
        work->statuses[i] = document_build(&work->documents[i], rules, &work->records[i]);
        record_free(&work->records[i]);
        if (work->statuses[i] != STATUS_OK) work->messages[i] = strdup(status_message());
    }
}

static enum status write_documents(struct work *work, struct token_writer *writer,
                                   struct totals *totals) {
    for (int i = 0; i < work->count; i++) {
        const struct document *document = &work->documents[i];
        size_t count = document->tokens.count;
        if (work->statuses[i] != STATUS_OK)
            return status_fail(work->statuses[i], "%s",
                               work->messages[i] ? work->messages[i] : "no memory");
        TRY(token_writer_append(writer, document->tokens.ids, document->weights, (int64_t)count));
        int64_t trained = 0;
        for (size_t t = 1; t < count; t++) trained += document->weights[t] > 0;
        totals->documents++;
        totals->tokens += (int64_t)count;
        totals->trained += trained;
        totals->masked += trained == 0;
    }
    return STATUS_OK;
}

static void work_free(struct work *work) {
    for (int i = 0; work && i < BATCH_RECORDS; i++) {
        record_free(&work->records[i]);
        document_free(&work->documents[i]);
        free(work->messages[i]);
    }
    free(work);
}

static enum status run_corpus(struct corpus *corpus, const struct document_rules *rules,
                              struct token_writer *writer, struct totals *totals,
                              struct progress *progress) {
    struct work *work = calloc(1, sizeof *work);
    if (!work) return status_fail(STATUS_MEMORY, "no memory to tokenize");
    enum status status = STATUS_OK;
    do {
        status = read_work(work, corpus);
        if (status != STATUS_OK) break;
        build_documents(work, rules);
        status = write_documents(work, writer, totals);
        char details[128];
        snprintf(details, sizeof details, "documents=%lld tokens=%lld tokens_per_second=%.0f",
                 (long long)totals->documents, (long long)totals->tokens,
                 (double)totals->tokens / (progress_seconds(progress) + 1e-9));
        progress_update(progress, corpus->bytes_read, details);
    } while (status == STATUS_OK && work->count > 0);
    work_free(work);
    return status;
}

static void report(const struct arguments *arguments, const struct totals *totals,
                   const struct corpus *corpus, const struct document_rules *rules,
                   double seconds) {
    if (totals->masked > 0)
        log_line(LOG_WARN, "event=tokenize documents_without_loss=%lld", (long long)totals->masked);
    log_line(LOG_INFO,
             "event=tokenize out=%s template=%s documents=%lld tokens=%lld trained_tokens=%lld "
             "bytes=%lld seconds=%.1f tokens_per_second=%.0f",
             log_value(&(struct log_text){0}, arguments->out),
             rules->template_status == STATUS_OK ? chat_template_name(&rules->template) : "none",
             (long long)totals->documents, (long long)totals->tokens, (long long)totals->trained,
             (long long)corpus->bytes_read, seconds, (double)totals->tokens / (seconds + 1e-9));
}

static enum status tokenize_into(const struct arguments *arguments,
                                 const struct document_rules *rules, struct corpus *corpus,
                                 struct token_writer *writer) {
    struct progress progress;
    struct totals totals = {0};
    progress_begin(&progress, "tokenize", corpus->bytes_total);
    enum status status = run_corpus(corpus, rules, writer, &totals, &progress);
    progress_end(&progress);
    if (status == STATUS_OK && totals.documents == 0)
        status = status_fail(STATUS_FORMAT, "the inputs hold no document");
    if (status != STATUS_OK) {
        token_writer_discard(writer);
        return status;
    }
    TRY(token_writer_finish(writer));
    report(arguments, &totals, corpus, rules, progress_seconds(&progress));
    return STATUS_OK;
}

static enum status tokenize(const struct arguments *arguments, const struct tokenizer *tokenizer) {
    struct document_rules rules = {.tokenizer = tokenizer,
                                   .vocabulary =
                                       tokenizer ? tokenizer_size(tokenizer) : arguments->ids,
                                   .literal = arguments->literal};
    struct corpus corpus;
    struct token_writer *writer;
    struct token_file_info info = {.tokenizer_hash = tokenizer ? tokenizer_hash(tokenizer) : 0,
                                   .vocabulary = rules.vocabulary};
    snprintf(info.tokenizer, sizeof info.tokenizer, "%s", tokenizer ? arguments->tokenizer : "");
    TRY(choose_template(&rules, arguments->template));
    TRY(atomic_file_spares(arguments->out, (const char *const *)arguments->inputs,
                           (int)arguments->input_count));
    TRY(corpus_open(&corpus, arguments->inputs, arguments->input_count, arguments->format));
    TRY(directory_make_for(arguments->out));
    TRY(token_writer_create(&writer, arguments->out, &info));
    enum status status = tokenize_into(arguments, &rules, &corpus, writer);
    corpus_close(&corpus);
    return status;
}

int cmd_data_tokenize(int argc, char **argv) {
    struct arguments arguments = {0};
    struct tokenizer *tokenizer = NULL;
    if (options_ask_help(argc, argv)) {
        fputs(usage, stdout);
        return 0;
    }
    if (parse(argc, argv, &arguments) != STATUS_OK) {
        fprintf(stderr, "strata data tokenize: %s\n%s", status_message(), usage);
        return 2;
    }
    enum status status =
        arguments.tokenizer ? tokenizer_open(&tokenizer, arguments.tokenizer) : STATUS_OK;
    if (status == STATUS_OK) {
        status = tokenize(&arguments, tokenizer);
        tokenizer_close(tokenizer);
    }
    if (status == STATUS_OK) return 0;
    fprintf(stderr, "strata data tokenize: %s\n", status_message());
    return 1;
}
