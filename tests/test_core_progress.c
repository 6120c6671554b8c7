/* The bar on a terminal (a pseudo-terminal here), and the lines where there is none. No test waits:
 * the clock of the struct is put back instead. */
#define _GNU_SOURCE
#include "tests/check.h"

#include "core/progress.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <termios.h>
#include <unistd.h>

struct screen {
    int terminal, errors; /* our end; the standard error of before */
    char text[4096];
};

/* Standard error becomes `descriptor`, which is closed. */
static void divert(struct screen *screen, int descriptor) {
    fflush(stderr);
    screen->errors = dup(STDERR_FILENO);
    assert_true(screen->errors >= 0 && dup2(descriptor, STDERR_FILENO) >= 0);
    close(descriptor);
}

static void restore(struct screen *screen) {
    fflush(stderr);
    assert_true(dup2(screen->errors, STDERR_FILENO) >= 0);
    close(screen->errors);
}

static void open_terminal(struct screen *screen) {
    int other;
    struct termios raw = {0};
    assert_int_equal(openpty(&screen->terminal, &other, NULL, NULL, NULL), 0);
    assert_int_equal(tcgetattr(other, &raw), 0);
    cfmakeraw(&raw);
    assert_int_equal(tcsetattr(other, TCSANOW, &raw), 0);
    divert(screen, other);
}

/* What came since the last call; all of it is there as soon as it was written. */
static const char *seen(struct screen *screen) {
    size_t used = 0;
    struct pollfd ready = {.fd = screen->terminal, .events = POLLIN};
    while (used + 1 < sizeof screen->text && poll(&ready, 1, 0) > 0 && ready.revents & POLLIN) {
        ssize_t got = read(screen->terminal, screen->text + used, sizeof screen->text - used - 1);
        if (got <= 0) break;
        used += (size_t)got;
    }
    screen->text[used] = '\0';
    return screen->text;
}

static void test_bar_on_a_terminal(void **state) {
    (void)state;
    struct screen screen;
    struct progress progress;
    open_terminal(&screen);
    progress_begin(&progress, "work", 100);
    progress_update(&progress, 10, "rate=1"); /* too early to be shown */
    char first[64], half[256], over[256], end[64];
    snprintf(first, sizeof first, "%s", seen(&screen));
    progress.shown -= 1;
    progress.first_seconds -= 60; /* 40 of 90 in a minute: 75 seconds for the other 50 */
    progress_update(&progress, 50, "rate=2");
    snprintf(half, sizeof half, "%s", seen(&screen));
    progress.shown -= 1;
    progress_update(&progress, 300, "rate=3"); /* more than was announced */
    snprintf(over, sizeof over, "%s", seen(&screen));
    progress_end(&progress);
    snprintf(end, sizeof end, "%s", seen(&screen));
    restore(&screen);
    close(screen.terminal);
    assert_true(progress.terminal);
    assert_string_equal(first, "");
    assert_string_equal(half,
                        "\rwork [###############...............]  50% rate=2 1:15 left\033[K");
    assert_string_equal(over, "\rwork [##############################] 100% rate=3 \033[K");
    assert_string_equal(end, "\r\033[K");
}

/* The time left, of a task that goes on from the middle. */
static void test_time_left(void **state) {
    (void)state;
    static const struct {
        double seconds;
        const char *left;
    } cases[] = {{1, "0:01 left"}, {7384, "2:03:04 left"}, {1e9, "100:00:00 left"}};
    for (int i = 0; i < 3; i++) {
        struct screen screen;
        struct progress progress;
        char text[256];
        open_terminal(&screen);
        progress_begin(&progress, "t", 3000);
        progress_update(&progress, 1000, "");
        progress.shown -= 1;
        progress.first_seconds -= cases[i].seconds;
        progress_update(&progress, 2000, "");
        snprintf(text, sizeof text, "%s", seen(&screen));
        restore(&screen);
        close(screen.terminal);
        if (!strstr(text, cases[i].left)) fail_msg("'%s' lacks '%s'", text, cases[i].left);
    }
}

static void test_lines_elsewhere(void **state) {
    (void)state;
    struct screen screen;
    struct progress progress;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    screen.terminal = ends[0];
    divert(&screen, ends[1]);
    progress_begin(&progress, "work", 100);
    progress.shown -= 9;
    progress_update(&progress, 10, "rate=1"); /* every ten seconds */
    progress.shown -= 2;
    progress_update(&progress, 25, "rate=2");
    progress_end(&progress);
    char text[256];
    snprintf(text, sizeof text, "%s", seen(&screen));
    restore(&screen);
    close(screen.terminal);
    assert_false(progress.terminal);
    assert_string_equal(text, "level=info event=work percent=25.0 rate=2\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bar_on_a_terminal),
        cmocka_unit_test(test_time_left),
        cmocka_unit_test(test_lines_elsewhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
