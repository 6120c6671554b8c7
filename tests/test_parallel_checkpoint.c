/* Checkpoints come back bit for bit on any number of ranks, and what is damaged is found. Runs
 * plainly and under mpirun. */
#define _GNU_SOURCE
#include "tests/checkpoint_site.h"

#include "parallel/checkpoint_format.h"
#include "parallel/checkpoint_verify.h"
#include "parallel/comm_mpi.h"

#include <fcntl.h>
#include <hdf5.h>
#include <sys/stat.h>
#include <unistd.h>

static void test_nothing_there(void **state) {
    (void)state;
    int64_t step = 7;
    assert_ok(checkpoint_latest(&site.job.world, site.folder, INT64_MAX, &step));
    assert_int_equal(step, -1);
    assert_int_equal(site_load(&site.job.world, -1), -1);
    assert_int_equal(checkpoint_best(site.folder), -1);
    assert_int_equal(site_load_status(&site.job.world, 3), STATUS_IO);
}

static void test_comes_back_bit_for_bit(void **state) {
    (void)state;
    assert_ok(site_save(&site.job.world, 40, 2));
    site_load(&site.job.world, 40);
    int64_t step;
    assert_ok(checkpoint_latest(&site.job.world, site.folder, INT64_MAX, &step));
    assert_int_equal(step, 40);
    assert_ok(checkpoint_latest(&site.job.world, site.folder, 40, &step));
    assert_int_equal(step, -1);
    assert_string_equal(site_listing(), "step-00000040");
}

/* Written by all ranks in a grid of parts, read by fewer and by as many, in other parts. */
static void test_any_layout_reads_any_other(void **state) {
    (void)state;
    int size = site.job.world.size, cols = size % 2 == 0 ? 2 : 1;
    struct checkpoint_slab slabs[SITE_TENSORS];
    int count = site_slabs(slabs, site.job.world.rank, size / cols, cols);
    site_fill(slabs, count, 9);
    struct checkpoint_state at = site_state(9);
    assert_ok(checkpoint_save(&site.job.world, site_claimed(), &at, slabs, count, 1));
    site_free_slabs(slabs, count);
    for (int readers = 1; readers <= size; readers++) {
        struct comm some;
        assert_ok(comm_mpi_open_split(&some, &site.job.world, "readers",
                                      site.job.world.rank < readers, site.job.world.rank));
        if (site.job.world.rank < readers) site_load(&some, 9);
        comm_close(&some);
    }
}

static void test_the_last_k_and_the_best_stay(void **state) {
    (void)state;
    for (int64_t step = 1; step <= 6; step++) {
        assert_ok(site_save(&site.job.world, step, 2));
        if (step == 2 && site.job.world.rank == 0)
            assert_ok(checkpoint_mark_best(site_claimed(), 2));
        comm_barrier(&site.job.world, &site.stream);
    }
    assert_string_equal(site_listing(), "best.txt step-00000002 step-00000005 step-00000006");
    assert_int_equal(checkpoint_best(site.folder), 2);
    site_load(&site.job.world, 2);
    assert_int_equal(site_load(&site.job.world, -1), 6);
    comm_barrier(&site.job.world, &site.stream);
    assert_ok(site_save(&site.job.world, 6, 2)); /* again: replaced */
    site_load(&site.job.world, 6);
    assert_ok(site_save(&site.job.world, 4, 1)); /* a run that went back keeps what it just wrote */
    assert_string_equal(site_listing(), "best.txt step-00000002 step-00000004 step-00000005 "
                                        "step-00000006");
}

static void test_torn_folders_are_passed_over(void **state) {
    (void)state;
    assert_ok(site_save(&site.job.world, 1, 9));
    assert_ok(site_save(&site.job.world, 2, 9));
    assert_ok(site_save(&site.job.world, 3, 9));
    assert_ok(site_save(&site.job.world, 4, 9));
    if (site.job.world.rank == 0) {
        site_run("mkdir '%s/%s/step-00000009' '%s/step-00000008' '%s/step-x'", site.folder,
                 site.claim.folder, site.folder, site.folder);
        site_run("touch '%s/%s/step-00000009/rank-0000.h5'", site.folder, site.claim.folder);
        site_run("mkdir '%s/.tmp-step-00000007'", site.folder);
        site_run("rm '%s/step-00000004/rank-0000.h5'", site.folder);
        site_run("truncate -s -1000 '%s/step-00000003/rank-0000.h5'", site.folder);
    }
    comm_barrier(&site.job.world, &site.stream);
    int64_t step;
    assert_ok(checkpoint_latest(&site.job.world, site.folder, INT64_MAX, &step));
    assert_int_equal(step, 2);
    assert_int_equal(site_load(&site.job.world, -1), 2);
    comm_barrier(&site.job.world, &site.stream);
    site.claim = (struct checkpoint_claim){0}; /* the next start removes what is left of this one */
    assert_ok(site_save(&site.job.world, 5, 9));
    assert_null(strstr(site_listing(), ".tmp"));
    assert_int_equal(site_load(&site.job.world, -1), 5);
}

