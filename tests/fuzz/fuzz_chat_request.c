/* Bodies of completion requests: whatever the bytes, a request is read or refused with a reason. */
#include "core/log.h"
#include "serve/api_request.h"

#include <assert.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void read_one(enum api_kind kind, const char *text, size_t size) {
    struct api_request request;
    struct api_problem problem = {0};
    if (!api_request_parse(&request, kind, text, size, &problem)) {
        assert(problem.message[0]);
        return;
    }
    assert(request.n >= 1 && request.n <= API_MAX_CHOICES && request.max_tokens >= -1);
    struct generation_options *options = generation_options_create();
    assert(options);
    if (!api_fill_options(options, &request, 1000, &problem)) assert(problem.message[0]);
    for (size_t i = 0; i < options->bias_count; i++)
        assert(options->biases[i].token >= 0 && options->biases[i].token < 1000);
    generation_options_release(options);
    api_request_free(&request);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    log_set_level(LOG_ERROR);
    read_one(API_CHAT, (const char *)bytes, size);
    read_one(API_TEXT, (const char *)bytes, size);
    return 0;
}
