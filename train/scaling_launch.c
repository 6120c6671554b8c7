#define _GNU_SOURCE
#include "train/scaling_launch.h"

#include "core/directory.h"
#include "core/log.h"
#include "train/commands.h"
#include "train/scaling.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { LINE_BYTES = 1024 };

/* --- words -------------------------------------------------------------------------------------
 */

/* A command line that grows; words are owned. */
struct words {
    char *items[SCALING_MAX_WORDS + 1]; /* NULL at the end */
    int count;
};

static void free_words(struct words *words) {
    for (int i = 0; i < words->count; i++) free(words->items[i]);
    *words = (struct words){0};
}

static enum status add_word(struct words *words, char *word) {
    if (word && words->count < SCALING_MAX_WORDS) {
        words->items[words->count++] = word;
        return STATUS_OK;
    }
    free(word);
    return word ? status_fail(STATUS_CONFIG, "a command line of more than %d words",
                              SCALING_MAX_WORDS)
                : status_fail(STATUS_MEMORY, "no memory for a command line");
}

/* Text with every `{name}` replaced by a number; NULL without memory. */
static char *replace(const char *text, const char *name, int64_t value) {
    char *out = NULL;
    size_t bytes, length = strlen(name);
    FILE *file = open_memstream(&out, &bytes);
    if (!file) return NULL;
    for (const char *found; (found = strstr(text, name)); text = found + length)
        fprintf(file, "%.*s%lld", (int)(found - text), text, (long long)value);
    fputs(text, file);
    if (fclose(file) == 0) return out;
    free(out);
    return NULL;
}

static int64_t from_environment(const char *name, int64_t otherwise) {
    const char *text = getenv(name);
    int64_t value = text ? strtoll(text, NULL, 10) : 0;
    return value > 0 ? value : otherwise;
}

/* With a node's tasks as Slurm has them for the job. */
static enum status add_launcher(struct words *words, const char *launch, int64_t ranks) {
    int64_t tasks = from_environment("SLURM_NTASKS_PER_NODE", 1);
    char *counted = replace(launch, "{ranks}", ranks);
    char *text = counted ? replace(counted, "{nodes}", (ranks + tasks - 1) / tasks) : NULL;
    enum status status =
        text ? STATUS_OK : status_fail(STATUS_MEMORY, "no memory for a command line");
    char *rest = text;
    for (const char *word; status == STATUS_OK && (word = strsep(&rest, " "));)
        if (*word) status = add_word(words, strdup(word));
    free(counted);
    free(text);
    return status;
}

/* srun does not take --cpus-per-task from the job by itself. */
static void choose_launcher(const struct scaling_plan *plan, int64_t ranks, char text[LINE_BYTES]) {
    int64_t cpus = from_environment("SLURM_CPUS_PER_TASK", 0);
    if (plan->launch)
        snprintf(text, LINE_BYTES, "%s", plan->launch);
    else if (!getenv("SLURM_JOB_ID"))
        snprintf(text, LINE_BYTES, "%s", ranks > 1 ? "mpirun -n {ranks}" : "");
    else if (cpus > 0)
        snprintf(text, LINE_BYTES,
                 "srun --mpi=pmix --wait=60 --nodes={nodes} --ntasks={ranks} --cpus-per-task=%lld",
                 (long long)cpus);
    else
        snprintf(text, LINE_BYTES, "srun --mpi=pmix --wait=60 --nodes={nodes} --ntasks={ranks}");
}

/* --- a run --------------------------------------------------------------------------------------
 */

struct job {
    const struct scaling_plan *plan;
    const char *path;     /* of the run */
    int64_t ranks, batch; /* batch 0: as the config has it */
};

