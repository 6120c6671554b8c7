/* A pipeline equals one rank: gradients of the first step, losses, weights; for every schedule and
 * what training can be asked to do. Every rank also runs the whole job alone and compares. */
#define _GNU_SOURCE
#include "tests/check.h"
#include "tests/temporary.h"

#include "core/export.h"
#include "data/token_file.h"
#include "train/checkpoints.h"
#include "train/result.h"
#include "train/stages.h"

#include <sys/stat.h>

enum { STEPS = 10, MAX_ARGUMENTS = 10, VOCABULARY = 96, DOCUMENTS = 29, LAYERS = 8 };

static const double limit = 1e-6; /* of each tensor's norm, and of losses */

static struct parallel job; /* cmocka's tests take no arguments */

struct variant {
    const char *name, *model;
    const char *arguments[MAX_ARGUMENTS];
};

static const struct variant variants[] = {
    {"1f1b", "llama", {"train.global_batch=8", "train.micro_batch=1"}},
    {"gpipe", "llama", {"train.global_batch=8", "train.micro_batch=1", "parallel.schedule=gpipe"}},
    {"interleaved",
     "llama",
     {"train.global_batch=16", "train.micro_batch=2", "parallel.schedule=interleaved",
      "parallel.chunks=2"}},
    {"interleaved, 5 microbatches, tied, packed",
     "llama_tied_llama3",
     {"train.global_batch=5", "train.micro_batch=1", "parallel.schedule=interleaved",
      "parallel.chunks=2", "data.packing=whole"}},
    {"1f1b, tied, packed, uneven batches",
     "llama_tied_llama3",
     {"train.global_batch=7", "train.micro_batch=2", "data.packing=whole"}},
    {"1f1b, fewer microbatches than stages",
     "llama",
     {"train.global_batch=2", "data.packing=split"}},
    {"1f1b, recomputed, qk norm",
     "qwen3",
     {"train.global_batch=6", "train.micro_batch=1", "train.recompute=full"}},
    {"gpipe, recomputed, tied",
     "llama_tied_llama3",
     {"train.global_batch=6", "train.micro_batch=1", "train.recompute=full",
      "parallel.schedule=gpipe"}},
    {"1f1b, lora, dropout",
     "llama",
     {"train.global_batch=6", "train.micro_batch=1", "train.mode=lora", "lora.rank=4",
      "lora.dropout=0.1"}},
    {"interleaved, lora, tied, recomputed",
     "llama_tied_llama3",
     {"train.global_batch=8", "train.micro_batch=1", "train.mode=lora", "lora.rank=4",
      "parallel.schedule=interleaved", "parallel.chunks=2", "train.recompute=full"}},
};

/* A trained tensor of a rank: the gradient of the first step and the weights after the last. */
struct tensor {
    char name[WEIGHT_NAME_BYTES + 64];
    int64_t count;
    float *gradient, *weights;
};

struct result {
    double losses[STEPS], norms[STEPS], validation;
    struct tensor *tensors;
    int count;
};

struct run {
    struct temporary folder;
    struct run_options options;
    struct config_table tables[RUN_TABLES];
    struct trainer trainer;
};

/* Documents of 2 to 33 tokens, the same on every rank. */
static void write_tokens(const char *path) {
    const struct token_file_info info = {.vocabulary = VOCABULARY};
    struct token_writer *writer;
    uint32_t random = 12345;
    assert_ok(token_writer_create(&writer, path, &info));
    for (int d = 0; d < DOCUMENTS; d++) {
        int32_t ids[64], count = 2 + d * 7 % 32;
        for (int i = 0; i < count; i++) {
            random = random * 1664525u + 1013904223u;
            ids[i] = (int32_t)((random >> 16) % VOCABULARY);
        }
        assert_ok(token_writer_append(writer, ids, NULL, count));
    }
    assert_ok(token_writer_finish(writer));
}

/* A fixture's kind of model with more layers. */
static void write_model(const char *kind, const char *path) {
    char config_path[512];
    struct model_config config;
    struct model model;
    snprintf(config_path, sizeof config_path, "tests/fixtures/%s/config.json", kind);
    assert_ok(model_config_read_json(&config, config_path));
    config.layers = LAYERS;
    config.dtype = DTYPE_F32;
    assert_ok(model_create(&model, &config, NULL, LAYOUT_PANEL_F32));
    model_init_random(&model, 7, 0.05f, 1);
    const struct export_request request = {
        .model = &model, .format = EXPORT_SAFETENSORS, .dtype = DTYPE_F32, .path = path};
    assert_ok(export_model(&request));
    model_free(&model);
}

