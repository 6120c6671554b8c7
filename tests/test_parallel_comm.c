/* Every collective against what all ranks are known to hold, for sizes below and beyond a message
 * and a gather. Runs plainly and under mpirun. */
#include "tests/check.h"

#include "kernels/base/rng.h"
#include "parallel/comm_mpi.h"
#include "parallel/mesh.h"
#include "parallel/parallel.h"

static struct parallel job;
static struct stream stream;

static const int64_t counts[] = {0, 1, 7, 1000, 20001};
enum { COUNTS = sizeof counts / sizeof *counts, LARGEST = 20001 };

/* A small integer: sums are exact in every dtype but BF16. */
static int value(int rank, int64_t i) {
    return (int)((i * 7 + rank * 13 + (i >> 8)) % 8);
}

/* A number whose sum depends on the order of adding. */
static float fraction(int rank, int64_t i) {
    uint64_t x = (uint64_t)(i * 1000 + rank) * 0x9e3779b97f4a7c15u;
    return (float)(int32_t)(x >> 32) * (rank % 2 ? 0x1p-31f : 0x1p-24f);
}

static void put(void *buffer, int64_t i, enum dtype type, double x) {
    switch (type) {
    case DTYPE_F32:
        ((float *)buffer)[i] = (float)x;
        break;
    case DTYPE_F64:
        ((double *)buffer)[i] = x;
        break;
    case DTYPE_BF16:
        ((uint16_t *)buffer)[i] = f32_to_bf16((float)x);
        break;
    case DTYPE_I32:
        ((int32_t *)buffer)[i] = (int32_t)x;
        break;
    case DTYPE_I64:
        ((int64_t *)buffer)[i] = (int64_t)x;
        break;
    default:
        ((uint8_t *)buffer)[i] = (uint8_t)x;
        break;
    }
}

static double get(const void *buffer, int64_t i, enum dtype type) {
    switch (type) {
    case DTYPE_F32:
        return (double)((const float *)buffer)[i];
    case DTYPE_F64:
        return ((const double *)buffer)[i];
    case DTYPE_BF16:
        return (double)bf16_to_f32(((const uint16_t *)buffer)[i]);
    case DTYPE_I32:
        return ((const int32_t *)buffer)[i];
    case DTYPE_I64:
        return (double)((const int64_t *)buffer)[i];
    default:
        return ((const uint8_t *)buffer)[i];
    }
}

static void *fill(int64_t count, enum dtype type) {
    void *buffer = malloc(dtype_bytes(type, (size_t)count) + 8);
    assert_non_null(buffer);
    for (int64_t i = 0; i < count; i++) put(buffer, i, type, value(job.world.rank, i));
    return buffer;
}

static double combined(int64_t i, enum comm_sum sum) {
    double total = value(0, i);
    for (int r = 1; r < job.world.size; r++) {
        double x = value(r, i);
        if (sum == COMM_SUM)
            total += x;
        else
            total = sum == COMM_MAX ? fmax(total, x) : fmin(total, x);
    }
    return total;
}

static void check_all_reduce(enum dtype type, enum comm_sum sum, int64_t count) {
    void *buffer = fill(count, type);
    comm_all_reduce(&job.world, &stream, buffer, count, type, sum);
    assert_ok(stream_check(&stream));
    for (int64_t i = 0; i < count; i++) assert_true(get(buffer, i, type) == combined(i, sum));
    free(buffer);
}

static void test_all_reduce(void **state) {
    (void)state;
    const enum dtype types[] = {DTYPE_F32, DTYPE_F64, DTYPE_BF16, DTYPE_I32, DTYPE_I64, DTYPE_U8};
    const enum comm_sum sums[] = {COMM_SUM, COMM_MAX, COMM_MIN};
    for (int t = 0; t < 6; t++)
        for (int k = 0; k < 3; k++)
            for (int c = 0; c < COUNTS; c++) check_all_reduce(types[t], sums[k], counts[c]);
}

/* The sum of one element is a chain over ranks 0, 1, ...: the same bits for every way to cut the
 * buffer into messages, and those of the chain made here. */
