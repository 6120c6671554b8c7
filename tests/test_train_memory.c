/* What a run allocates is what its plan says, and what the process takes is little more. */
#define _GNU_SOURCE
#include "tests/check.h"
#include "tests/temporary.h"

#include "core/safetensors_write.h"
#include "data/token_file.h"
#include "train/trainer.h"

#include <fcntl.h>
#include <sys/wait.h>

/* The program; beside this test. */
static char strata[512];

enum { VOCABULARY = 8192, HIDDEN = 512, FFN = 2048, HEADS = 8, TOKENS = 256 };

static const char shape[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 8192,"
    " \"hidden_size\": 512, \"intermediate_size\": 2048, \"num_hidden_layers\": %d,"
    " \"num_attention_heads\": 8, \"num_key_value_heads\": 8, \"max_position_embeddings\": 512,"
    " \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"tie_word_embeddings\": false,"
    " \"hidden_act\": \"silu\", \"torch_dtype\": \"float32\"}\n";

struct setup {
    struct temporary folder;
    struct run_options options;
    struct config_table tables[RUN_TABLES];
};

static void write_tokens(struct temporary *folder) {
    const struct token_file_info info = {.vocabulary = VOCABULARY};
    struct token_writer *writer;
    int32_t ids[TOKENS + 1];
    for (int i = 0; i <= TOKENS; i++) ids[i] = i * 37 % VOCABULARY;
    assert_ok(token_writer_create(&writer, temporary_file(folder, "tokens.h5"), &info));
    assert_ok(token_writer_append(writer, ids, NULL, TOKENS + 1));
    assert_ok(token_writer_finish(writer));
}

static void setup_open(struct setup *setup, int layers) {
    char text[1024];
    memset(setup, 0, sizeof *setup);
    temporary_open(&setup->folder);
    write_tokens(&setup->folder);
    int bytes = snprintf(text, sizeof text, shape, layers);
    temporary_write(&setup->folder, "config.json", text, (size_t)bytes);
}

/* Writes the run file and reads it; `train` begins with the global batch. */
static void setup_configure(struct setup *setup, const char *model, const char *train) {
    char text[2048];
    const char *folder = setup->folder.path;
    int bytes = snprintf(text, sizeof text,
                         "model: {%s}\n"
                         "data: {train: [%s/tokens.h5], sequence_length: %d, shuffle: false}\n"
                         "train: {out: %s/run, steps: 2, threads: 2, "
                         "export: false, global_batch: %s}\n",
                         model, folder, TOKENS, folder, train);
    temporary_write(&setup->folder, "run.yaml", text, (size_t)bytes);
    run_options_tables(&setup->options, setup->tables);
    assert_ok(config_parse(setup->tables, RUN_TABLES, text, (size_t)bytes, "run.yaml", NULL, 0));
}

static void setup_close(struct setup *setup) {
    char command[512];
    config_free(setup->tables, RUN_TABLES);
    snprintf(command, sizeof command, "rm -rf %s", setup->folder.path);
    assert_int_equal(system(command), 0);
}

/* Without a launcher, or two ranks that may not read each other's memory. */
static _Noreturn void train(const char *config, int ranks) {
    int nowhere = open("/dev/null", O_RDWR);
    dup2(nowhere, STDIN_FILENO);
    dup2(nowhere, STDERR_FILENO);
    if (ranks == 1) execl(strata, "strata", "train", config, (char *)NULL);
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 1);
    execlp("mpirun", "mpirun", "-n", "2", "--oversubscribe", "--bind-to", "none", strata, "train",
           config, "train.threads=1", (char *)NULL);
    _exit(127);
}

/* Trains in processes of its own; the peak of the first one's resident set, as it wrote it down. */
static double trained_mib(struct setup *setup, int ranks) {
    char config[512], line[1024];
    snprintf(config, sizeof config, "%s", temporary_file(&setup->folder, "run.yaml"));
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) train(config, ranks);
    int code = 0;
    waitpid(child, &code, 0);
    assert_true(WIFEXITED(code));
    assert_int_equal(WEXITSTATUS(code), 0);
    FILE *metrics = fopen(temporary_file(&setup->folder, "run/metrics.jsonl"), "r");
    double mib = 0.0;
    assert_non_null(metrics);
    while (fgets(line, sizeof line, metrics)) {
        const char *field = strstr(line, "\"peak_rss_mib\":");
        double now = field ? strtod(strchr(field, ':') + 1, NULL) : mib;
        assert_true(now >= mib); /* a peak never falls */
        mib = now;
    }
    fclose(metrics);
    assert_true(mib > 0.0);
    return mib;
}

