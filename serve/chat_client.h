/* A client of /v1/chat/completions that prints the answer as it streams in. */
#ifndef STRATA_SERVE_CHAT_CLIENT_H
#define STRATA_SERVE_CHAT_CLIENT_H

#include "kernels/base/status.h"
#include <jansson.h>
#include <stdint.h>

struct chat_settings {
    const char *url;    /* http://host:port; borrowed */
    const char *model;  /* borrowed; NULL: the first one that the server lists */
    double temperature; /* negative: the server's default */
    int64_t max_tokens; /* 0: the server's default */
};

struct chat_client {
    struct chat_settings settings;
    void *curl;
    char routes[512]; /* http://host:port/v1 */
    char *model;      /* the first one listed, where settings.model is that; owned */
};

enum status chat_client_open(struct chat_client *client, const struct chat_settings *settings);
void chat_client_close(struct chat_client *client);

/* Asks the server for its models and settles which one answers: *names are theirs, a JSON list of
 * strings that the caller owns; empty where the server has no such list, and then settings.model
 * stays as it is. STATUS_CONFIG when there are several, none of which is the one asked for (a
 * server of one model answers to any name). */
enum status chat_client_choose(struct chat_client *client, json_t **names);

/* Sends the messages, prints the answer on standard output while it comes, and returns it as a JSON
 * string that the caller owns. A pending SIGINT (blocked by the caller) ends the answer early.
 * STATUS_PEER with the server's message. */
enum status chat_client_ask(struct chat_client *client, const json_t *messages, json_t **answer);

#endif
