#define _GNU_SOURCE
#include "parallel/cores.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

/* The first hardware thread of the core that `cpu` belongs to. */
static int core_of(int cpu) {
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *file = fopen(path, "r");
    int first = cpu;
    if (file) {
        if (fscanf(file, "%d", &first) != 1) first = cpu;
        fclose(file);
    }
    return first >= 0 && first < CORES_MAX ? first : cpu;
}

void cores_allowed(struct cores *cores) {
    memset(cores, 0, sizeof *cores);
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
        cores->core[0] = cores->cpu[0] = 1;
        return;
    }
    for (int cpu = 0; cpu < CORES_MAX && cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed)) cores->core[core_of(cpu)] = cores->cpu[cpu] = 1;
}

int cores_share(const struct cores *mine, const int32_t sharers[CORES_MAX]) {
    double share = 0;
    for (int i = 0; i < CORES_MAX; i++)
        if (mine->core[i]) share += 1.0 / sharers[i];
    int threads = (int)(share + 1e-9); /* 3 x 1/3 is a whole core */
    return threads < 1 ? 1 : threads;
}

int cores_cpus(const int32_t cpu[CORES_MAX]) {
    int count = 0;
    for (int i = 0; i < CORES_MAX; i++) count += cpu[i] != 0;
    return count;
}
