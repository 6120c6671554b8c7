#define _GNU_SOURCE
#include "tests/check.h"

#include "core/config.h"

#include <unistd.h>

enum schedule { SCHEDULE_COSINE, SCHEDULE_LINEAR };
static const char *const schedule_words[] = {"cosine", "linear", NULL};
static const char *const target_words[] = {"q_proj", "k_proj", "v_proj", NULL};

struct run {
    char *name;
    struct config_list targets, files;
};
struct train {
    double rate;
    int64_t steps;
    bool clip;
    enum schedule schedule;
};

static const struct config_row run_rows[] = {
    {"name", CONFIG_STRING, offsetof(struct run, name), "base", .help = "a name"},
    {"files", CONFIG_LIST, offsetof(struct run, files), "", .help = "token files"},
    {"lora.targets", CONFIG_LIST, offsetof(struct run, targets), "q_proj,v_proj",
     .words = target_words, .help = "adapted matrices"},
};
static const struct config_row train_rows[] = {
    {"rate", CONFIG_DOUBLE, offsetof(struct train, rate), "1e-4", .low = 0, .high = 1,
     .help = "learning rate"},
    {"steps", CONFIG_INT, offsetof(struct train, steps), NULL, .low = 1, .high = 1e9,
     .help = "steps"},
    {"clip", CONFIG_BOOL, offsetof(struct train, clip), "true", .help = "clip"},
    {"schedule", CONFIG_ENUM, offsetof(struct train, schedule), "cosine", .words = schedule_words,
     .help = "shape"},
};

struct both {
    struct run run;
    struct train train;
    struct config_table tables[2];
};

static void both_init(struct both *both) {
    memset(both, 0, sizeof *both);
    both->tables[0] = (struct config_table){"", run_rows, 3, &both->run};
    both->tables[1] = (struct config_table){"train", train_rows, 4, &both->train};
}

static enum status parse(struct both *both, const char *yaml, char *const *arguments, int count) {
    both_init(both);
    return config_parse(both->tables, 2, yaml, strlen(yaml), "run.yaml", arguments, count);
}

static void test_file_then_arguments_then_defaults(void **state) {
    (void)state;
    struct both both;
    char *arguments[] = {"train.steps=1e3", "name=a=b", "train.clip=off", "name=last = \"x\" # y"};
    const char *yaml = "lora.targets: [k_proj]\n"
                       "files:\n  - a.h5\n  - \"b, c.h5\"\n"
                       "train:\n  rate: 3.5e-2 # half\n  steps: 7\n  schedule: linear\n";
    assert_ok(parse(&both, yaml, arguments, 4));
    assert_string_equal(both.run.name, "last = \"x\" # y");
    assert_int_equal(both.run.targets.count, 1);
    assert_string_equal(both.run.targets.items[0], "k_proj");
    assert_int_equal(both.run.files.count, 2);
    assert_string_equal(both.run.files.items[1], "b, c.h5");
    assert_true(both.train.rate == 0.035);
    assert_int_equal(both.train.steps, 1000);
    assert_false(both.train.clip);
    assert_int_equal(both.train.schedule, SCHEDULE_LINEAR);
    config_free(both.tables, 2);
    assert_null(both.run.name);
    config_free(both.tables, 2);

    char *least[] = {"train.steps=5"};
    assert_ok(parse(&both, "", least, 1));
    assert_string_equal(both.run.name, "base");
    assert_int_equal(both.run.targets.count, 2);
    assert_string_equal(both.run.targets.items[1], "v_proj");
    assert_int_equal(both.run.files.count, 0);
    assert_true(both.train.clip && both.train.rate == 1e-4);
    config_free(both.tables, 2);
}

static void test_lists_as_arguments(void **state) {
    (void)state;
    struct both both;
    char *arguments[] = {"train.steps=5", "files=[a, \"b,c\", 'd''e']",
                         "lora.targets=v_proj,k_proj"};
    assert_ok(parse(&both, "files: only.h5\n", arguments, 3));
    assert_int_equal(both.run.files.count, 3);
    assert_string_equal(both.run.files.items[1], "b,c");
    assert_string_equal(both.run.files.items[2], "d'e");
    assert_string_equal(both.run.targets.items[0], "v_proj");
    config_free(both.tables, 2);
    assert_ok(parse(&both, "files: only.h5\ntrain.steps: 2", NULL, 0));
    assert_int_equal(both.run.files.count, 1);
    assert_string_equal(both.run.files.items[0], "only.h5");
    config_free(both.tables, 2);
    char *empty[] = {"train.steps=5", "files=", "lora.targets=[]"};
    assert_ok(parse(&both, "files: only.h5\n", empty, 3));
    assert_int_equal(both.run.files.count + both.run.targets.count, 0);
    config_free(both.tables, 2);
}

