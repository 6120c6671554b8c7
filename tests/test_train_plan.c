/* The planner: bytes are the trainer's, times follow from rates that are known, what can't fit is
 * refused with its numbers. */
#define _GNU_SOURCE
#include "tests/check.h"
#include "tests/temporary.h"

#include "train/plan_calibrate.h"
#include "train/plan_print.h"

#include <sys/stat.h>

static const char shape[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 4096,"
    " \"hidden_size\": 512, \"intermediate_size\": 2048, \"num_hidden_layers\": 8,"
    " \"num_attention_heads\": 8, \"num_key_value_heads\": 4, \"max_position_embeddings\": 512,"
    " \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"tie_word_embeddings\": false,"
    " \"hidden_act\": \"silu\", \"torch_dtype\": \"float32\"}\n";

struct setup {
    struct temporary folder;
    struct run_options options;
    struct config_table tables[RUN_TABLES];
    struct plan_request request;
};

static void setup_open(struct setup *setup) {
    char text[2048];
    memset(setup, 0, sizeof *setup);
    temporary_open(&setup->folder);
    temporary_write(&setup->folder, "config.json", shape, sizeof shape - 1);
    const char *folder = setup->folder.path;
    int bytes = snprintf(text, sizeof text,
                         "model: {config: %s/config.json}\n"
                         "data: {train: [%s/tokens.h5], sequence_length: 128}\n"
                         "train: {out: %s/run, steps: 2, global_batch: 16, checkpoint_every: 1}\n",
                         folder, folder, folder);
    run_options_tables(&setup->options, setup->tables);
    assert_ok(config_parse(setup->tables, RUN_TABLES, text, (size_t)bytes, "run.yaml", NULL, 0));
    setup->request = (struct plan_request){
        .options = &setup->options, .device = *plan_device_find("h100"), .nodes = 2, .per_node = 2};
}

static void setup_close(struct setup *setup) {
    char command[512];
    config_free(setup->tables, RUN_TABLES);
    snprintf(command, sizeof command, "rm -rf %s", setup->folder.path);
    assert_int_equal(system(command), 0);
}

/* The two that a search changes only where nothing fits. */
enum { AS_THEY_ARE = 1u << PLAN_OPTIMIZER | 1u << PLAN_OFFLOAD };

static bool has(const struct plan_result *result, enum plan_key key, int64_t value) {
    for (int i = 0; i < result->count; i++)
        if (result->candidates[i].choice.at[key] == value) return true;
    return false;
}

static void test_bytes_are_the_trainers(void **state) {
    (void)state;
    struct setup setup;
    struct plan_result result;
    setup_open(&setup);
    assert_ok(plan_search(&result, &setup.request));
    assert_true(result.count > 100);
    for (int i = 0; i < result.count; i++) {
        const struct plan_candidate *c = &result.candidates[i];
        const struct run_options options = plan_options(&setup.options, &c->choice);
        struct trainer_memory memory;
        assert_ok(trainer_plan(&options, 4, &memory));
        assert_true(memory.snapshot > 0 && c->host_bytes == (double)memory.snapshot);
        memory.snapshot = 0; /* the host's */
        assert_memory_equal(&memory, &c->memory, sizeof memory);
        assert_true(c->device_bytes ==
                    (double)trainer_memory_total(&memory) + setup.request.device.reserve);
    }
    plan_result_free(&result);
    setup_close(&setup);
}

/* On the CPU a node's memory is also where offloaded state lies, unless that is in a file. */
static void test_offloaded_state_is_the_nodes(void **state) {
    (void)state;
    struct setup setup;
    struct plan_result result;
    char path[] = ".";
    setup_open(&setup);
    setup.options.train.offload = OFFLOAD_OPTIMIZER;
    setup.request.device = *plan_device_find("cpu");
    setup.request.device.memory = 1e12;
    setup.request.nodes = setup.request.per_node = 1;
    for (int in_file = 0; in_file < 2; in_file++) {
        char *was = setup.options.train.offload_path;
        if (in_file) setup.options.train.offload_path = path;
        assert_ok(plan_search(&result, &setup.request));
        const struct trainer_memory *memory = &result.candidates[0].memory;
        double offloaded = in_file ? 0.0 : (double)memory->offloaded;
        assert_true(memory->offloaded > 0);
        assert_true(result.candidates[0].device_bytes == (double)trainer_memory_total(memory) +
                                                             offloaded +
                                                             setup.request.device.reserve);
        plan_result_free(&result);
        setup.options.train.offload_path = was;
    }
    setup_close(&setup);
}

static void test_candidates_are_sorted_and_all_there(void **state) {
    (void)state;
    struct setup setup;
    struct plan_result result;
    setup_open(&setup);
    assert_ok(plan_search(&result, &setup.request));
    for (int i = 0; i < result.count; i++) {
        const struct plan_candidate *c = &result.candidates[i];
        const int64_t *at = c->choice.at;
        assert_int_equal(at[PLAN_TP] * at[PLAN_CP] * at[PLAN_PP] * at[PLAN_DP], 4);
        assert_true(at[PLAN_TP] <= 2); /* within a node */
        assert_true(isfinite(c->time.seconds) && c->time.seconds > 0.0);
        assert_true(c->time.mfu > 0.0 && c->time.mfu < 1.0);
        assert_true(c->time.bubble >= 0.0 && c->time.bubble < c->time.seconds);
        if (i > 0) assert_true(c->time.seconds >= result.candidates[i - 1].time.seconds);
    }
    for (int ranks = 1; ranks <= 4; ranks *= 2) {
        assert_true(has(&result, PLAN_DP, ranks));
        assert_true(has(&result, PLAN_PP, ranks));
    }
    for (int zero = 0; zero <= 3; zero++) assert_true(has(&result, PLAN_ZERO, zero));
    for (int kind = PIPELINE_1F1B; kind <= PIPELINE_ZB_H1; kind++)
        assert_true(has(&result, PLAN_SCHEDULE, kind));
    assert_true(has(&result, PLAN_RECOMPUTE, RECOMPUTE_SELECTIVE));
    assert_true(has(&result, PLAN_RECOMPUTE, RECOMPUTE_FULL) && has(&result, PLAN_MICRO_BATCH, 4));
    plan_result_free(&result);
    setup_close(&setup);
}

static void test_fixed_keys_stay(void **state) {
    (void)state;
    struct setup setup;
    struct plan_result result;
    setup_open(&setup);
    setup.options.parallel.pp = 2;
    setup.options.parallel.dp = 2;
    setup.options.parallel.zero = 1;
    setup.options.train.micro_batch = 3;
    setup.request.fixed = (1u << PLAN_KEYS) - 1u;
    assert_ok(plan_search(&result, &setup.request));
    assert_int_equal(result.count, 1);
    assert_int_equal(result.candidates[0].choice.at[PLAN_MICRO_BATCH], 3);
    plan_result_free(&result);
    setup.options.parallel.dp = 0; /* what the others leave */
    assert_ok(plan_search(&result, &setup.request));
    assert_int_equal(result.count, 1);
    assert_int_equal(result.candidates[0].choice.at[PLAN_DP], 2);
    plan_result_free(&result);
    setup.request.fixed = 1u << PLAN_ZERO | 1u << PLAN_PP;
    assert_ok(plan_search(&result, &setup.request));
    assert_true(result.count > 4);
    for (int i = 0; i < result.count; i++) {
        assert_int_equal(result.candidates[i].choice.at[PLAN_ZERO], 1);
        assert_int_equal(result.candidates[i].choice.at[PLAN_PP], 2);
    }
    plan_result_free(&result);
    setup_close(&setup);
}

/* Less memory: fewer layouts, each of which fits; then none, and the message says what is missing.
 */
static void test_what_cannot_fit_is_refused(void **state) {
    (void)state;
    struct setup setup;
    struct plan_result all, some, none;
    setup_open(&setup);
    setup.request.device.reserve = 0.0;
    assert_ok(plan_search(&all, &setup.request));
    setup.request.device.memory = 200e6;
    assert_ok(plan_search(&some, &setup.request));
    assert_true(some.count < all.count && some.tried <= all.tried);
    for (int i = 0; i < some.count; i++) assert_true(some.candidates[i].device_bytes <= 200e6);
    setup.request.device.memory = 20e6;
    setup.request.fixed = AS_THEY_ARE;
    assert_int_equal(plan_search(&none, &setup.request), STATUS_MEMORY);
    assert_non_null(strstr(status_message(), "no layout of 4 ranks fits"));
    assert_non_null(strstr(status_message(), "weights"));
    char lack[64];
    snprintf(lack, sizeof lack, " of a h100's %.1f GiB, %.1f GiB too much", 20e6 / (1 << 30),
             (none.smallest.device_bytes - 20e6) / (1 << 30));
    if (!strstr(status_message(), lack)) fail_msg("no '%s': %s", lack, status_message());
    double least = INFINITY;
    for (int i = 0; i < all.count; i++) least = fmin(least, all.candidates[i].device_bytes);
    assert_true(none.smallest.device_bytes == least);
    plan_result_free(&all);
    plan_result_free(&some);
    plan_result_free(&none);
    setup_close(&setup);
}

static double least_bytes(struct setup *setup) {
    struct plan_result result;
    double least = INFINITY;
    setup->request.device.memory = 1e12;
    assert_ok(plan_search(&result, &setup->request));
    assert_false(result.less_state);
    for (int i = 0; i < result.count; i++) least = fmin(least, result.candidates[i].device_bytes);
    plan_result_free(&result);
    return least;
}

/* With 4 replicas, whose state is whole: moments in 8 bits or state on the host where nothing fits
 * without, and neither where a key says how it is. */
static void test_less_state_is_the_last_resort(void **state) {
    (void)state;
    struct setup setup;
    struct plan_result result;
    setup_open(&setup);
    setup.request.fixed = 1u << PLAN_ZERO | 1u << PLAN_PP | 1u << PLAN_TP | 1u << PLAN_CP;
    double plain = least_bytes(&setup);
    setup.options.train.offload = OFFLOAD_OPTIMIZER;
    double away = least_bytes(&setup);
    setup.options.train.offload = OFFLOAD_NONE;
    setup.options.train.optimizer = OPTIMIZER_ADAMW8;
    double small = least_bytes(&setup);
    setup.options.train.optimizer = OPTIMIZER_ADAMW;
    assert_true(plain > small && small > away);

    setup.request.device.memory = plain;
    assert_ok(plan_search(&result, &setup.request));
    assert_false(result.less_state || has(&result, PLAN_OPTIMIZER, OPTIMIZER_ADAMW8) ||
                 has(&result, PLAN_OFFLOAD, OFFLOAD_OPTIMIZER));
    plan_result_free(&result);
    setup.request.device.memory = small;
    assert_ok(plan_search(&result, &setup.request));
    assert_true(result.less_state && has(&result, PLAN_OPTIMIZER, OPTIMIZER_ADAMW8) &&
                has(&result, PLAN_OFFLOAD, OFFLOAD_OPTIMIZER));
    for (int i = 0; i < result.count; i++) {
        const struct plan_candidate *c = &result.candidates[i];
        bool other = c->choice.at[PLAN_OPTIMIZER] != OPTIMIZER_ADAMW;
        assert_true(other != (c->choice.at[PLAN_OFFLOAD] != OFFLOAD_NONE));
    }
    plan_result_free(&result);
    setup.request.device.memory = away - 1.0;
    assert_int_equal(plan_search(&result, &setup.request), STATUS_MEMORY);
    assert_true(result.smallest.device_bytes == away);
    assert_non_null(strstr(status_message(), "optimizer adamw, offload optimizer"));
    plan_result_free(&result);
    setup.request.fixed |= AS_THEY_ARE;
    setup.request.device.memory = plain - 1.0;
    assert_int_equal(plan_search(&result, &setup.request), STATUS_MEMORY);
    assert_true(result.smallest.device_bytes == plain);
    plan_result_free(&result);
    setup_close(&setup);
}

/* On the CPU state that is moved away stays in the node's memory; a checkpoint's copy that does not
 * fit is left out first. */
static void test_nodes_leave_copies_out(void **state) {
    (void)state;
    struct setup setup;
    struct plan_result result;
    setup_open(&setup);
    setup.request.device = *plan_device_find("cpu");
    setup.request.nodes = setup.request.per_node = 1;
    setup.options.train.micro_batch = 1;
    setup.request.fixed = 1u << PLAN_MICRO_BATCH | 1u << PLAN_RECOMPUTE;
    setup.request.device.memory = 1e12;
    assert_ok(plan_search(&result, &setup.request));
    const struct plan_candidate whole = result.candidates[0];
    assert_true(result.count == 1 && whole.memory.snapshot > 0 && !whole.waits);
    assert_true(whole.host_bytes == 0.0);
    plan_result_free(&result);
    setup.request.device.memory = whole.device_bytes - 1.0;
    assert_ok(plan_search(&result, &setup.request));
    assert_true(result.count == 1 && result.candidates[0].waits && !result.less_state);
    assert_true(result.candidates[0].device_bytes ==
                whole.device_bytes - (double)whole.memory.snapshot);
    setup.request.device.memory = result.candidates[0].device_bytes - 1.0;
    plan_result_free(&result);
    assert_ok(plan_search(&result, &setup.request));
    assert_true(result.less_state && !has(&result, PLAN_OFFLOAD, OFFLOAD_OPTIMIZER));
    plan_result_free(&result);
    setup_close(&setup);
}

static void test_ranks_that_suit_no_layout_are_refused(void **state) {
    (void)state;
    struct setup setup;
    struct plan_result result;
    setup_open(&setup);
    setup.request.per_node = 17; /* 34 ranks: 17 of them can share nothing of this model */
    setup.options.train.global_batch = 1;
    assert_int_equal(plan_search(&result, &setup.request), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "no layout of 34 ranks suits the model"));
    plan_result_free(&result);
    setup_close(&setup);
}