static void test_ordered_sum_is_in_rank_order(void **state) {
    (void)state;
    float *got = malloc(LARGEST * sizeof *got);
    for (int c = 1; c < COUNTS; c++) {
        for (int64_t i = 0; i < LARGEST; i++) got[i] = fraction(job.world.rank, i);
        for (int64_t done = 0; done < LARGEST; done += counts[c]) {
            int64_t n = LARGEST - done < counts[c] ? LARGEST - done : counts[c];
            if (c <= 2 && done > 2000) n = LARGEST - done;
            comm_all_reduce_ordered(&job.world, &stream, got + done, n, DTYPE_F32);
            if (c <= 2 && done > 2000) break;
        }
        assert_ok(stream_check(&stream));
        for (int64_t i = 0; i < LARGEST; i++) {
            float want = fraction(0, i);
            for (int r = 1; r < job.world.size; r++) want += fraction(r, i);
            assert_memory_equal(&got[i], &want, sizeof want);
        }
    }
    free(got);
}

/* BF16 is added in fp32 and rounded once. */
static void test_bf16_sum_is_rounded_once(void **state) {
    (void)state;
    uint16_t *got = malloc(LARGEST * sizeof *got);
    for (int64_t i = 0; i < LARGEST; i++) got[i] = f32_to_bf16(fraction(job.world.rank, i));
    comm_all_reduce_ordered(&job.world, &stream, got, LARGEST, DTYPE_BF16);
    assert_ok(stream_check(&stream));
    for (int64_t i = 0; i < LARGEST; i++) {
        float want = bf16_to_f32(f32_to_bf16(fraction(0, i)));
        for (int r = 1; r < job.world.size; r++) want += bf16_to_f32(f32_to_bf16(fraction(r, i)));
        assert_int_equal(got[i], f32_to_bf16(want));
    }
    free(got);
}

static void check_reduce_scatter(int64_t slice, enum dtype type, bool in_place) {
    int64_t count = slice * job.world.size, first = slice * job.world.rank;
    char *in = fill(count, type);
    char *out = in_place ? in + dtype_bytes(type, (size_t)first) : fill(slice, type);
    comm_reduce_scatter(&job.world, &stream, out, in, count, type);
    assert_ok(stream_check(&stream));
    for (int64_t i = 0; i < slice; i++)
        assert_true(get(out, i, type) == combined(first + i, COMM_SUM));
    if (!in_place) free(out);
    free(in);
}

static void test_reduce_scatter(void **state) {
    (void)state;
    const enum dtype types[] = {DTYPE_F32, DTYPE_F64, DTYPE_BF16};
    for (int t = 0; t < 3; t++)
        for (int c = 0; c < COUNTS; c++) {
            check_reduce_scatter(counts[c], types[t], false);
            check_reduce_scatter(counts[c], types[t], true);
        }
}

static void check_all_gather(int64_t count, enum dtype type, bool in_place) {
    int64_t total = count * job.world.size;
    char *out = fill(total, type);
    char *in = fill(count, type);
    char *mine = out + dtype_bytes(type, (size_t)(count * job.world.rank));
    if (in_place) memcpy(mine, in, dtype_bytes(type, (size_t)count));
    comm_all_gather(&job.world, &stream, out, in_place ? mine : in, count, type);
    assert_ok(stream_check(&stream));
    for (int64_t i = 0; i < total; i++)
        assert_true(get(out, i, type) == value((int)(i / count), i % count));
    free(in);
    free(out);
}

static void test_all_gather(void **state) {
    (void)state;
    const enum dtype types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_I64, DTYPE_U8};
    for (int t = 0; t < 4; t++)
        for (int c = 0; c < COUNTS; c++) {
            check_all_gather(counts[c], types[t], false);
            check_all_gather(counts[c], types[t], true);
        }
}

static void test_broadcast(void **state) {
    (void)state;
    for (int root = 0; root < job.world.size; root++)
        for (int c = 0; c < COUNTS; c++) {
            int32_t *buffer = fill(counts[c], DTYPE_I32);
            comm_broadcast(&job.world, &stream, buffer, counts[c], DTYPE_I32, root);
            assert_ok(stream_check(&stream));
            for (int64_t i = 0; i < counts[c]; i++) assert_int_equal(buffer[i], value(root, i));
            free(buffer);
        }
}