static void test_errors_say_where_and_what(void **state) {
    (void)state;
    static const struct {
        const char *yaml, *argument, *want;
    } cases[] = {
        {"train:\n  rat: 1\n", NULL,
         "run.yaml:2: unknown key \"train.rat\"; the nearest known one is \"train.rate\""},
        {"lora:\n  target: x\n", NULL, "\"lora.targets\""},
        {"", "steps=3",
         "argument: unknown key \"steps\"; the nearest known one is \"train.steps\""},
        {"nothing: {}\n", NULL, "unknown key \"nothing\""},
        {"train: {rate: 1.5}", NULL, "run.yaml:1: train.rate = \"1.5\" must be from 0 to 1"},
        {"train: {rate: fast}", NULL, "train.rate = \"fast\" must be a finite number"},
        {"train: {rate: nan}", NULL, "must be a finite number"},
        {"train: {rate: 1e999}", NULL, "must be a finite number"},
        {"train: {rate: 0x1p-3}", NULL, "must be a finite number"},
        {"train: {steps: 1.5}", NULL, "train.steps = \"1.5\" must be an integer"},
        {"train: {steps: 99999999999999999999}", NULL, "must be an integer"},
        {"train: {steps: 0}", NULL, "must be from 1 to 1000000000"},
        {"train: {steps: }", NULL, "must be an integer"},
        {"train: {clip: maybe}", NULL, "must be true or false"},
        {"train: {schedule: wsd}", NULL, "must be one of these words: cosine, linear"},
        {"lora.targets: [x_proj]", NULL, "must be a list of these words: q_proj, k_proj, v_proj"},
        {"train: {rate: [1]}", NULL, "must be one value, not a list"},
        {"train: {rate: {}}", NULL, "must be a value, not a map"},
        {"files: [[a]]", NULL, "must be a list of plain values"},
        {"train: 3", NULL, "train = \"3\" is a group of keys"},
        {"", "train=3", "is a group of keys"},
        {"", "train.steps", "is not key=value"},
        {"train: {steps: 1}\ntrain.steps: 2\n", NULL,
         "run.yaml:2: train.steps was already set on line 1"},
        {"train:\n  rate: 1\n", NULL, "run.yaml: train.steps is required"},
        {"name: &a x\nfiles: [*a]\n", NULL, "run.yaml:2: aliases are not supported"},
        {"? [a]\n: b\n", NULL, "a key is not a word"},
        {"- a\n- b\n", NULL, "must be a map"},
        {"name: a\n---\nname: b\n", NULL, "more than one document"},
        {"name: \"a\\0b\"\n", NULL, "NUL"},
        {"name: [a\n", NULL, "run.yaml:1: name = \"\" must be one value"},
        {"name: \"a\n", NULL, "run.yaml:2: name: "},
        {"train:\n\trate: 1\n", NULL, "run.yaml:2: a tab: YAML indents with spaces"},
        {"train: {rate: 1}\nfiles: [\n", NULL,
         "run.yaml:3: files: did not find expected node content in the list that '[' or '-' begins "
         "on line 2"},
        {"", "files=[,]", "argument:1: files: did not find"},
        {"name: \xff\n", NULL, "UTF-8"},
        {"", "name=\xc3\x28", "must be UTF-8"},
        {"", "name=\xed\xa0\x80", "must be UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct both both;
        char *arguments[] = {(char *)cases[i].argument};
        enum status status = parse(&both, cases[i].yaml, arguments, cases[i].argument != NULL);
        if (status != STATUS_CONFIG)
            fail_msg("%s %s: got %s", cases[i].yaml, cases[i].argument, status_name(status));
        if (!strstr(status_message(), cases[i].want))
            fail_msg("got \"%s\", want \"%s\"", status_message(), cases[i].want);
        assert_null(both.run.name);
        assert_null(both.run.files.items);
    }
}

static void test_nesting_and_size_are_bounded(void **state) {
    (void)state;
    struct both both;
    static const struct config_row deep_rows[] = {
        {"a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a", CONFIG_INT, 0, "0", .help = "deep"}};
    int64_t value;
    struct config_table deep = {"a", deep_rows, 1, &value};
    char yaml[256] = "";
    for (int i = 0; i < 20; i++) strcat(yaml, "{a: ");
    strcat(yaml, "{a: 1}");
    for (int i = 0; i < 20; i++) strcat(yaml, "}");
    assert_int_equal(config_parse(&deep, 1, yaml, strlen(yaml), "x", NULL, 0), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "nested too deeply"));
    assert_ok(
        config_parse(&deep, 1, "a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a: 4", 44, "x", NULL, 0));
    assert_int_equal(value, 4);

    size_t bytes = CONFIG_MAX_BYTES + 1;
    char *large = malloc(bytes);
    memset(large, '\n', bytes);
    both_init(&both);
    assert_int_equal(config_parse(both.tables, 2, large, bytes, "x", NULL, 0), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "larger than"));
    memset(large, '[', bytes - 1);
    assert_int_equal(config_parse(both.tables, 2, large, bytes - 1, "x", NULL, 0), STATUS_CONFIG);
    free(large);
}