static double plan_mib(const struct setup *setup, int ranks, struct trainer_memory *memory) {
    assert_ok(trainer_plan(&setup->options, ranks, memory));
    return (double)trainer_memory_total(memory) / (1 << 20);
}

/* Libraries, OpenMP's and HDF5's buffers, packing buffers: what a run of one layer and almost no
 * tokens has besides its arenas. */
static double measure_baseline(void) {
    struct setup setup;
    struct trainer_memory memory;
    setup_open(&setup, 1);
    char model[512];
    snprintf(model, sizeof model, "config: %s/config.json", setup.folder.path);
    setup_configure(&setup, model, "1, mode: full");
    double mib = trained_mib(&setup, 1) - plan_mib(&setup, 1, &memory);
    setup_close(&setup);
    return mib;
}

static void check_peak(struct setup *setup, int ranks, const char *what) {
    struct trainer_memory memory;
    double planned = plan_mib(setup, ranks, &memory), peak = trained_mib(setup, ranks);
    print_message("%s: planned %.1f MiB, peak resident set %.1f MiB (%+.1f%%)\n", what, planned,
                  peak, 100.0 * (peak / planned - 1.0));
    assert_true(planned >= 300.0);
    assert_true(fabs(peak / planned - 1.0) <= 0.10);
}

static void skip_under_sanitizers(void) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip_because("a sanitizer's shadow memory is in the resident set");
#endif
}

static void test_full_training_takes_what_is_planned(void **state) {
    (void)state;
    skip_under_sanitizers();
    struct setup setup;
    char model[512];
    print_message("process besides its arenas: %.1f MiB\n", measure_baseline());
    setup_open(&setup, 6);
    snprintf(model, sizeof model, "config: %s/config.json", setup.folder.path);
    setup_configure(&setup, model, "1, mode: full");
    check_peak(&setup, 1, "full");
    setup_close(&setup);
}

/* The state lies in a file, of which no more than what is updated is in memory. */
static void test_state_in_a_file_takes_no_memory(void **state) {
    (void)state;
    skip_under_sanitizers();
    struct setup setup;
    struct trainer_memory memory;
    char model[512], train[768];
    setup_open(&setup, 8);
    snprintf(model, sizeof model, "config: %s/config.json, dtype: bf16", setup.folder.path);
    snprintf(train, sizeof train, "1, mode: full, offload: optimizer, offload_path: %s",
             setup.folder.path);
    setup_configure(&setup, model, train);
    double planned = plan_mib(&setup, 1, &memory), peak = trained_mib(&setup, 1);
    double apart = (double)memory.offloaded / (1 << 20);
    print_message("state in a file: %.1f MiB apart; planned %.1f MiB, peak resident set %.1f MiB\n",
                  apart, planned, peak);
    assert_int_equal(memory.optimizer, 2 * 3 * OPTIMIZER_STAGED * sizeof(float));
    assert_true(apart > 300.0);
    assert_true(peak - planned < 60.0); /* the process besides its arenas, and a tensor's masters */
    setup_close(&setup);
}

/* What two ranks share, neither has whole at any time. */
static void test_shares_take_what_is_planned(void **state) {
    (void)state;
    skip_under_sanitizers();
    for (int zero = 1; zero <= 3; zero++) {
        struct setup setup;
        char model[512], what[16], train[64];
        setup_open(&setup, 8);
        snprintf(model, sizeof model, "config: %s/config.json", setup.folder.path);
        snprintf(what, sizeof what, "zero %d", zero);
        snprintf(train, sizeof train, "2, mode: full}\nparallel: {zero: %d", zero);
        setup_configure(&setup, model, train);
        check_peak(&setup, 2, what);
        setup_close(&setup);
    }
}

