#define _GNU_SOURCE
#include "parallel/parallel.h"
#include "core/log.h"
#include "kernels/base/clock.h"
#include "parallel/comm_mpi.h"
#include "parallel/comm_nccl.h"
#include "parallel/cores.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static bool set(const char *variable) {
    const char *value = getenv(variable);
    return value && *value;
}

/* mpirun and srun --mpi=pmix both hand every rank its place through the environment. Without them
 * MPI_Init would start a daemon for a job of one. */
static bool launched(void) {
    return set("OMPI_COMM_WORLD_SIZE") || set("PMIX_RANK");
}

/* Whether the kernel lets processes read each other's memory: many containers do not, and Open MPI
 * finds out only when a large message fails. */
static bool single_copy_works(void) {
    char from = 1, to = 0;
    struct iovec local = {&to, 1}, remote = {&from, 1};
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1;
}

/* Settings of Open MPI's that suit every job of ours, unless the user chose. */
static void choose_transports(void) {
    if (!single_copy_works()) setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
    /* Ranks that wait leave their core to ranks that compute, should they share one. */
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    /* Hosts without InfiniBand are no reason for a warning. */
    setenv("OMPI_MCA_btl_base_warn_component_unused", "0", 0);
}

static enum status share_cores(struct parallel *parallel) {
    MPI_Comm node;
    if (MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, parallel->world.rank,
                            MPI_INFO_NULL, &node) != MPI_SUCCESS)
        return status_fail(STATUS_PEER, "rank %d can't find the ranks of its host",
                           parallel->world.rank);
    struct cores mine, sharers;
    cores_allowed(&mine);
    sharers = mine;
    int code = MPI_Comm_rank(node, &parallel->node_rank);
    if (code == MPI_SUCCESS) code = MPI_Comm_size(node, &parallel->node_size);
    if (code == MPI_SUCCESS)
        code = MPI_Allreduce(MPI_IN_PLACE, &sharers, sizeof sharers / sizeof(int32_t), MPI_INT32_T,
                             MPI_SUM, node);
    parallel->node_first = parallel->world.rank;
    if (code == MPI_SUCCESS) code = MPI_Bcast(&parallel->node_first, 1, MPI_INT, 0, node);
    if (MPI_Comm_free(&node) != MPI_SUCCESS || code != MPI_SUCCESS)
        return status_fail(STATUS_PEER, "rank %d can't count the cores of its host",
                           parallel->world.rank);
    parallel->threads = cores_share(&mine, sharers.core);
    parallel->node_cpus = cores_cpus(sharers.cpu);
    return STATUS_OK;
}

static enum status start_mpi(struct parallel *parallel, int *argc, char ***argv) {
    choose_transports();
    int provided = MPI_THREAD_SINGLE;
    if (MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS)
        return status_fail(STATUS_PEER, "MPI does not start");
    parallel->mpi = true;
    if (provided < MPI_THREAD_SERIALIZED)
        return status_fail(STATUS_UNSUPPORTED, "this MPI allows no calls from other threads");
    if (MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN) != MPI_SUCCESS)
        return status_fail(STATUS_PEER, "MPI does not let its errors be handled");
    int rank = 0;
    if (MPI_Comm_rank(MPI_COMM_WORLD, &rank) != MPI_SUCCESS)
        return status_fail(STATUS_PEER, "MPI does not tell this process's rank");
    parallel->rings = rings_create(rank);
    if (!parallel->rings)
        return status_fail(STATUS_MEMORY, "no memory to record the calls of rank %d", rank);
    TRY(comm_mpi_open_world(&parallel->world, "world", parallel->rings));
    return share_cores(parallel);
}

enum status parallel_start(struct parallel *parallel, int *argc, char ***argv) {
    *parallel = (struct parallel){.node_size = 1};
    if (launched()) {
        enum status status = start_mpi(parallel, argc, argv);
        if (status != STATUS_OK) return status;
    } else {
        const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
        if (tasks && atoi(tasks) > 1)
            return status_fail(STATUS_CONFIG,
                               "srun started %s tasks without PMIx: use srun --mpi=pmix", tasks);
        comm_open_self(&parallel->world, "world");
        struct cores mine;
        cores_allowed(&mine);
        parallel->threads = cores_share(&mine, mine.core);
        parallel->node_cpus = cores_cpus(mine.cpu);
    }
    log_identify(parallel->world.rank, parallel->world.size);
    return STATUS_OK;
}

static void abort_mpi(void) {
    MPI_Abort(MPI_COMM_WORLD, 1);
}

enum status parallel_watch(struct parallel *parallel, double seconds, const char *folder) {
    if (seconds <= 0.0 || parallel->world.size == 1) return STATUS_OK;
    const struct watchdog_options options = {
        .seconds = seconds, .folder = folder, .end_job = abort_mpi};
    enum status status =
        watchdog_open(&parallel->watchdog, &parallel->world, parallel->rings, &options);
    if (status == STATUS_OK) return STATUS_OK;
    log_line(LOG_WARN, "event=no_watchdog reason=%s",
             log_value(&(struct log_text){0}, status_message()));
    return STATUS_OK;
}

