#include "parallel/comm_sums.h"
#include "kernels/base/units.h"

#include <stddef.h>

static void free_places(struct comm_sums *sums) {
    for (int i = 0; i < COMM_SUMS_PIECES; i++) {
        sums->requests[i] = MPI_REQUEST_NULL;
        sums->owners[i] = NULL;
    }
    sums->first = NULL;
}

int comm_sums_open(struct comm_sums *sums, MPI_Comm comm) {
    *sums = (struct comm_sums){0};
    free_places(sums);
    int code = MPI_Comm_dup(comm, &sums->handle);
    if (code == MPI_SUCCESS) code = MPI_Comm_set_errhandler(sums->handle, MPI_ERRORS_RETURN);
    return code;
}

void comm_sums_close(struct comm_sums *sums) {
    if (sums->handle) MPI_Comm_free(&sums->handle);
    *sums = (struct comm_sums){0};
}

void comm_sums_abandon(struct comm_sums *sums) {
    free_places(sums);
}

static int start_piece(struct comm_sums *sums, int place) {
    struct comm_sum_job *job = sums->first;
    int64_t n = min_i64(job->piece, job->count - job->started);
    int code = MPI_Iallreduce(MPI_IN_PLACE, job->data + (size_t)job->started * job->width, (int)n,
                              job->type, MPI_SUM, sums->handle, &sums->requests[place]);
    if (code != MPI_SUCCESS) return code;
    sums->owners[place] = job;
    job->started += n;
    if (job->started == job->count) sums->first = job->next;
    return MPI_SUCCESS;
}

static int fill(struct comm_sums *sums) {
    for (int i = 0; i < COMM_SUMS_PIECES && sums->first; i++) {
        if (sums->owners[i]) continue;
        int code = start_piece(sums, i);
        if (code != MPI_SUCCESS) return code;
    }
    return MPI_SUCCESS;
}

int comm_sums_start(struct comm_sums *sums, struct comm_sum_job *job) {
    job->pieces_left = (job->count + job->piece - 1) / job->piece;
    struct comm_sum_job **end = &sums->first;
    while (*end) end = &(*end)->next;
    *end = job;
    return fill(sums);
}

static int finish(struct comm_sums *sums, const int *places, int count) {
    for (int i = 0; i < count; i++) {
        sums->owners[places[i]]->pieces_left--;
        sums->owners[places[i]] = NULL;
    }
    return fill(sums);
}

int comm_sums_test(struct comm_sums *sums) {
    int count = 0, places[COMM_SUMS_PIECES];
    int code = MPI_Testsome(COMM_SUMS_PIECES, sums->requests, &count, places, MPI_STATUSES_IGNORE);
    if (code != MPI_SUCCESS || count == MPI_UNDEFINED) return code;
    return finish(sums, places, count);
}

int comm_sums_wait(struct comm_sums *sums, const struct comm_sum_job *job) {
    while (job->pieces_left > 0) {
        int count = 0, places[COMM_SUMS_PIECES];
        int code =
            MPI_Waitsome(COMM_SUMS_PIECES, sums->requests, &count, places, MPI_STATUSES_IGNORE);
        if (code == MPI_SUCCESS) code = finish(sums, places, count);
        if (code != MPI_SUCCESS) return code;
    }
    return MPI_SUCCESS;
}