/* Bytes a rank of 4: what is shared falls to a quarter, and buffers for a few layers. */
static void test_shares_are_planned(void **state) {
    (void)state;
    struct setup setup;
    struct trainer_memory memory[4];
    char model[512];
    setup_open(&setup, 16);
    snprintf(model, sizeof model, "config: %s/config.json", setup.folder.path);
    setup_configure(&setup, model, "4, mode: full");
    for (int zero = 0; zero <= 3; zero++) {
        setup.options.parallel.zero = zero;
        plan_mib(&setup, 4, &memory[zero]);
    }
    size_t all = memory[0].weights;
    assert_in_range(memory[1].optimizer, all / 2, all / 2 + all / 50);
    assert_true(memory[2].gradients <= all / 4 + 3 * all / 17);
    assert_true(memory[3].weights <= all / 4 + 3 * all / 17);
    assert_int_equal(memory[3].gradients / (1 << 20), memory[2].gradients / (1 << 20));
    setup_close(&setup);
}

/* MPI's temporaries for sums of gradients would be as large as the gradients, were all sums under
 * way at once. */
static void test_two_ranks_take_what_is_planned(void **state) {
    (void)state;
    skip_under_sanitizers();
    static const char *const dtypes[] = {"fp32", "bf16"};
    for (int i = 0; i < 2; i++) {
        struct setup setup;
        struct trainer_memory one, two;
        char model[512], what[64];
        setup_open(&setup, 8);
        snprintf(model, sizeof model, "config: %s/config.json, dtype: %s", setup.folder.path,
                 dtypes[i]);
        setup_configure(&setup, model, "2, micro_batch: 1, mode: full}\nparallel: {zero: 0");
        plan_mib(&setup, 1, &one);
        plan_mib(&setup, 2, &two);
        assert_int_equal(two.scratch - one.scratch, COMM_SUMS_BYTES);
        snprintf(what, sizeof what, "two ranks, %s", dtypes[i]);
        check_peak(&setup, 2, what);
        setup_close(&setup);
    }
}

/* model.safetensors of small random numbers. */
static void write_model(struct setup *setup, int layers) {
    struct arena arena;
    struct model model;
    struct model_config config;
    arena_count(&arena, "weights");
    assert_ok(model_config_read_json(&config, temporary_file(&setup->folder, "config.json")));
    assert_ok(model_describe(&model, &config, NULL, LAYOUT_PANEL_F32, &arena));
    assert_int_equal(config.layers, layers);
    struct tensor_spec *specs = calloc((size_t)model.param_count, sizeof *specs);
    assert_non_null(specs);
    int count = 0;
    for (int i = 0; i < model.param_count; i++) {
        const struct param *param = &model.params[i];
        if (!param->w.data) continue;
        bool vector = weight_is_vector(param->id);
        specs[count++] = (struct tensor_spec){
            .name = param->name,
            .dtype = DTYPE_F32,
            .dims = vector ? 1 : 2,
            .shape = {vector ? param->w.cols : param->w.rows, vector ? 0 : param->w.cols}};
    }
    struct tensor_sink sink;
    float row[FFN];
    for (int i = 0; i < FFN; i++) row[i] = 0.01f * (float)(i * 31 % 17 - 8);
    assert_ok(safetensors_create(&sink, temporary_file(&setup->folder, "model.safetensors"), specs,
                                 count, NULL, 0));
    for (int i = 0; i < model.param_count; i++) {
        const struct weight *w = &model.params[i].w;
        for (int64_t r = 0; w->data && r < w->rows; r++)
            assert_ok(tensor_sink_append_f32(&sink, row, (size_t)w->cols));
    }
    assert_ok(tensor_sink_finish(&sink));
    tensor_sink_close(&sink);
    free(specs);
    model_free(&model);
}

/* The weights come from a mapped file of their own size, which must not count twice. */
static void test_lora_takes_what_is_planned(void **state) {
    (void)state;
    skip_under_sanitizers();
    enum { LAYERS = 16 };
    struct setup setup;
    char model[512];
    setup_open(&setup, LAYERS);
    write_model(&setup, LAYERS);
    snprintf(model, sizeof model, "path: %s", setup.folder.path);
    setup_configure(&setup, model, "1, mode: lora");
    check_peak(&setup, 1, "lora");
    setup_close(&setup);
}

