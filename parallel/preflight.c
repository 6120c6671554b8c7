#define _GNU_SOURCE
#include "parallel/preflight.h"

#include "core/memory.h"
#include "kernels/base/clock.h"
#include "kernels/base/median.h"

#include <limits.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

enum {
    TOKENS = 256,
    WIDTH = 1024,             /* the product is (TOKENS, WIDTH) by (WIDTH, WIDTH) */
    STREAM_FLOATS = 16 << 20, /* of each of the three arrays of a rank, memory allowing */
    SAMPLES = 512,            /* repetitions that are kept at most */
    MESSAGE_BYTES = 4 << 20,
    PINGS = 100,
    GREETINGS = 10,
};

/* What a rank tells of itself. */
struct report {
    char host[PREFLIGHT_HOST_BYTES];
    double gemm_gflops, memory_gbs, available_gib, network_gbs, latency_us, clock_ms;
    uint64_t product; /* the hash of its bits */
    int32_t steady;   /* every repetition had them */
};

struct preflight {
    struct parallel *parallel;
    const struct kernels *kernels;
    struct stream stream, links; /* of the ops, of the collectives */
    struct preflight_stage *stage;
    struct report mine;
    struct report *all; /* (ranks), of every rank */
    int *leaders;       /* (nodes) the lowest rank of each, in the order of ranks */
    int *node_of;       /* (ranks) */
    int nodes;
};

static void enter(struct preflight *p, const char *what, int with) {
    atomic_store(&p->stage->doing, what);
    atomic_store(&p->stage->with, with);
}

void preflight_host(char host[PREFLIGHT_HOST_BYTES]) {
    const char *name = getenv("SLURMD_NODENAME");
    char own[HOST_NAME_MAX + 1] = "?";
    gethostname(own, sizeof own - 1);
    snprintf(host, PREFLIGHT_HOST_BYTES, "%.*s", PREFLIGHT_HOST_BYTES - 1,
             name && *name ? name : own);
}

/* --- one rank -------------------------------------------------------------------------------- */

struct product {
    struct weight w;
    float *x, *y;
};

static void product_free(struct product *product) {
    free(product->w.data);
    free(product->x);
    free(product->y);
}

static enum status product_create(struct product *product) {
    enum { ELEMENTS = WIDTH * WIDTH };
    *product = (struct product){.w = {LAYOUT_PANEL_F32, WIDTH, WIDTH, NULL}};
    float *rows = malloc(ELEMENTS * sizeof *rows);
    product->w.data = aligned_alloc(64, weight_bytes(LAYOUT_PANEL_F32, WIDTH, WIDTH));
    product->x = aligned_alloc(64, TOKENS * WIDTH * sizeof(float));
    product->y = aligned_alloc(64, TOKENS * WIDTH * sizeof(float));
    bool room = rows && product->w.data && product->x && product->y;
    for (int64_t i = 0; i < ELEMENTS && room; i++)
        rows[i] = (float)(i * 7919 % 2003 - 1001) * 0x1p-10f;
    for (int64_t i = 0; i < TOKENS * WIDTH && room; i++)
        product->x[i] = (float)(i * 104729 % 1999 - 999) * 0x1p-10f;
    if (room) weight_pack(&product->w, 0, WIDTH, rows);
    free(rows);
    if (room) return STATUS_OK;
    product_free(product);
    return status_fail(STATUS_MEMORY, "no memory for a product of the preflight");
}

static enum status measure_gemm(struct preflight *p, double seconds) {
    struct product product;
    double samples[SAMPLES];
    int count = 0;
    TRY(product_create(&product));
    const struct matmul_forward_args args = {
        .y = product.y, .x = product.x, .w = &product.w, .tokens = TOKENS};
    p->mine.steady = 1;
    for (double until = clock_seconds() + seconds; count < 3 || clock_seconds() < until; count++) {
        double start = clock_seconds();
        p->kernels->matmul_forward(&p->stream, &args);
        samples[count % SAMPLES] = clock_seconds() - start;
        uint64_t hash = XXH3_64bits(product.y, TOKENS * WIDTH * sizeof(float));
        if (count > 0 && hash != p->mine.product) p->mine.steady = 0;
        p->mine.product = hash;
    }
    double time = median(samples, count < SAMPLES ? count : SAMPLES, MEDIAN_UPPER);
    p->mine.gemm_gflops = 2.0 * TOKENS * WIDTH * WIDTH / time * 1e-9;
    product_free(&product);
    return stream_check(&p->stream);
}

