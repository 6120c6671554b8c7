#define _GNU_SOURCE
#include "core/log.h"
#include "serve/chat_client.h"
#include "serve/commands.h"
#include "serve/serving.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* `strata chat MODEL` is the server and a client in one process, over a loopback port of its own:
 * what one sees in the terminal is what any client gets. */
struct local_server {
    struct server server;
    struct serving serving;
    struct http_server *http;
    char url[64];
};

static enum status local_open(struct local_server *local, const struct serving_options *options) {
    server_init(&local->server);
    TRY(serving_open(&local->serving, options, &local->server));
    atomic_store(&local->server.ready, true);
    const struct http_options http = {
        .host = "127.0.0.1",
        .threads = 1,
        .max_body_bytes = (size_t)64 << 20,
        .route = server_route,
        .too_large = server_too_large,
        .context = &local->server,
    };
    enum status status = http_open(&local->http, &http);
    if (status != STATUS_OK)
        serving_close(&local->serving);
    else
        snprintf(local->url, sizeof local->url, "http://127.0.0.1:%d", http_port(local->http));
    return status;
}

static void local_close(struct local_server *local) {
    if (!local->http) return;
    engine_cut(local->serving.engine);
    http_close(local->http, 1.0);
    serving_close(&local->serving);
}

static void block_interrupt(bool block) {
    sigset_t interrupt;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    pthread_sigmask(block ? SIG_BLOCK : SIG_UNBLOCK, &interrupt, NULL);
}

/* A line without its newline; NULL at the end of input. At the prompt Ctrl-C ends the program, in
 * an answer it ends the answer. */
static char *read_line(bool terminal) {
    char *line = NULL;
    size_t room = 0;
    if (terminal) printf("> ");
    fflush(stdout);
    block_interrupt(false);
    ssize_t bytes = getline(&line, &room, stdin);
    block_interrupt(true);
    if (bytes < 0) {
        free(line);
        return NULL;
    }
    while (bytes > 0 && (line[bytes - 1] == '\n' || line[bytes - 1] == '\r')) line[--bytes] = '\0';
    return line;
}

static json_t *new_history(const char *system) {
    json_t *messages = json_array();
    if (system && *system)
        json_array_append_new(messages,
                              json_pack("{s:s, s:s}", "role", "system", "content", system));
    return messages;
}

/* One question and its answer. A question that got none is forgotten. */
static enum status take_turn(struct chat_client *client, json_t *messages, const char *question) {
    json_t *message = json_pack("{s:s, s:s}", "role", "user", "content", question);
    if (!message) return status_fail(STATUS_FORMAT, "what you typed is not UTF-8");
    json_array_append_new(messages, message);
    json_t *answer = NULL;
    enum status status = chat_client_ask(client, messages, &answer);
    printf("\n");
    if (status == STATUS_OK)
        json_array_append_new(messages,
                              json_pack("{s:s, s:o}", "role", "assistant", "content", answer));
    else
        json_array_remove(messages, json_array_size(messages) - 1);
    return status;
}

/* Whom to talk to: the last adapter given, else the name asked for, else the server's base. */
static const char *model_to_ask(const struct serving_options *options, char name[256]) {
    if (options->adapter_count == 0) return *options->alias ? options->alias : NULL;
    const char *adapter = options->adapters[options->adapter_count - 1];
    snprintf(name, 256, "%.*s", (int)strcspn(adapter, "="), adapter);
    return name;
}

static int converse(const struct serving_options *options, const char *url) {
    char name[256];
    const struct chat_settings settings = {
        .url = url,
        .model = model_to_ask(options, name),
        .temperature = options->temperature,
        .max_tokens = options->max_tokens,
    };
    struct chat_client client;
    if (chat_client_open(&client, &settings) != STATUS_OK) {
        fprintf(stderr, "strata chat: %s\n", status_message());
        return 1;
    }
    bool terminal = isatty(STDIN_FILENO);
    if (terminal) printf("/reset forgets the conversation, /exit or Ctrl-D ends it.\n");
    json_t *messages = new_history(options->system);
    int code = 0;
    char *line;
    while ((line = read_line(terminal)) && strcmp(line, "/exit") != 0) {
        if (strcmp(line, "/reset") == 0) {
            json_decref(messages);
            messages = new_history(options->system);
        } else if (*line && take_turn(&client, messages, line) != STATUS_OK) {
            fprintf(stderr, "strata chat: %s\n", status_message());
            code = 1;
        }
        free(line);
    }
    free(line);
    json_decref(messages);
    chat_client_close(&client);
    return code;
}

int cmd_chat(int argc, char **argv) {
    bool help;
    struct serving_options options;
    if (serving_options_read(&options, OPTION_CHAT, argc, argv, &help) != STATUS_OK) {
        fprintf(stderr, "strata chat: %s\n", status_message());
        return 2;
    }
    if (help) {
        printf("usage: strata chat MODEL [--option value]...\n"
               "       strata chat --url http://host:port [--option value]...\n\n");
        serving_options_print(OPTION_CHAT);
        return 0;
    }
    struct local_server *local = calloc(1, sizeof *local);
    int code = 1;
    log_set_level(LOG_WARN);
    block_interrupt(true);
    signal(SIGPIPE, SIG_IGN);
    if (!local || (!*options.url && local_open(local, &options) != STATUS_OK))
        fprintf(stderr, "strata chat: %s\n", status_message());
    else
        code = converse(&options, *options.url ? options.url : local->url);
    if (local) local_close(local);
    free(local);
    serving_options_free(&options);
    return code;
}
