/* The NCCL communicator on the stand-in: every collective against MPI's, what is started, what goes
 * wrong, and the library itself. Runs under mpirun. */
#define _GNU_SOURCE
#include "tests/check.h"

#include "parallel/comm_mpi.h"
#include "parallel/comm_nccl.h"
#include "parallel/parallel.h"

#include <dlfcn.h>

static struct parallel job;
static struct stream stream;
static const struct nccl *nccl;
static struct comm fast; /* the ranks of job.world, over NCCL */

/* The last goes through the scratch of an ordered sum in pieces. */
enum { BEYOND_SCRATCH = (1 << 20) + 9 };
static const int64_t counts[] = {1, 7, 1000, 20001, BEYOND_SCRATCH};
enum { COUNTS = sizeof counts / sizeof *counts };

static const enum dtype types[] = {DTYPE_F32, DTYPE_F64, DTYPE_BF16,
                                   DTYPE_I32, DTYPE_I64, DTYPE_U8};
enum { TYPES = sizeof types / sizeof *types, FLOATS = 3 };

/* Small whole numbers, whose sums are exact; or numbers whose sum depends on the order of adding.
 */
enum numbers { WHOLE, FRACTIONS };

static double number(enum numbers kind, int rank, int64_t i) {
    if (kind == WHOLE) return (double)((i * 7 + rank * 13 + (i >> 8)) % 8);
    uint64_t x = (uint64_t)(i * 1000 + rank) * 0x9e3779b97f4a7c15u;
    return (double)(float)(int32_t)(x >> 32) * (rank % 2 ? 0x1p-31 : 0x1p-24);
}

static void put(void *buffer, int64_t i, enum dtype type, double x) {
    if (type == DTYPE_F32) ((float *)buffer)[i] = (float)x;
    if (type == DTYPE_F64) ((double *)buffer)[i] = x;
    if (type == DTYPE_BF16) ((uint16_t *)buffer)[i] = f32_to_bf16((float)x);
    if (type == DTYPE_I32) ((int32_t *)buffer)[i] = (int32_t)x;
    if (type == DTYPE_I64) ((int64_t *)buffer)[i] = (int64_t)x;
    if (type == DTYPE_U8) ((uint8_t *)buffer)[i] = (uint8_t)x;
}

static void *fill(int64_t count, enum dtype type, enum numbers kind) {
    void *buffer = malloc(dtype_bytes(type, (size_t)count) + 8);
    assert_non_null(buffer);
    for (int64_t i = 0; i < count; i++) put(buffer, i, type, number(kind, job.world.rank, i));
    return buffer;
}

/* One collective on (size * count) elements of `in` or `out`. */
struct operation {
    const char *name;
    enum numbers kind; /* WHOLE where the order of a sum is the library's */
    int types;         /* how many of them it takes */
    void (*run)(struct comm *, void *out, void *in, int64_t count, enum dtype);
};