static enum status measure_memory(struct preflight *p, double seconds) {
    double samples[SAMPLES];
    size_t available = 0;
    int64_t n = STREAM_FLOATS;
    int count = 0;
    float *arrays[3] = {NULL};
    if (memory_available("", &available)) p->mine.available_gib = (double)available * 0x1p-30;
    while (available && n > 1 << 16 &&
           (size_t)n * 3 * sizeof(float) * (size_t)p->parallel->node_size > available / 4)
        n /= 2;
    enum status status = STATUS_OK;
    for (int i = 0; i < 3 && status == STATUS_OK; i++) {
        arrays[i] = calloc((size_t)n, sizeof(float));
        if (!arrays[i]) status = status_fail(STATUS_MEMORY, "no memory for the preflight");
        /* first touched by the threads that use it: so its pages are on their part of the node */
        if (arrays[i]) p->kernels->scale(&p->stream, arrays[i], 1.0f, n);
    }
    for (double until = clock_seconds() + seconds;
         status == STATUS_OK && (count < 3 || clock_seconds() < until); count++) {
        double start = clock_seconds();
        p->kernels->add(&p->stream, arrays[0], arrays[1], arrays[2], n);
        samples[count % SAMPLES] = clock_seconds() - start;
    }
    if (count)
        p->mine.memory_gbs = 3.0 * sizeof(float) * (double)n /
                             median(samples, count < SAMPLES ? count : SAMPLES, MEDIAN_UPPER) *
                             1e-9;
    for (int i = 0; i < 3; i++) free(arrays[i]);
    return status == STATUS_OK ? stream_check(&p->stream) : status;
}

/* --- between nodes --------------------------------------------------------------------------- */

/* `bytes` to and fro, the lower rank first; seconds of a round trip. */
static double ping(struct preflight *p, int with, char *message, int64_t bytes) {
    struct comm *world = &p->parallel->world;
    bool first = world->rank < with;
    double start = clock_seconds();
    if (first) comm_send(world, &p->links, message, bytes, DTYPE_U8, with);
    comm_recv(world, &p->links, message, bytes, DTYPE_U8, with);
    if (!first) comm_send(world, &p->links, message, bytes, DTYPE_U8, with);
    return clock_seconds() - start;
}

/* One link; both ends call it and see nearly the same. */
static void measure_link(struct preflight *p, int with, char *message) {
    double samples[PINGS];
    for (int i = 0; i < PINGS; i++) samples[i] = ping(p, with, message, 8);
    double latency = median(samples, PINGS, MEDIAN_UPPER) / 2 * 1e6;
    int large = PINGS / 5;
    ping(p, with, message, MESSAGE_BYTES);
    for (int i = 0; i < large; i++) samples[i] = ping(p, with, message, MESSAGE_BYTES);
    double bandwidth = 2.0 * MESSAGE_BYTES / median(samples, large, MEDIAN_UPPER) * 1e-9;
    if (bandwidth > p->mine.network_gbs) p->mine.network_gbs = bandwidth;
    if (!(latency >= p->mine.latency_us) || p->mine.latency_us == 0) p->mine.latency_us = latency;
}

static enum status measure_network(struct preflight *p) {
    struct comm *world = &p->parallel->world;
    int place = p->node_of[world->rank];
    bool leads = p->leaders[place] == world->rank;
    char *message = calloc(1, MESSAGE_BYTES);
    TRY(parallel_agree(world, message ? STATUS_OK
                                      : status_fail(STATUS_MEMORY, "no memory for the preflight")));
    for (int round = 0; round < PREFLIGHT_ROUNDS && p->nodes > 1; round++) {
        int partner = preflight_partner(round, place, p->nodes);
        enter(p, "the network", partner);
        if (leads && partner >= 0) measure_link(p, p->leaders[partner], message);
        comm_barrier(world, &p->links);
    }
    free(message);
    return stream_check(&p->links);
}

static double wall_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* A leader tells the first one its time; the answer that took least is nearest to the middle of its
 * round trip (Cristian 1989). */
static double clock_offset(struct preflight *p, int leader) {
    double least = INFINITY, offset = 0;
    for (int i = 0; i < GREETINGS; i++) {
        double theirs = 0, before = wall_seconds();
        comm_send(&p->parallel->world, &p->links, &before, 1, DTYPE_F64, leader);
        comm_recv(&p->parallel->world, &p->links, &theirs, 1, DTYPE_F64, leader);
        double after = wall_seconds();
        if (after - before >= least) continue;
        least = after - before;
        offset = theirs - (before + after) / 2;
    }
    return offset;
}

/* offsets (nodes) on rank 0. */
static enum status compare_clocks(struct preflight *p, double *offsets) {
    struct comm *world = &p->parallel->world;
    int place = p->node_of[world->rank];
    for (int node = 1; node < p->nodes; node++) {
        enter(p, "the clock", world->rank == 0 ? node : 0);
        if (world->rank == 0) offsets[node] = clock_offset(p, p->leaders[node]);
        for (int i = 0; i < GREETINGS && place == node && p->leaders[node] == world->rank; i++) {
            double now;
            comm_recv(world, &p->links, &now, 1, DTYPE_F64, 0);
            now = wall_seconds();
            comm_send(world, &p->links, &now, 1, DTYPE_F64, 0);
        }
    }
    return stream_check(&p->links);
}

