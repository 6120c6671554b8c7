#define _GNU_SOURCE
#include "parallel/nccl_library.h"

#include <dlfcn.h>
#include <glob.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char soname[] = "libnccl.so.2";

static bool open_file(struct nccl_library *library, const char *file) {
    library->handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (library->handle) snprintf(library->path, sizeof library->path, "%s", file);
    return library->handle != NULL;
}

/* Where pip puts it. */
static bool open_of_python(struct nccl_library *library) {
    const char *root = getenv("VIRTUAL_ENV");
    char pattern[4096];
    glob_t found;
    if (!root || !*root) return false;
    snprintf(pattern, sizeof pattern, "%s/lib/python3*/site-packages/nvidia/nccl/lib/%s", root,
             soname);
    if (glob(pattern, 0, NULL, &found) != 0) return false;
    bool open = open_file(library, found.gl_pathv[0]);
    globfree(&found);
    return open;
}

static enum status find(struct nccl_library *library) {
    const char *named = getenv("STRATA_NCCL_LIBRARY");
    bool chosen = named && *named;
    if (open_file(library, chosen ? named : soname)) return STATUS_OK;
    char reason[512];
    snprintf(reason, sizeof reason, "%s", dlerror());
    if (!chosen && open_of_python(library)) return STATUS_OK;
    return status_fail(STATUS_UNSUPPORTED, "%s not found: %s%s", chosen ? named : soname, reason,
                       chosen ? "" : " (the variable STRATA_NCCL_LIBRARY can name its file)");
}

/* POSIX lets an object pointer hold a function's address; C has no cast for it. */
static void look_up(void *function, struct nccl_library *library, const char *name) {
    void *address = dlsym(library->handle, name);
    memcpy(function, &address, sizeof address);
}

static enum status check_version(struct nccl_library *library) {
    nccl_get_version *get_version;
    look_up(&get_version, library, "ncclGetVersion");
    if (!get_version || get_version(&library->version) != NCCL_OK)
        return status_fail(STATUS_UNSUPPORTED, "%s does not tell NCCL's version", library->path);
    int v = library->version;
    if (v >= NCCL_OLDEST && v < NCCL_BEYOND) return STATUS_OK;
    return status_fail(STATUS_UNSUPPORTED,
                       "%s is NCCL %d.%d.%d: it takes 2.18 or a later one of version 2",
                       library->path, v / 10000, v / 100 % 100, v % 100);
}

static enum status look_up_all(struct nccl_library *library) {
    const struct {
        void *function;
        const char *name;
    } calls[] = {
        {&library->get_id, "ncclGetUniqueId"},
        {&library->result_text, "ncclGetErrorString"},
        {&library->last_error, "ncclGetLastError"},
        {&library->init_rank, "ncclCommInitRank"},
        {&library->split, "ncclCommSplit"},
        {&library->finalize, "ncclCommFinalize"},
        {&library->destroy, "ncclCommDestroy"},
        {&library->abort, "ncclCommAbort"},
        {&library->async_error, "ncclCommGetAsyncError"},
        {&library->group_start, "ncclGroupStart"},
        {&library->group_end, "ncclGroupEnd"},
        {&library->all_reduce, "ncclAllReduce"},
        {&library->all_gather, "ncclAllGather"},
        {&library->broadcast, "ncclBroadcast"},
        {&library->send, "ncclSend"},
        {&library->recv, "ncclRecv"},
    };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        if (!dlsym(library->handle, calls[i].name))
            return status_fail(STATUS_UNSUPPORTED, "%s has no %s", library->path, calls[i].name);
        look_up(calls[i].function, library, calls[i].name);
    }
    look_up(&library->mark, library, "strata_stand_in_mark");
    look_up(&library->done, library, "strata_stand_in_done");
    return STATUS_OK;
}

enum status nccl_library_open(struct nccl_library *library) {
    *library = (struct nccl_library){0};
    enum status status = find(library);
    if (status == STATUS_OK) status = check_version(library);
    if (status == STATUS_OK) status = look_up_all(library);
    if (status != STATUS_OK) nccl_library_close(library);
    return status;
}

void nccl_library_close(struct nccl_library *library) {
    if (library->handle) dlclose(library->handle);
    *library = (struct nccl_library){0};
}