static void test_files(void **state) {
    (void)state;
    struct both both;
    both_init(&both);
    assert_int_equal(config_load(both.tables, 2, "/nonexistent/run.yaml", NULL, 0), STATUS_IO);
    assert_non_null(strstr(status_message(), "/nonexistent/run.yaml"));
    assert_int_equal(config_load(both.tables, 2, "/", NULL, 0), STATUS_IO);
    char path[] = "/tmp/strata_config_XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0 && write(file, "train.steps: 9\n", 15) == 15);
    close(file);
    assert_ok(config_load(both.tables, 2, path, NULL, 0));
    assert_int_equal(both.train.steps, 9);
    config_free(both.tables, 2);
    unlink(path);
    char *arguments[] = {"train.steps=3"};
    assert_ok(config_load(both.tables, 2, NULL, arguments, 1));
    config_free(both.tables, 2);
}

static void test_dump_reads_back_equal(void **state) {
    (void)state;
    struct both first, second;
    static const char *const rates[] = {"0.1",  "1e-300", "0.333333333333333314829616256247",
                                        "1e-5", "0",      "0.30000000000000004"};
    static const char *const names[] = {"",
                                        "null",
                                        "~",
                                        "a: b # c",
                                        "[x]",
                                        " lead\ttab\nline\n",
                                        "\"quoted\\\"",
                                        "\x7f\x01\x1b",
                                        "\xc2\x85\xe2\x80\xa8",
                                        "\xef\xbb\xbf\xf0\x9f\x98\x80 \xc3\xa9",
                                        "*x",
                                        "true"};
    for (size_t i = 0; i < 12; i++) {
        char rate[64], name[64], files[128];
        snprintf(rate, sizeof rate, "train.rate=%s", rates[i % 6]);
        snprintf(name, sizeof name, "name=%s", names[i]);
        snprintf(files, sizeof files, "files=x,%s", names[i]);
        char *arguments[] = {"train.steps=12345", rate, name, i == 4 ? "files=" : files,
                             "train.schedule=linear"};
        assert_ok(parse(&first, "", arguments, 5));
        char *yaml;
        assert_ok(config_dump(first.tables, 2, &yaml));
        if (parse(&second, yaml, NULL, 0) != STATUS_OK)
            fail_msg("%s in\n%s", status_message(), yaml);
        assert_string_equal(first.run.name, second.run.name);
        assert_int_equal(first.run.files.count, second.run.files.count);
        for (int64_t f = 0; f < first.run.files.count; f++)
            assert_string_equal(first.run.files.items[f], second.run.files.items[f]);
        assert_memory_equal(&first.train, &second.train, sizeof first.train);
        free(yaml);
        config_free(first.tables, 2);
        config_free(second.tables, 2);
    }
}

