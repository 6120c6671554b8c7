/* The part of NCCL's binary interface that we use: what parallel/nccl_library.h looks up in
 * libnccl.so.2, and what the stand-in for it (parallel/nccl_stand_in.c) provides. Facts as of NCCL
 * 2.18 to 2.30, from the reference of its API (docs.nvidia.com/deeplearning/nccl, "API"); enums are
 * ints, a stream is CUDA's, as a pointer. Every call returns an NCCL_ result. */
#ifndef STRATA_PARALLEL_NCCL_ABI_H
#define STRATA_PARALLEL_NCCL_ABI_H

#include <stddef.h>
#include <stdint.h>

enum nccl_result {
    NCCL_OK = 0,
    NCCL_CUDA_ERROR = 1,
    NCCL_SYSTEM_ERROR = 2,
    NCCL_INTERNAL_ERROR = 3,
    NCCL_INVALID_ARGUMENT = 4,
    NCCL_INVALID_USAGE = 5,
    NCCL_REMOTE_ERROR = 6,
    NCCL_IN_PROGRESS = 7
};

enum nccl_type {
    NCCL_U8 = 1,
    NCCL_I32 = 2,
    NCCL_I64 = 4,
    NCCL_F32 = 7,
    NCCL_F64 = 8,
    NCCL_BF16 = 9
};

enum nccl_sum { NCCL_SUM = 0, NCCL_MAX = 2, NCCL_MIN = 3 };

enum { NCCL_NO_COLOUR = -1 };

/* Passed by value. */
struct nccl_id {
    char bytes[128];
};

struct ncclComm;

/* A version is 10000 * major + 100 * minor + patch. */
typedef int nccl_get_version(int *version);
typedef int nccl_get_id(struct nccl_id *id);
typedef const char *nccl_result_text(int result);
/* What last went wrong, for a person; comm may be NULL. */
typedef const char *nccl_last_error(struct ncclComm *comm);
/* Waits for all ranks. */
typedef int nccl_init_rank(struct ncclComm **comm, int ranks, struct nccl_id id, int rank);
/* Ranks of one colour, ordered by key, become a communicator; collective. `config` may be NULL. */
typedef int nccl_split(struct ncclComm *comm, int colour, int key, struct ncclComm **part,
                       void *config);
/* finalize: what was issued is done first. destroy and abort free; abort waits for nobody. */
typedef int nccl_end(struct ncclComm *comm);
typedef int nccl_async_error(struct ncclComm *comm, int *result);
/* What is called between start and end runs together, and is issued by end. */
typedef int nccl_group(void);
typedef int nccl_reduce(const void *in, void *out, size_t count, int type, int sum,
                        struct ncclComm *comm, void *stream);
typedef int nccl_gather(const void *in, void *out, size_t count, int type, struct ncclComm *comm,
                        void *stream);
typedef int nccl_bcast(const void *in, void *out, size_t count, int type, int root,
                       struct ncclComm *comm, void *stream);
typedef int nccl_send(const void *in, size_t count, int type, int peer, struct ncclComm *comm,
                      void *stream);
typedef int nccl_recv(void *out, size_t count, int type, int peer, struct ncclComm *comm,
                      void *stream);

/* The stand-in's own two, by which its queues are moved on: CUDA's streams are not there to do it.
 * A mark is what was last put on a stream; 0: nothing. done moves everything on a little and tells
 * whether that has ended, one way or another. */
typedef uint64_t nccl_stand_in_mark(const void *stream);
typedef int nccl_stand_in_done(uint64_t mark);

#endif
