/* Sampling on a GPU draws the reference table's tokens: penalties, each cut, ties, rows that allow
 * no draw; the log probability to 2e-6. */
#define _GNU_SOURCE
#include "tests/gpu_case.h"

enum { DRAWS = 2 };

static struct sample_params random_params(struct gpu_case *c, int vocab) {
    struct sample_params p = {.temperature = 1.0f,
                              .top_p = 1.0f,
                              .repetition_penalty = 1.0f,
                              .seed = random_word(&c->random)};
    if (c->number % 8 == 0) p.temperature = 0.0f;
    if (c->number % 8 == 2) p.temperature = 0.7f;
    if (c->number % 2) p.top_k = random_int(&c->random, 1, vocab + 1);
    if (c->number % 3 == 1) p.top_p = (float)random_int(&c->random, 0, 99) / 100.0f;
    if (c->number % 5 == 2) p.min_p = 0.05f;
    if (c->number % 4 > 1) {
        p.repetition_penalty = 1.3f;
        p.presence_penalty = 0.2f;
        p.frequency_penalty = 0.1f;
    }
    return p;
}

/* Distinct tokens: every third one. */
static int random_seen(struct gpu_case *c, struct sample_seen *seen, int vocab) {
    int count = 0;
    for (int token = 0; c->number % 4 > 1 && token < vocab; token += 3)
        seen[count++] = (struct sample_seen){.token = token,
                                             .generated = random_int(&c->random, 0, 3),
                                             .anywhere = random_int(&c->random, 0, 1),
                                             .bias = token % 2 ? 0.5f : 0.0f};
    return count;
}

/* Every third row has few values, so many ties. */
static float *random_logits(struct gpu_case *c, int vocab) {
    float *logits = gpu_f32(c, (size_t)vocab, 2.0f);
    for (int i = 0; i < vocab && c->number % 3 == 1; i++)
        logits[i] = (float)random_int(&c->random, -2, 2);
    if (c->number % 7 == 3) logits[vocab / 2] = -INFINITY;
    if (c->number == 6) logits[vocab / 3] = NAN;
    if (c->number == 11) logits[vocab / 3] = INFINITY;
    for (int i = 0; i < vocab && c->number == 14; i++) logits[i] = -INFINITY;
    gpu_send(c, logits);
    return logits;
}

static void run_sample(struct gpu_case *c, void *context) {
    (void)context;
    if (c->cuda->act == DTYPE_BF16 && c->number > 3) return; /* the same kernel */
    static const int vocabs[] = {1, 2, 511, 512, 513, 1900};
    int vocab = c->number < 6 ? vocabs[c->number] : random_int(&c->random, 3, 900);
    struct sample_seen *seen = gpu_shared_bytes(c, (size_t)vocab * sizeof *seen);
    int32_t *tokens = gpu_shared_bytes(c, DRAWS * sizeof *tokens);
    float *logprobs = gpu_shared_bytes(c, DRAWS * sizeof *logprobs), logprob;
    float *logits = random_logits(c, vocab);
    float *scratch = gpu_bytes(c, (size_t)vocab * sizeof *scratch);
    int32_t *ids = gpu_bytes(c, (size_t)vocab * sizeof *ids), token;
    struct sample_args host = {.token = &token,
                               .logprob = &logprob,
                               .scratch = scratch,
                               .scratch_ids = ids,
                               .logits = logits,
                               .seen = seen,
                               .seen_count = random_seen(c, seen, vocab),
                               .vocab = vocab,
                               .params = random_params(c, vocab)};
    struct sample_args gpu = host;
    gpu.scratch = gpu_of(c, scratch), gpu.scratch_ids = gpu_of(c, ids);
    gpu.logits = gpu_of(c, logits);
    for (int i = 0; i < DRAWS; i++) {
        gpu.token = &tokens[i], gpu.position = i;
        gpu.logprob = c->number % 5 == 4 ? NULL : &logprobs[i];
        c->cuda->sample(&c->stream, &gpu);
    }
    assert_ok(stream_check(&c->stream));
    for (host.position = 0; host.position < DRAWS; host.position++) {
        float got = logprobs[host.position];
        c->reference->sample(&c->host_stream, &host);
        if (tokens[host.position] != token)
            fail_msg("position %d: drew %d, want %d (case %d, vocabulary %d, schedule %s)",
                     (int)host.position, (int)tokens[host.position], (int)token, c->number, vocab,
                     c->schedule);
        if (c->number % 5 == 4) continue;
        if (token < 0) assert_true(got == -INFINITY);
        if (token >= 0) assert_true(fabsf(got - logprob) <= 2e-6f * fmaxf(1.0f, fabsf(logprob)));
    }
}

static void test_sample(void **state) {
    (void)state;
    gpu_each(24, run_sample, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sample)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