/* --- all together ---------------------------------------------------------------------------- */

static enum status gather(struct preflight *p) {
    comm_all_gather(&p->parallel->world, &p->links, p->all, &p->mine, sizeof p->mine, DTYPE_U8);
    return stream_check(&p->links);
}

/* Which ranks are on which node; a node is all ranks that give one name. */
static void find_nodes(struct preflight *p) {
    for (int rank = 0; rank < p->parallel->world.size; rank++) {
        int node = 0;
        while (node < p->nodes && strcmp(p->all[p->leaders[node]].host, p->all[rank].host) != 0)
            node++;
        if (node == p->nodes) p->leaders[p->nodes++] = rank;
        p->node_of[rank] = node;
    }
}

/* What most ranks computed; of several the first one's. */
static uint64_t usual_product(const struct preflight *p) {
    int most = 0, ranks = p->parallel->world.size;
    uint64_t usual = 0;
    for (int i = 0; i < ranks; i++) {
        int same = 0;
        for (int j = 0; j < ranks; j++) same += p->all[j].product == p->all[i].product;
        if (same > most) usual = p->all[i].product;
        if (same > most) most = same;
    }
    return usual;
}

static void add_up(const struct preflight *p, const double *offsets, struct preflight_node *nodes) {
    uint64_t usual = usual_product(p);
    for (int rank = 0; rank < p->parallel->world.size; rank++) {
        const struct report *r = &p->all[rank];
        struct preflight_node *node = &nodes[p->node_of[rank]];
        if (node->ranks++ == 0) {
            snprintf(node->host, sizeof node->host, "%s", r->host);
            node->available_gib = r->available_gib;
            node->network_gbs = r->network_gbs;
            node->latency_us = r->latency_us;
            node->clock_ms = offsets[p->node_of[rank]] * 1e3;
        }
        node->gemm_gflops += r->gemm_gflops;
        node->memory_gbs += r->memory_gbs;
        node->available_gib = fmin(node->available_gib, r->available_gib);
        node->wrong = node->wrong || !r->steady || r->product != usual;
    }
}

static enum status measure(struct preflight *p, double seconds, double *offsets) {
    struct comm *world = &p->parallel->world;
    enter(p, "start", -1);
    preflight_host(p->mine.host);
    TRY(parallel_kernels(world, &p->kernels, NULL, DTYPE_F32));
    TRY(gather(p));
    find_nodes(p);
    enter(p, "the matrix product", -1);
    TRY(parallel_agree(world, measure_gemm(p, seconds * 0.5)));
    enter(p, "memory", -1);
    TRY(parallel_agree(world, measure_memory(p, seconds * 0.3)));
    TRY(measure_network(p));
    TRY(compare_clocks(p, offsets));
    enter(p, "the end", -1);
    return gather(p);
}

static enum status measure_into(struct preflight *p, double seconds, struct preflight_node **nodes,
                                int *count) {
    double *offsets = calloc((size_t)p->parallel->world.size, sizeof *offsets);
    enum status status = parallel_agree(
        &p->parallel->world, p->all && p->leaders && p->node_of && offsets
                                 ? STATUS_OK
                                 : status_fail(STATUS_MEMORY, "no memory for the preflight"));
    if (status == STATUS_OK) status = measure(p, seconds, offsets);
    if (status == STATUS_OK && p->parallel->world.rank == 0) {
        *nodes = calloc((size_t)p->nodes, sizeof **nodes);
        if (*nodes) add_up(p, offsets, *nodes);
        if (!*nodes) status = status_fail(STATUS_MEMORY, "no memory for the preflight");
        *count = p->nodes;
    }
    free(offsets);
    return status == STATUS_PEER ? status : parallel_agree(&p->parallel->world, status);
}

enum status preflight_measure(struct parallel *parallel, double seconds,
                              struct preflight_stage *stage, struct preflight_node **nodes,
                              int *count) {
    size_t ranks = (size_t)parallel->world.size;
    struct preflight p = {.parallel = parallel,
                          .stage = stage,
                          .all = calloc(ranks, sizeof *p.all),
                          .leaders = calloc(ranks, sizeof *p.leaders),
                          .node_of = calloc(ranks, sizeof *p.node_of)};
    *nodes = NULL;
    *count = 0;
    stream_open_cpu(&p.stream, parallel->threads);
    stream_open_cpu(&p.links, 1);
    enum status status = measure_into(&p, seconds, nodes, count);
    free(p.all);
    free(p.leaders);
    free(p.node_of);
    return status;
}
