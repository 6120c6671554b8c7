#define _GNU_SOURCE
#include "data/chat_template.h"

#include "data/chat_style.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The parts that families share. */
#define CHATML                                                                                     \
    .kind = CHAT_HEADERS, .open = "<|im_start|>", .role_close = "\n", .end = "<|im_end|>",         \
    .gap = "\n", .stops = {"<|im_end|>"}
#define LLAMA3                                                                                     \
    .kind = CHAT_HEADERS, .bos = CHAT_BOS_ONCE, .trims = true, .open = "<|start_header_id|>",      \
    .role_close = "<|end_header_id|>\n\n", .end = "<|eot_id|>",                                    \
    .stops = {"<|eot_id|>", "<|eom_id|>"}
#define MISTRAL_V1 .kind = CHAT_INST, .bos = CHAT_BOS_ONCE, .system = CHAT_SYSTEM_FIRST
#define MISTRAL_V3 .kind = CHAT_INST, .bos = CHAT_BOS_ONCE, .system = CHAT_SYSTEM_LAST

static const struct chat_style styles[] = {
    {.name = "plain",
     .kind = CHAT_HEADERS,
     .bos = CHAT_BOS_ONCE,
     .open = "",
     .role_close = ":",
     .before = " ",
     .gap = "\n\n",
     .stops = {"\n\nUser:", "\n\nSystem:"}},
    {.name = "chatml", CHATML},
    {.name = "qwen2", CHATML, .default_system = "You are a helpful assistant."},
    {.name = "qwen2.5",
     CHATML,
     .default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
    {.name = "qwen3", CHATML, .thinks = true},
    {.name = "llama2",
     .kind = CHAT_INST,
     .bos = CHAT_BOS_EACH_TURN,
     .system = CHAT_SYSTEM_LLAMA2,
     .trims = true,
     .open = "[INST] ",
     .role_close = " [/INST]",
     .before = " ",
     .after = " "},
    {.name = "llama3", LLAMA3},
    {.name = "llama3.1",
     LLAMA3,
     .preamble = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"},
    {.name = "mistral-v1", MISTRAL_V1, .open = "[INST] ", .role_close = " [/INST]"},
    {.name = "mistral-v1-spm",
     MISTRAL_V1,
     .open = " [INST] ",
     .role_close = " [/INST]",
     .before = " "},
    {.name = "mistral-v3-spm",
     MISTRAL_V3,
     .open = "[INST] ",
     .role_close = "[/INST]",
     .before = " "},
    {.name = "mistral-v3", MISTRAL_V3, .open = "[INST]", .role_close = "[/INST]"},
};
#undef CHATML
#undef LLAMA3
#undef MISTRAL_V1
#undef MISTRAL_V3
enum { STYLE_COUNT = sizeof styles / sizeof *styles };

const struct chat_style *chat_style_find(const char *name) {
    for (int i = 0; i < STYLE_COUNT; i++)
        if (strcmp(styles[i].name, name) == 0) return &styles[i];
    return NULL;
}

enum status chat_template_named(struct chat_template *template, const char *name) {
    const struct chat_style *style = chat_style_find(name);
    if (!style) {
        char names[512];
        int used = 0;
        for (int i = 0; i < STYLE_COUNT; i++)
            used += snprintf(names + used, sizeof names - (size_t)used, "%s%s", i ? ", " : "",
                             styles[i].name);
        return status_fail(STATUS_CONFIG, "no chat template is named \"%.64s\"; there are %s", name,
                           names);
    }
    *template = (struct chat_template){.style = style, .bos = style->bos};
    if (style->default_system)
        snprintf(template->system, sizeof template->system, "%s", style->default_system);
    return STATUS_OK;
}

const char *chat_template_name(const struct chat_template *template) {
    return template->style->name;
}

const char *chat_template_end(const struct chat_template *template) {
    return template->style->end;
}

const char *const *chat_template_stops(const struct chat_template *template) {
    return template->style->stops;
}

/* The text as it grows; a failed allocation sticks until the end. */
struct builder {
    struct chat_text text;
    size_t capacity;
    bool failed, assistant;
};

static void add_bytes(struct builder *builder, const char *bytes, size_t count) {
    struct chat_text *text = &builder->text;
    if (text->bytes + count + 1 > builder->capacity) {
        size_t capacity = 2 * (text->bytes + count + 1);
        char *grown = realloc(text->text, capacity);
        if (grown) text->text = grown;
        unsigned char *marks = realloc(text->assistant, capacity);
        if (marks) text->assistant = marks;
        builder->failed |= !grown || !marks;
        builder->capacity = builder->failed ? 0 : capacity;
    }
    if (builder->failed) return;
    memcpy(text->text + text->bytes, bytes, count);
    memset(text->assistant + text->bytes, builder->assistant, count);
    text->bytes += count;
    text->text[text->bytes] = 0;
}

static void add(struct builder *builder, const char *text) {
    if (text) add_bytes(builder, text, strlen(text));
}

/* What Jinja's trim and Python's strip remove, of ASCII. */
static bool is_space(char byte) {
    return byte == ' ' || (byte >= '\t' && byte <= '\r') || (byte >= 0x1C && byte <= 0x1F);
}

static void add_content(struct builder *builder, const char *content, bool trims) {
    size_t bytes = strlen(content);
    while (trims && bytes > 0 && is_space(*content)) content++, bytes--;
    while (trims && bytes > 0 && is_space(content[bytes - 1])) bytes--;
    add_bytes(builder, content, bytes);
}

static enum status fail_role(const struct chat_template *template, int index, const char *role,
                             const char *why) {
    return status_fail(STATUS_FORMAT, "messages[%d]: role \"%.64s\" %s (template %s)", index, role,
                       why, template->style->name);
}

static bool is_role(const struct chat_messages *messages, int index, const char *role) {
    return strcmp(messages->items[index].role, role) == 0;
}

static int last_question(const struct chat_messages *messages) {
    for (int i = messages->count - 1; i >= 0; i--)
        if (is_role(messages, i, "user")) return i;
    return -1;
}

/* Qwen3's history: a question drops the thoughts of the answers before it, and every answer after
 * the last question has a <think> part. */
static void add_thinking_answer(struct builder *builder, const char *content, bool history) {
    const char *close = NULL;
    for (const char *next = content; (next = strstr(next, "</think>")); next++) close = next;
    const char *answer = close ? close + strlen("</think>") : content;
    while (close && *answer == '\n') answer++;
    if (history) {
        add(builder, answer);
        return;
    }
    const char *first = strstr(content, "</think>"), *thought = content;
    for (const char *next = content; first && (next = strstr(next, "<think>")) && next < first;
         next++)
        thought = next + strlen("<think>");
    size_t bytes = first && first > thought ? (size_t)(first - thought) : 0;
    while (bytes > 0 && *thought == '\n') thought++, bytes--;
    while (bytes > 0 && thought[bytes - 1] == '\n') bytes--;
    while (*answer == '\n') answer++;
    add(builder, "<think>\n");
    add_bytes(builder, thought, bytes);
    add(builder, "\n</think>\n\n");
    add(builder, answer);
}

static void add_header(struct builder *builder, const struct chat_style *style, const char *role) {
    add(builder, style->open);
    if (*style->open) {
        add(builder, role);
    } else { /* plain: the role as a name */
        char name = (char)toupper((unsigned char)*role);
        add_bytes(builder, &name, 1);
        add(builder, role + 1);
    }
    add(builder, style->role_close);
}

static void add_message(struct builder *builder, const struct chat_template *template,
                        const char *role, const char *content, bool history) {
    const struct chat_style *style = template->style;
    bool answer = strcmp(role, "assistant") == 0;
    add_header(builder, style, role);
    builder->assistant = answer;
    add(builder, style->before);
    if (style->preamble && strcmp(role, "system") == 0) add(builder, style->preamble);
    if (style->thinks && answer)
        add_thinking_answer(builder, content, history);
    else
        add_content(builder, content, style->trims);
}

static enum status render_headers(struct builder *builder, const struct chat_template *template,
                                  const char *bos, const char *eos,
                                  const struct chat_messages *messages, bool generation_prompt) {
    const struct chat_style *style = template->style;
    int question = last_question(messages);
    if (template->bos != CHAT_BOS_NONE) add(builder, bos);
    for (int i = is_role(messages, 0, "system") ? 0 : -1; i < messages->count; i++) {
        if (i < 0 && !style->preamble && !*template->system) continue;
        const char *role = i < 0 ? "system" : messages->items[i].role;
        const char *content = i < 0 ? template->system : messages->items[i].content;
        bool answer = strcmp(role, "assistant") == 0;
        if (!answer && strcmp(role, "user") != 0 && strcmp(role, "system") != 0)
            return fail_role(template, i, role, "is not system, user or assistant");
        if (style->preamble && i > 0 && strcmp(role, "system") == 0)
            return fail_role(template, i, role, "must come first");
        add_message(builder, template, role, content, i < question);
        add(builder, style->end || !answer ? style->end : eos);
        builder->assistant = false;
        add(builder, style->gap);
    }
    if (generation_prompt) add_header(builder, style, "assistant");
    return STATUS_OK;
}

static void add_question(struct builder *builder, const struct chat_template *template,
                         const char *system, const char *content) {
    const struct chat_style *style = template->style;
    add(builder, style->open);
    if (*system && style->system == CHAT_SYSTEM_LLAMA2) {
        add(builder, "<<SYS>>\n");
        add(builder, system);
        add(builder, "\n<</SYS>>\n\n");
    } else if (*system) {
        add(builder, system);
        add(builder, "\n\n");
    }
    /* Llama 2 strips the question with its system part, whose edges are marks. */
    size_t bytes = strlen(content);
    while (*system && style->trims && bytes > 0 && is_space(content[bytes - 1])) bytes--;
    if (*system)
        add_bytes(builder, content, bytes);
    else
        add_content(builder, content, style->trims);
    add(builder, style->role_close);
}

static enum status render_inst(struct builder *builder, const struct chat_template *template,
                               const char *bos, const char *eos,
                               const struct chat_messages *messages) {
    const struct chat_style *style = template->style;
    int first = is_role(messages, 0, "system");
    const char *system = first ? messages->items[0].content : template->system;
    int with_system = style->system == CHAT_SYSTEM_LAST ? last_question(messages) : first;
    if (first == messages->count)
        return status_fail(STATUS_FORMAT, "messages hold no question (template %s)", style->name);
    if (template->bos == CHAT_BOS_ONCE) add(builder, bos);
    for (int i = first; i < messages->count; i++) {
        const struct chat_message *message = &messages->items[i];
        bool question = (i - first) % 2 == 0;
        if (!is_role(messages, i, question ? "user" : "assistant"))
            return fail_role(template, i, message->role,
                             question ? "where only user can be" : "where only assistant can be");
        if (question) {
            if (template->bos == CHAT_BOS_EACH_TURN) add(builder, bos);
            add_question(builder, template, i == with_system ? system : "", message->content);
            continue;
        }
        builder->assistant = true;
        add(builder, style->before);
        add_content(builder, message->content, style->trims);
        add(builder, style->after);
        add(builder, eos);
        builder->assistant = false;
    }
    return STATUS_OK;
}

enum status chat_template_render(const struct chat_template *template, const char *bos,
                                 const char *eos, const struct chat_messages *messages,
                                 bool generation_prompt, struct chat_text *out) {
    if (messages->count == 0) return status_fail(STATUS_FORMAT, "there are no messages");
    struct builder builder = {0};
    enum status status =
        template->style->kind == CHAT_HEADERS
            ? render_headers(&builder, template, bos, eos, messages, generation_prompt)
            : render_inst(&builder, template, bos, eos, messages);
    if (status == STATUS_OK && builder.failed)
        status = status_fail(STATUS_MEMORY, "no memory for %d messages", messages->count);
    if (status == STATUS_OK)
        *out = builder.text;
    else
        chat_text_free(&builder.text);
    return status;
}

void chat_text_free(struct chat_text *text) {
    free(text->text);
    free(text->assistant);
    *text = (struct chat_text){0};
}
