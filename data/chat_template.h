/* Chat templates that are built in: messages to the text a model was trained on, and which bytes of
 * it the assistant wrote. The text is what the models' own Jinja templates render (Llama 2: Touvron
 * et al., arXiv:2307.09288; Llama 3: Meta's model card; ChatML: OpenAI's, as Qwen uses it; Mistral:
 * mistral-common's tokenizer versions).
 *
 *   name            rendered
 *   plain           BOS "User: " U "\n\nAssistant:" " " A EOS "\n\n"    for base models
 *   chatml          "<|im_start|>" role "\n" content "<|im_end|>\n"
 *   qwen2, qwen2.5  chatml with their default system message
 *   qwen3           chatml; answers before the last question lose their <think> part, later ones
 *                   have one, if empty
 *   llama2          BOS "[INST] <<SYS>>\n" S "\n<</SYS>>\n\n" U " [/INST]" " " A " " EOS, each turn
 *   llama3          BOS "<|start_header_id|>" role "<|end_header_id|>\n\n" content "<|eot_id|>"
 *   llama3.1        llama3 with "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul
 * 2024\n\n" in the system message, which is always there mistral-v1      BOS "[INST] " S "\n\n" U "
 * [/INST]" A EOS mistral-v1-spm  BOS " [INST] " S "\n\n" U " [/INST]" " " A EOS mistral-v3-spm  BOS
 * "[INST] " U "[/INST]" " " A EOS, S "\n\n" before the last U mistral-v3      BOS "[INST]" U
 * "[/INST]" A EOS, S "\n\n" before the last U
 *
 * Roles are system, user and assistant. The [INST] ones want the system message first, then user
 * and assistant in turn. The text holds BOS, EOS and markers in letters: encode it with
 * TOKENIZER_PARSE_SPECIAL and without TOKENIZER_ADD_SPECIAL. */
#ifndef STRATA_DATA_CHAT_TEMPLATE_H
#define STRATA_DATA_CHAT_TEMPLATE_H

#include "kernels/base/status.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct chat_style; /* the constant facts of a name */

/* A value: copy it freely. */
struct chat_template {
    const struct chat_style *style;
    enum chat_bos { CHAT_BOS_NONE, CHAT_BOS_ONCE, CHAT_BOS_EACH_TURN } bos;
    char system[512]; /* used when there is no system message; "" = none */
};

/* STATUS_CONFIG lists the names. */
enum status chat_template_named(struct chat_template *template, const char *name);

/* The built-in that renders what this Jinja text does, by its characteristic lines; for messages
 * without tools. STATUS_UNSUPPORTED when it is none of them or that isn't certain. */
enum status chat_template_recognise(struct chat_template *template, const char *jinja);

const char *chat_template_name(const struct chat_template *template);

/* The marker an answer ends with ("<|im_end|>"), or NULL: the tokenizer's EOS. */
const char *chat_template_end(const struct chat_template *template);

/* NULL-terminated: texts that end an answer besides EOS, its end marker among them. */
const char *const *chat_template_stops(const struct chat_template *template);

struct chat_message {
    char *role, *content; /* owned by the list */
};
struct chat_messages {
    struct chat_message *items; /* owned */
    int count;
};

/* From JSON [{"role": text, "content": text}]; a content that is a list of {"type": "text",
 * "text"} is those texts with "\n\n" between. Other members are ignored, but tool calls are
 * refused. STATUS_FORMAT names the index of the message that is wrong. */
enum status chat_messages_read(struct chat_messages *messages, const json_t *json);
void chat_messages_free(struct chat_messages *messages);

struct chat_text {
    char *text;               /* owned; NUL-terminated */
    unsigned char *assistant; /* (bytes) owned: 1 where the assistant wrote it, from the end of the
                                 generation prompt to the end of its end marker */
    size_t bytes;
};

/* `bos` and `eos` are the tokenizer's texts of them, "" when there is none. With
 * `generation_prompt` the text ends where an answer begins. STATUS_FORMAT: no messages, or an
 * unknown or misplaced role (with its index). */
enum status chat_template_render(const struct chat_template *template, const char *bos,
                                 const char *eos, const struct chat_messages *messages,
                                 bool generation_prompt, struct chat_text *out);
void chat_text_free(struct chat_text *text);

#endif
