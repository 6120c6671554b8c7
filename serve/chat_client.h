/* A client of /v1/chat/completions that prints the answer as it streams in. */
#ifndef STRATA_SERVE_CHAT_CLIENT_H
#define STRATA_SERVE_CHAT_CLIENT_H

#include "kernels/base/status.h"
#include <jansson.h>
#include <stdint.h>

struct chat_settings {
    const char *url;    /* http://host:port; borrowed */
    const char *model;  /* borrowed; NULL: the server's base model */
    double temperature; /* negative: the server's default */
    int64_t max_tokens; /* 0: the server's default */
};

struct chat_client {
    struct chat_settings settings;
    void *curl;
    char endpoint[512];
};

enum status chat_client_open(struct chat_client *client, const struct chat_settings *settings);
void chat_client_close(struct chat_client *client);

/* Sends the messages, prints the answer on standard output while it comes, and returns it as a JSON
 * string that the caller owns. A pending SIGINT (blocked by the caller) ends the answer early.
 * STATUS_PEER with the server's message. */
enum status chat_client_ask(struct chat_client *client, const json_t *messages, json_t **answer);

#endif