/* A value goes round the ring, every rank adds its own. */
static void test_send_and_receive(void **state) {
    (void)state;
    if (job.world.size == 1) skip_because("it takes two ranks, and runs with them");
    struct comm *world = &job.world;
    int next = (world->rank + 1) % world->size;
    int before = (world->rank + world->size - 1) % world->size;
    float *buffer = calloc(LARGEST, sizeof *buffer);
    if (world->rank > 0) comm_recv(world, &stream, buffer, LARGEST, DTYPE_F32, before);
    for (int64_t i = 0; i < LARGEST; i++) buffer[i] += (float)value(world->rank, i);
    comm_send(world, &stream, buffer, LARGEST, DTYPE_F32, next);
    if (world->rank == 0) comm_recv(world, &stream, buffer, LARGEST, DTYPE_F32, before);
    assert_ok(stream_check(&stream));
    if (world->rank == 0)
        for (int64_t i = 0; i < LARGEST; i++)
            assert_true((double)buffer[i] == combined(i, COMM_SUM));
    comm_barrier(world, &stream);
    assert_ok(stream_check(&stream));
    free(buffer);
}

/* Several sums in flight, ended in another order than they were started. */
static void test_started_sums(void **state) {
    (void)state;
    enum { FLIGHTS = 6 };
    const enum dtype types[FLIGHTS] = {DTYPE_F32, DTYPE_F64, DTYPE_BF16,
                                       DTYPE_I64, DTYPE_F32, DTYPE_F32};
    struct comm_request requests[FLIGHTS] = {0};
    void *buffers[FLIGHTS];
    for (int k = 0; k < FLIGHTS; k++) {
        buffers[k] = fill(counts[k % COUNTS], types[k]);
        comm_start_all_reduce(&job.world, &stream, buffers[k], counts[k % COUNTS], types[k],
                              &requests[k]);
    }
    while (!comm_test(&job.world, &stream, &requests[1])) continue;
    for (int k = FLIGHTS - 1; k >= 0; k--) {
        comm_wait(&job.world, &stream, &requests[k]);
        assert_null(requests[k].state);
        assert_true(comm_test(&job.world, &stream, &requests[k]));
    }
    assert_ok(stream_check(&stream));
    for (int k = 0; k < FLIGHTS; k++) {
        for (int64_t i = 0; i < counts[k % COUNTS]; i++)
            assert_true(get(buffers[k], i, types[k]) == combined(i, COMM_SUM));
        free(buffers[k]);
    }
}

/* reduce_scatter and all_gather in flight together: the bits of those that wait, in place too. */
static void check_started(int64_t slice, bool in_place) {
    int64_t count = slice * job.world.size, mine = slice * job.world.rank;
    float *sums = malloc((size_t)count * sizeof *sums),
          *want = malloc((size_t)slice * sizeof *want);
    float *gathered = fill(count, DTYPE_F32), *part = fill(slice, DTYPE_F32);
    for (int64_t i = 0; i < count; i++) sums[i] = fraction(job.world.rank, i);
    if (in_place) memcpy(gathered + mine, part, (size_t)slice * sizeof *part);
    comm_reduce_scatter(&job.world, &stream, want, sums, count, DTYPE_F32);
    struct comm_request scatter = {0}, gather = {0};
    float *out = in_place ? sums + mine : malloc((size_t)slice * sizeof *out);
    float *scratch = malloc((size_t)count * sizeof *scratch);
    comm_start_reduce_scatter(&job.world, &stream, out, sums, scratch, count, DTYPE_F32, &scatter);
    comm_start_all_gather(&job.world, &stream, gathered, in_place ? gathered + mine : part, slice,
                          DTYPE_F32, &gather);
    while (!comm_test(&job.world, &stream, &gather)) continue;
    comm_wait(&job.world, &stream, &gather);
    comm_wait(&job.world, &stream, &scatter);
    assert_ok(stream_check(&stream));
    assert_memory_equal(out, want, (size_t)slice * sizeof *want);
    for (int64_t i = 0; i < count; i++)
        assert_true((double)gathered[i] == value((int)(i / slice), i % slice));
    if (!in_place) free(out);
    free(sums), free(want), free(gathered), free(part), free(scratch);
}

static void test_started_scatters_and_gathers(void **state) {
    (void)state;
    for (int c = 0; c < COUNTS; c++) {
        check_started(counts[c], false);
        check_started(counts[c], true);
    }
}

/* A rank goes on once its sum has started: each rank starts its own only after it has heard from
 * the one before, which had started already. Sums that waited for each other would never end. */
