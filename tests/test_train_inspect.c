/* `strata inspect` as its user meets it: exit code, output, one line of reason. */
#define _GNU_SOURCE
#include "tests/check.h"
#include "tests/temporary.h"

#include "core/gguf_write.h"
#include "core/safetensors_write.h"
#include "data/token_file.h"
#include "parallel/checkpoint.h"
#include "train/commands.h"
#include <fcntl.h>
#include <jansson.h>
#include <sys/mman.h>

static char output[1 << 20], errors[65536];

static void read_back(int descriptor, char *into, size_t room) {
    ssize_t bytes = pread(descriptor, into, room - 1, 0);
    assert_true(bytes >= 0);
    into[bytes] = '\0';
    assert_int_equal(ftruncate(descriptor, 0), 0);
    close(descriptor);
}

/* Runs the subcommand with both streams caught in files. */
static int inspect(const char *path, const char *option) {
    char name[] = "inspect", argument[512], flag[32] = "";
    char *arguments[4] = {name, argument, flag, NULL};
    snprintf(argument, sizeof argument, "%s", path);
    if (option) snprintf(flag, sizeof flag, "%s", option);
    fflush(stdout);
    fflush(stderr);
    int out = memfd_create("out", 0), error = memfd_create("error", 0);
    int saved_out = dup(1), saved_error = dup(2);
    dup2(out, 1);
    dup2(error, 2);
    int code = cmd_inspect(option ? 3 : 2, arguments);
    fflush(stdout);
    fflush(stderr);
    dup2(saved_out, 1);
    dup2(saved_error, 2);
    close(saved_out);
    close(saved_error);
    read_back(out, output, sizeof output);
    read_back(error, errors, sizeof errors);
    return code;
}

/* One line that names the file. */
static void check_reason(const char *path) {
    const char *newline = strchr(errors, '\n');
    assert_non_null(newline);
    assert_string_equal(newline, "\n");
    if (!strstr(errors, path)) fail_msg("'%s' does not name %s", errors, path);
    assert_string_equal(output, "");
}

static void write_sample(const char *path) {
    struct gguf_metadata metadata = {0};
    struct tensor_spec spec = {"evil\x1b[2J", DTYPE_F16, 2, {3, 5}};
    struct tensor_sink sink;
    float values[15] = {1};
    int32_t many[1000] = {0};
    struct gguf_string bad[2] = {{"\xff", 1}, {"fine", 4}};
    gguf_put_string(&metadata, "general.architecture", "llama");
    gguf_put_u64(&metadata, "large", UINT64_MAX);
    gguf_put_f32(&metadata, "nan", NAN);
    gguf_put_bool(&metadata, "yes", true);
    gguf_put_array(&metadata, "many", GGUF_I32, many, 1000);
    gguf_put_strings(&metadata, "bad", bad, 2);
    assert_ok(gguf_create(&sink, path, &metadata, &spec, 1));
    assert_ok(tensor_sink_append_f32(&sink, values, 15));
    assert_ok(tensor_sink_finish(&sink));
    tensor_sink_close(&sink);
    gguf_metadata_free(&metadata);
}

static void inspect_sample(struct temporary *folder, const char *option) {
    temporary_open(folder);
    write_sample(temporary_file(folder, "x.gguf"));
    assert_int_equal(inspect(folder->file, option), 0);
    assert_string_equal(errors, "");
}

