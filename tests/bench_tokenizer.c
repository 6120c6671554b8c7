/* bench_tokenizer TOKENIZER FILE [SECONDS]: MB/s of encoding the file by the time of one core,
 * median and the best of its runs, and tokens per byte. */
#define _GNU_SOURCE
#include "data/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_RUNS = 1000 };

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time); /* other work on the machine does not count */
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static int by_value(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static char *read_text(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    fseek(file, 0, SEEK_END);
    *bytes = (size_t)ftell(file);
    rewind(file);
    char *text = malloc(*bytes + 1);
    if (text && fread(text, 1, *bytes, file) != *bytes) {
        free(text);
        text = NULL;
    }
    fclose(file);
    return text;
}

int main(int argc, char **argv) {
    struct tokenizer *tokenizer;
    size_t bytes = 0;
    if (argc < 3) {
        fprintf(stderr, "usage: bench_tokenizer TOKENIZER FILE [SECONDS]\n");
        return 2;
    }
    double opened = now(), seconds = argc > 3 ? atof(argv[3]) : 3.0;
    if (tokenizer_open(&tokenizer, argv[1]) != STATUS_OK) {
        fprintf(stderr, "bench_tokenizer: %s\n", status_message());
        return 1;
    }
    opened = now() - opened;
    char *text = read_text(argv[2], &bytes);
    if (!text) {
        fprintf(stderr, "bench_tokenizer: %s can't be read\n", argv[2]);
        tokenizer_close(tokenizer);
        return 1;
    }
    struct token_list ids = {0};
    double rates[MAX_RUNS], start = now();
    int runs = 0;
    while (runs < MAX_RUNS && (runs < 3 || now() - start < seconds)) {
        double begin = now();
        ids.count = 0;
        if (tokenizer_encode(tokenizer, text, bytes, TOKENIZER_PLAIN, &ids) != STATUS_OK) break;
        rates[runs++] = (double)bytes * 1e-6 / (now() - begin);
    }
    if (runs > 0) {
        qsort(rates, (size_t)runs, sizeof *rates, by_value);
        printf(
            "encode_mb_per_s=%.1f best=%.1f runs=%d tokens=%zu bytes_per_token=%.2f open_s=%.2f\n",
            rates[runs / 2], rates[runs - 1], runs, ids.count, (double)bytes / (double)ids.count,
            opened);
    }
    token_list_free(&ids);
    free(text);
    tokenizer_close(tokenizer);
    return runs > 0 ? 0 : 1;
}
