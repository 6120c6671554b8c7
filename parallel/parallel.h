/* Start and end of a job: started plainly (one rank, MPI is never touched), by mpirun, or by
 * srun --mpi=pmix. What every rank must decide alike is decided here. */
#ifndef STRATA_PARALLEL_PARALLEL_H
#define STRATA_PARALLEL_PARALLEL_H

#include "core/comm.h"
#include "kernels/kernels.h"
#include "parallel/watchdog.h"
#include <stdbool.h>

struct nccl;

/* What moves the tensors of layers, gradients and stages: AUTO is MPI on CPUs. Agreement and small
 * numbers of the host go over MPI in any case. */
enum parallel_backend { PARALLEL_AUTO, PARALLEL_MPI, PARALLEL_NCCL };

struct parallel {
    struct comm world;
    int node_rank, node_size; /* among the ranks of this host */
    int threads;              /* my share of the physical cores that I may run on; at least 1 */
    int node_first;           /* lowest rank of this host in world */
    int node_cpus;       /* hardware threads that the ranks of this host may run on, together */
    bool mpi;            /* a launcher started us, MPI is up */
    struct rings *rings; /* what this rank called; NULL without MPI */
    struct watchdog *watchdog; /* NULL: nobody watches */
    struct nccl *nccl;         /* NULL until it was asked for */
};

/* Before anything else of the job. Identifies the process to the log. A job that srun started
 * without PMIx is refused: its ranks would not know each other. */
enum status parallel_start(struct parallel *parallel, int *argc, char ***argv);

/* From here on a call that takes `seconds` ends the job, naming the rank that holds it up
 * (parallel/watchdog.h); the table of all ranks' calls goes to `folder`. 0 s, or one rank: nobody
 * watches; nor where ranks can't connect to each other, which is logged. Collective. */
enum status parallel_watch(struct parallel *parallel, double seconds, const char *folder);

/* *nccl = what mesh_open takes for a back end: NULL for MPI, and for a rank alone. Opens NCCL once,
 * and closes it in parallel_finish. STATUS_UNSUPPORTED says why there is none; so does a job whose
 * ranks have libraries of different versions. Collective over world. */
enum status parallel_open_nccl(struct parallel *parallel, enum parallel_backend backend,
                               const struct nccl **nccl);

/* After every communicator but world is closed. May be called twice, and on a zeroed struct. */
void parallel_finish(struct parallel *parallel);

/* *value = its sum over the ranks of this host. Collective over world. */
enum status parallel_sum_of_host(struct parallel *parallel, double *value);

/* parallel_finish after a failure. All ranks should have agreed on it and come here; when they have
 * not within `seconds`, those that are missing wait in some collective for this one, and the job is
 * ended as by parallel_abort. */
void parallel_finish_failed(struct parallel *parallel, double seconds);

/* Ends every rank of the job with exit code 1 after one error line: rank, host, and the thread's
 * last message, which names the op. `what` says what was being done. A call can fail because
 * another rank made another one: where that is so, the watchdog's verdict is a second line. */
_Noreturn void parallel_abort(const struct parallel *parallel, const char *what);

/* The same verdict on every rank: OK when all of `comm` say OK; otherwise the first failing rank's
 * code and message ("rank 2: ..."). Collective, but for a rank that says STATUS_PEER: it returns at
 * once, since a collective failed and the others need not come here; its caller ends the job. */
enum status parallel_agree(struct comm *comm, enum status mine);

/* The op table that all ranks can run: `name` as kernels_cpu takes it; "auto" takes the best one of
 * the weakest machine. Collective over comm. */
enum status parallel_kernels(struct comm *comm, const struct kernels **kernels, const char *name,
                             enum dtype act);

#endif
