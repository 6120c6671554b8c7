/* libnccl.so.2, opened at run time: the program starts where there is none. */
#ifndef STRATA_PARALLEL_NCCL_LIBRARY_H
#define STRATA_PARALLEL_NCCL_LIBRARY_H

#include "kernels/base/status.h"
#include "parallel/nccl_abi.h"

enum {
    NCCL_OLDEST = 21800, /* the first that splits communicators */
    NCCL_BEYOND = 30000  /* a major version whose interface nobody has seen */
};

struct nccl_library {
    void *handle; /* NULL: not open */
    char path[4096];
    int version;

    nccl_get_id *get_id;
    nccl_result_text *result_text;
    nccl_last_error *last_error;
    nccl_init_rank *init_rank;
    nccl_split *split;
    nccl_end *finalize, *destroy, *abort;
    nccl_async_error *async_error;
    nccl_group *group_start, *group_end;
    nccl_reduce *all_reduce;
    nccl_gather *all_gather;
    nccl_bcast *broadcast;
    nccl_send *send;
    nccl_recv *recv;

    /* Of the stand-in, which works on the host's memory; NULL in the real library. */
    nccl_stand_in_mark *mark;
    nccl_stand_in_done *done;
};

/* Opens the file that the environment variable STRATA_NCCL_LIBRARY names; else libnccl.so.2 as the
 * system finds libraries; else the one of the Python environment that VIRTUAL_ENV names.
 * STATUS_UNSUPPORTED says that there is none, that its version is not one we know, or what it
 * lacks. */
enum status nccl_library_open(struct nccl_library *library);

/* May be called twice, and on a zeroed struct. */
void nccl_library_close(struct nccl_library *library);

#endif