static void sum(struct comm *c, void *out, void *in, int64_t n, enum dtype type) {
    (void)out;
    comm_all_reduce(c, &stream, in, n, type, COMM_SUM);
}
static void max(struct comm *c, void *out, void *in, int64_t n, enum dtype type) {
    (void)out;
    comm_all_reduce(c, &stream, in, n, type, COMM_MAX);
}
static void min(struct comm *c, void *out, void *in, int64_t n, enum dtype type) {
    (void)out;
    comm_all_reduce(c, &stream, in, n, type, COMM_MIN);
}
static void ordered(struct comm *c, void *out, void *in, int64_t n, enum dtype type) {
    (void)out;
    comm_all_reduce_ordered(c, &stream, in, n, type);
}
static void scatter(struct comm *c, void *out, void *in, int64_t n, enum dtype type) {
    comm_reduce_scatter(c, &stream, out, in, n * c->size, type);
}
static void scatter_in_place(struct comm *c, void *out, void *in, int64_t n, enum dtype type) {
    (void)out;
    char *mine = (char *)in + dtype_bytes(type, (size_t)(n * c->rank));
    comm_reduce_scatter(c, &stream, mine, in, n * c->size, type);
}
static void gather(struct comm *c, void *out, void *in, int64_t n, enum dtype type) {
    comm_all_gather(c, &stream, out, in, n, type);
}
static void gather_in_place(struct comm *c, void *out, void *in, int64_t n, enum dtype type) {
    (void)out;
    char *mine = (char *)in + dtype_bytes(type, (size_t)(n * c->rank));
    comm_all_gather(c, &stream, in, mine, n, type);
}
static void broadcast(struct comm *c, void *out, void *in, int64_t n, enum dtype type) {
    (void)out;
    comm_broadcast(c, &stream, in, n, type, c->size - 1);
}
/* Round the ring, through messages that wait. */
static void pass_on(struct comm *c, void *out, void *in, int64_t n, enum dtype type) {
    int next = (c->rank + 1) % c->size, before = (c->rank + c->size - 1) % c->size;
    if (c->rank % 2 == 0) comm_send(c, &stream, in, n, type, next);
    comm_recv(c, &stream, out, n, type, before);
    if (c->rank % 2 == 1) comm_send(c, &stream, in, n, type, next);
}
static void started_sum(struct comm *c, void *out, void *in, int64_t n, enum dtype type) {
    struct comm_request request = {0};
    (void)out;
    comm_start_all_reduce(c, &stream, in, n, type, &request);
    comm_wait(c, &stream, &request);
}
static void started_scatter_and_gather(struct comm *c, void *out, void *in, int64_t n,
                                       enum dtype type) {
    struct comm_request scatter = {0}, gather = {0};
    size_t bytes = dtype_bytes(type, (size_t)n);
    int64_t slice = n / c->size;
    char *rows = malloc(bytes), *part = malloc(bytes);
    assert_true(rows && part);
    memcpy(part, in, bytes);
    char *mine = (char *)in + dtype_bytes(type, (size_t)(slice * c->rank));
    comm_start_reduce_scatter(c, &stream, mine, in, rows, slice * c->size, type, &scatter);
    comm_start_all_gather(c, &stream, out, part, n, type, &gather);
    while (!comm_test(c, &stream, &gather)) continue;
    comm_wait(c, &stream, &gather);
    comm_wait(c, &stream, &scatter);
    free(rows), free(part);
}
/* Two messages each way round the ring are under way before any is waited for. */
static void ring_exchange(struct comm *c, void *out, void *in, int64_t n, enum dtype type) {
    int next = (c->rank + 1) % c->size, before = (c->rank + c->size - 1) % c->size;
    struct comm_request requests[4] = {{0}};
    char *second = (char *)out + dtype_bytes(type, (size_t)n);
    comm_start_recv(c, &stream, out, n, type, before, &requests[0]);
    comm_start_recv(c, &stream, second, n, type, before, &requests[1]);
    comm_start_send(c, &stream, in, n, type, next, &requests[2]);
    comm_start_send(c, &stream, in, n, type, next, &requests[3]);
    for (int i = 0; i < 4; i++) comm_wait(c, &stream, &requests[i]);
}

static const struct operation operations[] = {
    {"sum", WHOLE, TYPES, sum},
    {"max", WHOLE, TYPES, max},
    {"min", WHOLE, TYPES, min},
    {"ordered", FRACTIONS, FLOATS, ordered},
    {"reduce_scatter", FRACTIONS, FLOATS, scatter},
    {"reduce_scatter in place", FRACTIONS, FLOATS, scatter_in_place},
    {"all_gather", FRACTIONS, TYPES, gather},
    {"all_gather in place", FRACTIONS, TYPES, gather_in_place},
    {"broadcast", FRACTIONS, TYPES, broadcast},
    {"send and recv", FRACTIONS, TYPES, pass_on},
    {"started sum", WHOLE, TYPES, started_sum},
    {"started reduce_scatter and all_gather", FRACTIONS, FLOATS, started_scatter_and_gather},
    {"started messages", FRACTIONS, TYPES, ring_exchange},
};

/* MPI and NCCL leave the same bits in all of in and out. */
static void check_operation(const struct operation *op, enum dtype type, int64_t count) {
    int64_t all = count * (job.world.size > 2 ? job.world.size : 2);
    size_t bytes = dtype_bytes(type, (size_t)all);
    struct comm *comms[2] = {&job.world, &fast};
    char *in[2], *out[2];
    for (int k = 0; k < 2; k++) {
        in[k] = fill(all, type, op->kind);
        out[k] = fill(all, type, op->kind);
        op->run(comms[k], out[k], in[k], count, type);
        assert_ok(stream_check(&stream));
    }
    if (memcmp(in[0], in[1], bytes) != 0 || memcmp(out[0], out[1], bytes) != 0)
        fail_msg("%s of %lld %s differs", op->name, (long long)count, dtype_info(type)->name);
    for (int k = 0; k < 2; k++) free(in[k]), free(out[k]);
}

