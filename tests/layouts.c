#define _GNU_SOURCE
#include "tests/layouts.h"

#include "core/export.h"
#include "data/token_file.h"
#include "train/result.h"

#include <ftw.h>
#include <unistd.h>
#include <xxhash.h>

enum { DOCUMENTS = 23, TEXT_BYTES = 4096 };

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *place) {
    (void)info, (void)type, (void)place;
    return remove(path);
}

static void remove_folder(const char *path) {
    nftw(path, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
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

void layout_site_open(struct layout_site *site, struct parallel *job) {
    char path[512];
    struct stream stream;
    stream_open_cpu(&stream, 1);
    *site = (struct layout_site){.job = job};
    if (job->world.rank == 0) {
        strcpy(site->folder, "/tmp/strata-layouts-XXXXXX");
        assert_non_null(mkdtemp(site->folder));
        snprintf(path, sizeof path, "%s/tokens.h5", site->folder);
        write_tokens(path);
    }
    comm_broadcast(&job->world, &stream, site->folder, sizeof site->folder, DTYPE_U8, 0);
    assert_ok(stream_check(&stream));
}

void layout_site_close(struct layout_site *site) {
    struct stream stream;
    stream_open_cpu(&stream, 1);
    comm_barrier(&site->job->world, &stream);
    if (site->job->world.rank == 0) remove_folder(site->folder);
}

void layout_remove(const struct layout_site *site, const char *run) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", site->folder, run);
    remove_folder(path);
}

void layout_result_free(struct layout_result *result) {
    for (int i = 0; i < result->count; i++) {
        free(result->tensors[i].gradient);
        free(result->tensors[i].weights);
    }
    free(result->tensors);
    *result = (struct layout_result){0};
}

/* Random weights of this rank's, for what needs a model to start from. */
static void write_model(const char *config_path, const char *path) {
    struct model_config config;
    struct model model;
    assert_ok(model_config_read_json(&config, config_path));
    assert_ok(model_create(&model, &config, NULL, LAYOUT_PANEL_F32));
    model_init_random(&model, 7, 0.05f, 1);
    const struct export_request request = {
        .model = &model, .format = EXPORT_SAFETENSORS, .dtype = DTYPE_F32, .path = path};
    assert_ok(export_model(&request));
    model_free(&model);
}

/* Where the model comes from, as a run file says it; a text is written to a file of this rank. */
static void describe_model(const struct layout_site *site, const struct layout_case *row,
                           char text[TEXT_BYTES]) {
    char path[512], model[512];
    int rank = site->job->world.rank;
    if (row->model[0] != '{') {
        const char *folder = row->model[0] == '/' ? "" : "tests/fixtures/";
        snprintf(text, TEXT_BYTES, "path: %s%s", folder, row->model);
        return;
    }
    snprintf(path, sizeof path, "%s/config-%d.json", site->folder, rank);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(row->model, file);
    assert_int_equal(fclose(file), 0);
    snprintf(text, TEXT_BYTES, "config: %s, init_std: 0.05", path);
    if (strcmp(row->training[0], "train.mode=lora") != 0) return;
    snprintf(model, sizeof model, "%s/model-%d", site->folder, rank);
    write_model(path, model);
    snprintf(text, TEXT_BYTES, "path: %s", model);
}

/* eps is large: Adam makes a step of any gradient above it, also of the rounding that is left where
 * a gradient is 0. */
void layout_open(struct layout_run *run, const struct layout_site *site, const char *name,
                 const struct layout_case *row, const char *const *layout,
                 struct parallel *parallel) {
    char text[2 * TEXT_BYTES], model[TEXT_BYTES], *arguments[2 * LAYOUT_ARGUMENTS];
    int count = 0;
    memset(run, 0, sizeof *run);
    describe_model(site, row, model);
    snprintf(text, sizeof text,
             "model: {%s}\n"
             "data: {train: [%s/tokens.h5], validation: [%s/tokens.h5], sequence_length: 24, "
             "packing: off}\n"
             "train: {out: %s/%s, steps: %d, lr: 1e-3, warmup: 4, threads: 1, keep: 100,"
             " eps: 1e-3}\n",
             model, site->folder, site->folder, site->folder, name, LAYOUT_STEPS);
    for (int i = 0; i < LAYOUT_ARGUMENTS && row->training[i]; i++)
        arguments[count++] = (char *)(uintptr_t)row->training[i];
    for (int i = 0; layout && i < LAYOUT_ARGUMENTS && layout[i]; i++)
        arguments[count++] = (char *)(uintptr_t)layout[i];
    run_options_tables(&run->options, run->tables);
    assert_ok(
        config_parse(run->tables, RUN_TABLES, text, strlen(text), "test.yaml", arguments, count));
    if (parallel->world.rank == 0) {
        snprintf(text, sizeof text, "%s/%s", site->folder, name);
        mkdir(text, 0777);
    }
    assert_ok(trainer_open(&run->trainer, &run->options, parallel));
}

void layout_close(struct layout_run *run) {
    trainer_close(&run->trainer);
    config_free(run->tables, RUN_TABLES);
}

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

void layout_train(const struct layout_site *site, const char *name, const struct layout_case *row,
                  const char *const *layout, struct parallel *parallel, int first, int end,
                  struct layout_result *result) {
    static struct layout_run run;
    layout_open(&run, site, name, row, layout, parallel);
    check_plan(&run);
    assert_int_equal(run.trainer.step, first);
    for (int step = first; step < end; step++) {
        struct step_report report;
        assert_ok(trainer_step(&run.trainer, &report));
        result->losses[step] = report.loss;
        result->norms[step] = report.gradient_norm;
        if (step == 0 || step + 1 == end) assert_ok(trainer_checkpoint(&run.trainer, false));
    }
    if (end == LAYOUT_STEPS) {
        assert_ok(trainer_validate(&run.trainer, &result->validation));
        assert_ok(result_export(&run.trainer));
    }
    check_holders(&run.trainer);
    layout_close(&run);
}

/* m after one step is (1 - beta1) * clip_scale * gradient. */
static void unscale(float *values, int64_t count, const struct run_options *options, double norm) {
    double clip = options->train.clip;
    double scale = (1.0 - options->train.beta1) * (clip > 0.0 && norm > clip ? clip / norm : 1.0);
    for (int64_t i = 0; i < count; i++) values[i] = (float)((double)values[i] / scale);
}

static void read_tensors(const struct layout_run *run, const struct layout_result *result,
                         int64_t step, const char *kind, bool weights) {
    struct checkpoint_slab *slabs = calloc((size_t)result->count, sizeof *slabs);
    char(*names)[CHECKPOINT_NAME_BYTES] = calloc((size_t)result->count, sizeof *names);
    char path[512];
    struct comm self;
    struct checkpoint_state state;
    assert_non_null(slabs);
    assert_non_null(names);
    for (int i = 0; i < result->count; i++) {
        const struct param *param = run->trainer.params[i];
        float *values = weights ? result->tensors[i].weights : result->tensors[i].gradient;
        snprintf(names[i], sizeof names[i], "%s/%s", kind, param->name);
        slabs[i] = (struct checkpoint_slab){
            .name = names[i],
            .rows = param->w.rows,
            .cols = param->w.cols,
            .values = {LAYOUT_ROWS_F32, param->w.rows, param->w.cols, values}};
    }
    comm_open_self(&self, "self");
    snprintf(path, sizeof path, "%s/checkpoints", run->options.train.out);
    assert_ok(checkpoint_load(&self, path, step, &state, slabs, result->count));
    free(state.config);
    free(slabs);
    free(names);
}

/* Opens the run on one rank, to know its tensors. */
void layout_read(const struct layout_site *site, const char *name, const struct layout_case *row,
                 struct layout_result *result) {
    static struct layout_run run;
    struct parallel alone = {.node_size = 1, .threads = 1, .node_cpus = 1};
    comm_open_self(&alone.world, "world");
    layout_open(&run, site, name, row, NULL, &alone);
    result->count = run.trainer.param_count;
    result->tensors = calloc((size_t)result->count, sizeof *result->tensors);
    assert_non_null(result->tensors);
    for (int i = 0; i < result->count; i++) {
        struct layout_tensor *tensor = &result->tensors[i];
        const struct param *param = run.trainer.params[i];
        snprintf(tensor->name, sizeof tensor->name, "%s", param->name);
        tensor->elements = param->w.rows * param->w.cols;
        tensor->gradient = calloc((size_t)tensor->elements, sizeof(float));
        tensor->weights = calloc((size_t)tensor->elements, sizeof(float));
    }
    read_tensors(&run, result, 1, "adam_m", false);
    read_tensors(&run, result, LAYOUT_STEPS, "weights", true);
    for (int i = 0; i < result->count; i++)
        unscale(result->tensors[i].gradient, result->tensors[i].elements, &run.options,
                result->norms[0]);
    layout_close(&run);
}

/* |a - b| / |a| */
static double difference(const float *a, const float *b, int64_t count) {
    double norm = 0.0, sum = 0.0;
    for (int64_t i = 0; i < count; i++) {
        double d = (double)a[i] - (double)b[i];
        norm += (double)a[i] * (double)a[i];
        sum += d * d;
    }
    return sum == 0.0 ? 0.0 : sqrt(sum / norm);
}

static double figure_difference(const double *a, const double *b, int first) {
    double worst = 0.0;
    for (int i = first; i < LAYOUT_STEPS; i++) {
        double d = fabs(a[i] - b[i]) / fabs(a[i]);
        worst = d > worst || isnan(d) ? d : worst;
    }
    return worst;
}

struct worst {
    double value;
    const char *name;
};

static void take(struct worst *worst, double value, const char *name) {
    if (value > worst->value || isnan(value)) *worst = (struct worst){value, name};
}

void layout_check(const struct layout_case *row, const struct layout_result *want,
                  const struct layout_result *got, int first) {
    double losses = figure_difference(want->losses, got->losses, first);
    losses = fmax(losses, fabs(want->validation - got->validation) / want->validation);
    double norms = figure_difference(want->norms, got->norms, first);
    struct worst gradients = {0.0, "none"}, weights = {0.0, "none"};
    assert_int_equal(want->count, got->count);
    for (int i = 0; i < want->count; i++) {
        const struct layout_tensor *a = &want->tensors[i], *b = &got->tensors[i];
        take(&gradients, difference(a->gradient, b->gradient, a->elements), a->name);
        take(&weights, difference(a->weights, b->weights, a->elements), a->name);
    }
    const struct layout_limits *limit = &row->limits;
    print_message("%d ranks  %-46s loss %.4f -> %.4f  losses %.1e, norms %.1e, gradients %.1e, "
                  "weights %.1e\n",
                  row->ranks, row->name, want->losses[first], want->losses[LAYOUT_STEPS - 1],
                  losses, norms, gradients.value, weights.value);
    if (losses <= limit->losses && norms <= limit->norms && gradients.value <= limit->gradients &&
        weights.value <= limit->weights)
        return;
    fail_msg("%s: losses differ by %.2e, norms by %.2e, gradients by %.2e (%s), weights by %.2e "
             "(%s)",
             row->name, losses, norms, gradients.value, gradients.name, weights.value,
             weights.name);
}

void layout_compare(const struct layout_site *site, const struct layout_case *row) {
    struct layout_result want = {0}, got = {0};
    struct parallel alone = {.node_size = 1, .threads = 1, .node_cpus = 1};
    struct parallel *job = site->job;
    layout_train(site, "shared", row, row->layout, job, 0, LAYOUT_STEPS, &got);
    if (job->world.rank == 0) {
        comm_open_self(&alone.world, "world");
        layout_train(site, "alone", row, NULL, &alone, 0, LAYOUT_STEPS, &want);
        layout_read(site, "shared", row, &got);
        layout_read(site, "alone", row, &want);
        layout_check(row, &want, &got, 0);
        layout_remove(site, "shared");
        layout_remove(site, "alone");
    }
    layout_result_free(&want);
    layout_result_free(&got);
}