/* Ranks of the CPU share the node's memory. */
static void test_ranks_of_a_node_share_memory(void **state) {
    (void)state;
    struct setup setup;
    struct plan_result result;
    setup_open(&setup);
    setup.request.device = *plan_device_find("cpu");
    setup.request.device.memory = 64e9;
    setup.request.device.reserve = 1e6;
    setup.options.parallel.dp = 4;
    setup.request.fixed = (1u << PLAN_KEYS) - 1u;
    assert_ok(plan_search(&result, &setup.request));
    const struct plan_candidate *c = &result.candidates[0];
    assert_true(c->device_bytes == 2.0 * ((double)trainer_memory_total(&c->memory) + 1e6));
    plan_result_free(&result);
    setup_close(&setup);
}

/* --- time ------------------------------------------------------------------------------------ */

/* Products at full speed, all else in no time. */
static struct plan_device ideal(void) {
    struct plan_device device = *plan_device_find("h100");
    device.product_fraction = 1.0;
    device.product_half = 0.0;
    device.attention_fraction = device.bandwidth = 1e30;
    device.node = device.between = (struct cost_link){0.0, 1e30};
    return device;
}

static struct plan_time time_of(const struct setup *setup, const struct plan_device *device,
                                int ranks) {
    struct plan_layout layout;
    struct plan_model model;
    struct plan_time time;
    const struct plan_habits habits = plan_habits_of_strata(false);
    assert_ok(plan_read_model(&model, &setup->options));
    assert_ok(plan_layout_of(&layout, &setup->options, ranks, 2));
    assert_ok(plan_time(&time, device, &model, &habits, &layout));
    return time;
}