static void test_collectives_equal_those_of_mpi(void **state) {
    (void)state;
    for (size_t o = 0; o < sizeof operations / sizeof *operations; o++)
        for (int t = 0; t < operations[o].types; t++)
            for (int c = 0; c < COUNTS; c++)
                if (counts[c] < BEYOND_SCRATCH ||
                    (operations[o].types == FLOATS && types[t] == DTYPE_F32))
                    check_operation(&operations[o], types[t], counts[c]);
}

/* What would be wrong with NCCL's own sums: the stand-in adds in another order than the ranks'. */
static void test_the_library_chooses_an_order(void **state) {
    (void)state;
    enum { COUNT = 20001 };
    if (job.world.size < 3) skip_because("two numbers have one sum, and it runs with four ranks");
    float *mine = fill(COUNT, DTYPE_F32, FRACTIONS), *want = fill(COUNT, DTYPE_F32, FRACTIONS);
    int different = 0;
    comm_all_reduce(&fast, &stream, mine, COUNT, DTYPE_F32, COMM_SUM);
    comm_all_reduce_ordered(&fast, &stream, want, COUNT, DTYPE_F32);
    assert_ok(stream_check(&stream));
    for (int i = 0; i < COUNT; i++) {
        assert_float_equal(mine[i], want[i], 1e-4);
        different += mine[i] != want[i];
    }
    assert_in_range(different, COUNT / 100, COUNT);
    free(mine), free(want);
}

/* A rank goes on once its sum has started; until it ends, what is received is not there. */
static void test_starting_does_not_wait(void **state) {
    (void)state;
    enum { COUNT = 4096 };
    int32_t token = 1;
    struct comm_request request = {0};
    float mine[COUNT], *all = fill((int64_t)COUNT * fast.size, DTYPE_F32, WHOLE);
    for (int i = 0; i < COUNT; i++) mine[i] = (float)job.world.rank;
    if (job.world.rank > 0) comm_recv(&fast, &stream, &token, 1, DTYPE_I32, job.world.rank - 1);
    comm_start_all_gather(&fast, &stream, all, mine, COUNT, DTYPE_F32, &request);
    if (job.world.rank + 1 < fast.size) {
        for (int i = 0; i < 100; i++) assert_false(comm_test(&fast, &stream, &request));
        for (int i = 0; i < COUNT; i++) assert_true(isnan(all[i]));
        comm_send(&fast, &stream, &token, 1, DTYPE_I32, job.world.rank + 1);
    }
    comm_wait(&fast, &stream, &request);
    assert_ok(stream_check(&stream));
    for (int i = 0; i < COUNT * fast.size; i++) assert_true(all[i] == (float)(i / COUNT));
    free(all);
}

static void test_the_ring_tells_what_was_called(void **state) {
    (void)state;
    float values[8] = {0};
    struct comm twins[2];
    assert_ok(comm_mpi_open_split(&twins[0], &job.world, "plain", 0, job.world.rank));
    assert_ok(comm_nccl_open_split(&twins[1], &job.world, "nccl", 0, job.world.rank, nccl, 0));
    for (int k = 0; k < 2; k++) {
        comm_all_reduce(&twins[k], &stream, values, 8, DTYPE_F32, COMM_SUM);
        comm_all_reduce_ordered(&twins[k], &stream, values, 5, DTYPE_F32);
        comm_broadcast(&twins[k], &stream, values, 3, DTYPE_I32, 1);
        comm_barrier(&twins[k], &stream);
    }
    size_t bytes = 0;
    struct rings_copy copy;
    void *packed = rings_pack(job.rings, &bytes);
    assert_ok(rings_unpack(&copy, packed, bytes));
    const struct ring_copy *plain = NULL, *over_nccl = NULL;
    for (int i = 0; i < copy.count; i++) {
        if (strcmp(copy.ring[i].name, "plain") == 0) plain = &copy.ring[i];
        if (strcmp(copy.ring[i].name, "nccl") == 0) over_nccl = &copy.ring[i];
    }
    assert_non_null(plain);
    assert_non_null(over_nccl);
    assert_int_equal(plain->entry_count, 4);
    for (int i = 0; i < 4; i++) {
        const struct ring_entry *a = &plain->entries[i];
        const struct ring_entry *b = &over_nccl->entries[over_nccl->entry_count - 4 + i];
        assert_true(a->op == b->op && a->count == b->count && a->dtype == b->dtype);
        assert_int_equal(a->peer, b->peer);
        assert_int_equal(b->sequence - a->sequence,
                         over_nccl->entries[over_nccl->entry_count - 1].sequence - 4);
        assert_true(b->left >= b->entered && b->entered > 0);
    }
    rings_copy_free(&copy);
    free(packed);
    for (int k = 0; k < 2; k++) comm_close(&twins[k]);
}