static void test_text(void **state) {
    (void)state;
    struct temporary folder;
    inspect_sample(&folder, NULL);
    static const char *const expected[] = {
        "format: GGUF version 3, alignment 32\n",
        "string \"llama\"\n",
        "u64 18446744073709551615\n",
        "f32 nan\n",
        "bool true\n",
        "i32[1000] 0, 0, 0, 0, 0, 0, 0, 0, ... (1000 in all)\n",
        "\"\\xff\", \"fine\"\n",
        "evil\\x1b[2J",
        "[3, 5]",
        "dtypes: F16 1\n",
        "parameters: 15\n",
        "bytes: 30\n",
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        if (!strstr(output, expected[i])) fail_msg("no '%s' in:\n%s", expected[i], output);
    assert_null(strchr(output, '\x1b'));
    assert_null(strstr(output, "only a header"));
    temporary_close(&folder);
}

static void test_json(void **state) {
    (void)state;
    struct temporary folder;
    inspect_sample(&folder, "--json");
    json_t *root = json_loads(output, 0, NULL);
    assert_non_null(root);
    const char *type, *large, *name, *dtype;
    int parameters, bytes, version, present, count, rows, columns;
    json_t *first;
    assert_int_equal(json_unpack(root,
                                 "{s:i, s:i, s:i, s:b, s:{s:{s:s}, s:{s:s}, s:{s:i, s:o}},"
                                 " s:[{s:s, s:s, s:[ii!]}!]}",
                                 "version", &version, "parameters", &parameters, "bytes", &bytes,
                                 "data_present", &present, "metadata", "general.architecture",
                                 "value", &type, "large", "value", &large, "many", "count", &count,
                                 "first", &first, "tensors", "name", &name, "dtype", &dtype,
                                 "shape", &rows, &columns),
                     0);
    assert_int_equal(version, 3);
    assert_int_equal(parameters, 15);
    assert_int_equal(bytes, 30);
    assert_int_equal(present, 1);
    assert_string_equal(type, "llama");
    assert_string_equal(large, "18446744073709551615");
    assert_int_equal(count, 1000);
    assert_int_equal(json_array_size(first), 8);
    assert_string_equal(name, "evil\x1b[2J");
    assert_string_equal(dtype, "F16");
    assert_int_equal(rows, 3);
    assert_int_equal(columns, 5);
    json_decref(root);
    temporary_close(&folder);
}

static void test_token_file(void **state) {
    (void)state;
    struct temporary folder;
    struct token_writer *writer;
    const struct token_file_info info = {
        .tokenizer_hash = 0xabcdef, .vocabulary = 300, .tokenizer = "some\x1btokenizer"};
    static const int32_t tokens[] = {5, 299, 0, 7};
    char path[600];
    temporary_open(&folder);
    snprintf(path, sizeof path, "%s", temporary_file(&folder, "tokens.h5"));
    assert_ok(token_writer_create(&writer, path, &info));
    assert_ok(token_writer_append(writer, tokens, NULL, 3));
    assert_ok(token_writer_append(writer, tokens + 3, NULL, 1));
    assert_ok(token_writer_finish(writer));
    assert_int_equal(inspect(path, NULL), 0);
    assert_non_null(strstr(output, "\ntokens: 4\ndocuments: 2\nvocabulary: 300\nweights: none\n"));
    assert_non_null(strstr(output, "\ntokenizer_hash: 0000000000abcdef\n"));
    assert_null(strchr(output, '\x1b'));
    assert_int_equal(inspect(path, "--json"), 0);
    json_t *root = json_loads(output, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(root, "tokens")), 4);
    json_decref(root);
    temporary_write(&folder, "tokens.h5", "\x89HDF\r\n\x1a\nrubbish", 15);
    assert_int_equal(inspect(path, NULL), 1);
    check_reason(path);
    temporary_close(&folder);
}

/* A run's directory, its folder of checkpoints, a step and a file in it all show the checkpoint. */
static void test_checkpoint(void **state) {
    (void)state;
    struct temporary folder;
    struct comm self;
    _Alignas(64) float values[] = {1, 2, 3, 4, 5, 6};
    struct checkpoint_slab slab = {
        .name = "weights/x", .rows = 2, .cols = 3, .values = {LAYOUT_ROWS_F32, 2, 3, values}};
    const struct checkpoint_state at = {
        .step = 40, .tokens = 1234, .best_loss = 2.5, .config = "a: 1\n"};
    static const char *const ways[] = {"", "/checkpoints", "/checkpoints/step-00000040/",
                                       "/checkpoints/step-00000040/rank-0000.h5"};
    char path[600], command[700];
    temporary_open(&folder);
    comm_open_self(&self, "self");
    snprintf(path, sizeof path, "%s/checkpoints", folder.path);
    struct checkpoint_claim claim;
    assert_ok(checkpoint_claim_take(&self, path, &(struct checkpoint_start){0}, &claim));
    assert_ok(checkpoint_save(&self, &claim, &at, &slab, 1, 1));
    checkpoint_claim_release(&claim);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        snprintf(path, sizeof path, "%s%s", folder.path, ways[i]);
        if (inspect(path, NULL) != 0) fail_msg("%s: %s", ways[i], errors);
        assert_non_null(strstr(output, "\nstep: 40\ntokens: 1234\n"));
        assert_non_null(strstr(output, "\ncheckpoints: 1\n"));
        assert_non_null(strstr(output, "\ntensors: 1\nbest_loss: 2.5\n  weights/x "));
        assert_non_null(strstr(output, "[2, 3]\n"));
    }
    assert_int_equal(inspect(path, "--json"), 0);
    json_t *root = json_loads(output, 0, NULL);
    assert_int_equal(json_array_size(json_object_get(root, "tensors")), 1);
    json_decref(root);
    snprintf(command, sizeof command, "rm -r '%s/checkpoints'", folder.path);
    assert_int_equal(system(command), 0);
    temporary_close(&folder);
}

