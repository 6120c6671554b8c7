/* The watchdogs' connections: who may connect, messages of any size, and how an end is noticed. */
#define _GNU_SOURCE
#include "tests/check.h"

#include "parallel/watch_link.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RANKS = 3 };

struct site {
    struct watch_address address;
    struct watch_link theirs[RANKS]; /* the listener's ends */
    int listener;
    enum status accepted;
};

static void *accept_one(void *context) {
    struct site *site = context;
    const bool expected[RANKS] = {[2] = true};
    site->accepted =
        watch_accept(site->theirs, expected, RANKS, site->listener, site->address.token, 5.0);
    return NULL;
}

/* Rank 2 connects. */
static void connect_two(struct site *site, struct watch_link *mine) {
    pthread_t thread;
    *mine = (struct watch_link){.fd = -1};
    assert_int_equal(pthread_create(&thread, NULL, accept_one, site), 0);
    enum status status = watch_connect(mine, &site->address, 2, 5.0);
    pthread_join(thread, NULL);
    assert_ok(status);
    assert_ok(site->accepted);
    assert_true(site->theirs[2].fd >= 0);
    assert_int_equal(site->theirs[1].fd, -1);
}

static void open_site(struct site *site) {
    *site = (struct site){.listener = -1};
    for (int r = 0; r < RANKS; r++) site->theirs[r].fd = -1;
    assert_ok(watch_listen(&site->listener, &site->address, RANKS));
    assert_true(site->address.count > 0);
}

static void close_site(struct site *site, struct watch_link *mine) {
    watch_link_close(mine);
    watch_link_close(mine);
    for (int r = 0; r < RANKS; r++) watch_link_close(&site->theirs[r]);
    close(site->listener);
}

/* Both ends do what they can until a message is there. */
static bool deliver(struct watch_link *from, struct watch_link *to, struct watch_message *message) {
    for (int i = 0; i < 2000 && !watch_peek(to, message); i++) {
        struct pollfd one = {.fd = to->fd, .events = POLLIN};
        if (!watch_flush(from)) return false;
        poll(&one, 1, 5);
        if (!watch_fill(to)) return watch_peek(to, message);
    }
    return watch_peek(to, message);
}

static void test_messages_arrive_whole_and_in_order(void **state) {
    (void)state;
    struct site site;
    struct watch_link mine;
    struct watch_message message;
    enum { LARGE = 20 << 20 }; /* more than the system's buffers hold */
    open_site(&site);
    connect_two(&site, &mine);
    char *large = malloc(LARGE);
    for (int i = 0; i < LARGE; i++) large[i] = (char)(i * 31 + (i >> 12));
    assert_true(watch_send(&mine, 7, NULL, 0));
    assert_true(watch_send(&mine, 8, large, LARGE));
    assert_true(watch_send(&mine, 9, "end", 4));
    assert_true(deliver(&mine, &site.theirs[2], &message));
    assert_int_equal(message.kind, 7);
    assert_int_equal(message.bytes, 0);
    watch_drop(&site.theirs[2]);
    assert_true(deliver(&mine, &site.theirs[2], &message));
    assert_int_equal(message.kind, 8);
    assert_int_equal(message.bytes, LARGE);
    assert_memory_equal(message.data, large, LARGE);
    watch_drop(&site.theirs[2]);
    assert_true(deliver(&mine, &site.theirs[2], &message));
    assert_string_equal(message.data, "end");
    watch_drop(&site.theirs[2]);
    assert_false(watch_peek(&site.theirs[2], &message));
    free(large);
    close_site(&site, &mine);
}

/* What came before the end can still be read; the end is told. */
static void test_an_end_is_noticed(void **state) {
    (void)state;
    struct site site;
    struct watch_link mine;
    struct watch_message message;
    open_site(&site);
    connect_two(&site, &mine);
    assert_true(watch_send(&site.theirs[2], 5, "bye", 4));
    watch_link_close(&site.theirs[2]);
    assert_true(deliver(&site.theirs[2], &mine, &message) || watch_peek(&mine, &message));
    assert_string_equal(message.data, "bye");
    watch_drop(&mine);
    assert_false(watch_fill(&mine));
    assert_false(watch_send(&site.theirs[2], 5, NULL, 0)); /* was closed here */
    close_site(&site, &mine);
}

static int knock(const struct watch_address *address, const void *data, size_t bytes) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(address->port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    assert_int_equal(send(fd, data, bytes, MSG_NOSIGNAL), bytes);
    return fd;
}

/* A rank behind a stranger that says the wrong thing still gets in. */
static void test_strangers_are_turned_away(void **state) {
    (void)state;
    struct site site;
    struct watch_link mine;
    open_site(&site);
    const uint64_t wrong_token[2] = {site.address.token + 1, 2};
    const uint64_t no_such_rank[2] = {site.address.token, RANKS};
    int first = knock(&site.address, wrong_token, sizeof wrong_token);
    int second = knock(&site.address, no_such_rank, sizeof no_such_rank);
    int third = knock(&site.address, "GET / HTTP/1.0\r\n", 16);
    connect_two(&site, &mine);
    char byte;
    assert_int_equal(recv(first, &byte, 1, 0), 0);
    assert_int_equal(recv(second, &byte, 1, 0), 0);
    assert_int_equal(recv(third, &byte, 1, 0), 0);
    close(first);
    close(second);
    close(third);
    close_site(&site, &mine);
}

static void test_nobody_comes(void **state) {
    (void)state;
    struct site site;
    struct watch_link mine = {.fd = -1};
    const bool expected[RANKS] = {[1] = true};
    open_site(&site);
    assert_int_equal(
        watch_accept(site.theirs, expected, RANKS, site.listener, site.address.token, 0.05),
        STATUS_PEER);
    assert_non_null(strstr(status_message(), "rank 1 did not connect"));
    close(site.listener);
    site.listener = -1;
    assert_int_equal(watch_connect(&mine, &site.address, 2, 0.05), STATUS_PEER);
    close_site(&site, &mine);
}

/* Wherever the host has the address, it is listened on. */
static void test_both_families(void **state) {
    (void)state;
    struct site site;
    open_site(&site);
    bool seen[2] = {false, false};
    const struct watch_address all = site.address;
    for (int i = 0; i < all.count; i++) {
        struct watch_link mine;
        seen[all.at[i].family == 6] = true;
        site.address.count = 1;
        site.address.at[0] = all.at[i];
        connect_two(&site, &mine);
        watch_link_close(&mine);
        watch_link_close(&site.theirs[2]);
    }
    assert_true(seen[0]);
    bool has_v6 = system("grep -qs '^00000000000000000000000000000001 ' /proc/net/if_inet6") == 0;
    assert_int_equal(seen[1], has_v6 || seen[1]);
    struct watch_link none = {.fd = -1};
    close_site(&site, &none);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages_arrive_whole_and_in_order),
        cmocka_unit_test(test_an_end_is_noticed),
        cmocka_unit_test(test_strangers_are_turned_away),
        cmocka_unit_test(test_nobody_comes),
        cmocka_unit_test(test_both_families),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