/* An NF4 base is about an eighth of the fp32 file that it is made of; nothing of the file stays. */
static void test_qlora_takes_what_is_planned(void **state) {
    (void)state;
    skip_under_sanitizers();
    enum { LAYERS = 24 };
    struct setup setup;
    struct trainer_memory memory;
    char model[512];
    setup_open(&setup, LAYERS);
    write_model(&setup, LAYERS);
    snprintf(model, sizeof model, "path: %s, weights: nf4", setup.folder.path);
    setup_configure(&setup, model, "1, mode: lora");
    double planned = plan_mib(&setup, 1, &memory), peak = trained_mib(&setup, 1);
    double linear = LAYERS * (4.0 * HIDDEN * HIDDEN + 3.0 * HIDDEN * FFN);
    double rest = 2.0 * VOCABULARY * HIDDEN * 2.0 + (2.0 * LAYERS + 1.0) * HIDDEN * 4.0;
    double bits = ((double)memory.weights - rest) * 8.0 / linear;
    print_message("qlora: %.4f bits a weight; planned %.1f MiB, peak resident set %.1f MiB\n", bits,
                  planned, peak);
    assert_true(bits > 4.126 && bits < 4.14);
    assert_true(peak - planned < 60.0); /* the process besides its arenas; the file has 334 MiB */
    setup_close(&setup);
}

/* Gradients are as large as the adapter, moments twice that; frozen weights have neither. */
static void test_frozen_weights_have_no_state(void **state) {
    (void)state;
    struct setup setup;
    struct trainer_memory memory;
    setup_open(&setup, 4);
    write_model(&setup, 4);
    char model[512];
    snprintf(model, sizeof model, "path: %s", setup.folder.path);
    setup_configure(&setup, model, "1, mode: lora");
    plan_mib(&setup, 1, &memory);
    assert_int_equal(memory.gradients, memory.adapter);
    assert_int_equal(memory.optimizer, 2 * memory.adapter);
    assert_true(memory.adapter * 20 < memory.weights);
    config_free(setup.tables, RUN_TABLES);
    setup_configure(&setup, model, "1, mode: full");
    plan_mib(&setup, 1, &memory);
    assert_int_equal(memory.adapter, 0);
    assert_int_equal(memory.gradients, memory.weights);
    assert_int_equal(memory.optimizer, 2 * memory.weights);
    setup_close(&setup);
}

/* The plan is what an opened trainer holds, for each kind of memory. */
static void test_plan_is_what_is_allocated(void **state) {
    (void)state;
    static const char *const modes[] = {"1, mode: full", "1, mode: lora",
                                        "1, mode: full, recompute: full",
                                        "3, mode: lora, micro_batch: 1, recompute: selective"};
    static const char *const dtypes[] = {"fp32", "bf16"};
    for (int i = 0; i < 8; i++) {
        static char program[] = "test";
        char *argv_storage[] = {program, NULL}, **argv = argv_storage, model[512];
        int argc = 1;
        struct setup setup;
        struct parallel parallel;
        struct trainer_memory planned, held;
        static struct trainer trainer;
        setup_open(&setup, 2);
        write_model(&setup, 2);
        snprintf(model, sizeof model, "path: %s, dtype: %s", setup.folder.path, dtypes[i / 4]);
        char train[256];
        snprintf(train, sizeof train, "%s", modes[i % 4]);
        setup_configure(&setup, model, train);
        plan_mib(&setup, 1, &planned);
        assert_ok(parallel_start(&parallel, &argc, &argv));
        assert_ok(trainer_open(&trainer, &setup.options, &parallel));
        held = trainer_memory(&trainer);
        assert_memory_equal(&planned, &held, sizeof held);
        trainer_close(&trainer);
        parallel_finish(&parallel);
        setup_close(&setup);
    }
}