/* An index that names a shard with an escape sequence and a second line. */
static void test_hostile_index(void **state) {
    (void)state;
    static const char index[] = "{\"weight_map\":{\"a\":\"x\\u001b[31m\\ny.safetensors\"}}";
    struct temporary folder;
    temporary_open(&folder);
    temporary_write(&folder, "model.safetensors.index.json", index, sizeof index - 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(inspect(i ? folder.path : folder.file, NULL), 1);
        check_reason(folder.path);
        assert_non_null(strstr(errors, "x\\x1b[31m\\x0ay.safetensors"));
        assert_null(strchr(errors, '\x1b'));
    }
    temporary_close(&folder);
}

static void test_wrong_arguments(void **state) {
    (void)state;
    assert_int_equal(inspect("a", "b"), 2);
    assert_int_equal(inspect("a", "--what"), 2);
    assert_non_null(strstr(errors, "usage: strata inspect PATH [--json]"));
    assert_int_equal(inspect("--help", NULL), 0);
    assert_non_null(strstr(output, "usage: strata inspect"));
    assert_int_equal(inspect("/nonexistent.gguf", NULL), 1);
    check_reason("/nonexistent.gguf");
}

/* The path of a manifest's file, unpacked first where it is a .gz. */
static const char *unpacked(struct temporary *folder, const char *path) {
    static char plain[512];
    size_t length = strlen(path);
    snprintf(plain, sizeof plain, "%s", path);
    if (length > 3 && strcmp(path + length - 3, ".gz") == 0) {
        char command[1200];
        snprintf(plain, sizeof plain, "%s", temporary_file(folder, "unpacked.gguf"));
        snprintf(command, sizeof command, "gunzip -c '%s' > '%s'", path, plain);
        assert_int_equal(system(command), 0);
    }
    return plain;
}

static void test_malformed_files_get_their_verdict(void **state) {
    (void)state;
    const char *data = test_data_or_skip();
    char path[512];
    struct temporary folder;
    temporary_open(&folder);
    snprintf(path, sizeof path, "%s/container_malformed/manifest.json", data);
    json_t *manifest = json_load_file(path, 0, NULL);
    assert_true(json_array_size(manifest) > 50);
    for (size_t i = 0; i < json_array_size(manifest); i++) {
        const json_t *entry = json_array_get(manifest, i);
        const char *expect = json_string_value(json_object_get(entry, "expect"));
        snprintf(path, sizeof path, "%s/container_malformed/%s", data,
                 json_string_value(json_object_get(entry, "file")));
        const char *plain = unpacked(&folder, path);
        for (int json = 0; json < 2; json++) {
            int code = inspect(plain, json ? "--json" : NULL);
            if (code == 1) check_reason(plain);
            if (code == 0) assert_string_equal(errors, "");
            int wanted = strcmp(expect, "accept") == 0 ? 0 : 1;
            if (code != wanted && strcmp(expect, "either") != 0)
                fail_msg("%s: expected %s: %s", path, expect, errors);
        }
    }
    json_decref(manifest);
    temporary_close(&folder);
}

static void test_small_files(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int code;
        const char *shown; /* in the output, or in the reason */
    } cases[] = {
        {"tensor-1d-int32.safetensors", 0, "I32     [3]"},
        {"tensor-2d-float64.safetensors", 0, "F64     [2, 3]"},
        {"tensor-4d-float32.safetensors", 0, "[2, 3, 1, 3]"},
        {"pr_samples/overall.safetensors", 0, "U32 1"},
        {"pr_samples/lower_e.safetensors", 0, "F16     [6]"},
        {"ollama_minicpm3_stub.safetensors", 0, "parameters: 100500\n"},
        {"weight_inspect_empty.gguf", 0, "tensors: 0"},
        {"weight_inspect_tiny.gguf", 0, "data: missing, the file is only a header\n"},
        {"weight_inspect_tiny.safetensors", 1, "the tensors take 32768 bytes"},
        {"test.npy", 1, "neither a GGUF nor a safetensors file"},
        {"test.pt", 1, "a zip archive, perhaps PyTorch's"},
        {"mini_llama.json", 1, "weight_map is missing"},
    };
    const char *data = test_data_or_skip();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/container_small/%s", data, cases[i].name);
        assert_int_equal(inspect(path, NULL), cases[i].code);
        const char *said = cases[i].code ? errors : output;
        if (!strstr(said, cases[i].shown))
            fail_msg("%s: no '%s' in:\n%s", path, cases[i].shown, said);
        if (cases[i].code) check_reason(path);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_token_file),
        cmocka_unit_test(test_checkpoint),
        cmocka_unit_test(test_hostile_index),
        cmocka_unit_test(test_wrong_arguments),
        cmocka_unit_test(test_malformed_files_get_their_verdict),
        cmocka_unit_test(test_small_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
