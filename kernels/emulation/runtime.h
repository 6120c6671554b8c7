/* Streams, events and graphs of the emulated runtime. */
#ifndef STRATA_KERNELS_EMULATION_RUNTIME_H
#define STRATA_KERNELS_EMULATION_RUNTIME_H

#include "kernels/emulation/machine.h"
#include <deque>
#include <mutex>

namespace emulation {

/* One thing that a stream does: waits until `event` is done `version` times, then works. */
struct work {
    struct CUevent_st *event; /* NULL: nothing to wait for */
    uint64_t version;
    std::function<void(void)> run;
};

/* One thing that a graph does, after the others that it names by their place in the list. */
struct node {
    std::function<void(void)> run;
    std::vector<int> after;
};

/* Several streams record what they would have done. */
struct capture {
    cudaStream_t origin;
    bool relaxed, broken; /* the mode; something forbidden was called */
    std::vector<struct node> nodes;
    std::vector<cudaStream_t> streams;
};

} // namespace emulation

struct CUevent_st {
    uint64_t recorded, done; /* how often it was put on a stream; the last of these that came up */
    double seconds;          /* when that was */
    struct emulation::capture *capture; /* recorded in it, behind these nodes */
    std::vector<int> after;
};

struct CUstream_st {
    int number; /* of those that were created */
    std::deque<struct emulation::work> queue;
    struct emulation::capture *capture; /* NULL: it works */
    std::vector<int> after;             /* what its next node comes after */
};

struct CUgraph_st {
    std::vector<struct emulation::node> nodes;
};

struct CUgraphExec_st {
    std::vector<struct emulation::node> nodes;
};

namespace emulation {

typedef std::lock_guard<std::recursive_mutex> guard;
std::recursive_mutex &runtime_mutex(void);

/* Keeps the error for cudaGetLastError, and returns it. */
cudaError_t runtime_failed(cudaError_t error);
/* To the end of the stream's queue, or of what it captures. */
void runtime_enqueue(cudaStream_t stream, struct work work);
uint64_t runtime_draw(uint64_t limit);
enum schedule_kind runtime_schedule(void);

/* The stream captures: the work becomes a node. */
void capture_add(cudaStream_t stream, std::function<void(void)> run);
/* A call that a capture of `stream` (NULL: any that isn't relaxed) forbids: breaks it. true: there
 * is such a capture. */
bool capture_forbids(cudaStream_t stream);
void capture_record(cudaEvent_t event, cudaStream_t stream);
cudaError_t capture_wait(cudaStream_t stream, cudaEvent_t event);

} // namespace emulation

#endif
