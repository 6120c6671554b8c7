/* Prompts to token ids. */
#define _GNU_SOURCE
#include "serve/api.h"

#include <stdlib.h>
#include <string.h>

/* Copies to a NUL-terminated text: the template wants "" rather than a length of 0. */
static char *text_of(struct token_bytes bytes) {
    char *text = calloc(1, bytes.count + 1);
    if (text && bytes.count > 0) memcpy(text, bytes.bytes, bytes.count);
    return text;
}

bool api_encode_text(const struct server *server, const char *text, size_t bytes, bool add_special,
                     struct token_list *out, struct api_problem *problem) {
    unsigned flags = TOKENIZER_PARSE_SPECIAL | (add_special ? TOKENIZER_ADD_SPECIAL : 0);
    if (tokenizer_encode(server->tokenizer, text, bytes, flags, out) != STATUS_OK)
        return api_refuse(problem, NULL, "%s", status_message());
    for (size_t i = 0; i < out->count; i++)
        if (out->ids[i] >= server->config->vocab)
            return api_refuse(problem, NULL,
                              "the text has the token %d, which the model's vocabulary lacks",
                              out->ids[i]);
    return true;
}

/* OpenAI's newer name of the system role. */
static void rename_developers(struct chat_messages *messages) {
    for (int i = 0; i < messages->count; i++)
        if (strcmp(messages->items[i].role, "developer") == 0)
            strcpy(messages->items[i].role, "system"); /* which is shorter */
}

bool api_encode_chat(const struct server *server, const json_t *messages, struct token_list *out,
                     struct api_problem *problem) {
    struct chat_messages list = {0};
    struct chat_text rendered = {0};
    char *bos = text_of(server->bos), *eos = text_of(server->eos);
    enum status status = bos && eos ? chat_messages_read(&list, messages)
                                    : status_fail(STATUS_MEMORY, "no memory for a prompt");
    rename_developers(&list);
    if (status == STATUS_OK)
        status = chat_template_render(&server->template, bos, eos, &list, true, &rendered);
    bool fine = status == STATUS_OK;
    if (!fine) api_refuse(problem, "messages", "%s", status_message());
    if (fine) fine = api_encode_text(server, rendered.text, rendered.bytes, false, out, problem);
    chat_text_free(&rendered);
    chat_messages_free(&list);
    free(bos);
    free(eos);
    return fine;
}