/* eps is large: Adam makes a step of any gradient above it, also of the rounding that is left where
 * a gradient is 0. */
static void read_options(struct run *run, const struct variant *variant, const char *out,
                         const char *extra, const char *const *more) {
    char text[4096], *arguments[2 * MAX_ARGUMENTS];
    int count = 0;
    snprintf(text, sizeof text,
             "model: {path: %s/model}\n"
             "data: {train: [%s/tokens.h5], validation: [%s/tokens.h5], sequence_length: 24, "
             "packing: off}\n"
             "train: {out: %s, steps: %d, lr: 1e-3, warmup: 4, threads: 1, clip: 0.5, eps: 1e-3}\n",
             run->folder.path, run->folder.path, run->folder.path, out, STEPS);
    for (int i = 0; i < MAX_ARGUMENTS && variant->arguments[i]; i++)
        arguments[count++] = (char *)(uintptr_t)variant->arguments[i];
    for (int i = 0; more && more[i]; i++) arguments[count++] = (char *)(uintptr_t)more[i];
    if (extra) arguments[count++] = (char *)(uintptr_t)extra;
    run_options_tables(&run->options, run->tables);
    assert_ok(
        config_parse(run->tables, RUN_TABLES, text, strlen(text), "test.yaml", arguments, count));
    assert_ok(run_options_check(&run->options));
}

static void run_prepare(struct run *run, const struct variant *variant) {
    char path[512];
    memset(run, 0, sizeof *run);
    temporary_open(&run->folder);
    write_tokens(temporary_file(&run->folder, "tokens.h5"));
    snprintf(path, sizeof path, "%s/model", run->folder.path);
    write_model(variant->model, path);
}

static void run_close(struct run *run) {
    trainer_close(&run->trainer);
    config_free(run->tables, RUN_TABLES);
}

static void run_remove(struct run *run) {
    char command[600];
    snprintf(command, sizeof command, "rm -rf %s", run->folder.path);
    assert_int_equal(system(command), 0);
}

static float *unpack(const struct weight *w) {
    float *values = malloc((size_t)(w->rows * w->cols) * sizeof *values);
    assert_non_null(values);
    weight_unpack(values, w, 0, w->rows);
    return values;
}

static void read_gradients(const struct trainer *t, struct result *result) {
    result->count = t->param_count;
    result->tensors = calloc((size_t)t->param_count, sizeof *result->tensors);
    assert_non_null(result->tensors);
    for (int i = 0; i < t->param_count; i++) {
        struct tensor *tensor = &result->tensors[i];
        snprintf(tensor->name, sizeof tensor->name, "%s", t->params[i]->name);
        tensor->count = t->params[i]->w.rows * t->params[i]->w.cols;
        tensor->gradient = unpack(&t->params[i]->grad);
    }
}

static void train(struct run *run, struct parallel *parallel, struct result *result) {
    assert_ok(trainer_open(&run->trainer, &run->options, parallel));
    for (int step = 0; step < STEPS; step++) {
        struct step_report report;
        assert_ok(trainer_step(&run->trainer, &report));
        result->losses[step] = report.loss;
        result->norms[step] = report.gradient_norm;
        if (step == 0) read_gradients(&run->trainer, result);
    }
    for (int i = 0; i < result->count; i++)
        result->tensors[i].weights = unpack(&run->trainer.params[i]->w);
    assert_ok(trainer_validate(&run->trainer, &result->validation));
}

