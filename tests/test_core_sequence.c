/* What a block does while its tokens are gathered. A communicator and an op table keep a record:
 * gathers of backward are started before the products that don't read them and waited for after
 * these. A gather's buffer is NaN until it is waited for, so that a product which reads it too
 * early spoils the gradients. */
#include "tests/fixture.h"

#include "core/head.h"

/* What is recorded, a letter each:
 *     < >   a gather starts, is waited for          g  one that is not started
 *     i w   gradient of an input, of a weight       m  SwiGLU, forward
 *     s     a scatter                               r  a sum */
static struct {
    char log[256]; /* op tables carry no context */
    int count;
    const struct kernels *real;
    void *out; /* of what is under way */
    void *held;
    size_t bytes;
    int flights, forward_calls;
} record;

static void note(char letter) {
    assert_true(record.count + 1 < (int)sizeof record.log);
    record.log[record.count++] = letter;
    record.log[record.count] = '\0';
}

static void clear(void) {
    record.count = 0;
    record.log[0] = '\0';
}

static void noted_input(struct stream *s, const struct matmul_backward_input_args *args) {
    note('i');
    record.real->matmul_backward_input(s, args);
}

static void noted_weight(struct stream *s, const struct matmul_backward_weight_args *args) {
    note('w');
    record.real->matmul_backward_weight(s, args);
}

static void noted_swiglu(struct stream *s, void *y, const void *gate, const void *up,
                         int64_t count) {
    note('m');
    record.real->swiglu_forward(s, y, gate, up, count);
}

static void noted_gather(struct comm *comm, struct stream *s, void *out, const void *in,
                         int64_t count, enum dtype type) {
    (void)comm, (void)s;
    note('g');
    if (out != in) memcpy(out, in, dtype_bytes(type, (size_t)count));
}

static void noted_scatter(struct comm *comm, struct stream *s, void *out, const void *in,
                          int64_t count, enum dtype type) {
    (void)comm, (void)s;
    note('s');
    if (out != in) memcpy(out, in, dtype_bytes(type, (size_t)count));
}

static void noted_sum(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                      enum dtype type) {
    (void)comm, (void)s, (void)buffer, (void)count, (void)type;
    note('r');
}

static void start_gather(struct comm *comm, struct stream *s, void *out, const void *in,
                         int64_t count, enum dtype type, struct comm_request *request) {
    (void)comm, (void)s;
    assert_null(request->state);
    assert_null(record.held); /* one at a time */
    note('<');
    record.flights++;
    record.bytes = dtype_bytes(type, (size_t)count);
    record.held = malloc(record.bytes);
    assert_non_null(record.held);
    memcpy(record.held, in, record.bytes);
    memset(record.out = out, 0xff, record.bytes); /* NaN in fp32 */
    request->state = &record;
}

static bool test_gather(struct comm *comm, struct stream *s, struct comm_request *request) {
    (void)comm, (void)s;
    return request->state == NULL;
}

static void wait_gather(struct comm *comm, struct stream *s, struct comm_request *request) {
    (void)comm, (void)s;
    if (!request->state) return;
    note('>');
    memcpy(record.out, record.held, record.bytes);
    free(record.held);
    record.held = NULL;
    request->state = NULL;
}

struct site {
    struct fixture fixture;
    struct adapter adapter;
    struct adapter_span span;
    struct kernels kernels;
    struct comm_ops ops;
    struct comm tp;
    float *d; /* (N, C) */
};

/* One rank that gathers, scatters and sums all the same where `sequence` says so. */
static void site_open(struct site *site, bool sequence, bool lora, bool later) {
    memset(site, 0, sizeof *site);
    fixture_open(&site->fixture, "llama", "llama", "auto");
    struct fixture *f = &site->fixture;
    workspace_close(&f->ws);
    assert_ok(kernels_cpu(&record.real, "auto", DTYPE_F32));
    site->kernels = *record.real;
    site->kernels.matmul_backward_input = noted_input;
    site->kernels.matmul_backward_weight = noted_weight;
    site->kernels.swiglu_forward = noted_swiglu;
    comm_open_self(&site->tp, "tp");
    site->ops = *site->tp.ops;
    site->ops.all_gather = noted_gather;
    site->ops.reduce_scatter = noted_scatter;
    site->ops.all_reduce_ordered = noted_sum;
    site->ops.start_all_gather = start_gather;
    site->ops.test = test_gather;
    site->ops.wait = wait_gather;
    site->tp.ops = &site->ops;
    if (lora) {
        const struct adapter_config config = {
            .rank = 4,
            .alpha = 8.0,
            .dropout = 0.25,
            .targets = {[WEIGHT_Q] = true, [WEIGHT_V] = true, [WEIGHT_GATE] = true}};
        assert_ok(adapter_create(&site->adapter, "a", &f->model, &config, 7));
        site->span = (struct adapter_span){0, f->packed.batch.tokens, &site->adapter};
        f->packed.batch.spans = &site->span;
        f->packed.batch.span_count = 1;
        f->packed.batch.training = true;
        fixture_train(f, site->adapter.params, site->adapter.param_count);
    } else {
        fixture_train(f, f->model.params, f->model.param_count);
    }
    const struct workspace_plan plan = {.tokens = f->packed.batch.tokens,
                                        .logit_rows = 1,
                                        .keep = ACTS_ALL,
                                        .backward = true,
                                        .sequence = sequence,
                                        .weights_later = later,
                                        .adapter = lora ? &site->adapter : NULL};
    assert_ok(workspace_open(&f->ws, &f->model, &site->kernels, 1, &site->tp, &plan));
    f->packed.batch.weights_later = later;
    site->d = calloc((size_t)(f->packed.batch.tokens * f->model.config.hidden), sizeof *site->d);
    assert_non_null(site->d);
}

