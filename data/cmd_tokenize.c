#define _GNU_SOURCE
#include "data/commands.h"

#include "core/json_util.h"
#include "core/options.h"
#include "data/tokenizer.h"
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: strata tokenize TOKENIZER [--jsonl] [--special] [--decode]\n"
    "  TOKENIZER   a model or its directory, tokenizer.json, tokenizer.model, X.tiktoken, X.gguf\n"
    "  --jsonl     lines {\"text\": ...} in, lines {\"ids\": [...]} out (else one text, one line)\n"
    "  --special   add BOS and EOS as the tokenizer's configuration says; show them in --decode\n"
    "  --decode    the other way: ids in, text out\n"
    "  --literal   special tokens in the text (<|im_end|>) are letters like any other\n";

struct options {
    const char *tokenizer;
    bool jsonl, special, decode, literal;
};

static enum status parse(int argc, char **argv, struct options *options) {
    const struct option_row rows[] = {
        {NULL, OPTION_TEXT, &options->tokenizer, true, 0, 0},
        {"--jsonl", OPTION_FLAG, &options->jsonl, false, 0, 0},
        {"--special", OPTION_FLAG, &options->special, false, 0, 0},
        {"--decode", OPTION_FLAG, &options->decode, false, 0, 0},
        {"--literal", OPTION_FLAG, &options->literal, false, 0, 0},
    };
    return options_parse(rows, sizeof rows / sizeof *rows, argc, argv);
}

static enum status encode(const struct tokenizer *tokenizer, const struct options *options,
                          const char *text, size_t bytes, struct token_list *ids) {
    unsigned flags = (options->literal ? 0u : TOKENIZER_PARSE_SPECIAL) |
                     (options->special ? TOKENIZER_ADD_SPECIAL : 0u);
    return tokenizer_encode(tokenizer, text, bytes, flags, ids);
}

static void print_ids(const struct token_list *ids, const char *separator) {
    for (size_t i = 0; i < ids->count; i++) printf("%s%d", i ? separator : "", ids->ids[i]);
}

static enum status print_text(const struct tokenizer *tokenizer, const struct options *options,
                              const struct token_list *ids) {
    char *text;
    size_t bytes;
    TRY(tokenizer_decode(tokenizer, ids->ids, ids->count, options->special, &text, &bytes));
    if (!options->jsonl) {
        fwrite(text, 1, bytes, stdout);
    } else {
        json_t *line = json_pack("{s:s%}", "text", text, bytes);
        if (line) json_dumpf(line, stdout, JSON_COMPACT);
        json_decref(line);
        putchar('\n');
    }
    free(text);
    return STATUS_OK;
}

static enum status push(const struct tokenizer *tokenizer, struct token_list *ids, long long id) {
    if (id < 0 || id >= tokenizer_size(tokenizer))
        return status_fail(STATUS_FORMAT, "%lld is no token id: they are below %d", id,
                           tokenizer_size(tokenizer));
    if (ids->count == ids->capacity) {
        size_t capacity = ids->capacity ? ids->capacity * 2 : 256;
        int32_t *grown = realloc(ids->ids, capacity * sizeof *grown);
        if (!grown) return status_fail(STATUS_MEMORY, "no memory for %zu ids", capacity);
        ids->ids = grown;
        ids->capacity = capacity;
    }
    ids->ids[ids->count++] = (int32_t)id;
    return STATUS_OK;
}

static enum status line_text(const struct tokenizer *tokenizer, const struct options *options,
                             const json_t *line, struct token_list *ids) {
    const json_t *text = json_object_get(line, "text");
    if (!json_is_string(text)) return status_fail(STATUS_FORMAT, "no \"text\"");
    TRY(encode(tokenizer, options, json_string_value(text), json_string_length(text), ids));
    printf("{\"ids\":[");
    print_ids(ids, ",");
    printf("]}\n");
    return STATUS_OK;
}

static enum status line_ids(const struct tokenizer *tokenizer, const struct options *options,
                            const json_t *line, struct token_list *ids) {
    size_t index;
    const json_t *id, *list = json_object_get(line, "ids");
    if (!json_is_array(list)) return status_fail(STATUS_FORMAT, "no \"ids\"");
    json_array_foreach(list, index, id) {
        if (!json_is_integer(id)) return status_fail(STATUS_FORMAT, "ids[%zu] is no id", index);
        TRY(push(tokenizer, ids, json_integer_value(id)));
    }
    return print_text(tokenizer, options, ids);
}