enum status parallel_sum_of_host(struct parallel *parallel, double *value) {
    struct comm host;
    struct stream stream;
    TRY(comm_mpi_open_split(&host, &parallel->world, "host", parallel->node_first,
                            parallel->node_rank));
    stream_open_cpu(&stream, 1);
    comm_all_reduce(&host, &stream, value, 1, DTYPE_F64, COMM_SUM);
    comm_close(&host);
    return stream_check(&stream);
}

static enum status open_library(struct parallel *parallel) {
    struct nccl *nccl = parallel->nccl = calloc(1, sizeof *nccl);
    if (!nccl)
        return status_fail(STATUS_MEMORY, "rank %d has no memory for NCCL", parallel->world.rank);
    TRY(nccl_library_open(&nccl->library));
    return nccl_device_host(&nccl->device, &nccl->library);
}

static void close_library(struct parallel *parallel) {
    if (parallel->nccl) nccl_library_close(&parallel->nccl->library);
    free(parallel->nccl);
    parallel->nccl = NULL;
}

/* Ranks with libraries of different versions would hang in their first call. */
static enum status agree_on_version(struct parallel *parallel) {
    struct stream stream;
    stream_open_cpu(&stream, 1);
    int32_t version = parallel->nccl->library.version, oldest = version;
    comm_all_reduce(&parallel->world, &stream, &oldest, 1, DTYPE_I32, COMM_MIN);
    TRY(stream_check(&stream));
    if (version == oldest) return STATUS_OK;
    return status_fail(STATUS_UNSUPPORTED,
                       "NCCL's version is %d here (%s), and %d on another rank: all ranks need one "
                       "library",
                       version, parallel->nccl->library.path, oldest);
}

enum status parallel_open_nccl(struct parallel *parallel, enum parallel_backend backend,
                               const struct nccl **nccl) {
    *nccl = NULL;
    if (backend != PARALLEL_NCCL || parallel->world.size == 1) return STATUS_OK;
    if (!parallel->nccl) {
        enum status status = parallel_agree(&parallel->world, open_library(parallel));
        if (status == STATUS_OK)
            status = parallel_agree(&parallel->world, agree_on_version(parallel));
        if (status != STATUS_OK) close_library(parallel);
        TRY(status);
    }
    *nccl = parallel->nccl;
    return STATUS_OK;
}

void parallel_finish(struct parallel *parallel) {
    watchdog_close(parallel->watchdog);
    comm_close(&parallel->world);
    close_library(parallel);
    rings_free(parallel->rings);
    if (parallel->mpi) MPI_Finalize();
    *parallel = (struct parallel){0};
}

_Noreturn void parallel_abort(const struct parallel *parallel, const char *what) {
    log_line(LOG_ERROR, "event=abort while=%s reason=%s", log_value(&(struct log_text){0}, what),
             log_value(&(struct log_text){0}, status_message()));
    watchdog_accuse(parallel->watchdog);
    if (parallel->mpi) MPI_Abort(MPI_COMM_WORLD, 1);
    _Exit(1);
}

/* Whether all ranks come to this point in time. */
static bool all_arrive(double seconds) {
    MPI_Request request;
    int arrived = 0;
    double until = clock_seconds() + seconds;
    if (MPI_Ibarrier(MPI_COMM_WORLD, &request) != MPI_SUCCESS) return false;
    for (;;) {
        if (MPI_Test(&request, &arrived, MPI_STATUS_IGNORE) != MPI_SUCCESS) return false;
        if (arrived || clock_seconds() > until) return arrived;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

void parallel_finish_failed(struct parallel *parallel, double seconds) {
    if (parallel->rings) {
        char note[RING_NOTE_BYTES];
        snprintf(note, sizeof note, "leaving: %.*s", RING_NOTE_BYTES - 16, status_message());
        rings_note(parallel->rings, note);
    }
    if (parallel->mpi && !all_arrive(seconds)) parallel_abort(parallel, "leaving");
    parallel_finish(parallel);
}

enum status parallel_agree(struct comm *comm, enum status mine) {
    if (comm->size == 1 || mine == STATUS_PEER) return mine; /* the others are elsewhere */
    struct stream stream;
    stream_open_cpu(&stream, 1);
    int32_t first = mine == STATUS_OK ? comm->size : comm->rank;
    comm_all_reduce(comm, &stream, &first, 1, DTYPE_I32, COMM_MIN);
    TRY(stream_check(&stream));
    if (first == comm->size) return STATUS_OK;
    struct {
        int32_t code;
        char message[1024];
    } verdict = {.code = (int32_t)mine};
    snprintf(verdict.message, sizeof verdict.message, "%s", status_message());
    comm_broadcast(comm, &stream, &verdict, sizeof verdict, DTYPE_U8, first);
    TRY(stream_check(&stream));
    return status_fail((enum status)verdict.code, "rank %d: %s", first, verdict.message);
}

enum status parallel_kernels(struct comm *comm, const struct kernels **kernels, const char *name,
                             enum dtype act) {
    struct stream stream;
    stream_open_cpu(&stream, 1);
    int32_t level = kernels_cpu_level();
    comm_all_reduce(comm, &stream, &level, 1, DTYPE_I32, COMM_MIN);
    TRY(stream_check(&stream));
    if (!name || strcmp(name, "auto") == 0) name = kernels_cpu_level_name(level);
    return parallel_agree(comm, kernels_cpu(kernels, name, act));
}
