#define _GNU_SOURCE
#include "tests/gpu_planted.h"

#include "tests/check.h"

#include <regex.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RIGHT = 0, WRONG = 3, SCHEDULES = 3 };

static const char *const schedules[SCHEDULES] = {"round_robin", "greedy", "shuffled:11"};

/* RIGHT, WRONG (the result), or SIGABRT and what was said. */
static int run_apart(planted_fn *run, int kind, const char *schedule, char *said, size_t size) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        struct device gpu;
        struct stream stream;
        setenv("STRATA_EMULATION_SCHEDULE", schedule, 1);
        if (device_open_cuda(&gpu, 0) != STATUS_OK) _exit(1);
        if (device_open_stream(&gpu, &stream) != STATUS_OK) _exit(1);
        _exit(run(&stream, &gpu, kind) ? RIGHT : WRONG);
    }
    close(ends[1]);
    size_t have = 0;
    for (ssize_t got; have + 1 < size && (got = read(ends[0], said + have, size - 1 - have)) > 0;)
        have += (size_t)got;
    said[have] = 0;
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

void planted_passes(planted_fn *run, int kind) {
    char said[4096];
    for (int i = 0; i < SCHEDULES; i++) {
        int end = run_apart(run, kind, schedules[i], said, sizeof said);
        if (end != RIGHT) fail_msg("kind %d, %s: ended with %d: %s", kind, schedules[i], end, said);
    }
}

static bool says(const char *said, const char *pattern) {
    regex_t regex;
    assert_int_equal(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
    bool found = regexec(&regex, said, 0, NULL, 0) == 0;
    regfree(&regex);
    return found;
}

void planted_caught(planted_fn *run, int kind, int under, const char *pattern) {
    char said[4096];
    for (int i = 0; i < SCHEDULES; i++) {
        if (!(under >> i & 1)) continue;
        int end = run_apart(run, kind, schedules[i], said, sizeof said);
        bool is_caught = end == SIGABRT || (!pattern && end == WRONG);
        if (!ACCESSES_ARE_SEEN && says(said, "ERROR: AddressSanitizer")) continue;
        if (!is_caught || (pattern && !says(said, pattern)))
            fail_msg("kind %d, %s: ended with %d: \"%s\", wanted \"%s\"", kind, schedules[i], end,
                     said, pattern ? pattern : "a wrong result");
    }
}
