/* What the files of the watchdog share. watchdog.c is the thread: it hears and tells, and notices
 * who is silent; watchdog_case.c collects every rank's rings, judges and ends the job;
 * watchdog_open.c connects the ranks, starts the thread and ends it. All fields are the thread's,
 * once it runs, but for the requests. */
#ifndef STRATA_PARALLEL_WATCHDOG_INTERNAL_H
#define STRATA_PARALLEL_WATCHDOG_INTERNAL_H

#include "parallel/verdict.h"
#include "parallel/watch_link.h"
#include "parallel/watchdog.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

enum {
    WATCHDOG_HOST_BYTES = 64,
    WATCHDOG_LOOK_MS = 50,    /* between two looks at a failed call */
    WATCHDOG_END_SECONDS = 5, /* until a process that should have been ended ends itself */
    WATCHDOG_EXIT = 1
};

enum message_kind {
    MESSAGE_BEAT,    /* I run */
    MESSAGE_OVERDUE, /* I have been inside a call for too long */
    MESSAGE_FAILED,  /* a call of mine failed */
    MESSAGE_COLLECT, /* give me your rings */
    MESSAGE_RINGS,   /* rings_pack's bytes */
    MESSAGE_VERDICT, /* there is one: end yourself */
    MESSAGE_BYE,     /* I leave in good order */
    MESSAGE_ABORT    /* I end the job for a reason of my own */
};

enum request { REQUEST_NONE, REQUEST_ACCUSE, REQUEST_ABORT, REQUEST_CLOSE };

/* What the judge knows of a rank. */
struct seat {
    struct watch_link link;
    enum presence presence;
    double heard;
    bool asked;              /* in the present case, and has not answered */
    void *answer;            /* rings_pack's bytes */
    struct rings_copy rings; /* of them */
};

struct watchdog {
    int rank, size, deputy;
    double seconds, tick;
    char *folder; /* NULL: none */
    void (*end_job)(void);
    struct rings *rings;
    char (*hosts)[WATCHDOG_HOST_BYTES];
    struct seat *seats;          /* (size); mine has no link */
    struct verdict_rank *judged; /* (size) */
    struct pollfd *polled;

    pthread_t thread;
    bool started;
    int wake[2]; /* a pipe: a request has come */
    _Atomic int request, answered;

    double looped, awake, beaten; /* clock_seconds of: the last loop; since when I have not been
                                     stopped; the last heartbeat */
    bool overdue;                 /* a reason for a case */
    double accused, next_look;    /* until when a failed call is one, and when it is looked at
                                     next: others may yet have to enter it */
    bool open;                    /* a case is */
    double deadline;
    double ending; /* when to end after another one's MESSAGE_ABORT; 0: none came */
};

static inline double least(double a, double b) {
    return a < b ? a : b;
}

/* How long a rank whose call failed waits for a verdict before it ends the job. */
static inline double watchdog_accused_seconds(const struct watchdog *w) {
    return least(0.5 * w->seconds, 1.0);
}

static inline bool watchdog_looks_again(const struct watchdog *w, double now) {
    return now < w->accused && now >= w->next_look;
}

/* Sends to a rank that is connected; a link that breaks is closed. */
void watchdog_tell(struct watchdog *w, int rank, enum message_kind kind, const void *data,
                   size_t bytes);
void watchdog_tell_all(struct watchdog *w, enum message_kind kind);

/* Lets the others read the goodbye: a socket closed with bytes to read would take it back. */
void watchdog_say_goodbye(struct watchdog *w);

/* The thread; `context` is the watchdog. */
void *watchdog_loop(void *context);

/* Has the thread serve a request; returns when it has, or after `seconds`. */
void watchdog_ask(struct watchdog *w, enum request request, double seconds);

/* The other ranks' words are gone. */
void watchdog_forget_answers(struct watchdog *w);

/* Takes over `bytes`, what `rank` packed of its rings; NULL: it could not. */
void watchdog_keep_answer(struct watchdog *w, int rank, void *bytes, size_t count);

/* Opens a case where there is a reason and this rank judges, and decides it when every rank has
 * answered or had its time. Does not return from a verdict. */
void watchdog_judge(struct watchdog *w);

#endif
