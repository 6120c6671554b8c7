#define _GNU_SOURCE
#include "data/chat_template.h"

#include <stdlib.h>
#include <string.h>

static enum status fail_memory(void) {
    return status_fail(STATUS_MEMORY, "no memory for the messages");
}

static enum status fail_message(size_t index, const char *what) {
    return status_fail(STATUS_FORMAT, "messages[%zu]: %s", index, what);
}

/* Text without NULs, which a chat template's text can't hold. */
static bool is_text(const json_t *json) {
    return json_is_string(json) && strlen(json_string_value(json)) == json_string_length(json);
}

/* The texts of a list of parts with blank lines between. */
static enum status join_parts(char **content, const json_t *parts, size_t index) {
    size_t bytes = 1, number;
    json_t *part;
    json_array_foreach(parts, number, part) {
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *text = json_object_get(part, "text");
        if (!type || strcmp(type, "text") != 0 || !is_text(text))
            return fail_message(index, "content has a part that is not {\"type\": \"text\", "
                                       "\"text\": ...}");
        bytes += json_string_length(text) + 2;
    }
    if (!(*content = malloc(bytes))) return fail_memory();
    char *end = *content;
    *end = 0;
    json_array_foreach(parts, number, part) {
        if (number > 0) end = stpcpy(end, "\n\n");
        end = stpcpy(end, json_string_value(json_object_get(part, "text")));
    }
    return STATUS_OK;
}

static enum status read_message(struct chat_message *message, const json_t *json, size_t index) {
    const json_t *role = json_object_get(json, "role"), *content = json_object_get(json, "content");
    const json_t *calls = json_object_get(json, "tool_calls");
    if (!json_is_object(json)) return fail_message(index, "is not an object");
    if (!is_text(role)) return fail_message(index, "role is not a string");
    if (json_array_size(calls) > 0) return fail_message(index, "tool calls are not supported");
    if (json_is_array(content)) {
        TRY(join_parts(&message->content, content, index));
    } else {
        if (!is_text(content)) return fail_message(index, "content is not a string");
        message->content = strdup(json_string_value(content));
    }
    message->role = strdup(json_string_value(role));
    return message->role && message->content ? STATUS_OK : fail_memory();
}

enum status chat_messages_read(struct chat_messages *messages, const json_t *json) {
    *messages = (struct chat_messages){0};
    if (!json_is_array(json)) return status_fail(STATUS_FORMAT, "messages is not a list");
    if (json_array_size(json) == 0) return status_fail(STATUS_FORMAT, "there are no messages");
    messages->items = calloc(json_array_size(json), sizeof *messages->items);
    if (!messages->items) return fail_memory();
    size_t index;
    json_t *item;
    json_array_foreach(json, index, item) {
        messages->count++;
        enum status status = read_message(&messages->items[index], item, index);
        if (status == STATUS_OK) continue;
        chat_messages_free(messages);
        return status;
    }
    return STATUS_OK;
}

void chat_messages_free(struct chat_messages *messages) {
    for (int i = 0; i < messages->count; i++) {
        free(messages->items[i].role);
        free(messages->items[i].content);
    }
    free(messages->items);
    *messages = (struct chat_messages){0};
}
