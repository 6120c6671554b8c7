/* What `strata serve` allocates is what its dry run says, and what the process takes is little
 * more, after requests have run. */
#define _GNU_SOURCE
#include "tests/check.h"
#include "tests/http_client.h"
#include "tests/tiny_model.h"

#include "core/export.h"
#include "serve/serving.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* The program; beside this test. */
static char strata[512];

/* GNU's OpenMP runtime synchronises in ways that ThreadSanitizer doesn't see. */
#define ONE_THREAD "--threads=1"
#ifdef __SANITIZE_THREAD__
#define MORE_THREADS ONE_THREAD
#else
#define MORE_THREADS "--threads=3"
#endif

enum { REQUESTS = 4, PROMPT = 120, CHANGES_OF_OPTIONS = 5 };

static const struct model_config shape = {.family = FAMILY_LLAMA,
                                          .vocab = 8192,
                                          .hidden = 512,
                                          .ffn = 2048,
                                          .layers = 10,
                                          .heads = 8,
                                          .kv_heads = 8,
                                          .head_dim = 64,
                                          .norm_eps = 1e-5f,
                                          .max_context = 1024,
                                          .bos = -1,
                                          .rope = {.theta = 10000.0, .factor = 1.0}};

/* 50 M parameters of no meaning, with the tokenizer of the tiny model. */
static void write_model(const char *directory, const char *tokenizer, enum dtype dtype) {
    struct model model;
    struct model_config config = shape;
    config.dtype = dtype;
    assert_ok(model_create(&model, &config, NULL,
                           dtype == DTYPE_BF16 ? LAYOUT_PANEL_BF16 : LAYOUT_PANEL_F32));
    static float rows[PANEL_ROWS * 2048];
    for (int i = 0; i < PANEL_ROWS * 2048; i++) rows[i] = 0.01f * (float)(i * 31 % 17 - 8);
    for (int p = 0; p < model.param_count; p++) {
        const struct weight *w = &model.params[p].w;
        for (int64_t r = 0; w->data && r < w->rows; r += PANEL_ROWS)
            weight_pack(w, r, w->rows - r < PANEL_ROWS ? w->rows - r : PANEL_ROWS, rows);
    }
    const struct export_request request = {.model = &model,
                                           .format = EXPORT_SAFETENSORS,
                                           .dtype = dtype,
                                           .path = directory,
                                           .companions = tokenizer};
    assert_ok(export_model(&request));
    model_free(&model);
}

/* A server in a process of its own. */
struct process {
    pid_t pid;
    int port;
};

static struct process start_server(char *const arguments[]) {
    int out[2];
    char line[256] = "";
    struct process process = {0};
    assert_int_equal(pipe(out), 0);
    process.pid = fork();
    assert_true(process.pid >= 0);
    if (process.pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        close(out[0]);
        execv(strata, arguments);
        _exit(127);
    }
    close(out[1]);
    FILE *lines = fdopen(out[0], "r");
    assert_non_null(fgets(line, sizeof line, lines));
    assert_int_equal(sscanf(line, "listening on http://127.0.0.1:%d", &process.port), 1);
    fclose(lines);
    for (int status = 0; status != 200;) {
        struct http_answer answer = http_get(process.port, "/health");
        status = answer.status;
        http_answer_free(&answer);
        if (waitpid(process.pid, NULL, WNOHANG) != 0) fail_msg("the server ended while loading");
        usleep(20000);
    }
    return process;
}

static void stop_server(const struct process *process) {
    int code = 0;
    assert_int_equal(kill(process->pid, SIGTERM), 0);
    assert_int_equal(waitpid(process->pid, &code, 0), process->pid);
    assert_true(WIFEXITED(code));
    assert_int_equal(WEXITSTATUS(code), 0);
}

struct question {
    int port;
    char letter; /* the prompt is nothing else, so that none is the prefix of another */
    bool answered;
};

static void *ask(void *argument) {
    struct question *question = argument;
    char body[512], prompt[PROMPT + 1];
    memset(prompt, question->letter, PROMPT);
    prompt[PROMPT] = '\0';
    snprintf(body, sizeof body, "{\"prompt\": \"%s\", \"max_tokens\": 6, \"ignore_eos\": true}",
             prompt);
    struct http_answer answer = http_post(question->port, "/v1/completions", body);
    question->answered = answer.status == 200 &&
                         json_integer_value(json_at(answer.json, "usage.completion_tokens")) == 6;
    http_answer_free(&answer);
    return NULL;
}

static void ask_all_at_once(const struct process *process) {
    pthread_t threads[REQUESTS];
    struct question questions[REQUESTS];
    for (int i = 0; i < REQUESTS; i++) {
        questions[i] = (struct question){.port = process->port, .letter = (char)('a' + i)};
        assert_int_equal(pthread_create(&threads[i], NULL, ask, &questions[i]), 0);
    }
    for (int i = 0; i < REQUESTS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < REQUESTS; i++) assert_true(questions[i].answered);
}

static double peak_mib(pid_t pid) {
    char path[64], line[256];
    double kib = 0.0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file) && sscanf(line, "VmHWM: %lf", &kib) != 1) {}
    fclose(file);
    assert_true(kib > 0.0);
    return kib / 1024.0;
}