static void result_free(struct result *result) {
    for (int i = 0; i < result->count; i++) {
        free(result->tensors[i].gradient);
        free(result->tensors[i].weights);
    }
    free(result->tensors);
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

static double relative(double want, double got) {
    return fabs(got - want) / fabs(want);
}

static const struct tensor *find(const struct result *result, const char *name) {
    for (int i = 0; i < result->count; i++)
        if (strcmp(result->tensors[i].name, name) == 0) return &result->tensors[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

struct worst {
    double losses, gradients, weights;
};

static double larger(double worst, double value) {
    return value > worst || isnan(value) ? value : worst;
}

static struct worst compare(const struct result *want, const struct result *got) {
    struct worst worst = {relative(want->validation, got->validation), 0.0, 0.0};
    for (int i = 0; i < STEPS; i++) {
        worst.losses = larger(worst.losses, relative(want->losses[i], got->losses[i]));
        worst.losses = larger(worst.losses, relative(want->norms[i], got->norms[i]));
    }
    for (int i = 0; i < got->count; i++) {
        const struct tensor *mine = &got->tensors[i], *whole = find(want, mine->name);
        assert_int_equal(whole->count, mine->count);
        worst.gradients =
            larger(worst.gradients, difference(whole->gradient, mine->gradient, mine->count));
        worst.weights =
            larger(worst.weights, difference(whole->weights, mine->weights, mine->count));
    }
    return worst;
}

/* Ranks pass or fail together. */
static void take_worst_of_ranks(struct worst *worst) {
    struct stream stream;
    stream_open_cpu(&stream, 1);
    double values[3] = {worst->losses, worst->gradients, worst->weights};
    for (int i = 0; i < 3; i++)
        if (isnan(values[i])) values[i] = INFINITY;
    comm_all_reduce(&job.world, &stream, values, 3, DTYPE_F64, COMM_MAX);
    assert_ok(stream_check(&stream));
    *worst = (struct worst){values[0], values[1], values[2]};
}

/* The variant as `layout` says, and on one rank. */
static void check_variant(const struct variant *variant, const char *layout, const char *extra) {
    struct parallel alone = {.node_size = 1, .threads = 1};
    struct result want = {0}, got = {0};
    static struct run run;
    char out[600];
    comm_open_self(&alone.world, "world");
    run_prepare(&run, variant);
    snprintf(out, sizeof out, "%s/alone", run.folder.path);
    read_options(&run, variant, out, NULL, NULL);
    train(&run, &alone, &want);
    run_close(&run);
    snprintf(out, sizeof out, "%s/together", run.folder.path);
    read_options(&run, variant, out, extra, (const char *const[]){layout, NULL});
    train(&run, &job, &got);
    run_close(&run);
    run_remove(&run);
    struct worst worst = compare(&want, &got);
    take_worst_of_ranks(&worst);
    result_free(&want);
    result_free(&got);
    if (job.world.rank == 0)
        print_message("%d ranks %-13s %-42s loss %.4f -> %.4f  differences: losses %.1e, "
                      "gradients %.1e, weights %.1e\n",
                      job.world.size, layout, variant->name, want.losses[0], want.losses[STEPS - 1],
                      worst.losses, worst.gradients, worst.weights);
    if (!(worst.losses <= limit && worst.gradients <= limit && worst.weights <= limit))
        fail_msg("%s, %s: losses differ by %.2e, gradients by %.2e, weights by %.2e", layout,
                 variant->name, worst.losses, worst.gradients, worst.weights);
}

static void test_stages_equal_one_rank(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        char layout[32];
        snprintf(layout, sizeof layout, "parallel.pp=%d", job.world.size);
        check_variant(&variants[i], layout, NULL);
        if (job.world.size == 4) check_variant(&variants[i], "parallel.pp=2", NULL);
    }
}

static void test_layers_by_hand(void **state) {
    (void)state;
    if (job.world.size == 2) check_variant(&variants[0], "parallel.pp=2", "parallel.layers=7,1");
    if (job.world.size == 4)
        check_variant(&variants[4], "parallel.pp=4", "parallel.layers=1,4,1,2");
}

static enum status open_status(const char *layers, const char *pp) {
    static struct run run;
    char out[600];
    run_prepare(&run, &variants[0]);
    snprintf(out, sizeof out, "%s/run", run.folder.path);
    read_options(&run, &variants[0], out, layers, (const char *const[]){pp, NULL});
    enum status status = trainer_open(&run.trainer, &run.options, &job);
    run_close(&run);
    run_remove(&run);
    return status;
}

static void test_splits_that_cannot_be(void **state) {
    (void)state;
    char pp[32];
    if (job.world.size == 1) return;
    snprintf(pp, sizeof pp, "parallel.pp=%d", job.world.size);
    assert_int_equal(open_status("parallel.layers=8", pp), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "parallel.layers has 1 numbers"));
    assert_int_equal(open_status("parallel.layers=two,six,0,0", pp), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "parallel.layers"));
    const char *few = job.world.size == 2 ? "parallel.layers=3,4" : "parallel.layers=3,2,1,1";
    assert_int_equal(open_status(few, pp), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "adds up to 7 layers, the model has 8"));
}