static void test_starting_does_not_wait(void **state) {
    (void)state;
    enum { COUNT = 1 << 18 };
    int32_t token = 1;
    struct comm_request request = {0};
    float *values = malloc(COUNT * sizeof *values);
    for (int i = 0; i < COUNT; i++) values[i] = (float)(job.world.rank + 1);
    if (job.world.rank > 0)
        comm_recv(&job.world, &stream, &token, 1, DTYPE_I32, job.world.rank - 1);
    comm_start_all_reduce(&job.world, &stream, values, COUNT, DTYPE_F32, &request);
    if (job.world.rank + 1 < job.world.size)
        comm_send(&job.world, &stream, &token, 1, DTYPE_I32, job.world.rank + 1);
    comm_wait(&job.world, &stream, &request);
    assert_ok(stream_check(&stream));
    for (int i = 0; i < COUNT; i++)
        assert_true(values[i] == (float)(job.world.size * (job.world.size + 1) / 2));
    free(values);
}

static void test_mesh_comms_join_lines(void **state) {
    (void)state;
    struct mesh mesh;
    struct mesh_comms comms;
    int tp = job.world.size % 2 == 0 ? 2 : 1;
    const struct mesh_options options = {tp, 1, 0, 1, "tp-cp-dp-pp"};
    assert_ok(mesh_create(&mesh, job.world.size, &options));
    assert_ok(mesh_open(&comms, &mesh, &job.world, NULL));
    struct mesh_place place = mesh_place(&mesh, job.world.rank);
    for (int axis = 0; axis < MESH_AXES; axis++) {
        struct comm *comm = &comms.comm[axis];
        assert_int_equal(comm->size, mesh.size[axis]);
        assert_int_equal(comm->rank, place.at[axis]);
        int32_t total = job.world.rank, want = 0;
        comm_all_reduce(comm, &stream, &total, 1, DTYPE_I32, COMM_SUM);
        assert_ok(stream_check(&stream));
        for (int r = 0; r < job.world.size; r++)
            if (mesh_group(&mesh, (enum mesh_axis)axis, r) ==
                mesh_group(&mesh, (enum mesh_axis)axis, job.world.rank))
                want += r;
        assert_int_equal(total, want);
    }
    mesh_close(&comms);
    mesh_close(&comms);
}

static void test_all_ranks_hear_of_a_failure(void **state) {
    (void)state;
    int last = job.world.size - 1;
    assert_ok(parallel_agree(&job.world, STATUS_OK));
    enum status mine = STATUS_OK;
    if (job.world.rank == last) mine = status_fail(STATUS_IO, "file 'x' is gone");
    assert_int_equal(parallel_agree(&job.world, mine), STATUS_IO);
    assert_non_null(strstr(status_message(), "file 'x' is gone"));
}

/* What goes wrong between two ranks names op, rank and peer. */
static void test_a_failed_receive_says_who(void **state) {
    (void)state;
    if (job.world.size == 1) skip_because("it takes two ranks, and runs with them");
    float buffer[8] = {0};
    if (job.world.rank == 0) comm_send(&job.world, &stream, buffer, 3, DTYPE_F32, 1);
    if (job.world.rank == 0) comm_send(&job.world, &stream, buffer, 8, DTYPE_F32, 1);
    if (job.world.rank == 1) {
        comm_recv(&job.world, &stream, buffer, 5, DTYPE_F32, 0);
        assert_int_equal(stream_check(&stream), STATUS_PEER);
        assert_non_null(strstr(status_message(), "recv"));
        assert_non_null(strstr(status_message(), "rank 1"));
        assert_non_null(strstr(status_message(), "rank 0 sent 3"));
        comm_recv(&job.world, &stream, buffer, 5, DTYPE_F32, 0);
        assert_int_equal(stream_check(&stream), STATUS_PEER);
        assert_non_null(strstr(status_message(), "with rank 0: MPI_ERR_TRUNCATE"));
    }
    comm_barrier(&job.world, &stream);
    assert_ok(stream_check(&stream));
}

static void test_one_instruction_set(void **state) {
    (void)state;
    const struct kernels *kernels;
    assert_ok(parallel_kernels(&job.world, &kernels, "auto", DTYPE_F32));
    char names[2][16] = {{0}};
    snprintf(names[0], sizeof names[0], "%s", kernels->name);
    memcpy(names[1], names[0], sizeof names[0]);
    comm_broadcast(&job.world, &stream, names[1], sizeof names[1], DTYPE_U8, 0);
    assert_ok(stream_check(&stream));
    assert_string_equal(names[0], names[1]);
    assert_ok(parallel_kernels(&job.world, &kernels, "reference", DTYPE_F32));
    assert_string_equal(kernels->name, "reference");
    assert_int_equal(parallel_kernels(&job.world, &kernels, "z80", DTYPE_F32), STATUS_CONFIG);
}

