#define _GNU_SOURCE
#include "parallel/checkpoint_saving.h"

#include "core/atomic_file.h"
#include "core/log.h"
#include "kernels/base/clock.h"
#include "kernels/base/units.h"
#include "parallel/background.h"
#include "parallel/checkpoint_directory.h"
#include "parallel/checkpoint_index.h"
#include "parallel/checkpoint_rank_file.h"
#include "parallel/checkpoint_verify.h"
#include "parallel/parallel.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ALIGN = 64 };

/* Where it stands; the same on every rank between two calls. */
enum phase { WRITING, PUBLISHING, OVER };

struct checkpoint_saving {
    struct comm *world;
    struct checkpoint_claim claim;
    int64_t step, bytes;
    int keep;
    bool best;
    enum phase phase;
    bool failed; /* somewhere */

    struct background writer, publisher; /* publisher: rank 0's alone */
    atomic_bool cancel;
    /* The writer's while it runs. */
    struct checkpoint_rank_file file;
    struct checkpoint_path folder;
    int index; /* rank 0's descriptor of index.h5, -1 = none or closed */
    double begun, written;
};

/* --- the threads ------------------------------------------------------------------------------ */

/* The index was made by HDF5, and is complete. */
static enum status sync_index(struct checkpoint_saving *s) {
    if (s->index < 0) return STATUS_OK;
    int synced = descriptor_sync(s->index), error = errno;
    int closed = close(s->index); /* interrupted, it is closed all the same: close(2) */
    s->index = -1;
    if (synced == 0 && (closed == 0 || errno == EINTR)) return checkpoint_seal_index(&s->folder);
    return status_fail(STATUS_IO, "can't write '%s': %s", checkpoint_index_path(&s->folder).text,
                       strerror(synced ? error : errno));
}

static enum status write_files(void *context) {
    struct checkpoint_saving *s = context;
    s->begun = clock_seconds();
    TRY(checkpoint_rank_file_fill(&s->file, &s->cancel));
    TRY(sync_index(s));
    s->written = clock_seconds();
    return STATUS_OK;
}

static enum status publish(void *context) {
    const struct checkpoint_saving *s = context;
    TRY(checkpoint_directory_publish(&s->claim, s->step));
    if (checkpoint_directory_prune(&s->claim, s->step, s->keep,
                                   checkpoint_best(s->claim.directory)) != STATUS_OK)
        log_line(LOG_WARN, "event=checkpoint_prune reason=%s",
                 log_value(&(struct log_text){0}, status_message()));
    return s->best ? checkpoint_mark_best(&s->claim, s->step) : STATUS_OK;
}

/* --- begin ------------------------------------------------------------------------------------ */

