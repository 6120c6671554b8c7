#define _GNU_SOURCE
#include "tests/check.h"

#include "data/token_file.h"

#include <dirent.h>
#include <hdf5.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

struct folder {
    char path[64], file[128];
};

static int enter_folder(void **state) {
    struct folder *folder = calloc(1, sizeof *folder);
    strcpy(folder->path, "/tmp/strata_tokens_XXXXXX");
    if (!mkdtemp(folder->path)) return -1;
    snprintf(folder->file, sizeof folder->file, "%s/a.h5", folder->path);
    *state = folder;
    return 0;
}

static int count_files(const char *path, bool remove) {
    DIR *directory = opendir(path);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (entry->d_name[0] == '.') continue;
        char name[512];
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (remove) unlink(name);
        count++;
    }
    closedir(directory);
    return count;
}

static int leave_folder(void **state) {
    struct folder *folder = *state;
    count_files(folder->path, true);
    rmdir(folder->path);
    free(folder);
    return 0;
}

static struct token_file_info make_info(int64_t vocabulary, bool fractional) {
    struct token_file_info info = {.tokenizer_hash = 0xFEDCBA9876543210u,
                                   .vocabulary = vocabulary,
                                   .tokenizer = "models/tok\xc3\xa9",
                                   .fractional = fractional};
    return info;
}

static int32_t token_at(int64_t i, int64_t vocabulary) {
    return (int32_t)((uint64_t)i * 2654435761u % (uint64_t)vocabulary);
}

static float weight_at(int64_t i, bool fractional) {
    return fractional ? (float)(i % 5) * 0.25f : (float)(i % 3 != 0);
}

/* Documents of lengths 0, 1, 7, 14, ... until `tokens` are written; the first half of the file has
 * weights of 1 only, so that /weights begins late. */
static void write_file(const char *path, int64_t tokens, int64_t vocabulary, bool weighted,
                       bool fractional) {
    struct token_file_info info = make_info(vocabulary, fractional);
    struct token_writer *writer;
    assert_ok(token_writer_create(&writer, path, &info));
    int32_t *ids = malloc((size_t)tokens * sizeof *ids);
    float *weights = malloc((size_t)tokens * sizeof *weights);
    for (int64_t done = 0, length = 0; done < tokens;
         length = length < 2 ? length + 1 : length + 7) {
        int64_t count = done + length < tokens ? length : tokens - done;
        for (int64_t i = 0; i < count; i++) {
            ids[i] = token_at(done + i, vocabulary);
            weights[i] = done + i < tokens / 2 ? 1 : weight_at(done + i, fractional);
        }
        assert_ok(token_writer_append(writer, ids, weighted ? weights : NULL, count));
        done += count;
    }
    assert_int_equal(token_writer_info(writer)->tokens, tokens);
    free(ids);
    free(weights);
    assert_ok(token_writer_finish(writer));
}

static void check_file(const char *path, int64_t tokens, int64_t vocabulary, bool weighted,
                       bool fractional) {
    struct token_file *file;
    assert_ok(token_file_open(&file, path));
    const struct token_file_info *info = token_file_info(file);
    assert_true(info->tokenizer_hash == 0xFEDCBA9876543210u);
    assert_int_equal(info->vocabulary, vocabulary);
    assert_string_equal(info->tokenizer, "models/tok\xc3\xa9");
    assert_int_equal(info->tokens, tokens);
    assert_int_equal(info->weighted, weighted);
    const int64_t *documents = token_file_documents(file);
    assert_int_equal(documents[0], 0);
    assert_int_equal(documents[1], 0);
    assert_int_equal(documents[2], 1);
    assert_int_equal(documents[3], 3);
    assert_int_equal(documents[info->documents], tokens);
    int32_t *ids = malloc((size_t)tokens * sizeof *ids);
    float *weights = malloc((size_t)tokens * sizeof *weights);
    for (int64_t first = 0, count = 1; first < tokens; first += count, count = count * 3 + 1) {
        if (count > tokens - first) count = tokens - first;
        assert_ok(token_file_read(file, first, count, ids, weights));
        for (int64_t i = first; i < first + count; i++) {
            assert_int_equal(ids[i - first], token_at(i, vocabulary));
            float want = !weighted || i < tokens / 2 ? 1 : weight_at(i, fractional);
            assert_true(weights[i - first] == want);
        }
    }
    free(ids);
    free(weights);
    token_file_close(file);
}

