/* YAML text into rows of every type. What was read must dump to text that reads back equal. */
#define _GNU_SOURCE
#include "core/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char *const words[] = {"cosine", "linear", NULL};

struct options {
    bool flag;
    int64_t whole;
    double real;
    char *text;
    int word;
    struct config_list list;
};

static const struct config_row rows[] = {
    {"flag", CONFIG_BOOL, offsetof(struct options, flag), "true", .help = "flag"},
    {"whole", CONFIG_INT, offsetof(struct options, whole), "1", .low = 0, .high = 1e6,
     .help = "whole"},
    {"real", CONFIG_DOUBLE, offsetof(struct options, real), "0.5", .help = "real"},
    {"text", CONFIG_STRING, offsetof(struct options, text), "", .help = "text"},
    {"word", CONFIG_ENUM, offsetof(struct options, word), "cosine", .words = words, .help = "word"},
    {"l.list", CONFIG_LIST, offsetof(struct options, list), "a,b", .help = "list"},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct options options = {0}, again = {0};
    struct config_table tables[] = {{"a", rows, 6, &options}, {"", rows, 6, &again}};
    /* An argument is one C string: the text after the first NUL, when there is one. */
    const uint8_t *nul = memchr(data, 0, bytes);
    char *argument = nul ? strndup((const char *)nul + 1, bytes - (size_t)(nul - data) - 1) : NULL;
    size_t text_bytes = nul ? (size_t)(nul - data) : bytes;
    if (config_parse(tables, 2, (const char *)data, text_bytes, "fuzz", &argument,
                     argument != NULL) == STATUS_OK) {
        char *yaml, *second;
        if (config_dump(tables, 2, &yaml) != STATUS_OK) abort();
        config_free(tables, 2);
        if (config_parse(tables, 2, yaml, strlen(yaml), "dump", NULL, 0) != STATUS_OK) abort();
        if (config_dump(tables, 2, &second) != STATUS_OK || strcmp(yaml, second) != 0) abort();
        free(yaml);
        free(second);
        config_free(tables, 2);
    }
    free(argument);
    return 0;
}