/* Where the library moves a GPU's memory, the host's goes over MPI: a library that would crash. */
static void test_buffers_of_the_host_go_over_mpi(void **state) {
    (void)state;
    struct comm comm;
    struct nccl device = *nccl;
    struct comm_request request = {0};
    assert_ok(comm_nccl_open_split(&comm, &job.world, "device", 0, job.world.rank, &device,
                                   COMM_NCCL_SUMS));
    device.library.mark = NULL;
    device.library.all_reduce = NULL;
    device.library.broadcast = NULL;
    device.library.all_gather = NULL;
    int32_t value = job.world.rank + 1, total = comm.size * (comm.size + 1) / 2;
    comm_all_reduce(&comm, &stream, &value, 1, DTYPE_I32, COMM_SUM);
    assert_int_equal(value, total);
    value = comm.rank;
    comm_broadcast(&comm, &stream, &value, 1, DTYPE_I32, comm.size - 1);
    assert_int_equal(value, comm.size - 1);
    value = 1;
    comm_start_all_reduce(&comm, &stream, &value, 1, DTYPE_I32, &request);
    while (!comm_test(&comm, &stream, &request)) continue;
    comm_wait(&comm, &stream, &request);
    assert_int_equal(value, comm.size);
    assert_int_equal(parallel_agree(&comm, STATUS_OK), STATUS_OK);
    assert_ok(stream_check(&stream));
    device.library = nccl->library;
    comm_close(&comm);
}

/* What rank 0 calls otherwise than the rest, and what is said of it. */
struct mistake {
    const char *name, *said;
    void (*call)(struct comm *, bool odd);
};

static float scratch[64];

static void other_count(struct comm *c, bool odd) {
    comm_all_reduce(c, &stream, scratch, odd ? 8 : 9, DTYPE_F32, COMM_SUM);
}
static void other_dtype(struct comm *c, bool odd) {
    comm_all_gather(c, &stream, scratch, scratch + 32, 4, odd ? DTYPE_F32 : DTYPE_I32);
}
static void other_op(struct comm *c, bool odd) {
    if (odd)
        comm_broadcast(c, &stream, scratch, 4, DTYPE_F32, 1);
    else
        comm_all_gather(c, &stream, scratch, scratch + 32, 4, DTYPE_F32);
}
static void other_root(struct comm *c, bool odd) {
    comm_broadcast(c, &stream, scratch, 4, DTYPE_F32, odd);
}
static void other_sum(struct comm *c, bool odd) {
    comm_all_reduce(c, &stream, scratch, 8, DTYPE_F32, odd ? COMM_SUM : COMM_MAX);
}
static void other_started(struct comm *c, bool odd) {
    struct comm_request request = {0};
    comm_start_all_reduce(c, &stream, scratch, odd ? 8 : 9, DTYPE_F32, &request);
    comm_wait(c, &stream, &request);
}

/* All ranks are told, by op and call; the communicator is no more, and others go on. */
static void test_different_calls_are_found(void **state) {
    static const struct mistake mistakes[] = {
        {"count", "all_reduce of 8 F32", other_count},
        {"dtype", "all_gather of 4 I32", other_dtype},
        {"op", "broadcast of 4 F32 from rank 1", other_op},
        {"root", "broadcast of 4 F32 from rank 0", other_root},
        {"sum", "all_reduce of 8 F32 (sum 2)", other_sum},
        {"started", "all_reduce of 9 F32", other_started},
    };
    (void)state;
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        struct comm comm;
        assert_ok(comm_nccl_open_split(&comm, &job.world, "wrong", 0, job.world.rank, nccl,
                                       COMM_NCCL_SUMS));
        mistakes[i].call(&comm, comm.rank == 0);
        assert_int_equal(stream_check(&stream), STATUS_PEER);
        if (!strstr(status_message(), mistakes[i].said))
            fail_msg("%s: \"%s\" is not in \"%s\"", mistakes[i].name, mistakes[i].said,
                     status_message());
        assert_non_null(strstr(status_message(), "in communicator 'wrong'"));
        comm_all_reduce(&comm, &stream, scratch, 4, DTYPE_F32, COMM_SUM);
        assert_int_equal(stream_check(&stream), STATUS_PEER);
        assert_non_null(strstr(status_message(), "aborted before"));
        comm_barrier(&job.world, &stream);
        assert_ok(stream_check(&stream));
        comm_close(&comm);
    }
}