static void flip(const char *path, off_t at) {
    int descriptor = open(path, O_RDWR);
    unsigned char byte = 0;
    assert_int_equal(pread(descriptor, &byte, 1, at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(descriptor, &byte, 1, at), 1);
    close(descriptor);
}

/* A flipped bit in a tensor is found by its hash; the run goes back to the one before. */
static void test_rotten_bits_are_found(void **state) {
    (void)state;
    assert_ok(site_save(&site.job.world, 1, 9));
    assert_ok(site_save(&site.job.world, 2, 9));
    char path[512];
    snprintf(path, sizeof path, "%s/step-00000002/rank-0000.h5", site.folder);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    comm_barrier(&site.job.world, &site.stream);
    if (site.job.world.rank == 0) flip(path, info.st_size / 2);
    comm_barrier(&site.job.world, &site.stream);
    int64_t step;
    assert_ok(checkpoint_latest(&site.job.world, site.folder, INT64_MAX, &step));
    assert_int_equal(step, 2);
    assert_int_equal(site_load_status(&site.job.world, 2), STATUS_FORMAT);
    assert_non_null(strstr(status_message(), "rank-0000.h5': dataset 'adam_v/"));
    assert_int_equal(site_load(&site.job.world, -1), 1);
}

/* One bit anywhere: an error, or (in bytes that nobody reads) the very same values. */
static void test_no_flipped_bit_passes(void **state) {
    (void)state;
    site_only_alone();
    assert_ok(site_save(&site.job.world, 1, 9));
    const char *files[] = {"rank-0000.h5", "index.h5"};
    int refused = 0, trials = 0;
    for (int f = 0; f < 2; f++) {
        char path[512];
        snprintf(path, sizeof path, "%s/step-00000001/%s", site.folder, files[f]);
        struct stat info;
        assert_int_equal(stat(path, &info), 0);
        off_t stride = info.st_size > 100000 ? info.st_size / 12 : 173;
        for (off_t at = 8; at < info.st_size; at += at < 3000 ? 173 : stride) {
            flip(path, at);
            refused += site_load_status(&site.job.world, 1) != STATUS_OK;
            flip(path, at);
            trials++;
        }
    }
    assert_true(refused > trials / 2);
    assert_int_equal(site_load_status(&site.job.world, 1), STATUS_OK);
}

/* A dataset of which the file holds nothing, with a hash. */
static void craft(hid_t file, const char *name, int rank, const hsize_t *sizes) {
    hsize_t chunk[2] = {1, 1};
    uint64_t hash = 0;
    hid_t how = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(rank, sizes, NULL);
    chunk[rank - 1] = 1024;
    assert_true(H5Pset_chunk(how, rank, chunk) >= 0);
    hid_t dataset = H5Dcreate2(file, name, H5T_IEEE_F64LE, space, H5P_DEFAULT, how, H5P_DEFAULT);
    hid_t scalar = H5Screate(H5S_SCALAR);
    hid_t attribute =
        H5Acreate2(dataset, CHECKPOINT_HASH, H5T_STD_U64LE, scalar, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(attribute > 0 && H5Awrite(attribute, H5T_NATIVE_UINT64, &hash) >= 0);
    H5Aclose(attribute);
    H5Sclose(scalar);
    H5Dclose(dataset);
    H5Sclose(space);
    H5Pclose(how);
}

/* Sizes whose bytes are no number ((2^61 + 1) values of 8 bytes would count as 8), or are none that
 * the file has: reading 2^61 rows would never end, one row of 2^59 would take all memory. */
static void test_sizes_that_lie_are_found(void **state) {
    (void)state;
    static const struct {
        int rank;
        hsize_t sizes[2];
    } cases[] = {{2, {1, ((hsize_t)1 << 61) + 1}},
                 {1, {((hsize_t)1 << 61) + 1, 0}},
                 {1, {(hsize_t)1 << 60, 0}},
                 {2, {1, (hsize_t)1 << 59}}};
    char path[512];
    if (site.job.world.rank != 0) return;
    site_run("mkdir -p '%s'", site.folder);
    snprintf(path, sizeof path, "%s/crafted.h5", site.folder);
    for (int i = 0; i < 4; i++) {
        hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
        craft(file, "wide", cases[i].rank, cases[i].sizes);
        assert_true(H5Fclose(file) >= 0);
        assert_int_equal(checkpoint_verify_file(path), STATUS_FORMAT);
        assert_non_null(strstr(status_message(), "dataset 'wide' is not what was written"));
    }
}

static void test_what_does_not_fit_is_named(void **state) {
    (void)state;
    assert_ok(site_save(&site.job.world, 1, 9));
    struct checkpoint_state at = {0};
    struct checkpoint_slab slab = site_slab(1, 0, 1, 1);
    slab.rows = 80;
    assert_int_equal(checkpoint_load(&site.job.world, site.folder, 1, &at, &slab, 1), STATUS_SHAPE);
    assert_non_null(strstr(status_message(), "q_proj.weight' is 72 x 40, the run's is 80 x 40"));
    slab.rows = 72;
    slab.name = "weights/model.layers.7.self_attn.q_proj.weight";
    assert_int_equal(checkpoint_load(&site.job.world, site.folder, 1, &at, &slab, 1), STATUS_SHAPE);
    assert_non_null(strstr(status_message(), "layers.7"));
    assert_null(at.config);
    slab.name = "weights/half";
    slab.rows = 144;
    struct checkpoint_state half = site_state(2);
    comm_barrier(&site.job.world, &site.stream);
    assert_int_equal(
        checkpoint_save(&site.job.world, site_claimed(), &half, &slab, site.job.world.rank == 0, 9),
        STATUS_SHAPE);
    assert_non_null(strstr(status_message(), "'weights/half': the ranks give 2880 of its 5760"));
    assert_string_equal(site_listing(), "step-00000001");
    free(slab.values.data);
}

/* HDF5's own tool sees every logical tensor whole in the index. */
static void test_other_tools_read_it(void **state) {
    (void)state;
    if (access("/usr/bin/h5dump", X_OK) != 0) skip_because("h5dump is not installed");
    int size = site.job.world.size;
    struct checkpoint_slab slabs[SITE_TENSORS];
    int count = site_slabs(slabs, site.job.world.rank, size, 1);
    site_fill(slabs, count, 3);
    struct checkpoint_state at = site_state(3);
    assert_ok(checkpoint_save(&site.job.world, site_claimed(), &at, slabs, count, 1));
    site_free_slabs(slabs, count);
    for (int t = 0; t < SITE_TENSORS && site.job.world.rank == 0; t++) {
        site_run("cd / && h5dump -d '/%s' -b LE -o '%s/raw' '%s/step-00000003/index.h5' >/dev/null",
                 site_tensors[t].name, site.folder, site.folder);
        char path[512];
        snprintf(path, sizeof path, "%s/raw", site.folder);
        FILE *file = fopen(path, "rb");
        assert_non_null(file);
        for (int64_t r = 0; r < site_tensors[t].rows; r++)
            for (int64_t c = 0; c < site_tensors[t].cols; c++) {
                float got = 0, want = site_value(3, t, r, c);
                assert_int_equal(fread(&got, sizeof got, 1, file), 1);
                assert_memory_equal(&got, &want, sizeof want);
            }
        assert_int_equal(fgetc(file), EOF);
        fclose(file);
    }
}

static int run_all(void) {
    const struct CMUnitTest tests[] = {
        site_test(test_nothing_there),
        site_test(test_comes_back_bit_for_bit),
        site_test(test_any_layout_reads_any_other),
        site_test(test_the_last_k_and_the_best_stay),
        site_test(test_torn_folders_are_passed_over),
        site_test(test_rotten_bits_are_found),
        site_test(test_no_flipped_bit_passes),
        site_test(test_sizes_that_lie_are_found),
        site_test(test_what_does_not_fit_is_named),
        site_test(test_other_tools_read_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv) {
    return site_main(argc, argv, run_all);
}