static void assert_close(double got, double want, double relative) {
    if (!(fabs(got - want) <= relative * fabs(want))) fail_msg("got %.9g, want %.9g", got, want);
}

static double product_flops(const struct setup *setup) {
    double layers = 8.0 * (512.0 * (512 + 256 + 256) + 512.0 * 512 + 3.0 * 512 * 2048);
    return 6.0 * (layers + 4096.0 * 512) *
           (double)(setup->options.train.global_batch * setup->options.data.sequence_length);
}

static void test_products_take_their_operations(void **state) {
    (void)state;
    struct setup setup;
    const struct plan_device device = ideal();
    setup_open(&setup);
    double one = product_flops(&setup) / device.flops_fp32;
    setup.options.train.micro_batch = 1;
    assert_close(time_of(&setup, &device, 1).seconds, one, 1e-6);
    assert_close(time_of(&setup, &device, 4).seconds, one / 4.0, 1e-6); /* dp 4 */
    setup.options.parallel.tp = 2;
    assert_close(time_of(&setup, &device, 2).seconds, one / 2.0, 1e-6);
    setup.options.parallel.tp = 1;
    setup.options.train.recompute = RECOMPUTE_FULL;
    double again = time_of(&setup, &device, 1).seconds / one;
    assert_true(again > 1.25 && again < 4.0 / 3.0); /* a third more, but for the head */
    setup.options.train.recompute = RECOMPUTE_SELECTIVE;
    double cheap = time_of(&setup, &device, 1).seconds / one;
    assert_true(cheap > 1.1 && cheap < again); /* gate and up of seven products */
    setup_close(&setup);
}

