#define _GNU_SOURCE
#include "tests/layouts.h"

#include "core/export.h"
#include "data/token_file.h"
#include "parallel/comm_mpi.h"
#include "train/result.h"

#include <ftw.h>
#include <unistd.h>
#include <xxhash.h>

enum { DOCUMENTS = 23, TEXT_BYTES = 4096, MOST_WORDS = 24 };

/* --- a job and its folder -------------------------------------------------------------------- */

void layout_start(struct parallel *job, int *argc, char ***argv) {
    if (parallel_start(job, argc, argv) != STATUS_OK) exit(1);
    job->threads = 1;
    if (job->mpi) setenv("CMOCKA_TEST_ABORT", "1", 1); /* the others would wait for a failed rank */
}

int layout_finish(struct parallel *job, int failed) {
    if (failed) parallel_abort(job, "comparing layouts");
    parallel_finish(job);
    return 0;
}

static void wait_for_all(struct parallel *job) {
    struct stream stream;
    stream_open_cpu(&stream, 1);
    comm_barrier(&job->world, &stream);
    assert_ok(stream_check(&stream));
}

/* Documents of 2 to 33 tokens. */
static void write_tokens(const char *path) {
    const struct token_file_info info = {.vocabulary = LAYOUT_VOCABULARY};
    struct token_writer *writer;
    uint32_t random = 12345;
    assert_ok(token_writer_create(&writer, path, &info));
    for (int d = 0; d < DOCUMENTS; d++) {
        int32_t ids[64], count = 2 + d * 7 % 32;
        for (int i = 0; i < count; i++) {
            random = random * 1664525u + 1013904223u;
            ids[i] = (int32_t)((random >> 16) % LAYOUT_VOCABULARY);
        }
        assert_ok(token_writer_append(writer, ids, NULL, count));
    }
    assert_ok(token_writer_finish(writer));
}

/* FOLDER/NAME.json, FOLDER/NAME/model.safetensors and FOLDER/NAME.gguf in Q8_0. */
static void write_model(const char *folder, const struct layout_model *kind) {
    struct model_config config;
    struct model model;
    char json[512], directory[512], gguf[512];
    snprintf(json, sizeof json, "%s/%s.json", folder, kind->name);
    snprintf(directory, sizeof directory, "%s/%s", folder, kind->name);
    snprintf(gguf, sizeof gguf, "%s/%s.gguf", folder, kind->name);
    FILE *file = fopen(json, "w");
    assert_non_null(file);
    fputs(kind->json, file);
    assert_int_equal(fclose(file), 0);
    assert_ok(model_config_read_json(&config, json));
    assert_ok(model_create(&model, &config, NULL, LAYOUT_PANEL_F32));
    model_init_random(&model, 7, kind->init_std, 1);
    const struct export_request plain = {.model = &model, .dtype = DTYPE_F32, .path = directory};
    const struct export_request blocks = {
        .model = &model, .format = EXPORT_GGUF, .dtype = DTYPE_Q8_0, .path = gguf};
    assert_ok(export_model(&plain));
    if (!config.mlp_bias) assert_ok(export_model(&blocks)); /* GGUF has no name for them */
    model_free(&model);
}

void layout_site_open(struct layout_site *site, struct parallel *job) {
    char path[512];
    struct stream stream;
    stream_open_cpu(&stream, 1);
    *site = (struct layout_site){.job = job};
    if (job->world.rank == 0) {
        const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
        snprintf(site->folder, sizeof site->folder, "%s/strata-layouts-XXXXXX", base);
        assert_non_null(mkdtemp(site->folder));
        snprintf(path, sizeof path, "%s/tokens.h5", site->folder);
        write_tokens(path);
        for (const struct layout_model *kind = layout_models; kind->name; kind++)
            write_model(site->folder, kind);
    }
    comm_broadcast(&job->world, &stream, site->folder, sizeof site->folder, DTYPE_U8, 0);
    assert_ok(stream_check(&stream));
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *place) {
    (void)info, (void)type, (void)place;
    return remove(path);
}

