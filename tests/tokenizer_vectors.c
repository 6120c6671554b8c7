#define _GNU_SOURCE
#include "tests/tokenizer_vectors.h"

#include <unistd.h>

/* Says that a test made use of a name in the data folder. */
static void note_opened(const char *name) {
    const char *path = getenv("STRATA_VECTORS_OPENED");
    FILE *list = path ? fopen(path, "a") : NULL;
    if (!path) return;
    assert_non_null(list);
    fprintf(list, "%s\n", name);
    assert_int_equal(fclose(list), 0);
}

static char *vectors_path(const char *name) {
    const char *folder = name[0] == '/' ? "" : test_data_or_skip();
    size_t bytes = strlen(folder) + strlen(name) + 2;
    char *path = malloc(bytes);
    assert_non_null(path);
    snprintf(path, bytes, "%s%s%s", folder, *folder ? "/" : "", name);
    if (*folder) note_opened(name);
    return path;
}

char *vectors_read_text(const char *name, size_t *bytes) {
    char *path = vectors_path(name), *text = NULL;
    FILE *file = fopen(path, "rb");
    if (!file) fail_msg("%s is missing", path);
    size_t capacity = 0, got = 1;
    for (*bytes = 0; got > 0; *bytes += got) {
        if (*bytes + 1 >= capacity) text = realloc(text, capacity = capacity * 2 + 65536);
        got = fread(text + *bytes, 1, capacity - *bytes - 1, file);
    }
    text[*bytes] = 0;
    fclose(file);
    free(path);
    return text;
}

json_t *vectors_read_json(const char *name) {
    size_t bytes;
    json_error_t error;
    char *text = vectors_read_text(name, &bytes);
    json_t *json = json_loadb(text, bytes, JSON_ALLOW_NUL | JSON_DECODE_ANY, &error);
    if (!json) fail_msg("%s: %s", name, error.text);
    free(text);
    return json;
}

/* A file that is stored compressed is unpacked to a temporary one first. */
struct tokenizer *vectors_open(const char *name) {
    struct tokenizer *tokenizer = NULL;
    char *path = vectors_path(name), *command = NULL;
    size_t bytes = strlen(path);
    if (bytes < 3 || strcmp(path + bytes - 3, ".gz") != 0) {
        assert_ok(tokenizer_open(&tokenizer, path));
        free(path);
        return tokenizer;
    }
    char folder[] = "/tmp/strata-test-XXXXXX", *unpacked = NULL;
    assert_non_null(mkdtemp(folder));
    const char *base = strrchr(path, '/') + 1;
    if (asprintf(&unpacked, "%s/%.*s", folder, (int)strlen(base) - 3, base) < 0) fail();
    if (asprintf(&command, "gzip -dc '%s' > '%s'", path, unpacked) < 0) fail();
    assert_int_equal(system(command), 0);
    assert_ok(tokenizer_open(&tokenizer, unpacked));
    unlink(unpacked);
    rmdir(folder);
    free(command);
    free(unpacked);
    free(path);
    return tokenizer;
}

void vectors_expect_ids(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                        unsigned flags, const int32_t *want, size_t count, const char *what) {
    struct token_list got = {0};
    assert_ok(tokenizer_encode(tokenizer, text, bytes, flags, &got));
    for (size_t i = 0; i < got.count && i < count; i++)
        if (got.ids[i] != want[i])
            fail_msg("%s: '%.*s': id %zu is %d, not %d", what, (int)bytes, text, i, got.ids[i],
                     want[i]);
    if (got.count != count)
        fail_msg("%s: '%.*s': %zu ids, not %zu", what, (int)bytes, text, got.count, count);
    token_list_free(&got);
}

void vectors_expect_json(const struct tokenizer *tokenizer, const json_t *text, unsigned flags,
                         const json_t *ids, const char *what) {
    size_t count = json_array_size(ids);
    int32_t *want = malloc((count + 1) * sizeof *want);
    assert_true(json_is_string(text) && json_is_array(ids));
    for (size_t i = 0; i < count; i++)
        want[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    vectors_expect_ids(tokenizer, json_string_value(text), json_string_length(text), flags, want,
                       count, what);
    free(want);
}

/* The numbers of a line. */
static struct ggml_vector read_ids(const char *line) {
    struct ggml_vector vector = {.ids = malloc((strlen(line) + 1) * sizeof *vector.ids)};
    assert_non_null(vector.ids);
    for (char *after;; line = after) {
        long id = strtol(line, &after, 10);
        if (after == line) return vector;
        vector.ids[vector.count++] = (int32_t)id;
    }
}

static bool listed(const char *const *list, const char *text, size_t bytes) {
    for (; list && *list; list++)
        if (strlen(*list) == bytes && memcmp(*list, text, bytes) == 0) return true;
    return false;
}

struct ggml_vectors vectors_read_ggml(const char *inputs, const char *outputs,
                                      const char *const *without) {
    static const char separator[] = "\n__ggml_vocab_test__\n";
    size_t bytes;
    struct ggml_vectors all = {.texts = vectors_read_text(inputs, &bytes)};
    char *out = vectors_read_text(outputs, &bytes), *line = out, *next;
    all.vectors = malloc((bytes + 1) * sizeof *all.vectors);
    assert_non_null(all.vectors);
    for (char *text = all.texts, *end; (end = strstr(text, separator));
         text = end + sizeof separator - 1) {
        if (listed(without, text, (size_t)(end - text))) continue;
        next = strchr(line, '\n');
        if (!next) fail_msg("%s has too few lines", outputs);
        *next = 0;
        struct ggml_vector vector = read_ids(line);
        vector.text = text;
        vector.bytes = (size_t)(end - text);
        all.vectors[all.count++] = vector;
        line = next + 1;
    }
    assert_int_equal(strspn(line, "\n"), strlen(line));
    free(out);
    return all;
}

void vectors_free_ggml(struct ggml_vectors *vectors) {
    for (size_t i = 0; i < vectors->count; i++) free(vectors->vectors[i].ids);
    free(vectors->vectors);
    free(vectors->texts);
}

size_t vectors_expect_ggml(const struct tokenizer *tokenizer, const struct ggml_vectors *vectors,
                           int32_t limit, const char *what) {
    size_t compared = 0;
    for (size_t i = 0; i < vectors->count; i++) {
        const struct ggml_vector *vector = &vectors->vectors[i];
        bool below = true;
        for (size_t k = 0; k < vector->count; k++) below = below && vector->ids[k] < limit;
        if (!below) continue;
        vectors_expect_ids(tokenizer, vector->text, vector->bytes, TOKENIZER_PARSE_SPECIAL,
                           vector->ids, vector->count, what);
        compared++;
    }
    return compared;
}

void vectors_done(size_t compared, size_t expected) {
    print_message("compared %zu vectors\n", compared);
    assert_int_equal(compared, expected);
    assert_true(compared > 0);
}
