#include "tests/check.h"

#include "kernels/base/rng.h"
#include "serve/scheduler.h"

/* A machine that stands in for the engine: a key is a hash of the root and of all tokens up to it,
 * so that a page that was shared, reused or written wrongly shows at once. */
struct machine {
    struct kv_pages pages;
    struct scheduler scheduler;
    struct scheduler_plan plan;
    uint64_t *keys; /* (pages, page_size) */
    int64_t steps, tokens_run;
};

static void machine_create(struct machine *machine, int32_t pages, int32_t page_size,
                           struct scheduler_config config) {
    *machine = (struct machine){0};
    assert_ok(kv_pages_create(&machine->pages, pages, page_size));
    assert_ok(scheduler_create(&machine->scheduler, &config, &machine->pages));
    assert_ok(scheduler_plan_create(&machine->plan, &config));
    machine->keys = calloc((size_t)pages * (size_t)page_size, sizeof *machine->keys);
}

static void machine_free(struct machine *machine) {
    assert_int_equal(machine->pages.idle_count, machine->pages.count);
    free(machine->keys);
    scheduler_plan_free(&machine->plan);
    scheduler_free(&machine->scheduler);
    kv_pages_free(&machine->pages);
}

static uint64_t key_after(uint64_t key, int32_t token) {
    return (key ^ (uint64_t)(uint32_t)token) * 0x9E3779B97F4A7C15u + 1;
}

static uint64_t *key_at(struct machine *machine, const struct sequence *sequence, int32_t i) {
    int32_t size = machine->pages.page_size;
    return &machine->keys[(int64_t)sequence->pages[i / size] * size + i % size];
}

static void run_item(struct machine *machine, const struct plan_item *item) {
    const struct sequence *sequence = item->sequence;
    int32_t size = machine->pages.page_size;
    assert_int_equal(item->first, sequence->computed);
    assert_true(item->count > 0 && item->first + item->count <= sequence->count);
    assert_int_equal(item->draws, item->first + item->count == sequence->count);
    uint64_t key = (uint64_t)sequence->root + 12345;
    for (int32_t i = 0; i < item->first + item->count; i++) {
        key = key_after(key, sequence->tokens[i]);
        const struct kv_page *page = &machine->pages.pages[sequence->pages[i / size]];
        if (i < item->first) {
            assert_true(*key_at(machine, sequence, i) == key);
        } else {
            assert_int_equal(page->references, 1);
            assert_false(page->published);
            *key_at(machine, sequence, i) = key;
        }
    }
}

/* A sequence's next token depends on the sequence alone. */
static int32_t token_after(const struct sequence *sequence) {
    uint64_t key = (uint64_t)sequence->root + 12345;
    for (int32_t i = 0; i < sequence->count; i++) key = key_after(key, sequence->tokens[i]);
    return (int32_t)(key >> 60);
}

static void machine_step(struct machine *machine) {
    const struct scheduler_config *config = &machine->scheduler.config;
    int32_t drawn[64];
    bool ended[64];
    scheduler_plan(&machine->scheduler, &machine->plan);
    int32_t tokens = 0;
    for (int32_t i = 0; i < machine->plan.count; i++) {
        const struct plan_item *item = &machine->plan.items[i];
        struct sequence *sequence = item->sequence;
        assert_int_equal(sequence->state, SEQUENCE_RUNNING);
        run_item(machine, item);
        tokens += item->count;
        bool full = sequence->count == sequence->limit;
        drawn[i] = full ? -1 : token_after(sequence);
        ended[i] = item->draws && sequence->count + 1 >= sequence->limit;
    }
    assert_int_equal(tokens, machine->plan.tokens);
    assert_true(tokens <= config->token_budget);
    assert_true(machine->plan.count <= config->max_batch);
    assert_true(machine->scheduler.running_count <= config->max_batch);
    scheduler_commit(&machine->scheduler, &machine->plan, drawn, ended);
    machine->steps++;
    machine->tokens_run += tokens;
}

struct load {
    struct sequence sequences[96];
    int32_t tokens[96][128];
    int32_t expected[96][128];
};

/* Prompts over a tiny alphabet share many prefixes. */
static void make_sequence(struct load *load, int i, uint64_t seed, int32_t context) {
    struct rng_block random = rng_draw(seed, RNG_TEST, 1, (uint64_t)i);
    struct sequence *sequence = &load->sequences[i];
    int32_t prompt = 1 + (int32_t)(random.word[0] % (uint32_t)context);
    int32_t room = context + 1 - prompt;
    *sequence = (struct sequence){
        .tokens = load->tokens[i],
        .count = prompt,
        .limit = prompt + (int32_t)(random.word[1] % (uint32_t)(room + 1)),
        .root = (int32_t)(random.word[2] % 2),
        .reuse_prefix = random.word[2] % 5 != 0,
        .group = random.word[3] % 4 == 0 ? 1 + random.word[3] / 4 % 3 : 0,
    };
    for (int32_t t = 0; t < prompt; t++)
        load->tokens[i][t] = t % 16 == 0 ? (int32_t)(random.word[3] >> t % 16 & 1) : t % 7;
    struct sequence alone = *sequence;
    alone.tokens = load->expected[i];
    memcpy(load->expected[i], load->tokens[i], (size_t)prompt * sizeof(int32_t));
    while (alone.count < alone.limit) {
        int32_t token = token_after(&alone);
        alone.tokens[alone.count++] = token;
    }
}