static void test_document_has_every_row(void **state) {
    (void)state;
    struct both both;
    both_init(&both);
    char *markdown;
    assert_ok(config_document(both.tables, 2, &markdown));
    assert_non_null(strstr(markdown, "## train\n"));
    assert_non_null(
        strstr(markdown, "| `train.rate` | number | `1e-4` | 0 to 1 | learning rate |\n"));
    assert_non_null(strstr(markdown, "| `train.steps` | integer | required | 1 to 1000000000 |"));
    assert_non_null(
        strstr(markdown, "| `lora.targets` | list | `q_proj,v_proj` | `q_proj`, `k_proj`"));
    assert_non_null(strstr(markdown, "| `files` | list | empty |  | token files |\n"));
    free(markdown);
}

struct changes {
    char text[1024];
    int left; /* until a visit fails */
};

static enum status note_change(const struct config_change *change, void *context) {
    struct changes *changes = context;
    size_t used = strlen(changes->text);
    if (changes->left-- == 0) return status_fail(STATUS_CONFIG, "enough");
    snprintf(changes->text + used, sizeof changes->text - used, "%s: %s -> %s\n", change->key,
             change->was, change->is);
    return STATUS_OK;
}

static void test_differences_are_told_in_order(void **state) {
    (void)state;
    struct both was, is;
    struct changes changes = {.left = 100};
    assert_ok(parse(&was, "name: a\ntrain: {steps: 5, rate: 0.1}\nfiles: [x, 'y z']\n", NULL, 0));
    assert_ok(parse(&is, "name: a\ntrain: {steps: 5, rate: 1e-1}\nfiles: [x, 'y z']\n", NULL, 0));
    assert_ok(config_compare(was.tables, is.tables, 2, note_change, &changes));
    assert_string_equal(changes.text, "");
    config_free(is.tables, 2);
    assert_ok(parse(&is,
                    "name: 'b c'\nfiles: [x, 'y z', 'q\"']\nlora.targets: []\n"
                    "train: {steps: 6, rate: 0.3, clip: false, schedule: linear}\n",
                    NULL, 0));
    assert_ok(config_compare(was.tables, is.tables, 2, note_change, &changes));
    assert_string_equal(changes.text, "name: a -> b c\n"
                                      "files: [x, \"y z\"] -> [x, \"y z\", \"q\\\"\"]\n"
                                      "lora.targets: [q_proj, v_proj] -> []\n"
                                      "train.rate: 0.1 -> 0.3\n"
                                      "train.steps: 5 -> 6\n"
                                      "train.clip: true -> false\n"
                                      "train.schedule: cosine -> linear\n");
    changes = (struct changes){.left = 2};
    assert_int_equal(config_compare(was.tables, is.tables, 2, note_change, &changes),
                     STATUS_CONFIG);
    assert_string_equal(status_message(), "enough");
    config_free(was.tables, 2);
    config_free(is.tables, 2);
}

/* A command that spells keys as options hears of options. */
static void test_options_are_called_options(void **state) {
    (void)state;
    static const char *const wrong[][2] = {
        {"train.stepz=1", "unknown option --train.stepz; the nearest known one is --train.steps"},
        {"train.steps=x", "option --train.steps: \"x\" must be an integer"},
        {"train.steps=0", "option --train.steps: \"0\" must be from 1 to 1000000000"},
    };
    struct both both;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char text[64], *options[] = {text};
        snprintf(text, sizeof text, "%s", wrong[i][0]);
        both_init(&both);
        assert_int_equal(config_parse_options(both.tables, 2, options, 1), STATUS_CONFIG);
        assert_string_equal(status_message(), wrong[i][1]);
    }
    char right[] = "train.steps=3", *options[] = {right};
    both_init(&both);
    assert_ok(config_parse_options(both.tables, 2, options, 1));
    assert_int_equal(both.train.steps, 3);
    config_free(both.tables, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file_then_arguments_then_defaults),
        cmocka_unit_test(test_lists_as_arguments),
        cmocka_unit_test(test_errors_say_where_and_what),
        cmocka_unit_test(test_nesting_and_size_are_bounded),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_dump_reads_back_equal),
        cmocka_unit_test(test_document_has_every_row),
        cmocka_unit_test(test_differences_are_told_in_order),
        cmocka_unit_test(test_options_are_called_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