/* The total that `--dry-run` prints, which must be the sum of its parts; no port is opened. */
static double planned_mib(char *const arguments[]) {
    char command[2048] = "", line[256], name[32];
    for (int i = 0; arguments[i]; i++) {
        strncat(command, i ? arguments[i] : strata, sizeof command - strlen(command) - 1);
        strncat(command, " ", sizeof command - strlen(command) - 1);
    }
    strncat(command, "--dry-run", sizeof command - strlen(command) - 1);
    FILE *out = popen(command, "r");
    assert_non_null(out);
    unsigned long long bytes, sum = 0, total = 0;
    while (fgets(line, sizeof line, out)) {
        if (sscanf(line, "%31s %llu", name, &bytes) != 2) continue;
        assert_null(strstr(line, "listening"));
        if (strcmp(name, "total") == 0)
            total = bytes;
        else
            sum += bytes;
    }
    assert_int_equal(pclose(out), 0);
    assert_true(total > 0 && total == sum);
    return (double)total / (1 << 20);
}

static void check_peak(const char *what, char *const arguments[]) {
    double planned = planned_mib(arguments);
    struct process process = start_server(arguments);
    ask_all_at_once(&process);
    double peak = peak_mib(process.pid);
    stop_server(&process);
    print_message("%s: planned %.1f MiB, peak resident set %.1f MiB (%+.1f%%)\n", what, planned,
                  peak, 100.0 * (peak / planned - 1.0));
    assert_true(planned >= 200.0);
    assert_true(fabs(peak / planned - 1.0) <= 0.10);
}

static void check_dtype(enum dtype dtype, char *context) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    (void)dtype, (void)context, (void)check_peak, (void)write_model;
    skip_because("a sanitizer's shadow memory is in the resident set");
#else
    struct tiny_model tiny;
    char directory[128], command[256];
    tiny_model_write(&tiny);
    snprintf(directory, sizeof directory, "%s-large", tiny.directory);
    write_model(directory, tiny.directory, dtype);
    char *const arguments[] = {
        "strata", "serve",       directory, "--port",         "0",   "--threads", "2", "--context",
        context,  "--max-batch", "8",       "--token-budget", "128", "--kv-gib",  "1", NULL};
    check_peak(dtype_info(dtype)->name, arguments);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    assert_int_equal(system(command), 0);
    tiny_model_remove(&tiny);
#endif
}

static void test_fp32_server_takes_what_is_planned(void **state) {
    (void)state;
    check_dtype(DTYPE_F32, "256");
}

static void test_bf16_server_takes_what_is_planned(void **state) {
    (void)state;
    check_dtype(DTYPE_BF16, "1024");
}

/* For each kind of memory, whatever the options. */
static void test_plan_is_what_is_allocated(void **state) {
    (void)state;
    static char *const changes[CHANGES_OF_OPTIONS][2] = {
        {"--context=1000", ONE_THREAD},  {"--dtype=bf16", ONE_THREAD},
        {"--kv-dtype=bf16", ONE_THREAD}, {"--max-batch=5", MORE_THREADS},
        {"--page-size=64", ONE_THREAD},
    };
    struct tiny_model tiny;
    tiny_model_write(&tiny);
    for (int i = 0; i < CHANGES_OF_OPTIONS; i++) {
        char adapter[128];
        snprintf(adapter, sizeof adapter, "--adapter=a=%s", tiny.adapter);
        char *arguments[] = {"serve",         tiny.directory, adapter,
                             "--kv-gib=0.01", changes[i][0],  changes[i][1]};
        struct serving_options options;
        struct engine_layout planned, held;
        struct server server;
        struct serving serving;
        bool help;
        server_init(&server);
        assert_ok(serving_options_read(&options, OPTION_SERVE, 6, arguments, &help));
        assert_ok(serving_plan(&planned, &options));
        assert_ok(serving_open(&serving, &options, &server));
        held = *engine_layout(serving.engine);
        assert_int_equal(planned.weight_bytes, held.weight_bytes);
        assert_int_equal(planned.weight_bytes, serving.model.arena.capacity);
        assert_int_equal(planned.adapter_bytes, held.adapter_bytes);
        assert_int_equal(planned.work_bytes, held.work_bytes);
        assert_int_equal(planned.scratch_bytes, held.scratch_bytes);
        assert_int_equal(planned.step_bytes, held.step_bytes);
        assert_int_equal(planned.kv_bytes, held.kv_bytes);
        assert_int_equal(planned.context, held.context);
        assert_int_equal(planned.threads, held.threads);
        serving_close(&serving);
        serving_options_free(&options);
    }
    tiny_model_remove(&tiny);
}

int main(int argc, char **argv) {
    (void)argc;
    char *slash = strrchr(argv[0], '/');
    snprintf(strata, sizeof strata, "%.*sstrata", slash ? (int)(slash - argv[0] + 1) : 0, argv[0]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan_is_what_is_allocated),
        cmocka_unit_test(test_fp32_server_takes_what_is_planned),
        cmocka_unit_test(test_bf16_server_takes_what_is_planned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