static size_t padded(const struct weight *values) {
    size_t bytes = weight_bytes(values->layout, values->rows, values->cols);
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

size_t checkpoint_snapshot_bytes(const struct checkpoint_slab *slabs, int count) {
    size_t bytes = 0;
    for (int i = 0; i < count; i++) bytes += padded(&slabs[i].values);
    return bytes;
}

static void copy_values(struct checkpoint_saving *s, char *snapshot) {
    for (int i = 0; i < s->file.count && snapshot; i++) {
        struct weight *values = &s->file.parts[i].values;
        memcpy(snapshot, values->data, weight_bytes(values->layout, values->rows, values->cols));
        values->data = snapshot;
        snapshot += padded(values);
    }
}

static enum status create_index(struct checkpoint_saving *s, const struct checkpoint_request *r) {
    struct slab_record *records;
    int64_t total = 0;
    enum status status =
        checkpoint_index_gather(s->world, r->slabs, r->slab_count, &records, &total);
    if (status == STATUS_OK && s->world->rank == 0)
        status = checkpoint_index_create(checkpoint_index_path(&s->folder).text, r->state, records,
                                         total, &s->index);
    for (int64_t i = 0; i < total && status == STATUS_OK && s->world->rank == 0; i++)
        s->bytes += records[i].extent[0] * records[i].extent[1] * (int64_t)sizeof(float);
    free(records);
    return status;
}

static enum status create_files(struct checkpoint_saving *s, const struct checkpoint_request *r) {
    struct checkpoint_path mine = checkpoint_rank_path(&s->folder, s->world->rank);
    TRY(parallel_agree(s->world,
                       checkpoint_rank_file_create(&s->file, mine.text, r->slabs, r->slab_count)));
    return parallel_agree(s->world, create_index(s, r));
}

static void free_saving(struct checkpoint_saving **saving) {
    checkpoint_rank_file_free(&(*saving)->file);
    if ((*saving)->index >= 0) close((*saving)->index);
    free(*saving);
    *saving = NULL;
}

/* The end of one that failed. Files that can't be made have a reason of their own where the claim
 * is lost. */
static enum status give_up(struct checkpoint_saving **saving, enum status status) {
    struct comm *world = (*saving)->world;
    struct checkpoint_claim claim = (*saving)->claim;
    free_saving(saving);
    if (status == STATUS_PEER) return status;
    char reason[1024];
    snprintf(reason, sizeof reason, "%s", status_message());
    TRY(parallel_agree(world, world->rank == 0 ? checkpoint_claim_check(&claim) : STATUS_OK));
    if (world->rank == 0) checkpoint_directory_sweep(&claim);
    /* so that every rank sees the folder as it is then */
    struct stream stream;
    stream_open_cpu(&stream, 1);
    comm_barrier(world, &stream);
    return status_fail(status, "%s", reason);
}

enum status checkpoint_begin(struct checkpoint_saving **saving, struct comm *world,
                             const struct checkpoint_request *r) {
    assert(r->keep >= 1 && r->state->step >= 0 && r->state->history_count <= CHECKPOINT_HISTORY);
    struct checkpoint_saving *s = *saving = calloc(1, sizeof *s);
    enum status status = parallel_agree(
        world, s ? STATUS_OK : status_fail(STATUS_MEMORY, "no memory for a checkpoint"));
    if (status != STATUS_OK) {
        free(s);
        *saving = NULL;
        return status;
    }
    s->world = world;
    s->claim = *r->claim;
    s->step = r->state->step;
    s->keep = r->keep;
    s->best = r->best;
    s->index = -1;
    status = parallel_agree(world, world->rank == 0 ? checkpoint_directory_begin(r->claim, s->step)
                                                    : STATUS_OK);
    if (status == STATUS_OK) {
        s->folder = checkpoint_temporary_path(r->claim, s->step);
        status = create_files(s, r);
    }
    if (status != STATUS_OK) return give_up(saving, status);
    copy_values(s, r->snapshot);
    background_start(&s->writer, write_files, s);
    return STATUS_OK;
}

/* --- poll and finish -------------------------------------------------------------------------- */

/* Whether this rank's part of the phase is still being done. */
static bool busy(const struct checkpoint_saving *s) {
    return !background_done(s->phase == WRITING ? &s->writer : &s->publisher);
}

enum status checkpoint_poll(struct checkpoint_saving *s, bool *over) {
    struct stream stream;
    stream_open_cpu(&stream, 1);
    bool mine = busy(s);
    int32_t any[2] = {mine, !mine && s->writer.status != STATUS_OK};
    comm_all_reduce(s->world, &stream, any, 2, DTYPE_I32, COMM_MAX);
    TRY(stream_check(&stream));
    if (any[1]) s->failed = true;
    if (s->failed) atomic_store(&s->cancel, true);
    if (!any[0] && s->failed) s->phase = OVER;
    if (!any[0] && s->phase == PUBLISHING) s->phase = OVER;
    if (!any[0] && s->phase == WRITING) {
        s->phase = PUBLISHING;
        if (s->world->rank == 0) background_start(&s->publisher, publish, s);
    }
    *over = s->phase == OVER || s->failed;
    return STATUS_OK;
}

/* Polls ever more seldom, at most some 20 times a second. */
static enum status wait_until_over(struct checkpoint_saving *s) {
    bool over;
    TRY(checkpoint_poll(s, &over));
    for (int64_t pause = 100000; s->phase != OVER; pause = min_i64(2 * pause, 50000000)) {
        struct timespec time = {.tv_nsec = (long)pause};
        nanosleep(&time, NULL);
        TRY(checkpoint_poll(s, &over));
    }
    return STATUS_OK;
}

enum status checkpoint_finish(struct checkpoint_saving **saving, struct checkpoint_report *report) {
    struct checkpoint_saving *s = *saving;
    struct comm *world = s->world;
    enum status status = wait_until_over(s);
    if (status != STATUS_OK) { /* STATUS_PEER: nobody to agree with */
        checkpoint_abandon(saving);
        return status;
    }
    status = background_join(&s->writer);
    if (status == STATUS_CANCELLED) status = STATUS_OK; /* another rank has the reason */
    if (status == STATUS_OK) status = background_join(&s->publisher);
    status = parallel_agree(world, status);
    if (status != STATUS_OK) return give_up(saving, status);
    if (report)
        *report = (struct checkpoint_report){.step = s->step,
                                             .begun = s->begun,
                                             .written = s->written,
                                             .ended = clock_seconds(),
                                             .bytes = s->bytes};
    free_saving(saving);
    return STATUS_OK;
}

void checkpoint_abandon(struct checkpoint_saving **saving) {
    struct checkpoint_saving *s = *saving;
    if (!s) return;
    atomic_store(&s->cancel, true);
    background_join(&s->writer);
    background_join(&s->publisher);
    free_saving(saving);
}

enum status checkpoint_save(struct comm *world, const struct checkpoint_claim *claim,
                            const struct checkpoint_state *state,
                            const struct checkpoint_slab *slabs, int slab_count, int keep) {
    struct checkpoint_saving *saving;
    const struct checkpoint_request request = {
        .claim = claim, .state = state, .slabs = slabs, .slab_count = slab_count, .keep = keep};
    TRY(checkpoint_begin(&saving, world, &request));
    return checkpoint_finish(&saving, NULL);
}
