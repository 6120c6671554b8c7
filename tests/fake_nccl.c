/* A libnccl.so.2 that only tells its version: the one in the environment. */
#include <stdlib.h>

int ncclGetVersion(int *version);

__attribute__((visibility("default"))) int ncclGetVersion(int *version) {
    const char *text = getenv("FAKE_NCCL_VERSION");
    *version = text ? atoi(text) : 0;
    return 0;
}