/* The user's settings, then those of a measurement, which win. */
static enum status add_settings(struct words *words, const struct job *job) {
    static const char *const measuring[] = {"train.log_every=1",    "train.validate_every=0",
                                            "data.validation=[]",   "train.checkpoint_every=-1",
                                            "train.rewind_after=0", "train.export=false",
                                            "train.resume=never",   "train.tensorboard=false"};
    char text[LINE_BYTES * 5];
    for (int i = 0; i < job->plan->setting_count; i++)
        TRY(add_word(words, replace(job->plan->settings[i], "{ranks}", job->ranks)));
    for (size_t i = 0; i < sizeof measuring / sizeof *measuring; i++)
        TRY(add_word(words, strdup(measuring[i])));
    snprintf(text, sizeof text, "train.steps=%lld", (long long)job->plan->steps);
    TRY(add_word(words, strdup(text)));
    snprintf(text, sizeof text, "train.trace_step=%lld", (long long)job->plan->steps);
    TRY(add_word(words, strdup(text)));
    snprintf(text, sizeof text, "train.out=%s", job->path);
    TRY(add_word(words, strdup(text)));
    if (job->batch == 0) return STATUS_OK;
    snprintf(text, sizeof text, "train.global_batch=%lld", (long long)job->batch);
    return add_word(words, strdup(text));
}

static enum status add_program(struct words *words, const struct job *job) {
    char launcher[LINE_BYTES], program[4096];
    choose_launcher(job->plan, job->ranks, launcher);
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length < 0) return status_fail(STATUS_IO, "/proc/self/exe: %s", strerror(errno));
    program[length] = '\0';
    TRY(add_launcher(words, launcher, job->ranks));
    TRY(add_word(words, strdup(program)));
    TRY(add_word(words, strdup("train")));
    return add_word(words, strdup(job->plan->config));
}

/* The last line that tells of an error, else the last line. */
static void find_reason(const char *path, char reason[LINE_BYTES]) {
    char line[LINE_BYTES];
    bool error = false;
    FILE *file = fopen(path, "r");
    snprintf(reason, LINE_BYTES, "nothing");
    while (file && fgets(line, sizeof line, file)) {
        bool tells = strstr(line, "level=error") != NULL;
        line[strcspn(line, "\n")] = '\0';
        if (strspn(line, "- ") == strlen(line) || (error && !tells)) continue;
        error = tells;
        memcpy(reason, line, sizeof line);
    }
    if (file) fclose(file);
}

static enum status judge(const struct job *job, const char *log, int ended) {
    char reason[LINE_BYTES];
    if (WIFEXITED(ended) && WEXITSTATUS(ended) == 0) return STATUS_OK;
    if (WIFEXITED(ended) && WEXITSTATUS(ended) == EXIT_STOPPED)
        return status_fail(STATUS_CANCELLED, "%s was stopped", job->path);
    find_reason(log, reason);
    return status_fail(STATUS_CONFIG, "%s on %lld ranks ended with %s %d; %s says: %s", job->path,
                       (long long)job->ranks, WIFEXITED(ended) ? "code" : "signal",
                       WIFEXITED(ended) ? WEXITSTATUS(ended) : WTERMSIG(ended), log, reason);
}

/* All its output goes to the log; it reads nothing. */
static enum status run_child(const struct job *job, const struct words *words) {
    char log[4096];
    posix_spawn_file_actions_t files;
    pid_t child;
    int ended = 0;
    snprintf(log, sizeof log, "%s/train.log", job->path);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, 1, log, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    posix_spawn_file_actions_adddup2(&files, 1, 2);
    int failed = posix_spawnp(&child, words->items[0], &files, NULL, words->items, environ);
    posix_spawn_file_actions_destroy(&files);
    if (failed)
        return status_fail(STATUS_IO, "%s can't be started: %s", words->items[0], strerror(failed));
    while (waitpid(child, &ended, 0) < 0)
        if (errno != EINTR) return status_fail(STATUS_IO, "waiting: %s", strerror(errno));
    return judge(job, log, ended);
}

/* --- whether it is there already
 * ------------------------------------------------------------------ */

static enum status refuse_change(const struct config_change *change, void *context) {
    (void)context;
    return status_fail(STATUS_CONFIG, "%s differs", change->key);
}

/* What the run would be, resolved; the caller frees it. */
static enum status resolve(const struct job *job, struct run_options *options,
                           struct config_table tables[RUN_TABLES]) {
    struct words words = {0};
    run_options_tables(options, tables);
    enum status status = add_settings(&words, job);
    if (status == STATUS_OK)
        status = config_load(tables, RUN_TABLES, job->plan->config, words.items, words.count);
    free_words(&words);
    if (status == STATUS_OK) options->parallel.zero = run_options_zero(options, (int)job->ranks);
    return status;
}

