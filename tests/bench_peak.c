/* The FMA peak of this machine at this moment: `strata`'s own measurement of it, the best of about
 * a second. Before and after what can't measure it itself (a server), it is the ceiling of that
 * time.
 *
 *     bench_peak [THREADS]        all cores; one JSON line */
#define _GNU_SOURCE
#include "kernels/base/clock.h"
#include "kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    const struct kernels *kernels;
    struct stream stream;
    stream_open_cpu(&stream, argc > 1 ? atoi(argv[1]) : 0);
    if (kernels_cpu(&kernels, "auto", DTYPE_F32) != STATUS_OK) {
        fprintf(stderr, "bench_peak: %s\n", status_message());
        return 1;
    }
    double peak = 0.0, start = clock_seconds();
    do {
        double burst = kernels->peak_fma(stream.threads);
        if (burst > peak) peak = burst;
    } while (clock_seconds() - start < 1.0);
    printf(
        "{\"bench\": \"peak\", \"instructions\": \"%s\", \"threads\": %d, \"fma_gflops\": %.1f}\n",
        kernels->name, stream.threads, peak * 1e-9);
    return 0;
}