static enum status run_lines(const struct tokenizer *tokenizer, const struct options *options) {
    char *line = NULL;
    size_t capacity = 0, number = 0;
    ssize_t bytes;
    struct token_list ids = {0};
    enum status status = STATUS_OK;
    while (status == STATUS_OK && (bytes = getline(&line, &capacity, stdin)) >= 0) {
        json_t *json;
        number++;
        if (bytes == 0 || strspn(line, " \t\r\n") == (size_t)bytes) continue;
        ids.count = 0;
        status = json_parse_bytes(&json, line, (size_t)bytes, NULL, JSON_ALLOW_NUL);
        if (status == STATUS_OK)
            status = options->decode ? line_ids(tokenizer, options, json, &ids)
                                     : line_text(tokenizer, options, json, &ids);
        json_decref(json);
        if (status != STATUS_OK) status_context(status, "line %zu", number);
    }
    free(line);
    token_list_free(&ids);
    return status;
}

/* The whole of standard input, with a NUL behind it; the caller frees it. */
static enum status read_input(char **text, size_t *bytes) {
    size_t capacity = 1 << 16, got;
    *bytes = 0;
    *text = malloc(capacity);
    while (*text && (got = fread(*text + *bytes, 1, capacity - *bytes - 1, stdin)) > 0) {
        *bytes += got;
        if (*bytes + 1 < capacity) continue;
        char *grown = realloc(*text, capacity *= 2);
        if (!grown) free(*text);
        *text = grown;
    }
    if (!*text) return status_fail(STATUS_MEMORY, "no memory for the input");
    (*text)[*bytes] = 0;
    if (!ferror(stdin)) return STATUS_OK;
    free(*text);
    *text = NULL;
    return status_fail(STATUS_IO, "standard input: %s", strerror(errno));
}

/* Ids between blanks, commas and brackets. */
static enum status parse_ids(const struct tokenizer *tokenizer, const char *text,
                             struct token_list *ids) {
    static const char between[] = " \t\r\n,[]";
    for (const char *at = text + strspn(text, between); *at; at += strspn(at, between)) {
        char *end;
        long long id = strtoll(at, &end, 10);
        if (end == at)
            return status_fail(STATUS_FORMAT, "'%.*s' is no token id", (int)strcspn(at, between),
                               at);
        TRY(push(tokenizer, ids, id));
        at = end;
    }
    return STATUS_OK;
}

static enum status run_whole(const struct tokenizer *tokenizer, const struct options *options) {
    char *text;
    size_t bytes;
    struct token_list ids = {0};
    TRY(read_input(&text, &bytes));
    enum status status = options->decode ? parse_ids(tokenizer, text, &ids)
                                         : encode(tokenizer, options, text, bytes, &ids);
    free(text);
    if (status == STATUS_OK && options->decode) {
        status = print_text(tokenizer, options, &ids);
    } else if (status == STATUS_OK) {
        print_ids(&ids, " ");
        putchar('\n');
    }
    token_list_free(&ids);
    return status;
}

int cmd_tokenize(int argc, char **argv) {
    struct options options = {0};
    struct tokenizer *tokenizer;
    if (options_ask_help(argc, argv)) {
        fputs(usage, stdout);
        return 0;
    }
    if (parse(argc, argv, &options) != STATUS_OK) {
        fprintf(stderr, "strata tokenize: %s\n%s", status_message(), usage);
        return 2;
    }
    enum status status = tokenizer_open(&tokenizer, options.tokenizer);
    if (status == STATUS_OK) {
        status = options.jsonl ? run_lines(tokenizer, &options) : run_whole(tokenizer, &options);
        tokenizer_close(tokenizer);
    }
    if (status == STATUS_OK && (fflush(stdout) != 0 || ferror(stdout)))
        status = status_fail(STATUS_IO, "standard output: %s", strerror(errno));
    if (status == STATUS_OK) return 0;
    fprintf(stderr, "strata tokenize: %s\n", status_message());
    return 1;
}