/* One folder for all ranks: the first one's. */
static void share_folder(struct run *run) {
    struct stream stream;
    stream_open_cpu(&stream, 1);
    comm_broadcast(&job.world, &stream, run->folder.path, sizeof run->folder.path, DTYPE_U8, 0);
    assert_ok(stream_check(&stream));
}

static void barrier(void) {
    struct stream stream;
    stream_open_cpu(&stream, 1);
    comm_barrier(&job.world, &stream);
    assert_ok(stream_check(&stream));
}

/* Steps up to `end`, from the newest checkpoint on, and writes one. */
static void go_on(struct run *run, struct parallel *parallel, int end, double *losses) {
    mkdir(run->options.train.out, 0777); /* there already where a run goes on */
    assert_ok(trainer_open(&run->trainer, &run->options, parallel));
    while (run->trainer.step < end) {
        struct step_report report;
        assert_ok(trainer_step(&run->trainer, &report));
        losses[report.step - 1] = report.loss;
    }
    assert_ok(trainer_checkpoint(&run->trainer, false));
    if (end == STEPS) assert_ok(result_export(&run->trainer));
    run_close(run);
}

static void check_export(const struct run *run, const char *out, bool adapter) {
    char path[700];
    struct model_file file;
    snprintf(path, sizeof path, "%s/%s", out,
             adapter ? "adapter/adapter_model.safetensors" : "model");
    if (job.world.rank != 0) return;
    assert_ok(model_file_open(&file, path, false));
    model_file_close(&file);
    (void)run;
}

/* A pipeline's checkpoint goes on alone, and that one's in a pipeline again. */
static void check_resume(const struct variant *variant) {
    struct parallel alone = {.node_size = 1, .threads = 1};
    double want[STEPS] = {0}, got[STEPS] = {0};
    static struct run run;
    char out[600], pp[32];
    const char *const more[] = {pp, NULL};
    comm_open_self(&alone.world, "world");
    snprintf(pp, sizeof pp, "parallel.pp=%d", job.world.size);
    run_prepare(&run, variant);
    char mine[sizeof run.folder.path];
    memcpy(mine, run.folder.path, sizeof mine);
    snprintf(out, sizeof out, "%s/alone", mine);
    read_options(&run, variant, out, NULL, NULL);
    go_on(&run, &alone, STEPS, want);
    share_folder(&run);
    snprintf(out, sizeof out, "%s/together", run.folder.path);
    read_options(&run, variant, out, NULL, more);
    go_on(&run, &job, 4, got);
    if (job.world.rank == 0) {
        read_options(&run, variant, out, NULL, NULL);
        go_on(&run, &alone, 7, got);
    }
    barrier();
    read_options(&run, variant, out, NULL, more);
    go_on(&run, &job, STEPS, got);
    check_export(&run, out, run.options.train.mode == TRAIN_LORA);
    barrier();
    memcpy(run.folder.path, mine, sizeof mine);
    run_remove(&run);
    for (int i = 0; i < STEPS; i++)
        if (job.world.rank == 0 || i < 4 || i >= 7) assert_true(relative(want[i], got[i]) <= limit);
}

static void test_checkpoints_fit_any_number_of_stages(void **state) {
    (void)state;
    check_resume(&variants[4]); /* tied */
    check_resume(&variants[8]); /* an adapter */
    check_resume(&variants[2]); /* interleaved */
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stages_equal_one_rank),
        cmocka_unit_test(test_layers_by_hand),
        cmocka_unit_test(test_splits_that_cannot_be),
        cmocka_unit_test(test_checkpoints_fit_any_number_of_stages),
    };
    if (parallel_start(&job, &argc, &argv) != STATUS_OK) return 1;
    job.threads = 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) parallel_abort(&job, "comparing with one rank");
    parallel_finish(&job);
    return failed;
}