static void test_round_trips(void **state) {
    const struct folder *folder = *state;
    static const struct {
        int64_t tokens, vocabulary;
        bool weighted, fractional;
    } cases[] = {{1000, 300, false, false},
                 {70000, 65536, true, false},
                 {70001, 65537, true, true},
                 {2300000, 151936, true, false}};
    for (size_t i = 0; i < 4; i++) {
        write_file(folder->file, cases[i].tokens, cases[i].vocabulary, cases[i].weighted,
                   cases[i].fractional);
        check_file(folder->file, cases[i].tokens, cases[i].vocabulary, cases[i].weighted,
                   cases[i].fractional);
        assert_int_equal(count_files(folder->path, false), 1);
    }
    /* 16 bits a token where the vocabulary allows it */
    write_file(folder->file, 1000000, 65536, false, false);
    FILE *file = fopen(folder->file, "rb");
    fseek(file, 0, SEEK_END);
    assert_in_range(ftell(file), 2000000, 2300000);
    fclose(file);
}

static void test_writer_refuses(void **state) {
    const struct folder *folder = *state;
    struct token_file_info info = make_info(100, false);
    struct token_writer *writer;
    static const int32_t good[] = {0, 99}, bad[] = {1, 100};
    static const float half[] = {1, 0.5f};
    write_file(folder->file, 500, 300, false, false);
    assert_ok(token_writer_create(&writer, folder->file, &info));
    assert_ok(token_writer_append(writer, good, NULL, 2));
    assert_int_equal(token_writer_append(writer, bad, NULL, 2), STATUS_FORMAT);
    assert_non_null(strstr(status_message(), "100"));
    assert_int_equal(token_writer_append(writer, good, half, 2), STATUS_FORMAT);
    assert_non_null(strstr(status_message(), "0.5"));
    token_writer_discard(writer);
    assert_int_equal(count_files(folder->path, false), 1);
    check_file(folder->file, 500, 300, false, false);
    assert_int_equal(token_writer_create(&writer, "/nonexistent/a.h5", &info), STATUS_IO);
    assert_non_null(strstr(status_message(), "/nonexistent/a.h5"));
}

/* Writes 40 MB where no file may grow beyond `limit` bytes: a write fails with EFBIG there as it
 * fails with ENOSPC on a full disk. */
static enum status write_limited(const char *path, rlim_t bytes) {
    struct rlimit before, limit;
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = bytes;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    struct token_file_info info = make_info(100000, false);
    struct token_writer *writer = NULL;
    enum status status = token_writer_create(&writer, path, &info);
    bool created = status == STATUS_OK;
    int32_t *ids = calloc(100000, sizeof *ids);
    for (int i = 0; i < 100 && status == STATUS_OK; i++)
        status = token_writer_append(writer, ids, NULL, 100000);
    if (status == STATUS_OK)
        status = token_writer_finish(writer);
    else if (created)
        token_writer_discard(writer);
    setrlimit(RLIMIT_FSIZE, &before);
    free(ids);
    return status;
}

static void test_full_disk_keeps_the_old_file(void **state) {
    const struct folder *folder = *state;
    static const rlim_t limits[] = {0, 1 << 20, 24 << 20, 44 << 20};
    write_file(folder->file, 500, 300, false, false);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(write_limited(folder->file, limits[i]), STATUS_IO);
        if (!strstr(status_message(), "File too large")) fail_msg("%s", status_message());
        assert_non_null(strstr(status_message(), folder->file));
        assert_int_equal(count_files(folder->path, false), 1);
        check_file(folder->file, 500, 300, false, false);
    }
}

/* A small valid file in which one thing can be different. */
struct flaw {
    const char *attribute; /* left out */
    int64_t version, vocabulary;
    hid_t token_type;
    int rank;
    int64_t weights; /* rows of /weights; 0 = none */
    int64_t documents[4];
    const char *want;
};

static void add_attribute(hid_t file, const struct flaw *flaw, const char *name, hid_t type,
                          const void *value) {
    if (flaw->attribute && strcmp(flaw->attribute, name) == 0) return;
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, type, value);
    H5Aclose(attribute);
    H5Sclose(space);
}