/* Random arrivals and cancellations; scarce pages force preemption. */
static void run_random_load(uint64_t seed, int32_t pages, struct scheduler_config config,
                            int64_t *preemptions, int64_t *reused) {
    enum { COUNT = 96 };
    struct machine machine;
    machine_create(&machine, pages, 4, config);
    struct load *load = calloc(1, sizeof *load);
    bool cancelled[COUNT] = {0};
    int submitted = 0, done = 0;
    for (uint64_t turn = 0; done < COUNT; turn++) {
        struct rng_block random = rng_draw(seed, RNG_TEST, 2, turn);
        for (uint32_t k = random.word[0] % 4; k > 0 && submitted < COUNT; k--, submitted++) {
            make_sequence(load, submitted, seed, config.context);
            assert_ok(scheduler_submit(&machine.scheduler, &load->sequences[submitted]));
        }
        if (random.word[1] % 16 == 0 && submitted > 0) {
            int which = (int)(random.word[2] % (uint32_t)submitted);
            if (load->sequences[which].state != SEQUENCE_DONE) {
                cancelled[which] = true;
                scheduler_remove(&machine.scheduler, &load->sequences[which]);
            }
        }
        machine_step(&machine);
        bool idle = machine.scheduler.running_count + machine.scheduler.waiting_count == 0;
        assert_true(machine.plan.count > 0 || idle);
        done = 0;
        for (int i = 0; i < submitted; i++) done += load->sequences[i].state == SEQUENCE_DONE;
        assert_true(turn < 100000);
    }
    for (int i = 0; i < COUNT; i++) {
        const struct sequence *sequence = &load->sequences[i];
        *reused += sequence->reused > 0 ? sequence->reused : 0;
        if (cancelled[i]) continue;
        assert_int_equal(sequence->count, sequence->limit);
        assert_memory_equal(sequence->tokens, load->expected[i],
                            (size_t)sequence->limit * sizeof(int32_t));
    }
    *preemptions += machine.scheduler.preemptions;
    machine_free(&machine);
    free(load);
}

static void test_random_loads_finish_with_the_right_tokens(void **state) {
    (void)state;
    int64_t preemptions = 0, reused = 0;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct scheduler_config config = {
            .context = 64,
            .max_batch = 1 + (int32_t)(seed % 9),
            .token_budget = 9 + (int32_t)(seed * 7 % 40),
        };
        run_random_load(seed, 16 + (int32_t)(seed % 5) * 6, config, &preemptions, &reused);
    }
    assert_true(preemptions > 20);
    assert_true(reused > 1000);
}

static void test_what_never_fits_is_refused(void **state) {
    (void)state;
    struct machine machine;
    machine_create(&machine, 4, 4, (struct scheduler_config){16, 2, 8});
    int32_t tokens[32] = {0};
    struct sequence fits = {.tokens = tokens, .count = 16, .limit = 17};
    struct sequence too_long = {.tokens = tokens, .count = 17, .limit = 17};
    struct sequence too_many = {.tokens = tokens, .count = 10, .limit = 18};
    assert_ok(scheduler_submit(&machine.scheduler, &fits));
    assert_int_equal(scheduler_submit(&machine.scheduler, &too_long), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "17"));
    assert_non_null(strstr(status_message(), "16"));
    assert_int_equal(scheduler_submit(&machine.scheduler, &too_many), STATUS_CONFIG);
    machine_step(&machine);
    machine_step(&machine);
    assert_int_equal(fits.state, SEQUENCE_DONE);
    assert_int_equal(fits.count, 17);
    machine_free(&machine);
}

static void test_decodes_run_while_a_long_prompt_is_prefilled(void **state) {
    (void)state;
    struct machine machine;
    machine_create(&machine, 64, 4, (struct scheduler_config){128, 4, 8});
    static int32_t tokens[3][128];
    struct sequence decode = {.tokens = tokens[0], .count = 1, .limit = 60};
    struct sequence longer = {.tokens = tokens[1], .count = 100, .limit = 101};
    struct sequence shorter = {.tokens = tokens[2], .count = 3, .limit = 4};
    assert_ok(scheduler_submit(&machine.scheduler, &decode));
    machine_step(&machine);
    assert_ok(scheduler_submit(&machine.scheduler, &longer));
    assert_ok(scheduler_submit(&machine.scheduler, &shorter));
    machine_step(&machine);
    assert_int_equal(decode.count, 3);
    assert_int_equal(longer.computed, 4); /* half the budget, since another waits */
    assert_int_equal(shorter.state, SEQUENCE_DONE);
    machine_step(&machine);
    assert_int_equal(decode.count, 4);
    assert_int_equal(longer.computed, 11); /* all but the decode's token */
    while (longer.state != SEQUENCE_DONE || decode.state != SEQUENCE_DONE) machine_step(&machine);
    machine_free(&machine);
}

static void test_siblings_share_the_first_ones_prompt(void **state) {
    (void)state;
    struct machine machine;
    machine_create(&machine, 64, 4, (struct scheduler_config){64, 4, 16});
    static int32_t tokens[4][64];
    struct sequence siblings[4];
    for (int i = 0; i < 4; i++) {
        siblings[i] = (struct sequence){
            .tokens = tokens[i], .count = 41, .limit = 45, .reuse_prefix = true, .group = 9};
        assert_ok(scheduler_submit(&machine.scheduler, &siblings[i]));
    }
    while (siblings[3].state != SEQUENCE_DONE) machine_step(&machine);
    assert_int_equal(siblings[0].reused, 0);
    for (int i = 1; i < 4; i++) assert_int_equal(siblings[i].reused, 40);
    machine_free(&machine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_loads_finish_with_the_right_tokens),
        cmocka_unit_test(test_what_never_fits_is_refused),
        cmocka_unit_test(test_decodes_run_while_a_long_prompt_is_prefilled),
        cmocka_unit_test(test_siblings_share_the_first_ones_prompt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