/* What the process of rank 0 has besides its arenas, started the same way. */
static double measure_besides(int ranks, const char *keys) {
    struct setup setup;
    struct trainer_memory memory;
    char model[512];
    setup_open(&setup, 2);
    snprintf(model, sizeof model, "config: %s/config.json", setup.folder.path);
    setup_configure(&setup, model, keys);
    double mib = trained_mib(&setup, ranks);
    assert_ok(trainer_plan_rank(&setup.options, 0, ranks, &memory));
    mib -= (double)trainer_memory_total(&memory) / (1 << 20);
    setup_close(&setup);
    return mib;
}

/* A dozen ranks of a gigabyte and more, whose resident set grows by what strata plan says: minutes,
 * for make soak. */
static void test_gigabytes_are_planned(void **state) {
    (void)state;
    skip_under_sanitizers();
    static const struct {
        const char *what, *model, *keys;
        int layers, ranks;
    } cases[] = {
        {"full", "", "1, mode: full", 16, 1},
        {"accumulated", "", "8, micro_batch: 2, mode: full", 16, 1},
        {"recompute", "", "8, recompute: full, mode: full", 16, 1},
        {"bf16", ", dtype: bf16", "1, mode: full", 16, 1},
        {"lora", "", "2, mode: lora", 64, 1},
        {"lora, recompute", "", "8, mode: lora, recompute: full", 64, 1},
        {"dp 2", "", "2, mode: full}\nparallel: {zero: 0", 16, 2},
        {"dp 2, zero 1", "", "2, mode: full}\nparallel: {zero: 1", 24, 2},
        {"dp 2, zero 2", "", "2, mode: full}\nparallel: {zero: 2", 32, 2},
        {"dp 2, zero 3", "", "2, mode: full}\nparallel: {zero: 3", 40, 2},
        {"pp 2", "", "4, micro_batch: 1, mode: full}\nparallel: {pp: 2", 32, 2},
        {"tp 2", "", "2, mode: full}\nparallel: {tp: 2", 32, 2},
    };
    if (!getenv("STRATA_SOAK")) skip_because("it takes minutes, and runs in make soak");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct setup setup;
        struct trainer_memory memory;
        char model[512];
        bool lora = strstr(cases[i].keys, "lora");
        double besides = measure_besides(cases[i].ranks, lora ? "1, mode: full" : cases[i].keys);
        setup_open(&setup, cases[i].layers);
        if (lora) write_model(&setup, cases[i].layers);
        snprintf(model, sizeof model, "%s: %s%s%s", lora ? "path" : "config", setup.folder.path,
                 lora ? "" : "/config.json", cases[i].model);
        setup_configure(&setup, model, cases[i].keys);
        assert_ok(trainer_plan_rank(&setup.options, 0, cases[i].ranks, &memory));
        double planned = (double)trainer_memory_total(&memory) / (1 << 20);
        double state_mib = (double)(memory.weights + memory.gradients + memory.optimizer) / 1e6;
        double grown = trained_mib(&setup, cases[i].ranks) - besides;
        print_message("%s: state %.0f MB, planned %.1f MiB, grown %.1f MiB (%+.2f%%)\n",
                      cases[i].what, state_mib, planned, grown, 100.0 * (grown / planned - 1.0));
        assert_true(state_mib >= 1000.0);
        assert_true(fabs(grown / planned - 1.0) <= 0.03);
        setup_close(&setup);
    }
}

int main(int argc, char **argv) {
    (void)argc;
    char *slash = strrchr(argv[0], '/');
    snprintf(strata, sizeof strata, "%.*sstrata", slash ? (int)(slash - argv[0] + 1) : 0, argv[0]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frozen_weights_have_no_state),
        cmocka_unit_test(test_plan_is_what_is_allocated),
        cmocka_unit_test(test_shares_are_planned),
        cmocka_unit_test(test_full_training_takes_what_is_planned),
        cmocka_unit_test(test_state_in_a_file_takes_no_memory),
        cmocka_unit_test(test_shares_take_what_is_planned),
        cmocka_unit_test(test_two_ranks_take_what_is_planned),
        cmocka_unit_test(test_gigabytes_are_planned),
        cmocka_unit_test(test_lora_takes_what_is_planned),
        cmocka_unit_test(test_qlora_takes_what_is_planned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