static void add_dataset(hid_t file, const char *name, hid_t stored, hid_t given, int rank,
                        hsize_t count, const void *rows) {
    hsize_t sizes[2] = {rank == 2 ? count / 2 : count, 2};
    hid_t space = H5Screate_simple(rank, sizes, NULL);
    hid_t dataset = H5Dcreate2(file, name, stored, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Dwrite(dataset, given, H5S_ALL, H5S_ALL, H5P_DEFAULT, rows);
    H5Dclose(dataset);
    H5Sclose(space);
}

static void write_flawed(const char *path, const struct flaw *flaw) {
    static const int32_t tokens[6] = {1, 2, 3, 4, 5, 6};
    static const float weights[8] = {1, 1, 1, 1, 1, -1, 1, 1};
    uint64_t hash = 7;
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    add_attribute(file, flaw, "format_version", H5T_NATIVE_INT64, &flaw->version);
    add_attribute(file, flaw, "tokenizer_hash", H5T_NATIVE_UINT64, &hash);
    add_attribute(file, flaw, "vocabulary", H5T_NATIVE_INT64, &flaw->vocabulary);
    add_dataset(file, "tokens", flaw->token_type, H5T_NATIVE_INT32, flaw->rank, 6, tokens);
    add_dataset(file, "documents", H5T_STD_I32BE, H5T_NATIVE_INT64, 1, 4, flaw->documents);
    if (flaw->weights)
        add_dataset(file, "weights", H5T_IEEE_F32BE, H5T_NATIVE_FLOAT, 1, (hsize_t)flaw->weights,
                    weights);
    H5Fclose(file);
}

static enum status open_and_read(const char *path) {
    struct token_file *file;
    int32_t tokens[6];
    float weights[6];
    TRY(token_file_open(&file, path));
    enum status status = token_file_read(file, 0, 6, tokens, weights);
    if (status == STATUS_OK) assert_int_equal(tokens[5], 6);
    token_file_close(file);
    return status;
}

static void test_foreign_layouts(void **state) {
    const struct folder *folder = *state;
    const hid_t i16 = H5T_STD_I16BE, f32 = H5T_IEEE_F32LE;
    const struct flaw flaws[] = {
        {NULL, 1, 7, i16, 1, 0, {0, 2, 2, 6}, NULL},
        {"format_version", 1, 7, i16, 1, 0, {0, 2, 2, 6}, "format_version"},
        {"tokenizer_hash", 1, 7, i16, 1, 0, {0, 2, 2, 6}, "tokenizer_hash"},
        {"vocabulary", 1, 7, i16, 1, 0, {0, 2, 2, 6}, "vocabulary"},
        {NULL, 2, 7, i16, 1, 0, {0, 2, 2, 6}, "format_version is 2"},
        {NULL, 1, 6, i16, 1, 0, {0, 2, 2, 6}, "token 5 has id 6"},
        {NULL, 1, 0, i16, 1, 0, {0, 2, 2, 6}, "vocabulary"},
        {NULL, 1, 7, f32, 1, 0, {0, 2, 2, 6}, "/tokens"},
        {NULL, 1, 7, i16, 2, 0, {0, 2, 2, 6}, "/tokens"},
        {NULL, 1, 7, i16, 1, 0, {1, 2, 2, 6}, "begin at 0"},
        {NULL, 1, 7, i16, 1, 0, {0, 3, 2, 6}, "document 1 ends before"},
        {NULL, 1, 7, i16, 1, 0, {0, 2, 2, 5}, "end at token 5 of 6"},
        {NULL, 1, 7, i16, 1, 0, {0, 2, 2, 7}, "end at token 7 of 6"},
        {NULL, 1, 7, i16, 1, 8, {0, 2, 2, 6}, "/weights"},
        {NULL, 1, 7, i16, 1, 6, {0, 2, 2, 6}, "token 5 has loss weight -1"},
    };
    for (size_t i = 0; i < sizeof flaws / sizeof *flaws; i++) {
        write_flawed(folder->file, &flaws[i]);
        enum status status = open_and_read(folder->file);
        if (!flaws[i].want) {
            assert_ok(status);
            continue;
        }
        assert_int_not_equal(status, STATUS_OK);
        if (!strstr(status_message(), flaws[i].want) || !strstr(status_message(), folder->file))
            fail_msg("case %zu: got \"%s\", want \"%s\"", i, status_message(), flaws[i].want);
    }
}

/* A list whose file holds nothing of it, of so many rows that their bytes are no number. */
static void replace_dataset(const char *path, const char *name, hid_t type) {
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    hsize_t rows = ((hsize_t)1 << 61) + 1, chunk = 1024;
    hid_t space = H5Screate_simple(1, &rows, NULL), how = H5Pcreate(H5P_DATASET_CREATE);
    assert_true(H5Pset_chunk(how, 1, &chunk) >= 0);
    assert_true(H5Ldelete(file, name, H5P_DEFAULT) >= 0);
    hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, how, H5P_DEFAULT);
    assert_true(dataset >= 0);
    H5Dclose(dataset);
    H5Pclose(how);
    H5Sclose(space);
    H5Fclose(file);
}