static void test_job_knows_its_place(void **state) {
    (void)state;
    assert_in_range(job.node_rank, 0, job.node_size - 1);
    assert_in_range(job.node_size, 1, job.world.size);
    assert_true(job.threads >= 1);
}

/* These three: tests/test_parallel_abort.sh. Rank 1's receive fails, rank 0 waits for ever. */
static int run_abort(void) {
    float buffer[2] = {0};
    if (job.world.rank == 0) {
        comm_send(&job.world, &stream, buffer, 2, DTYPE_F32, 1);
    } else {
        comm_recv(&job.world, &stream, buffer, 1, DTYPE_F32, 0);
        if (stream_check(&stream) != STATUS_OK) parallel_abort(&job, "a test");
    }
    comm_barrier(&job.world, &stream);
    return 0;
}

/* Rank 1 leaves on its own while rank 0 waits for it: a failure that was not agreed on. */
static int run_leave(void) {
    if (job.world.rank == 1) {
        status_fail(STATUS_IO, "a disk only rank 1 has");
        parallel_finish_failed(&job, 0.5);
        return 1;
    }
    comm_barrier(&job.world, &stream);
    return 0;
}

/* A failed receive, and collectives that follow it before the stream is looked at: they must not
 * wait for rank 0, which is in another one. */
static int run_lost(void) {
    float buffer[2] = {0};
    if (job.world.rank == 0) {
        comm_send(&job.world, &stream, buffer, 2, DTYPE_F32, 1);
        comm_recv(&job.world, &stream, buffer, 1, DTYPE_F32, 1); /* never sent */
        return 0;
    }
    struct comm_request request = {0};
    comm_recv(&job.world, &stream, buffer, 1, DTYPE_F32, 0);
    comm_start_all_reduce(&job.world, &stream, buffer, 2, DTYPE_F32, &request);
    comm_wait(&job.world, &stream, &request);
    comm_all_reduce(&job.world, &stream, buffer, 2, DTYPE_F32, COMM_SUM);
    comm_all_reduce_ordered(&job.world, &stream, buffer, 2, DTYPE_F32);
    comm_broadcast(&job.world, &stream, buffer, 2, DTYPE_F32, 0);
    comm_barrier(&job.world, &stream);
    enum status status = parallel_agree(&job.world, stream_check(&stream));
    if (status == STATUS_PEER) parallel_abort(&job, "a test");
    return 1;
}

static int run_all(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_job_knows_its_place),
        cmocka_unit_test(test_all_reduce),
        cmocka_unit_test(test_ordered_sum_is_in_rank_order),
        cmocka_unit_test(test_bf16_sum_is_rounded_once),
        cmocka_unit_test(test_reduce_scatter),
        cmocka_unit_test(test_all_gather),
        cmocka_unit_test(test_broadcast),
        cmocka_unit_test(test_send_and_receive),
        cmocka_unit_test(test_started_sums),
        cmocka_unit_test(test_started_scatters_and_gathers),
        cmocka_unit_test(test_starting_does_not_wait),
        cmocka_unit_test(test_mesh_comms_join_lines),
        cmocka_unit_test(test_all_ranks_hear_of_a_failure),
        cmocka_unit_test(test_a_failed_receive_says_who),
        cmocka_unit_test(test_one_instruction_set),
    };
    int failures = cmocka_run_group_tests_name("whole messages", tests, NULL, NULL);
    comm_mpi_set_piece(&job.world, 1000); /* many pieces a call, the last one short */
    failures += cmocka_run_group_tests_name("pieces", tests, NULL, NULL);
    return failures;
}

int main(int argc, char **argv) {
    if (parallel_start(&job, &argc, &argv) != STATUS_OK) {
        fprintf(stderr, "%s\n", status_message());
        return 1;
    }
    stream_open_cpu(&stream, 1);
    const char *mode = argc > 1 ? argv[1] : "";
    int failures = strcmp(mode, "--abort") == 0   ? run_abort()
                   : strcmp(mode, "--leave") == 0 ? run_leave()
                   : strcmp(mode, "--lost") == 0  ? run_lost()
                                                  : run_all();
    parallel_finish(&job);
    parallel_finish(&job);
    return failures != 0;
}