static void site_close(struct site *site) {
    free(site->d);
    adapter_free(&site->adapter);
    fixture_close(&site->fixture);
}

static void forward(struct site *site) {
    struct fixture *f = &site->fixture;
    double loss = 0.0;
    clear();
    stage_forward(&f->ws.exec, &f->model, &f->packed.batch, &f->ws.acts);
    record.forward_calls = 0;
    for (int i = 0; i < record.count; i++)
        record.forward_calls += strchr("<gsr", record.log[i]) != NULL;
    head_loss(&f->ws.exec, &f->model, &f->packed.batch, f->ws.acts.hidden, site->d, &loss, NULL);
    clear();
}

static void backward_of_top(struct site *site) {
    struct fixture *f = &site->fixture;
    int top = f->model.config.layers - 1;
    block_backward(&f->ws.exec, &f->model, top, &f->packed.batch, f->ws.acts.rope_table,
                   &f->ws.acts.blocks[top], site->d, true);
    assert_ok(stream_check(&f->ws.stream));
}

/* SwiGLU beside the gather of d; gate's and up's, then q's, k's and v's gradients of their input
 * beside the gathers of those inputs. */
static void test_gathers_go_beside_products(void **state) {
    struct site site;
    (void)state;
    site_open(&site, true, false, false);
    forward(&site);
    backward_of_top(&site);
    assert_string_equal(record.log, "<m>iw<ii>wwsgiw<iii>wwws");
    site_close(&site);
}

/* The first half of a backward doesn't read them; the second has a product for each. */
static void test_gathers_wait_for_the_weights_half(void **state) {
    struct site site;
    (void)state;
    site_open(&site, true, false, true);
    forward(&site);
    backward_of_top(&site);
    assert_string_equal(record.log, "<m>iiisgiiiis");
    clear();
    struct fixture *f = &site.fixture;
    int top = f->model.config.layers - 1;
    block_backward_weights(&f->ws.exec, &f->model, top, &f->packed.batch, &f->ws.acts.blocks[top]);
    assert_string_equal(record.log, "<w>ww<w>www");
    site_close(&site);
}

/* The base's products go beside the gathers, the factors' come after: of gate's pair the gradients
 * of B, u, A and of x, then of q's and v's. */
static void test_factors_wait_for_their_input(void **state) {
    struct site site;
    (void)state;
    site_open(&site, true, true, false);
    forward(&site);
    backward_of_top(&site);
    assert_string_equal(record.log, "<m>i<ii>wiwisgi<iii>wiwiwiwis");
    site_close(&site);
}

static void test_factors_add_no_collective_to_forward(void **state) {
    (void)state;
    for (int sequence = 0; sequence < 2; sequence++) {
        int calls[2];
        for (int lora = 0; lora < 2; lora++) {
            struct site site;
            site_open(&site, sequence, lora, false);
            forward(&site);
            calls[lora] = record.forward_calls;
            site_close(&site);
        }
        assert_true(calls[0] > 0);
        assert_int_equal(calls[0], calls[1]);
    }
}

/* Gradients of all weights, or of all factors, after a whole backward; the caller frees them. */
static float *gradients_of(bool sequence, bool lora, bool later, size_t *count) {
    struct site site;
    site_open(&site, sequence, lora, later);
    forward(&site);
    struct fixture *f = &site.fixture;
    int flights = record.flights;
    stage_backward(&f->ws.exec, &f->model, &f->packed.batch, &f->ws.acts, site.d, NULL, NULL);
    if (later)
        stage_backward_weights(&f->ws.exec, &f->model, &f->packed.batch, &f->ws.acts, NULL, NULL);
    assert_ok(stream_check(&f->ws.stream));
    assert_int_equal(record.flights > flights, sequence);
    const struct arena *arena = &f->gradients;
    *count = arena->used / sizeof(float);
    float *values = malloc(arena->used);
    assert_non_null(values);
    memcpy(values, arena->base, arena->used);
    site_close(&site);
    return values;
}

static void test_bits_are_those_without_gathers(void **state) {
    (void)state;
    for (int mode = 0; mode < 4; mode++) {
        size_t count, plain_count;
        float *plain = gradients_of(false, mode & 1, mode & 2, &plain_count);
        float *split = gradients_of(true, mode & 1, mode & 2, &count);
        double sum = 0.0;
        assert_int_equal(count, plain_count);
        for (size_t i = 0; i < count; i++) sum += fabs((double)plain[i]);
        assert_true(isfinite(sum) && sum > 1e-3);
        assert_memory_equal(split, plain, count * sizeof *split);
        free(plain);
        free(split);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gathers_go_beside_products),
        cmocka_unit_test(test_gathers_wait_for_the_weights_half),
        cmocka_unit_test(test_factors_wait_for_their_input),
        cmocka_unit_test(test_factors_add_no_collective_to_forward),
        cmocka_unit_test(test_bits_are_those_without_gathers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
