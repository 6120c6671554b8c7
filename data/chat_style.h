/* The rows behind data/chat_template.h, for its own files. */
#ifndef STRATA_DATA_CHAT_STYLE_H
#define STRATA_DATA_CHAT_STYLE_H

#include "data/chat_template.h"

enum chat_kind {
    CHAT_HEADERS, /* every message alike: header with the role, content, end marker */
    CHAT_INST,    /* a question in [INST] marks, then the answer */
};

enum chat_system {
    CHAT_SYSTEM_MESSAGE, /* a message like the others */
    CHAT_SYSTEM_LLAMA2,  /* in <<SYS>> marks before the first question */
    CHAT_SYSTEM_FIRST,   /* before the first question, then a blank line */
    CHAT_SYSTEM_LAST,    /* before the last question, then a blank line */
};

struct chat_style {
    const char *name;
    enum chat_kind kind;
    enum chat_bos bos;
    enum chat_system system;
    bool trims;                    /* white space around contents goes */
    bool thinks;                   /* qwen3's <think> rules */
    const char *open, *role_close; /* HEADERS: around the role; INST: around the question */
    const char *before;            /* before an answer, after the prompt */
    const char *after;             /* after an answer, before its end */
    const char *end;      /* ends an answer (HEADERS: any message); NULL = EOS, answers only */
    const char *gap;      /* after that */
    const char *preamble; /* begins the system message, which is then always there; or NULL */
    const char *default_system;
    const char *stops[4];
};

/* The row of a name, or NULL. */
const struct chat_style *chat_style_find(const char *name);

#endif