static void test_a_message_of_another_size_is_found(void **state) {
    (void)state;
    struct comm comm;
    assert_ok(comm_nccl_open_split(&comm, &job.world, "wrong", 0, job.world.rank, nccl, 0));
    if (comm.rank == 0) {
        comm_send(&comm, &stream, scratch, 4, DTYPE_F32, 1);
        assert_int_equal(stream_check(&stream), STATUS_PEER);
        assert_non_null(strstr(status_message(), "rank 0 sends rank 1 what it does not receive"));
    } else if (comm.rank == 1) {
        comm_recv(&comm, &stream, scratch, 5, DTYPE_F32, 0);
        assert_int_equal(stream_check(&stream), STATUS_PEER);
        assert_non_null(
            strstr(status_message(), "rank 1 called recv of 5 F32, rank 0 send of 4 F32"));
    }
    comm_barrier(&job.world, &stream);
    assert_ok(stream_check(&stream));
    comm_close(&comm);
}

/* The interface itself, as another program would use it. */
static void test_groups_and_streams_of_the_stand_in(void **state) {
    (void)state;
    const struct nccl_library *lib = &nccl->library;
    struct ncclComm *comm = NULL;
    struct nccl_id id = {{0}};
    int me = job.world.rank, size = job.world.size, error = -1;
    int next = (me + 1) % size, before = (me + size - 1) % size;
    if (me == 0) assert_int_equal(lib->get_id(&id), NCCL_OK);
    comm_broadcast(&job.world, &stream, &id, sizeof id, DTYPE_U8, 0);
    assert_int_equal(lib->init_rank(&comm, size, id, me), NCCL_OK);
    /* together they end */
    float mine = (float)me, got = -1, sums[16], part = -1;
    assert_int_equal(lib->group_start(), NCCL_OK);
    assert_int_equal(lib->send(&mine, 1, NCCL_F32, next, comm, &mine), NCCL_OK);
    assert_int_equal(lib->recv(&got, 1, NCCL_F32, before, comm, &mine), NCCL_OK);
    assert_int_equal((int)lib->mark(&mine), 0);
    assert_int_equal(lib->group_end(), NCCL_OK);
    while (!lib->done(lib->mark(&mine))) continue;
    assert_true(got == (float)before);
    /* a sum of slices; count is a slice's */
    nccl_reduce *reduce_scatter;
    void *address = dlsym(lib->handle, "ncclReduceScatter");
    memcpy(&reduce_scatter, &address, sizeof address);
    for (int r = 0; r < size; r++) sums[r] = (float)(me + r);
    assert_int_equal(reduce_scatter(sums, &part, 1, NCCL_F32, NCCL_SUM, comm, NULL), NCCL_OK);
    assert_true(part == -1.0f); /* nothing runs by itself */
    while (!lib->done(lib->mark(NULL))) continue;
    assert_true(part == (float)(size * me + size * (size - 1) / 2));
    /* one after the other nobody comes to the receive, even on another stream */
    assert_int_equal(lib->send(&mine, 1, NCCL_F32, next, comm, &mine), NCCL_OK);
    assert_int_equal(lib->recv(&got, 1, NCCL_F32, before, comm, &got), NCCL_OK);
    comm_barrier(&job.world, &stream);
    for (int i = 0; i < 1000; i++) assert_false(lib->done(lib->mark(&mine)));
    for (int i = 0; i < 1000; i++) assert_false(lib->done(lib->mark(&got)));
    assert_int_equal(lib->async_error(comm, &error), NCCL_OK);
    assert_int_equal(error, NCCL_OK);
    assert_int_equal(lib->send(&mine, 1, NCCL_F32, size, comm, NULL), NCCL_INVALID_ARGUMENT);
    assert_int_equal(lib->send(&mine, 1, 99, next, comm, NULL), NCCL_INVALID_ARGUMENT);
    comm_barrier(&job.world, &stream);
    assert_int_equal(lib->abort(comm), NCCL_OK);
    assert_int_equal(lib->group_end(), NCCL_INVALID_USAGE);
    assert_ok(stream_check(&stream));
}

