/* Which built-in a Jinja text is. A template is a program, and these are not run: each rule asks
 * for the lines that make the text of a message and refuses what is known to change it. The
 * spelling is normalised first: '"' to '\'', the escape \n to a line break, a doubled backslash to
 * one,
 * ['role'] to .role, and no spaces around '+' and '|'. */
#define _GNU_SOURCE
#include "data/chat_style.h"

#include <stdlib.h>
#include <string.h>

enum { RULE_MARKS = 5 };

struct rule {
    const char *name;
    const char *all[RULE_MARKS];  /* must all be there */
    const char *none[RULE_MARKS]; /* must not be there */
    const char *any[RULE_MARKS];  /* one of them must be there, if any is given */
};

#define CHATML_MESSAGE "'<|im_start|>'+message.role+'\n'+message.content+'<|im_end|>'+'\n'"
#define CHATML_PROMPT "'<|im_start|>assistant\n'"

/* The first that fits. */
static const struct rule rules[] = {
    {"qwen3",
     {CHATML_PROMPT, "enable_thinking is defined and enable_thinking is false",
      "content.split('</think>')[-1]", "'<think>\n\n</think>\n\n'", "loop.last or (not loop.last"},
     {"<|vision_start|>"},
     {NULL}},
    {"chatml",
     {CHATML_MESSAGE, CHATML_PROMPT},
     {"elif messages[-1]", "assistant\n<think>", "</think>", "rstrip",
      "You are a function calling AI model"},
     {NULL}},
    {"llama3.1",
     {"'<|start_header_id|>'+message.role+'<|end_header_id|>\n\n'+message.content|trim+'<|eot_id|>'",
      "'Cutting Knowledge Date: December 2023\n'", "'Today Date: '+date_string+'\n\n'",
      "'26 Jul 2024'"},
     {"has_images"},
     {NULL}},
    {"llama3",
     {"'<|start_header_id|>'+message.role+'<|end_header_id|>\n\n'+message.content|trim+'<|eot_id|>'",
      "bos_token+content", "'<|start_header_id|>assistant<|end_header_id|>\n\n'"},
     {"Today Date", "tools"},
     {NULL}},
    {"llama2",
     {"'[INST] '+content.strip()+' [/INST]'", "' '+content.strip()+' '+eos_token",
      "'<<SYS>>\n'+system_message+'\n<</SYS>>\n\n'+message.content"},
     {NULL},
     {NULL}},
    {"mistral-v1-spm",
     {"' [INST] '", "' [/INST]'", "system_message+'\n\n'"},
     {"[SYSTEM_PROMPT]", "<<SYS>>", "[AVAILABLE_TOOLS]"},
     {"' '+message.content+eos_token", "{{- ' '", NULL}},
    {"mistral-v1",
     {"'[INST] '+message.content+' [/INST]'", "message.content+eos_token"},
     {"[SYSTEM_PROMPT]", "<<SYS>>", "eos_token+' '", "' '+message.content",
      "message.content.strip"},
     {NULL}},
    {"mistral-v1",
     {"{{- '[INST] ' }}", "{{- ' [/INST]' }}", "{{- system_message+'\n\n' }}",
      "{{- message.content}}", "{{- eos_token}}"},
     {"[SYSTEM_PROMPT]", "<<SYS>>", "' [INST] '", "{{- ' '"},
     {NULL}},
    {"mistral-v3-spm",
     {"'[INST] '", "'[/INST]'", "system_message+'\n\n'"},
     {"[SYSTEM_PROMPT]", "<<SYS>>", "' [INST]", "[INST] '+"},
     {"' '+message.content", "{{- ' ' }}"}},
    {"mistral-v3",
     {"'[INST]'", "'[/INST]'", "system_message+'\n\n'"},
     {"[SYSTEM_PROMPT]", "<<SYS>>", "[INST] ", "' '+message.content", "{{- ' ' }}"},
     {"message.content+eos_token", "{{- eos_token }}"}},
};

static char *normalise(const char *jinja) {
    char *text = malloc(strlen(jinja) + 1), *out = text;
    if (!text) return NULL;
    for (const char *in = jinja; *in; in++) {
        char byte = *in == '"' ? '\'' : *in;
        if (in[0] == '\\' && in[1] == 'n') {
            byte = '\n';
            in++;
        } else if (in[0] == '\\' && in[1] == '\\') {
            in++;
        }
        if (byte == '+' || byte == '|') {
            while (out > text && out[-1] == ' ') out--;
            while (in[1] == ' ') in++;
        }
        *out++ = byte;
    }
    *out = 0;
    /* ['role'] -> .role; indices are left alone */
    char *from = text;
    for (out = text; *from;) {
        char *close = strncmp(from, "['", 2) == 0 ? strstr(from, "']") : NULL;
        if (!close) {
            *out++ = *from++;
            continue;
        }
        *out++ = '.';
        memmove(out, from + 2, (size_t)(close - from) - 2);
        out += close - from - 2;
        from = close + 2;
    }
    *out = 0;
    return text;
}

static bool rule_fits(const struct rule *rule, const char *text) {
    bool any = !rule->any[0];
    for (int i = 0; i < RULE_MARKS; i++) {
        if (rule->all[i] && !strstr(text, rule->all[i])) return false;
        if (rule->none[i] && strstr(text, rule->none[i])) return false;
        if (rule->any[i] && strstr(text, rule->any[i])) any = true;
    }
    return any;
}

/* Copies what stands between `before` and `after`, unless a quote shows that it is more than a
 * literal. */
static bool find_between(char *out, size_t capacity, const char *text, const char *before,
                         const char *after) {
    for (const char *at = text; (at = strstr(at, before));) {
        at += strlen(before);
        size_t bytes = strcspn(at, "'");
        const char *end = strstr(at, after);
        if (!end || (size_t)(end - at) > bytes || (size_t)(end - at) >= capacity) continue;
        memcpy(out, at, (size_t)(end - at));
        out[end - at] = 0;
        return true;
    }
    return false;
}

static void settle_details(struct chat_template *template, const char *text) {
    bool once = strstr(text, "bos_token") != NULL;
    if (strcmp(template->style->name, "chatml") == 0) {
        template->bos = once ? CHAT_BOS_ONCE : CHAT_BOS_NONE;
        find_between(template->system, sizeof template->system, text, "<|im_start|>system\n",
                     "<|im_end|>");
    } else if (strcmp(template->style->name, "llama2") == 0) {
        if (!strstr(text, "bos_token+'[INST] '"))
            template->bos = once ? CHAT_BOS_ONCE : CHAT_BOS_NONE;
        if (strstr(text, "elif true == true and not"))
            find_between(template->system, sizeof template->system, text, "set system_message = '",
                         "'");
    }
}

enum status chat_template_recognise(struct chat_template *template, const char *jinja) {
    char *text = normalise(jinja);
    if (!text) return status_fail(STATUS_MEMORY, "no memory to look at the chat template");
    const struct rule *found = NULL;
    for (size_t i = 0; i < sizeof rules / sizeof *rules && !found; i++)
        if (rule_fits(&rules[i], text)) found = &rules[i];
    enum status status =
        found ? chat_template_named(template, found->name)
              : status_fail(STATUS_UNSUPPORTED, "the tokenizer's chat template is none of the "
                                                "built-in ones: choose one by name");
    if (found) settle_details(template, text);
    free(text);
    return status;
}
