#define _GNU_SOURCE
#include "parallel/checkpoint_claim.h"

#include "core/directory.h"
#include "core/log.h"
#include "parallel/checkpoint_directory.h"
#include "parallel/parallel.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define START CHECKPOINT_UNFINISHED "start-"

enum { TRIES = 100 }; /* a folder that somebody still writes into needs more than one */

struct start_name {
    int64_t number, job, restart;
};

static bool parse(const char *name, struct start_name *start) {
    return sscanf(name, START "%" SCNd64 "-%" SCNd64 ".%" SCNd64 "-", &start->number, &start->job,
                  &start->restart) == 3;
}

/* The order of starts is that of their names: numbers have leading zeros. */
static bool later(const char *name, const char *than) {
    return strcmp(name, than) > 0;
}

static int64_t number_of(const char *variable) {
    const char *text = getenv(variable);
    return text ? strtoll(text, NULL, 10) : 0;
}

struct checkpoint_start checkpoint_start_of_job(void) {
    return (struct checkpoint_start){number_of("SLURM_JOB_ID"), number_of("SLURM_RESTART_COUNT")};
}

/* The name of the latest start in the directory, "" where there is none. */
static void find_latest(const char *directory, char latest[CHECKPOINT_CLAIM_BYTES]) {
    struct start_name start;
    latest[0] = '\0';
    DIR *stream = opendir(directory);
    if (!stream) return;
    for (struct dirent *entry; (entry = readdir(stream));)
        if (parse(entry->d_name, &start) && later(entry->d_name, latest))
            snprintf(latest, CHECKPOINT_CLAIM_BYTES, "%.*s", CHECKPOINT_CLAIM_BYTES - 1,
                     entry->d_name);
    closedir(stream);
}

static enum status taken(const char *directory, const char *folder) {
    return status_fail(STATUS_CONFIG,
                       "%s: a later start of this run (%s) has taken over: this one writes nothing "
                       "any more",
                       directory, folder);
}

/* The name goes first: whoever still writes there finds nothing from then on, also where a file
 * that is open keeps the folder from going (NFS). */
static enum status remove_former(const struct checkpoint_claim *claim, const char *name) {
    struct checkpoint_path from = checkpoint_path_join(claim->directory, name);
    struct checkpoint_path mine = checkpoint_path_join(claim->directory, claim->folder);
    struct checkpoint_path to = checkpoint_path_join(mine.text, name);
    if (rename(from.text, to.text) != 0 && errno != ENOENT)
        return status_fail(STATUS_IO, "can't take '%s' away from a former start: %s", from.text,
                           strerror(errno));
    for (int i = 0; i < TRIES; i++) /* between two looks a file may have been made in it */
        if (checkpoint_directory_remove(to.text)) return STATUS_OK;
    log_line(LOG_WARN, "event=checkpoint_leftovers path=%s",
             log_value(&(struct log_text){0}, to.text));
    return STATUS_OK;
}

static enum status remove_formers(const struct checkpoint_claim *claim) {
    enum status status = STATUS_OK;
    struct start_name start;
    DIR *stream = opendir(claim->directory);
    if (!stream)
        return status_fail(STATUS_IO, "can't list '%s': %s", claim->directory, strerror(errno));
    for (struct dirent *entry; status == STATUS_OK && (entry = readdir(stream));) {
        const char *name = entry->d_name;
        if (strncmp(name, CHECKPOINT_UNFINISHED, strlen(CHECKPOINT_UNFINISHED)) != 0) continue;
        if (strcmp(name, claim->folder) == 0) continue;
        bool newer = parse(name, &start) && later(name, claim->folder);
        status = newer ? taken(claim->directory, name) : remove_former(claim, name);
    }
    closedir(stream);
    return status;
}

/* Rank 0's part. */
static enum status take(struct checkpoint_claim *claim, const struct checkpoint_start *start) {
    char latest[CHECKPOINT_CLAIM_BYTES];
    struct start_name former = {0};
    uint32_t token = 0; /* a name that was a former start's must not come back */
    bool made = mkdir(claim->directory, 0777) == 0;
    if (!made && errno != EEXIST)
        return status_fail(STATUS_IO, "can't make '%s': %s", claim->directory, strerror(errno));
    if (made) TRY(directory_sync_parent(claim->directory));
    find_latest(claim->directory, latest);
    if (parse(latest, &former) && start->job > 0 && former.job == start->job &&
        former.restart > start->restart)
        return taken(claim->directory, latest);
    if (getrandom(&token, sizeof token, 0) != sizeof token) token = (uint32_t)getpid();
    snprintf(claim->folder, sizeof claim->folder,
             START "%08" PRId64 "-%" PRId64 ".%" PRId64 "-%08" PRIx32, former.number + 1,
             start->job, start->restart, token);
    struct checkpoint_path mine = checkpoint_path_join(claim->directory, claim->folder);
    if (mkdir(mine.text, 0777) != 0)
        return status_fail(STATUS_IO, "can't make '%s': %s", mine.text, strerror(errno));
    enum status status = remove_formers(claim);
    if (status != STATUS_OK) checkpoint_directory_remove(mine.text);
    return status;
}

enum status checkpoint_claim_take(struct comm *world, const char *directory,
                                  const struct checkpoint_start *start,
                                  struct checkpoint_claim *claim) {
    struct stream stream;
    *claim = (struct checkpoint_claim){0};
    TRY(checkpoint_directory_check(directory));
    snprintf(claim->directory, sizeof claim->directory, "%s", directory);
    enum status status = parallel_agree(world, world->rank == 0 ? take(claim, start) : STATUS_OK);
    if (status != STATUS_OK) {
        *claim = (struct checkpoint_claim){0};
        return status;
    }
    stream_open_cpu(&stream, 1);
    comm_broadcast(world, &stream, claim->folder, sizeof claim->folder, DTYPE_U8, 0);
    return stream_check(&stream);
}

bool checkpoint_claim_is_former(const char *directory, const struct checkpoint_start *start) {
    char latest[CHECKPOINT_CLAIM_BYTES];
    struct start_name former;
    find_latest(directory, latest);
    return start->job > 0 && parse(latest, &former) && former.job == start->job &&
           former.restart < start->restart;
}

enum status checkpoint_claim_check(const struct checkpoint_claim *claim) {
    struct checkpoint_path mine = checkpoint_path_join(claim->directory, claim->folder);
    char latest[CHECKPOINT_CLAIM_BYTES];
    if (access(mine.text, F_OK) == 0) return STATUS_OK;
    find_latest(claim->directory, latest);
    if (*latest) return taken(claim->directory, latest);
    return status_fail(
        STATUS_CONFIG,
        "'%s' is gone: a later start of this run has taken over, or somebody removed "
        "it",
        mine.text);
}

void checkpoint_claim_release(struct checkpoint_claim *claim) {
    if (*claim->folder) {
        checkpoint_directory_remove(checkpoint_path_join(claim->directory, claim->folder).text);
        rmdir(claim->directory); /* where it stayed empty */
    }
    *claim = (struct checkpoint_claim){0};
}
