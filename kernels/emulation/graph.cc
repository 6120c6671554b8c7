/* Graphs: streams that capture instead of working, and what they captured, launched as one work. */
#include "kernels/emulation/runtime.h"

#include <algorithm>

namespace emulation {

static std::vector<struct capture *> captures; /* that have begun and not ended */

void capture_add(cudaStream_t stream, std::function<void(void)> run) {
    struct capture *capture = stream->capture;
    capture->nodes.push_back({std::move(run), stream->after});
    stream->after = {(int)capture->nodes.size() - 1};
}

bool capture_forbids(cudaStream_t stream) {
    bool forbidden = false;
    for (struct capture *capture : captures)
        if (stream ? stream->capture == capture : !capture->relaxed)
            capture->broken = forbidden = true;
    return forbidden;
}

void capture_record(cudaEvent_t event, cudaStream_t stream) {
    event->capture = stream->capture;
    event->after = stream->after;
}

cudaError_t capture_wait(cudaStream_t stream, cudaEvent_t event) {
    struct capture *capture = event->capture;
    if (!capture || (stream->capture && stream->capture != capture)) {
        if (stream->capture) stream->capture->broken = true;
        return runtime_failed(cudaErrorStreamCaptureIsolation);
    }
    if (!stream->capture) {
        stream->capture = capture;
        stream->after.clear();
        capture->streams.push_back(stream);
    }
    for (int node : event->after)
        if (std::find(stream->after.begin(), stream->after.end(), node) == stream->after.end())
            stream->after.push_back(node);
    return cudaSuccess;
}

/* Marks what the node comes after, itself too. */
static void mark(const std::vector<struct node> &nodes, int node, std::vector<bool> *marked) {
    if ((*marked)[(size_t)node]) return;
    (*marked)[(size_t)node] = true;
    for (int before : nodes[(size_t)node].after) mark(nodes, before, marked);
}

/* Whether everything captured comes before the origin's end. */
static bool joined(const struct capture *capture) {
    std::vector<bool> marked(capture->nodes.size());
    for (int node : capture->origin->after) mark(capture->nodes, node, &marked);
    return std::find(marked.begin(), marked.end(), false) == marked.end();
}

static void run_nodes(const std::vector<struct node> &nodes) {
    std::vector<bool> done(nodes.size());
    for (size_t left = nodes.size(); left > 0; left--) {
        std::vector<size_t> ready;
        for (size_t i = 0; i < nodes.size(); i++) {
            bool waits = done[i];
            for (int before : nodes[i].after) waits |= !done[(size_t)before];
            if (!waits) ready.push_back(i);
        }
        size_t which = 0;
        if (runtime_schedule() == GREEDY) which = ready.size() - 1;
        if (runtime_schedule() == SHUFFLED) which = runtime_draw(ready.size());
        done[ready[which]] = true;
        nodes[ready[which]].run();
    }
}

} // namespace emulation

using namespace emulation;

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    guard lock(runtime_mutex());
    if (!stream || stream->capture) return runtime_failed(cudaErrorInvalidValue);
    stream->capture =
        new capture{stream, mode == cudaStreamCaptureModeRelaxed, false, {}, {stream}};
    stream->after.clear();
    captures.push_back(stream->capture);
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    guard lock(runtime_mutex());
    *graph = nullptr;
    struct capture *capture = stream ? stream->capture : nullptr;
    if (!capture || capture->origin != stream) return runtime_failed(cudaErrorInvalidValue);
    cudaError_t error = capture->broken   ? cudaErrorStreamCaptureInvalidated
                        : joined(capture) ? cudaSuccess
                                          : cudaErrorStreamCaptureUnjoined;
    if (error == cudaSuccess) *graph = new CUgraph_st{std::move(capture->nodes)};
    for (cudaStream_t member : capture->streams) member->capture = nullptr;
    captures.erase(std::find(captures.begin(), captures.end(), capture));
    delete capture;
    return error == cudaSuccess ? error : runtime_failed(error);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    guard lock(runtime_mutex());
    *status = !stream->capture          ? cudaStreamCaptureStatusNone
              : stream->capture->broken ? cudaStreamCaptureStatusInvalidated
                                        : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    if (!graph) return runtime_failed(cudaErrorInvalidValue);
    *exec = new CUgraphExec_st{graph->nodes};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    guard lock(runtime_mutex());
    if (!exec || !stream || stream->capture) return runtime_failed(cudaErrorInvalidValue);
    runtime_enqueue(stream, {nullptr, 0, [nodes = exec->nodes] { run_nodes(nodes); }});
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    delete exec;
    return cudaSuccess;
}