/* Two stages of four layers, 8 microbatches, without a head: the bubble of parallel/schedule.h. */
static void test_pipelines_have_their_bubble(void **state) {
    (void)state;
    struct setup setup;
    struct plan_model model;
    struct plan_layout layout;
    struct plan_time one, two;
    const struct plan_device device = ideal();
    const struct plan_habits habits = plan_habits_of_strata(false);
    setup_open(&setup);
    setup.options.train.micro_batch = 2;
    assert_ok(plan_read_model(&model, &setup.options));
    model.vocab = 1.0;
    assert_ok(plan_layout_of(&layout, &setup.options, 1, 2));
    assert_ok(plan_time(&one, &device, &model, &habits, &layout));
    setup.options.parallel.pp = 2;
    assert_ok(plan_layout_of(&layout, &setup.options, 2, 2));
    assert_ok(plan_time(&two, &device, &model, &habits, &layout));
    assert_close(two.seconds, one.seconds / 2.0 * (1.0 + 1.0 / 8.0), 1e-3);
    assert_close(two.bubble, one.seconds / 16.0, 1e-2);
    setup_close(&setup);
}

/* The reduction of gradients over a slow link is in the time, once. */
static void test_replicas_sum_their_gradients(void **state) {
    (void)state;
    struct setup setup;
    struct plan_device device = ideal();
    setup_open(&setup);
    double without = time_of(&setup, &device, 2).seconds;
    device.node = (struct cost_link){0.0, 1e9};
    device.link_fraction = 1.0;
    device.replica_overlap = 0.0;
    double parameters = product_flops(&setup) / (6.0 * 16.0 * 128.0) + 4096.0 * 512.0;
    const struct plan_time with = time_of(&setup, &device, 2);
    assert_close(with.seconds - without, parameters * 4.0 / 1e9, 1e-6); /* k = 2 (2 - 1) / 2 */
    assert_close(with.replicas, with.seconds - without, 1e-6);
    setup_close(&setup);
}