static void test_sizes_beyond_bytes(void **state) {
    const struct folder *folder = *state;
    static const char *const names[] = {"/tokens", "/documents"};
    for (int i = 0; i < 2; i++) {
        const struct flaw fine = {NULL, 1, 7, H5T_STD_I16BE, 1, 0, {0, 2, 2, 6}, NULL};
        struct token_file *file;
        write_flawed(folder->file, &fine);
        replace_dataset(folder->file, names[i], H5T_STD_I64LE);
        assert_int_equal(token_file_open(&file, folder->file), STATUS_FORMAT);
        if (!strstr(status_message(), names[i])) fail_msg("%s: %s", names[i], status_message());
    }
}

static void test_truncated_anywhere(void **state) {
    const struct folder *folder = *state;
    write_file(folder->file, 70000, 300, true, false);
    FILE *file = fopen(folder->file, "rb");
    fseek(file, 0, SEEK_END);
    long bytes = ftell(file);
    fclose(file);
    for (int part = 0; part < 16; part++) {
        write_file(folder->file, 70000, 300, true, false);
        assert_int_equal(truncate(folder->file, bytes * part / 16), 0);
        struct token_file *opened;
        assert_int_equal(token_file_open(&opened, folder->file), STATUS_FORMAT);
        assert_non_null(strstr(status_message(), folder->file));
    }
    struct token_file *opened;
    assert_int_equal(token_file_open(&opened, "/nonexistent.h5"), STATUS_IO);
    assert_int_equal(token_file_open(&opened, folder->path), STATUS_FORMAT);
}

static uint64_t fingerprint_of(const char *path) {
    struct token_file *file;
    uint64_t fingerprint;
    assert_ok(token_file_open(&file, path));
    assert_ok(token_file_fingerprint(file, &fingerprint));
    token_file_close(file);
    return fingerprint;
}

/* One document a piece of `length` tokens, all but one as they always are. */
static uint64_t fingerprint_with(const char *path, int64_t tokens, int64_t length, int64_t other,
                                 int64_t weighted) {
    struct token_file_info info = make_info(300, true);
    struct token_writer *writer;
    int32_t ids[1024];
    float weights[1024];
    assert_ok(token_writer_create(&writer, path, &info));
    for (int64_t done = 0; done < tokens; done += length) {
        for (int64_t i = 0; i < length; i++) {
            ids[i] = token_at(done + i, 299) + (done + i == other);
            weights[i] = done + i == weighted ? 0.5f : 1.0f;
        }
        assert_ok(token_writer_append(writer, ids, weighted >= 0 ? weights : NULL, length));
    }
    assert_ok(token_writer_finish(writer));
    return fingerprint_of(path);
}

/* Files that differ in any token of a small file, at either end of a large one, in a weight or in
 * where documents begin have other fingerprints; the same contents have the same. */
static void test_fingerprints(void **state) {
    struct folder *folder = *state;
    const char *path = folder->file;
    uint64_t small = fingerprint_with(path, 1000, 100, -1, -1);
    assert_true(fingerprint_with(path, 1000, 100, -1, -1) == small);
    assert_true(fingerprint_with(path, 1000, 200, -1, -1) != small);
    assert_true(fingerprint_with(path, 1100, 100, -1, -1) != small);
    assert_true(fingerprint_with(path, 1000, 100, -1, 7) != small);
    for (int64_t other = 0; other < 1000; other += 111)
        assert_true(fingerprint_with(path, 1000, 100, other, -1) != small);
    uint64_t large = fingerprint_with(path, 102400, 1024, -1, -1);
    assert_true(fingerprint_with(path, 102400, 1024, 0, -1) != large);
    assert_true(fingerprint_with(path, 102400, 1024, 102399, -1) != large);
    fingerprint_with(path, 1, 1, -1, -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trips, enter_folder, leave_folder),
        cmocka_unit_test_setup_teardown(test_writer_refuses, enter_folder, leave_folder),
        cmocka_unit_test_setup_teardown(test_full_disk_keeps_the_old_file, enter_folder,
                                        leave_folder),
        cmocka_unit_test_setup_teardown(test_foreign_layouts, enter_folder, leave_folder),
        cmocka_unit_test_setup_teardown(test_sizes_beyond_bytes, enter_folder, leave_folder),
        cmocka_unit_test_setup_teardown(test_truncated_anywhere, enter_folder, leave_folder),
        cmocka_unit_test_setup_teardown(test_fingerprints, enter_folder, leave_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
