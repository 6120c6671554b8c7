/* The emulated multiprocessors: CUDA threads as fibers, in warps, in CTAs, several CTAs at once.
 *
 * A thread runs until it waits: at a barrier, in a warp's collective, for something asynchronous,
 * or because it spins on memory. Which thread goes on then is the schedule's choice:
 *   round_robin     warp by warp, lane by lane; asynchronous work is done as late as possible
 *   greedy          the last warp runs as far as it can before another does; such work is done at
 *                   once
 *   shuffled:SEED   a seeded random thread each time; such work at a random moment
 * A bug of the kernel stops the process with one message that names the op, block, thread and line
 * (fail()). */
#ifndef STRATA_KERNELS_EMULATION_MACHINE_H
#define STRATA_KERNELS_EMULATION_MACHINE_H

#include "kernels/emulation/cuda_runtime.h"
#include "kernels/emulation/fiber.h"
#include "kernels/emulation/order.h"
#include <functional>
#include <stddef.h>
#include <stdint.h>
#include <vector>

namespace emulation {

enum { WARP = 32, MAX_THREADS = 1024, NAMED_BARRIERS = 16, STATIC_OBJECTS = 32 };
enum { MAX_SHARED = 232448, DEFAULT_SHARED = 49152 }; /* bytes of a CTA; without asking for more */

/* Whether the compiler's calls at each access are there (access.h). */
#define ACCESS_IS_CHECKED (!EMULATION_ASAN)

enum schedule_kind { ROUND_ROBIN, GREEDY, SHUFFLED };

struct schedule {
    enum schedule_kind kind;
    uint64_t seed;
};

/* Where in the source a thread is, and in which call. */
struct place {
    const char *call, *file;
    int line;
};

enum thread_state { THREAD_READY, THREAD_WAITS, THREAD_SPINS, THREAD_ENDED };

struct thread {
    struct fiber fiber;
    struct uint3 index;
    int number, lane; /* of the CTA, of the warp */
    struct warp *warp;
    struct cta *cta;
    enum thread_state state;
    struct place at; /* where it waits, or waited last */
    /* What it knows of the others (order.h): */
    uint32_t epoch;
    std::shared_ptr<const epochs> view; /* NULL: the block's floor */
    bool fenced;                        /* it called __threadfence */
};

/* What a lane brought to the collective in which it waits. */
struct collective {
    const char *name;
    uint32_t mask;
};

struct warp {
    uint32_t ready, spins, live; /* a bit a lane */
    uint32_t met;                /* lanes that wait in a collective */
    struct thread *threads;      /* 32, or fewer in a last warp */
    struct collective lanes[WARP];
    void *arguments[WARP];
};

enum { ALL_THREADS = -1 }; /* of the CTA that haven't ended */

struct barrier {
    int expected, arrived; /* expected means nothing while nobody has arrived */
    std::vector<struct thread *> waiting;
    struct knowledge known; /* of those that came and went on */
};

struct static_object {
    const void *site;
    void *memory;
    size_t bytes;
};

struct deferred {
    std::function<void(void)> work;
    bool ordered;
};

struct cta {
    struct uint3 index;
    int threads, warps, live;
    bool running;
    uint64_t number, serial; /* of its grid, of all that ever ran */
    epochs floor;            /* order.h */
    struct knowledge acquired;
    void *shadow;                      /* access.cc: of all from `statics` to the window's end */
    std::vector<struct thread> thread; /* as many as any launch had */
    std::vector<struct warp> warp;
    struct barrier barriers[NAMED_BARRIERS];
    /* Shared memory: the window that its 18-bit addresses count from, the launch's dynamic part,
     * which is 1024-aligned and ends at the window's end, before a guard, and the static objects.
     */
    char *window, *dynamic, *statics;
    size_t dynamic_bytes, static_bytes;
    struct static_object objects[STATIC_OBJECTS];
    int object_count;
    std::vector<struct deferred> deferred; /* asynchronous work, in the order of issue */
    struct asynchronous *asynchronous;     /* what it has on its way */
};

/* A grid to run. */
struct launch {
    const char *op;
    dim3 grid;
    int threads;
    size_t dynamic_bytes;
    int cluster;                           /* CTAs of a cluster, along x; 1 where there are none */
    void (*invoke)(const void *arguments); /* one thread's call of the kernel */
    std::shared_ptr<const void> held;
    const void *arguments;
    size_t argument_bytes;
    uint64_t first_serial; /* of its blocks */
};

/* The thread that runs; NULL on the host. */
extern __thread struct thread *self;

/* Its place, where the kernel reads it. */
struct now {
    struct uint3 thread, block;
    int lane;
};
extern __thread struct now place_now;

/* What is launched now, NULL between kernels. */
const struct launch *current_launch(void);

/* The CTA with this rank of the cluster that `cta` belongs to; NULL where it has ended. */
struct cta *cluster_of(const struct cta *cta, uint32_t rank);

/* Runs every CTA of the grid to its end. */
void run_grid(struct launch *launch, struct schedule schedule);

/* STRATA_EMULATION_SCHEDULE, round_robin where it is unset; fail() on a name that is none. */
struct schedule schedule_from_environment(void);

/* ---- for what makes threads wait ---- */

/* The running thread waits until wake() names it. */
void wait_at(struct place place);
void wake(struct thread *thread);
/* The running thread lets others go first: it looks again and again at memory that they change.
 * When all that live only look, and nothing changes, that is a deadlock. */
void spin_at(struct place place);
/* Some memory that threads may spin on has changed. */
void note_progress(void);
/* Another thread may run here, if the schedule likes. */
void maybe_switch(struct place place);
/* Does `work` at some moment that the schedule chooses, at the latest before a deadlock would be
 * reported or in finish_deferred(). In the order of issue within a CTA where `ordered` holds. */
void defer(struct cta *cta, bool ordered, std::function<void(void)> work);
void finish_deferred(struct cta *cta);

/* ---- what kernels/emulation/asynchronous.h keeps of a CTA ---- */

/* A CTA starts and ends; a thread stopped running, to wait or to end; it ended. */
void asynchronous_start(struct cta *cta);
void asynchronous_end(struct cta *cta);
void asynchronous_thread_stopped(struct thread *thread);
void asynchronous_thread_ended(struct thread *thread);
/* What its barriers wait for, as lines of a report. */
void asynchronous_report(const struct cta *cta);

/* ---- barriers, collectives, shared memory ---- */

/* `threads` may be ALL_THREADS in barrier_sync. */
void barrier_sync(int id, int threads, struct place place);
void barrier_arrive(int id, int threads, struct place place);
void barriers_thread_ended(struct cta *cta);

/* Every lane of `mask` meets here with an argument; the last to come calls
 * run(arguments by lane, mask), unless it is NULL; what lies at lanes outside of the mask means
 * nothing. `aligned`: all must come from the same line. */
void warp_meet(const char *name, uint32_t mask, void *argument, bool aligned,
               void (*run)(void *const *arguments, uint32_t mask), struct place place);

char *shared_dynamic(void);
void *shared_object(const void *site, size_t bytes, size_t alignment);
void shared_open(struct cta *cta);                        /* its region, once */
void shared_reset(struct cta *cta, size_t dynamic_bytes); /* poisoned for the next CTA */
void shared_check(const struct cta *cta);                 /* what lies behind is untouched */
enum { PAGE = 4096, STATIC_BYTES = 65536, WINDOW_BYTES = (MAX_SHARED + PAGE - 1) / PAGE * PAGE };
/* Whether the address is in the block's shared memory, or in a guard of it. */
inline bool shared_holds(const struct cta *cta, const void *address) {
    const char *at = (const char *)address;
    return at >= cta->statics - PAGE && at < cta->window + WINDOW_BYTES + PAGE;
}

/* ---- reports ---- */

/* Says what is wrong and where (the launch, and the running thread's block, number and line), and
 * aborts. */
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same with every thread's place. */
[[noreturn]] void fail_deadlock(const std::vector<struct cta *> &ctas);

struct fiber *host_fiber(void);

} // namespace emulation

#endif