/* A moment in 8 bits has 260 bytes a block of 256; state on the host comes and goes over its link,
 * at half the speed of memory twice as long as what else an update moves. */
static void test_less_state_moves_less(void **state) {
    (void)state;
    struct setup setup;
    struct plan_device device = ideal();
    setup_open(&setup);
    const double moment = 260.0 / 256.0;
    struct plan_habits fp32 = plan_habits_of(&setup.options);
    setup.options.train.optimizer = OPTIMIZER_ADAMW8;
    struct plan_habits small = plan_habits_of(&setup.options);
    assert_close(fp32.optimizer_bytes - small.optimizer_bytes, 4.0 * (4.0 - moment), 1e-9);
    setup.options.train.offload = OFFLOAD_OPTIMIZER;
    setup.options.model.dtype = OPTION_BF16;
    assert_close(plan_habits_of(&setup.options).offloaded_bytes, 4.0 + 2.0 * moment, 1e-9);
    setup.options.model.dtype = OPTION_FP32;
    device.bandwidth = 2e9;
    device.bandwidth_fraction = device.link_fraction = 1.0;
    device.host_link = 1e9;
    assert_close(plan_update_seconds(&device, 4e9, 1e9), 2.0, 1e-9);
    assert_close(plan_update_seconds(&device, 4e9, 3e9), 3.0, 1e-9);
    device.host_link = 0.0; /* one memory: copied twice */
    assert_close(plan_update_seconds(&device, 4e9, 3e9), 2.0 + 6.0, 1e-9);
    setup_close(&setup);
}

static void test_h200_is_h100_with_other_memory(void **state) {
    (void)state;
    const struct plan_device *h100 = plan_device_find("h100"), *h200 = plan_device_find("h200");
    struct plan_device same = *h200;
    assert_true(h200->memory > h100->memory && h200->bandwidth > h100->bandwidth);
    same.name = h100->name;
    same.memory = h100->memory;
    same.bandwidth = h100->bandwidth;
    assert_memory_equal(&same, h100, sizeof same);
}

static void test_seconds_have_units(void **state) {
    (void)state;
    static const struct {
        double seconds;
        const char *text;
    } rows[] = {{52.42e-6, "52.42 us"}, {0.00342, "3.42 ms"}, {0.25, "250 ms"},
                {1.0, "1 s"},           {12.084, "12.08 s"},  {90808.3, "90808 s"}};
    char text[16];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_string_equal(plan_print_seconds(text, rows[i].seconds), rows[i].text);
}

/* --- calibration ----------------------------------------------------------------------------- */