void layout_site_close(struct layout_site *site) {
    wait_for_all(site->job);
    if (site->job->world.rank == 0) nftw(site->folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

void layout_remove(const struct layout_site *site, const char *name) {
    char path[512];
    wait_for_all(site->job);
    snprintf(path, sizeof path, "%s/%s", site->folder, name);
    if (site->job->world.rank == 0) nftw(path, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    wait_for_all(site->job);
}

/* --- a run ----------------------------------------------------------------------------------- */

/* Where the model comes from, as a run file says it: adapters need one that is written. */
static void describe_model(const struct layout_site *site, const struct layout_case *row,
                           char text[TEXT_BYTES]) {
    size_t length = strcspn(row->model, ".");
    const struct layout_model *kind = layout_models;
    while (kind->name && (strlen(kind->name) != length || strncmp(kind->name, row->model, length)))
        kind++;
    if (!kind->name)
        snprintf(text, TEXT_BYTES, "path: tests/fixtures/%s", row->model);
    else if (strstr(row->training, "mode=lora"))
        snprintf(text, TEXT_BYTES, "path: %s/%s", site->folder, row->model);
    else
        snprintf(text, TEXT_BYTES, "config: %s/%s.json, init_std: %g", site->folder, row->model,
                 (double)kind->init_std);
}

/* The words of a row as a command line's arguments; all lie in `text`. */
static int take_words(char *arguments[MOST_WORDS], int count, const char *words, const char *prefix,
                      char text[TEXT_BYTES]) {
    char *next = text, *end = text + TEXT_BYTES;
    while (*(words += strspn(words, " "))) {
        int length = (int)strcspn(words, " =");
        bool whole = memchr(words, '.', (size_t)length) != NULL;
        length = (int)strcspn(words, " ");
        assert_true(count < MOST_WORDS && end - next > length + 16);
        arguments[count++] = next;
        next += snprintf(next, (size_t)(end - next), "%s%.*s", whole ? "" : prefix, length, words);
        next++;
        words += length;
    }
    return count;
}

int layout_steps(const struct layout_case *row) {
    const char *word = strstr(row->training, "steps=");
    return word ? atoi(word + strlen("steps=")) : LAYOUT_STEPS;
}

/* eps is large: Adam makes a step of any gradient above it, also of the rounding that is left where
 * a gradient is 0. */
void layout_parse(struct layout_run *run, const struct layout_site *site, const char *name,
                  const struct layout_case *row, const char *layout) {
    char text[2 * TEXT_BYTES], model[TEXT_BYTES], words[2][TEXT_BYTES], *arguments[MOST_WORDS];
    memset(run, 0, sizeof *run);
    describe_model(site, row, model);
    snprintf(text, sizeof text,
             "model: {%s}\n"
             "data: {train: [%s/tokens.h5], validation: [%s/tokens.h5], sequence_length: 24, "
             "packing: off}\n"
             "train: {out: %s/%s, steps: %d, lr: 1e-3, warmup: 4, threads: 1, keep: 100,"
             " eps: 1e-3}\n",
             model, site->folder, site->folder, site->folder, name, LAYOUT_STEPS);
    int count = take_words(arguments, 0, row->training, "train.", words[0]);
    count = take_words(arguments, count, layout, "parallel.", words[1]);
    run_options_tables(&run->options, run->tables);
    assert_ok(
        config_parse(run->tables, RUN_TABLES, text, strlen(text), "test.yaml", arguments, count));
}

void layout_open(struct layout_run *run, const struct layout_site *site, const char *name,
                 const struct layout_case *row, const char *layout, struct parallel *parallel) {
    layout_parse(run, site, name, row, layout);
    if (parallel->world.rank == 0) mkdir(run->options.train.out, 0777);
    assert_ok(trainer_open(&run->trainer, &run->options, parallel));
}

void layout_close(struct layout_run *run) {
    trainer_close(&run->trainer);
    config_free(run->tables, RUN_TABLES);
}

/* --- training -------------------------------------------------------------------------------- */

/* A place's name of what it holds: the stage, but for a tied embedding, which two of them have. */
static int64_t key_of(const struct trainer *t, const struct param *param) {
    int stage = param->id == WEIGHT_EMBED ? 0 : t->place.at[MESH_PP];
    return (int64_t)stage * t->mesh.size[MESH_TP] + t->place.at[MESH_TP] / param->copies;
}

struct holder {
    int64_t name, key, weights; /* hashes but for the key; 0 where a rank has fewer parameters */
};

static struct holder hold(struct trainer *t, int i) {
    if (i >= t->param_count) return (struct holder){0};
    struct param *param = t->params[i];
    sharded_bring(&t->sharded, param);
    const struct weight *w = &param->w;
    return (struct holder){
        .name = (int64_t)XXH3_64bits(param->name, strlen(param->name)),
        .key = key_of(t, param),
        .weights = (int64_t)XXH3_64bits(w->data, weight_bytes(w->layout, w->rows, w->cols))};
}

/* The weights of every trained parameter are, bit for bit, those of all ranks with the same place
 * in the model. */
static void check_holders(struct trainer *t) {
    struct comm *world = &t->parallel->world;
    int64_t most = t->param_count;
    comm_all_reduce(world, &t->ws.stream, &most, 1, DTYPE_I64, COMM_MAX);
    size_t count = (size_t)world->size * (size_t)most;
    struct holder *all = calloc(count, sizeof *all), *mine = calloc((size_t)most, sizeof *mine);
    assert_non_null(all);
    assert_non_null(mine);
    for (int i = 0; i < most; i++) mine[i] = hold(t, i);
    comm_all_gather(world, &t->ws.stream, all, mine, most * 3, DTYPE_I64);
    assert_ok(stream_check(&t->ws.stream));
    for (int i = 0; i < t->param_count; i++)
        for (size_t j = 0; j < count; j++)
            if (all[j].name == mine[i].name && all[j].key == mine[i].key &&
                all[j].weights != mine[i].weights)
                fail_msg("%s differs between ranks %d and %d", t->params[i]->name, world->rank,
                         (int)(j / (size_t)most));
    free(all);
    free(mine);
}

/* The plan is what the ranks that have most take. */
static void check_plan(struct layout_run *run) {
    struct trainer *t = &run->trainer;
    struct trainer_memory planned, taken = trainer_memory(t);
    int64_t largest = (int64_t)trainer_memory_total(&taken);
    comm_all_reduce(&t->parallel->world, &t->ws.stream, &largest, 1, DTYPE_I64, COMM_MAX);
    assert_ok(stream_check(&t->ws.stream));
    assert_ok(trainer_plan(&run->options, t->parallel->world.size, &planned));
    assert_int_equal(largest, trainer_memory_total(&planned));
}

static void train_steps(const struct layout_site *site, const char *name,
                        const struct layout_case *row, const struct layout_leg *leg,
                        struct parallel *parallel, int first, struct layout_figures *figures) {
    static struct layout_run run;
    bool last = leg->end == layout_steps(row);
    layout_open(&run, site, name, row, leg->layout, parallel);
    check_plan(&run);
    assert_int_equal(run.trainer.step, first);
    for (int step = first; step < leg->end; step++) {
        struct step_report report;
        assert_ok(trainer_step(&run.trainer, &report));
        figures->losses[step] = report.loss;
        figures->norms[step] = report.gradient_norm;
        if (step == 0) layout_write_state(&run, true, report.gradient_norm);
    }
    if (!last || run.options.train.export_model) assert_ok(trainer_checkpoint(&run.trainer, false));
    if (last) {
        assert_ok(trainer_validate(&run.trainer, &figures->validation));
        assert_ok(result_export(&run.trainer));
        layout_write_state(&run, false, 0.0);
    }
    check_holders(&run.trainer);
    layout_close(&run);
}

void layout_train(const struct layout_site *site, const char *name, const struct layout_case *row,
                  const struct layout_leg *legs) {
    struct parallel *job = site->job;
    struct layout_figures figures = {0};
    char folder[400];
    assert_true(layout_steps(row) <= LAYOUT_MOST_STEPS);
    for (int first = 0; first < layout_steps(row); first = legs++->end) {
        struct parallel part = *job;
        bool out = job->world.rank >= legs->ranks;
        assert_ok(comm_mpi_open_split(&part.world, &job->world, "part", out, job->world.rank));
        if (legs->ranks == 1) part.node_size = 1, part.node_rank = 0;
        if (!out) train_steps(site, name, row, legs, &part, first, &figures);
        comm_close(&part.world);
        wait_for_all(job);
    }
    snprintf(folder, sizeof folder, "%s/%s", site->folder, name);
    if (job->world.rank == 0) layout_write_figures(folder, &figures);
}

/* --- what is refused and planned -------------------------------------------------------------- */

void layout_check_refused(struct parallel *job, const struct layout_refusal *rows, size_t count) {
    static struct layout_run run;
    struct layout_site site;
    layout_site_open(&site, job);
    for (size_t i = 0; i < count; i++) {
        struct trainer_memory memory;
        layout_parse(&run, &site, "refused", &rows[i].row, rows[i].row.layout);
        enum status status = run_options_check(&run.options);
        if (status == STATUS_OK) status = trainer_plan(&run.options, rows[i].row.ranks, &memory);
        assert_int_equal(status, STATUS_CONFIG);
        if (!strstr(status_message(), rows[i].text)) fail_msg("%s", status_message());
        layout_close(&run);
    }
    layout_site_close(&site);
}

struct trainer_memory layout_plan(const struct layout_site *site, const struct layout_case *row) {
    static struct layout_run run;
    struct trainer_memory memory = {0};
    layout_parse(&run, site, "planned", row, row->layout);
    assert_ok(trainer_plan(&run.options, row->ranks, &memory));
    layout_close(&run);
    return memory;
}

void layout_check_broken_weight(struct parallel *job, const struct layout_case *row, int layer) {
    static struct layout_run run;
    struct layout_site site;
    struct step_report report;
    char text[128];
    if (job->world.size != row->ranks) return;
    layout_site_open(&site, job);
    layout_open(&run, &site, "broken", row, row->layout, job);
    const struct param *param = model_param(&run.trainer.model, WEIGHT_DOWN, layer);
    if (job->world.rank == job->world.size - 1) *(float *)param->w.data = NAN;
    assert_int_equal(trainer_step(&run.trainer, &report), STATUS_NUMERIC);
    snprintf(text, sizeof text, "weight model.layers.%d.mlp.down_proj.weight", layer);
    if (!strstr(status_message(), text)) fail_msg("%s", status_message());
    layout_close(&run);
    layout_site_close(&site);
}
