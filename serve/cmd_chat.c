#define _GNU_SOURCE
#include "core/log.h"
#include "serve/chat_client.h"
#include "serve/commands.h"
#include "serve/serving.h"

#include <errno.h>
#include <poll.h>
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
        .two_lengths = server_two_lengths,
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

static bool interrupted(void) {
    sigset_t pending;
    return sigpending(&pending) == 0 && sigismember(&pending, SIGINT) == 1;
}

static void note_interrupt(int signal) {
    (void)signal; /* only there so that reading ends early */
}

/* What the keyboard gave in place of a line. */
enum read_end { READ_LINE, READ_AGAIN, READ_END };

/* Waits for a typed line with SIGINT let in; false when it came. */
static bool await_line(void) {
    sigset_t none;
    sigemptyset(&none);
    struct pollfd keyboard = {.fd = STDIN_FILENO, .events = POLLIN};
    return ppoll(&keyboard, 1, NULL, &none) >= 0 || errno != EINTR;
}

/* A line without its newline, which the caller frees. On a terminal Ctrl-C throws away what was
 * typed; elsewhere it ends the program. */
static enum read_end read_line(bool terminal, const char *prompt, char **line) {
    size_t room = 0;
    *line = NULL;
    if (terminal) printf("%s", prompt);
    fflush(stdout);
    if (terminal && !await_line()) {
        printf("\n");
        return READ_AGAIN;
    }
    if (!terminal) block_interrupt(false);
    ssize_t bytes = getline(line, &room, stdin);
    if (!terminal) block_interrupt(true);
    if (bytes < 0) {
        free(*line);
        *line = NULL;
        if (terminal) printf("\n");
        return READ_END;
    }
    char *text = *line;
    while (bytes > 0 && (text[bytes - 1] == '\n' || text[bytes - 1] == '\r')) text[--bytes] = '\0';
    return READ_LINE;
}

/* A question: a line, and as long as one ends in a backslash the next one too (a terminal hands
 * over no more than 4095 bytes at once). */
static enum read_end read_question(bool terminal, char **question) {
    enum read_end end = read_line(terminal, "> ", question);
    while (end == READ_LINE) {
        char *line;
        size_t bytes = strlen(*question);
        if (bytes == 0 || (*question)[bytes - 1] != '\\') return end;
        (*question)[bytes - 1] = '\n';
        end = read_line(terminal, ". ", &line);
        if (end == READ_END) return READ_LINE; /* the next call says so again */
        char *grown = line ? realloc(*question, bytes + strlen(line) + 1) : NULL;
        if (grown) *question = strcpy(grown + bytes, line) - bytes;
        free(line);
        if (grown) continue;
        free(*question);
        *question = NULL;
        return end == READ_AGAIN ? end : READ_END;
    }
    return end;
}

static const char command_help[] =
    "  /help   this list\n"
    "  /reset  forgets the conversation (the system message stays)\n"
    "  /exit   ends it, as /quit and Ctrl-D do\n"
    "Ctrl-C stops an answer. A line that ends in \\ goes on in the next one.\n";

/* A slash and letters alone; "/usr/bin?" is a question. */
static bool is_command(const char *line) {
    return line[0] == '/' && line[1] && !line[1 + strspn(line + 1, "abcdefghijklmnopqrstuvwxyz")];
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

/* Whom to talk to: the name asked for, else the last adapter given; NULL leaves it to the server.
 */
static const char *model_to_ask(const struct serving_options *options, char name[256]) {
    if (*options->ask) return options->ask;
    if (options->adapter_count == 0) return NULL;
    const char *adapter = options->adapters[options->adapter_count - 1];
    snprintf(name, 256, "%.*s", (int)strcspn(adapter, "="), adapter);
    return name;
}

struct conversation {
    struct chat_client *client;
    const char *system;
    json_t *messages;
    bool terminal, failed, over;
};

static void run_command(struct conversation *conversation, const char *command) {
    if (strcmp(command, "/help") == 0) {
        printf("%s", command_help);
    } else if (strcmp(command, "/reset") == 0) {
        json_decref(conversation->messages);
        conversation->messages = new_history(conversation->system);
    } else if (strcmp(command, "/exit") == 0 || strcmp(command, "/quit") == 0) {
        conversation->over = true;
    } else {
        fprintf(stderr, "strata chat: there is no %s; /help lists what there is\n", command);
        conversation->failed = true;
    }
}

static void converse(struct conversation *conversation) {
    const struct sigaction notice = {.sa_handler = note_interrupt}; /* no SA_RESTART */
    if (conversation->terminal) {
        sigaction(SIGINT, &notice, NULL);
        printf("/help lists the commands; Ctrl-D ends the conversation.\n");
    }
    while (!conversation->over) {
        char *question;
        enum read_end end = read_question(conversation->terminal, &question);
        if (end == READ_END) break;
        if (end == READ_AGAIN) continue;
        if (is_command(question)) {
            run_command(conversation, question);
        } else if (*question &&
                   take_turn(conversation->client, conversation->messages, question) != STATUS_OK) {
            fprintf(stderr, "strata chat: %s\n", status_message());
            conversation->failed = true;
        }
        free(question);
    }
}

/* Which of several models this conversation is with. */
static enum status choose_model(struct chat_client *client) {
    json_t *names;
    TRY(chat_client_choose(client, &names));
    if (json_array_size(names) > 1) {
        size_t i;
        const json_t *name;
        fprintf(stderr, "strata chat: talking to %s, of", client->settings.model);
        json_array_foreach(names, i, name)
            fprintf(stderr, "%s %s", i ? "," : "", json_string_value(name));
        fprintf(stderr, "; --model NAME chooses another\n");
    }
    json_decref(names);
    return STATUS_OK;
}

static int talk(const struct serving_options *options, const char *url) {
    char name[256];
    const struct chat_settings settings = {
        .url = url,
        .model = model_to_ask(options, name),
        .temperature = options->temperature,
        .max_tokens = options->max_tokens,
    };
    struct chat_client client;
    if (chat_client_open(&client, &settings) != STATUS_OK || choose_model(&client) != STATUS_OK) {
        fprintf(stderr, "strata chat: %s\n", status_message());
        chat_client_close(&client);
        return 1;
    }
    struct conversation conversation = {.client = &client,
                                        .system = options->system,
                                        .messages = new_history(options->system),
                                        .terminal = isatty(STDIN_FILENO)};
    converse(&conversation);
    json_decref(conversation.messages);
    chat_client_close(&client);
    return conversation.failed;
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
    else if (interrupted())
        code = 130; /* while the model was loaded */
    else
        code = talk(&options, *options.url ? options.url : local->url);
    if (local) local_close(local);
    free(local);
    serving_options_free(&options);
    return code;
}