/* A run of `layout` whose steps took `seconds`. */
static char *write_run(struct setup *setup, const char *name, double seconds) {
    char path[512], *yaml, line[256], file[64];
    setup->options.train.threads = 1;
    snprintf(path, sizeof path, "%s", temporary_file(&setup->folder, name));
    assert_int_equal(mkdir(path, 0755), 0);
    assert_ok(config_dump(setup->tables, RUN_TABLES, &yaml));
    snprintf(file, sizeof file, "%s/config.yaml", name);
    temporary_write(&setup->folder, file, yaml, strlen(yaml));
    free(yaml);
    double tokens = (double)(setup->options.train.global_batch * 128);
    int bytes = snprintf(line, sizeof line,
                         "{\"kind\":\"train\",\"step\":1,\"loss\":1.0,"
                         "\"tokens_per_second\":%.17g}\n",
                         tokens / seconds);
    snprintf(file, sizeof file, "%s/metrics.jsonl", name);
    temporary_write(&setup->folder, file, line, (size_t)bytes);
    return strdup(path);
}

/* Runs of a machine that is not as the table says are predicted after calibration. */
static void test_calibration_finds_the_rates(void **state) {
    (void)state;
    struct setup setup;
    struct plan_calibration calibration;
    struct plan_device device = *plan_device_find("cpu"), truth = device;
    char *runs[4];
    setup_open(&setup);
    truth.product_fraction *= 0.5;
    truth.bandwidth_fraction *= 0.7;
    truth.link_fraction *= 0.4;
    for (int i = 0; i < 4; i++) {
        char name[8];
        int ranks = i < 2 ? 1 : 2;
        setup.options.parallel.dp = i == 3 ? 1 : ranks;
        setup.options.parallel.tp = i == 3 ? 2 : 1;
        setup.options.train.global_batch = i == 1 ? 2 : 16;
        snprintf(name, sizeof name, "run%d", i);
        runs[i] = write_run(&setup, name, time_of(&setup, &truth, ranks).seconds);
    }
    assert_ok(plan_calibrate(&device, runs, 4, 2, &calibration));
    for (int i = 0; i < 4; i++)
        assert_close(calibration.runs[i].predicted, calibration.runs[i].measured, 0.06);
    setup.options.parallel.tp = 1; /* another layout */
    setup.options.parallel.dp = 2;
    setup.options.parallel.zero = 1;
    setup.options.train.global_batch = 4;
    double known = time_of(&setup, plan_device_find("cpu"), 2).seconds;
    double want = time_of(&setup, &truth, 2).seconds;
    assert_true(fabs(known / want - 1.0) > 0.3); /* the test could fail */
    assert_close(time_of(&setup, &device, 2).seconds, want, 0.1);
    plan_calibration_free(&calibration);
    for (int i = 0; i < 4; i++) free(runs[i]);
    setup_close(&setup);
}

static void test_runs_that_tell_too_little_are_refused(void **state) {
    (void)state;
    struct setup setup;
    struct plan_calibration calibration;
    struct plan_device device = *plan_device_find("cpu");
    setup_open(&setup);
    char *run = write_run(&setup, "run", 1.0);
    assert_int_equal(plan_calibrate(&device, &run, 1, 1, &calibration), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "parallel.dp"));
    plan_calibration_free(&calibration);
    free(run);
    setup_close(&setup);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_are_the_trainers),
        cmocka_unit_test(test_offloaded_state_is_the_nodes),
        cmocka_unit_test(test_candidates_are_sorted_and_all_there),
        cmocka_unit_test(test_fixed_keys_stay),
        cmocka_unit_test(test_what_cannot_fit_is_refused),
        cmocka_unit_test(test_less_state_is_the_last_resort),
        cmocka_unit_test(test_nodes_leave_copies_out),
        cmocka_unit_test(test_ranks_that_suit_no_layout_are_refused),
        cmocka_unit_test(test_ranks_of_a_node_share_memory),
        cmocka_unit_test(test_products_take_their_operations),
        cmocka_unit_test(test_pipelines_have_their_bubble),
        cmocka_unit_test(test_replicas_sum_their_gradients),
        cmocka_unit_test(test_less_state_moves_less),
        cmocka_unit_test(test_h200_is_h100_with_other_memory),
        cmocka_unit_test(test_seconds_have_units),
        cmocka_unit_test(test_calibration_finds_the_rates),
        cmocka_unit_test(test_runs_that_tell_too_little_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