/* Opens the library of that file; its message when that fails. */
static const char *refused(const char *file, const char *version) {
    static struct nccl_library library;
    setenv("STRATA_NCCL_LIBRARY", file, 1);
    setenv("FAKE_NCCL_VERSION", version, 1);
    enum status status = nccl_library_open(&library);
    assert_null(library.handle);
    assert_int_equal(status, STATUS_UNSUPPORTED);
    return status_message();
}

static void test_libraries_are_refused_by_name_and_version(void **state) {
    (void)state;
    char *own = strdup(getenv("STRATA_NCCL_LIBRARY"));
    const char *fake = getenv("FAKE_NCCL");
    assert_non_null(
        strstr(refused("/nowhere/libnccl.so.2", ""), "/nowhere/libnccl.so.2 not found: "));
    assert_non_null(strstr(refused(fake, "21706"), "is NCCL 2.17.6: it takes 2.18 or a later one"));
    assert_non_null(strstr(refused(fake, "30000"), "is NCCL 3.0.0"));
    assert_non_null(strstr(refused(fake, "21800"), "has no ncclGetUniqueId"));
    setenv("STRATA_NCCL_LIBRARY", own, 1);
    free(own);
    /* the real one has no way to move the host's memory */
    struct nccl_device device;
    const struct nccl_library real = {.path = "libnccl.so.2"};
    assert_int_equal(nccl_device_host(&device, &real), STATUS_UNSUPPORTED);
    assert_non_null(strstr(status_message(), "libnccl.so.2 (NCCL) moves memory of GPUs"));
}

/* One rank's library is missing: all ranks say which. */
static void test_all_ranks_hear_of_a_missing_library(void **state) {
    (void)state;
    struct parallel other = {.world = job.world};
    const struct nccl *none;
    char *own = strdup(getenv("STRATA_NCCL_LIBRARY"));
    if (job.world.rank == 1) setenv("STRATA_NCCL_LIBRARY", "/nowhere/libnccl.so.2", 1);
    assert_int_equal(parallel_open_nccl(&other, PARALLEL_NCCL, &none), STATUS_UNSUPPORTED);
    assert_non_null(strstr(status_message(), "rank 1: /nowhere/libnccl.so.2 not found"));
    assert_null(other.nccl);
    setenv("STRATA_NCCL_LIBRARY", own, 1);
    free(own);
}

/* For tests/test_parallel_nccl.sh: calls that the watchdog ends. On a ring every rank sends before
 * it receives, which small messages of MPI's survive; or rank 1 does not come. */
static int hang(const char *how, const char *folder) {
    if (parallel_watch(&job, 1.5, folder) != STATUS_OK) return 1;
    if (strcmp(how, "ring") == 0)
        comm_send(&fast, &stream, scratch, 4, DTYPE_F32, (fast.rank + 1) % fast.size);
    else if (fast.rank == 1)
        comm_barrier(&job.world, &stream);
    else
        comm_all_gather(&fast, &stream, scratch, scratch + 32, 4, DTYPE_F32);
    return 0;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_collectives_equal_those_of_mpi),
        cmocka_unit_test(test_the_library_chooses_an_order),
        cmocka_unit_test(test_starting_does_not_wait),
        cmocka_unit_test(test_the_ring_tells_what_was_called),
        cmocka_unit_test(test_buffers_of_the_host_go_over_mpi),
        cmocka_unit_test(test_different_calls_are_found),
        cmocka_unit_test(test_a_message_of_another_size_is_found),
        cmocka_unit_test(test_groups_and_streams_of_the_stand_in),
        cmocka_unit_test(test_libraries_are_refused_by_name_and_version),
        cmocka_unit_test(test_all_ranks_hear_of_a_missing_library),
    };
    stream_open_cpu(&stream, 1);
    int failures = 1;
    if (parallel_start(&job, &argc, &argv) == STATUS_OK &&
        parallel_open_nccl(&job, PARALLEL_NCCL, &nccl) == STATUS_OK &&
        comm_nccl_open_split(&fast, &job.world, "fast", 0, job.world.rank, nccl,
                             COMM_NCCL_SUMS | COMM_NCCL_MESSAGES) == STATUS_OK)
        failures = argc == 3 ? hang(argv[1], argv[2]) : cmocka_run_group_tests(tests, NULL, NULL);
    else
        fprintf(stderr, "%s\n", status_message());
    comm_close(&fast);
    parallel_finish(&job);
    return failures != 0;
}