static bool is_there(const struct job *job, const struct config_table tables[RUN_TABLES]) {
    struct scaling_run run = {0};
    bool same = false;
    if (scaling_run_read(&run, job->path) == STATUS_OK)
        same = run.ranks == job->ranks && run.last_step == job->plan->steps &&
               config_compare(tables, run.tables, RUN_TABLES, refuse_change, NULL) == STATUS_OK;
    scaling_run_free(&run);
    return same;
}

static enum status make_run(const struct job *job) {
    struct run_options options;
    struct config_table tables[RUN_TABLES];
    struct words words = {0};
    TRY(resolve(job, &options, tables));
    bool there = is_there(job, tables);
    config_free(tables, RUN_TABLES);
    log_line(LOG_INFO, "event=%s ranks=%lld run=%s", there ? "kept" : "run", (long long)job->ranks,
             log_value(&(struct log_text){0}, job->path));
    if (there) return STATUS_OK;
    enum status status = directory_make(job->path);
    if (status == STATUS_OK) status = add_program(&words, job);
    if (status == STATUS_OK) status = add_settings(&words, job);
    if (status == STATUS_OK) status = run_child(job, &words);
    free_words(&words);
    return status;
}

/* --- all of them
 * ----------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

enum status scaling_plan_ranks(struct scaling_plan *plan, const char *text) {
    const char *at = text;
    for (char more = ','; more == ',';) {
        char *end;
        long long value = strtoll(at, &end, 10);
        more = *end;
        if (end == at || (more && more != ',') || value < 1 || value > 1000000)
            return status_fail(STATUS_CONFIG, "--ranks: '%s' is not a list such as 1,2,4", text);
        if (plan->rank_count == SCALING_MAX_RUNS)
            return status_fail(STATUS_CONFIG, "--ranks: more than %d numbers", SCALING_MAX_RUNS);
        plan->ranks[plan->rank_count++] = value;
        at = end + 1;
    }
    qsort(plan->ranks, (size_t)plan->rank_count, sizeof *plan->ranks, ascending);
    for (int i = 1; i < plan->rank_count; i++)
        if (plan->ranks[i] == plan->ranks[i - 1])
            return status_fail(STATUS_CONFIG, "--ranks: %lld twice", (long long)plan->ranks[i]);
    if (plan->rank_count > 1) return STATUS_OK;
    return status_fail(STATUS_CONFIG, "--ranks: scaling is seen with two numbers of ranks or more");
}

static enum status launch_one(const struct scaling_plan *plan, const char *kind, int64_t ranks,
                              int64_t batch, char **paths, int *count) {
    char *path;
    if (asprintf(&path, "%s/%s-%lld", plan->out, kind, (long long)ranks) < 0)
        return status_fail(STATUS_MEMORY, "no memory for a run's name");
    paths[(*count)++] = path;
    return make_run(&(struct job){plan, path, ranks, batch});
}

enum status scaling_launch(const struct scaling_plan *plan, char **paths, int *count) {
    struct run_options options;
    struct config_table tables[RUN_TABLES];
    int64_t fewest = plan->ranks[0];
    TRY(resolve(&(struct job){plan, plan->out, fewest, 0}, &options, tables));
    int64_t batch = options.train.global_batch;
    config_free(tables, RUN_TABLES);
    if (plan->weak && batch % fewest != 0)
        return status_fail(STATUS_CONFIG,
                           "--weak: train.global_batch %lld is no multiple of %lld ranks",
                           (long long)batch, (long long)fewest);
    for (int i = 0; i < plan->rank_count; i++)
        TRY(launch_one(plan, "strong", plan->ranks[i], 0, paths, count));
    for (int i = 1; i < plan->rank_count && plan->weak; i++)
        TRY(launch_one(plan, "weak", plan->ranks[i], batch / fewest * plan->ranks[i], paths,
                       count));
    return STATUS_OK;
}
