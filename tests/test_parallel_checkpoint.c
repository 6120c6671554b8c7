/* Checkpoints come back bit for bit on any number of ranks, and whatever happens to a writer or to
 * the disk, the newest intact one is found. Runs plainly and under mpirun. */
#define _GNU_SOURCE
#include "tests/check.h"

#include "parallel/checkpoint.h"
#include "parallel/checkpoint_directory.h"
#include "parallel/checkpoint_format.h"
#include "parallel/checkpoint_verify.h"
#include "parallel/comm_mpi.h"
#include "parallel/parallel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static struct parallel job;
static struct stream stream;
static char folder[256];              /* a fresh one for each test */
static struct checkpoint_claim claim; /* on it, from the first save on */

/* --- a little run ---------------------------------------------------------------------------- */

enum { TENSORS = 5 };

static const struct {
    const char *name;
    int64_t rows, cols;
    enum layout layout;
} shapes[TENSORS] = {
    {"weights/model.embed_tokens.weight", 203, 40, LAYOUT_ROWS_F32},
    {"weights/model.layers.0.self_attn.q_proj.weight", 72, 40, LAYOUT_PANEL_F32},
    {"weights/model.norm.weight", 1, 40, LAYOUT_ROWS_F32},
    {"adam_m/model.layers.0.self_attn.q_proj.weight", 72, 40, LAYOUT_PANEL_F32},
    {"adam_v/model.layers.0.mlp.up_proj.weight", 45, 8200, LAYOUT_PANEL_F32}, /* several blocks */
};

static float value(int64_t step, int tensor, int64_t row, int64_t col) {
    uint64_t x = (uint64_t)(((step * 8 + tensor) * 1000 + row) * 10000 + col + 1);
    return (float)(int32_t)((x * 0x9e3779b97f4a7c15u) >> 32) * 0x1p-31f;
}

/* The slab of a tensor that part `part` of a rows x cols grid of parts owns. */
static struct checkpoint_slab slab_of(int tensor, int part, int grid_rows, int grid_cols) {
    int64_t rows = shapes[tensor].rows, cols = shapes[tensor].cols;
    int r = part / grid_cols, c = part % grid_cols;
    int64_t row = rows * r / grid_rows, col = cols * c / grid_cols;
    struct checkpoint_slab slab = {.name = shapes[tensor].name,
                                   .rows = rows,
                                   .cols = cols,
                                   .first_row = row,
                                   .first_col = col};
    slab.values = (struct weight){.layout = shapes[tensor].layout,
                                  .rows = rows * (r + 1) / grid_rows - row,
                                  .cols = cols * (c + 1) / grid_cols - col};
    size_t bytes = weight_bytes(slab.values.layout, slab.values.rows, slab.values.cols);
    slab.values.data = calloc(1, bytes);
    assert_non_null(slab.values.data);
    return slab;
}

static int make_slabs(struct checkpoint_slab slabs[TENSORS], int part, int grid_rows,
                      int grid_cols) {
    int count = 0;
    for (int t = 0; t < TENSORS; t++) {
        struct checkpoint_slab slab = slab_of(t, part, grid_rows, grid_cols);
        if (slab.values.rows > 0 && slab.values.cols > 0)
            slabs[count++] = slab;
        else
            free(slab.values.data);
    }
    return count;
}

static void free_slabs(struct checkpoint_slab *slabs, int count) {
    for (int i = 0; i < count; i++) free(slabs[i].values.data);
}

static int tensor_of(const struct checkpoint_slab *slab) {
    int t = 0;
    while (strcmp(shapes[t].name, slab->name) != 0) t++;
    return t;
}

static void fill(struct checkpoint_slab *slabs, int count, int64_t step) {
    for (int i = 0; i < count; i++) {
        struct checkpoint_slab *s = &slabs[i];
        float *rows = malloc((size_t)(s->values.rows * s->values.cols) * sizeof *rows);
        for (int64_t r = 0; r < s->values.rows; r++)
            for (int64_t c = 0; c < s->values.cols; c++)
                rows[r * s->values.cols + c] =
                    value(step, tensor_of(s), s->first_row + r, s->first_col + c);
        weight_pack(&s->values, 0, s->values.rows, rows);
        free(rows);
    }
}

static bool holds(const struct checkpoint_slab *slabs, int count, int64_t step) {
    bool same = true;
    for (int i = 0; i < count; i++) {
        const struct checkpoint_slab *s = &slabs[i];
        float *rows = malloc((size_t)(s->values.rows * s->values.cols) * sizeof *rows);
        weight_unpack(rows, &s->values, 0, s->values.rows);
        for (int64_t r = 0; r < s->values.rows; r++)
            for (int64_t c = 0; c < s->values.cols; c++) {
                float want = value(step, tensor_of(s), s->first_row + r, s->first_col + c);
                same = same && memcmp(&rows[r * s->values.cols + c], &want, sizeof want) == 0;
            }
        free(rows);
    }
    return same;
}

static struct checkpoint_state state_at(int64_t step) {
    return (struct checkpoint_state){.step = step,
                                     .cursor = step * 64 + 3,
                                     .tokens = step * 4096,
                                     .seed = 0xfeedfacecafebeefu,
                                     .tokenizer_hash = 0x8000000000000001u,
                                     .best_loss = 2.5 + 1.0 / (double)(step + 3),
                                     .config = "train:\n  lr: 1e-3 # \xc3\xa9\n"};
}

static void assert_state(const struct checkpoint_state *got, int64_t step) {
    struct checkpoint_state want = state_at(step);
    assert_int_equal(got->step, want.step);
    assert_int_equal(got->cursor, want.cursor);
    assert_int_equal(got->tokens, want.tokens);
    assert_true(got->seed == want.seed);
    assert_true(got->tokenizer_hash == want.tokenizer_hash);
    assert_true(got->best_loss == want.best_loss);
    assert_string_equal(got->config, want.config);
}

/* The claim, taken by the first that asks. */
static const struct checkpoint_claim *claimed(void) {
    if (!*claim.folder)
        assert_ok(checkpoint_claim_take(&job.world, folder, &(struct checkpoint_start){0}, &claim));
    return &claim;
}

/* Saves a step of which rank 0 owns everything. */
static enum status save(struct comm *comm, int64_t step, int keep) {
    struct checkpoint_slab slabs[TENSORS];
    int count = comm->rank == 0 ? make_slabs(slabs, 0, 1, 1) : 0;
    fill(slabs, count, step);
    struct checkpoint_state state = state_at(step);
    enum status status = checkpoint_save(comm, claimed(), &state, slabs, count, keep);
    free_slabs(slabs, count);
    return status;
}

/* Loads step (or resumes when step < 0) as rank of comm->size rows of parts; checks the values.
 * Returns the step. */
static int64_t load(struct comm *comm, int64_t step) {
    struct checkpoint_slab slabs[TENSORS];
    struct checkpoint_state state = {0};
    int count = make_slabs(slabs, comm->rank, comm->size, 1);
    if (step >= 0)
        assert_ok(checkpoint_load(comm, folder, step, &state, slabs, count));
    else
        assert_ok(checkpoint_resume(comm, folder, INT64_MAX, &step, &state, slabs, count));
    if (step >= 0) {
        assert_state(&state, step);
        assert_true(holds(slabs, count, step));
    }
    free(state.config);
    free_slabs(slabs, count);
    return step;
}

static enum status load_status(struct comm *comm, int64_t step) {
    struct checkpoint_slab slabs[TENSORS];
    struct checkpoint_state state = {0};
    int count = make_slabs(slabs, 0, 1, 1);
    enum status status = checkpoint_load(comm, folder, step, &state, slabs, count);
    if (status == STATUS_OK) assert_true(holds(slabs, count, step));
    free(state.config);
    free_slabs(slabs, count);
    return status;
}

/* --- the folder ------------------------------------------------------------------------------ */

static void run(const char *format, ...) {
    char command[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    if (system(command) != 0) fail_msg("%s", command);
}

static int open_folder(void **state) {
    (void)state;
    claim = (struct checkpoint_claim){0};
    if (job.world.rank == 0) {
        const char *base = getenv("TMPDIR");
        snprintf(folder, sizeof folder, "%.200s/strata-ckpt-XXXXXX", base ? base : "/tmp");
        if (!mkdtemp(folder)) return -1;
        strcat(folder, "/run");
    }
    comm_broadcast(&job.world, &stream, folder, sizeof folder, DTYPE_U8, 0);
    return stream_check(&stream) == STATUS_OK ? 0 : -1;
}

static int close_folder(void **state) {
    (void)state;
    comm_barrier(&job.world, &stream);
    folder[strlen(folder) - strlen("/run")] = '\0';
    if (job.world.rank == 0) run("rm -rf '%s'", folder);
    comm_barrier(&job.world, &stream);
    return stream_check(&stream) == STATUS_OK ? 0 : -1;
}

/* A claim's folder with nothing in it is as it should be between saves. */
static bool is_empty_claim(const char *name) {
    char path[512];
    if (strcmp(name, claim.folder) != 0) return false;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, NULL);
    for (int i = 0; i < count; i++) free(entries[i]);
    if (count >= 0) free(entries);
    return count == 2;
}

/* Names in the folder, sorted and joined by spaces. */
static const char *listing(void) {
    static char text[1024];
    struct dirent **entries;
    text[0] = '\0';
    int count = scandir(folder, &entries, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        const char *name = entries[i]->d_name;
        if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && !is_empty_claim(name)) {
            if (*text) strcat(text, " ");
            strcat(text, name);
        }
        free(entries[i]);
    }
    if (count >= 0) free(entries);
    return text;
}

/* What is about one process's files is tested without a launcher. */
static void only_alone(void) {
    if (job.mpi) skip_because("it is about one process, and runs without a launcher");
}

/* --- tests ----------------------------------------------------------------------------------- */

static void test_nothing_there(void **state) {
    (void)state;
    int64_t step = 7;
    assert_ok(checkpoint_latest(&job.world, folder, INT64_MAX, &step));
    assert_int_equal(step, -1);
    assert_int_equal(load(&job.world, -1), -1);
    assert_int_equal(checkpoint_best(folder), -1);
    assert_int_equal(load_status(&job.world, 3), STATUS_IO);
}

static void test_comes_back_bit_for_bit(void **state) {
    (void)state;
    assert_ok(save(&job.world, 40, 2));
    load(&job.world, 40);
    int64_t step;
    assert_ok(checkpoint_latest(&job.world, folder, INT64_MAX, &step));
    assert_int_equal(step, 40);
    assert_ok(checkpoint_latest(&job.world, folder, 40, &step));
    assert_int_equal(step, -1);
    assert_string_equal(listing(), "step-00000040");
}

/* Written by all ranks in a grid of parts, read by fewer and by as many, in other parts. */
static void test_any_layout_reads_any_other(void **state) {
    (void)state;
    int size = job.world.size, cols = size % 2 == 0 ? 2 : 1;
    struct checkpoint_slab slabs[TENSORS];
    int count = make_slabs(slabs, job.world.rank, size / cols, cols);
    fill(slabs, count, 9);
    struct checkpoint_state at = state_at(9);
    assert_ok(checkpoint_save(&job.world, claimed(), &at, slabs, count, 1));
    free_slabs(slabs, count);
    for (int readers = 1; readers <= size; readers++) {
        struct comm some;
        assert_ok(comm_mpi_open_split(&some, &job.world, "readers", job.world.rank < readers,
                                      job.world.rank));
        if (job.world.rank < readers) load(&some, 9);
        comm_close(&some);
    }
}

static void test_the_last_k_and_the_best_stay(void **state) {
    (void)state;
    for (int64_t step = 1; step <= 6; step++) {
        assert_ok(save(&job.world, step, 2));
        if (step == 2 && job.world.rank == 0) assert_ok(checkpoint_mark_best(claimed(), 2));
        comm_barrier(&job.world, &stream);
    }
    assert_string_equal(listing(), "best.txt step-00000002 step-00000005 step-00000006");
    assert_int_equal(checkpoint_best(folder), 2);
    load(&job.world, 2);
    assert_int_equal(load(&job.world, -1), 6);
    comm_barrier(&job.world, &stream);
    assert_ok(save(&job.world, 6, 2)); /* again: replaced */
    load(&job.world, 6);
    assert_ok(save(&job.world, 4, 1)); /* a run that went back keeps what it just wrote */
    assert_string_equal(listing(), "best.txt step-00000002 step-00000004 step-00000005 "
                                   "step-00000006");
}

static void test_torn_folders_are_passed_over(void **state) {
    (void)state;
    assert_ok(save(&job.world, 1, 9));
    assert_ok(save(&job.world, 2, 9));
    assert_ok(save(&job.world, 3, 9));
    assert_ok(save(&job.world, 4, 9));
    if (job.world.rank == 0) {
        run("mkdir '%s/%s/step-00000009' '%s/step-00000008' '%s/step-x'", folder, claim.folder,
            folder, folder);
        run("touch '%s/%s/step-00000009/rank-0000.h5'", folder, claim.folder);
        run("mkdir '%s/.tmp-step-00000007'", folder);
        run("rm '%s/step-00000004/rank-0000.h5'", folder);
        run("truncate -s -1000 '%s/step-00000003/rank-0000.h5'", folder);
    }
    comm_barrier(&job.world, &stream);
    int64_t step;
    assert_ok(checkpoint_latest(&job.world, folder, INT64_MAX, &step));
    assert_int_equal(step, 2);
    assert_int_equal(load(&job.world, -1), 2);
    comm_barrier(&job.world, &stream);
    claim = (struct checkpoint_claim){0}; /* the next start removes what is left of this one */
    assert_ok(save(&job.world, 5, 9));
    assert_null(strstr(listing(), ".tmp"));
    assert_int_equal(load(&job.world, -1), 5);
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
    assert_ok(save(&job.world, 1, 9));
    assert_ok(save(&job.world, 2, 9));
    char path[512];
    snprintf(path, sizeof path, "%s/step-00000002/rank-0000.h5", folder);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    comm_barrier(&job.world, &stream);
    if (job.world.rank == 0) flip(path, info.st_size / 2);
    comm_barrier(&job.world, &stream);
    int64_t step;
    assert_ok(checkpoint_latest(&job.world, folder, INT64_MAX, &step));
    assert_int_equal(step, 2);
    assert_int_equal(load_status(&job.world, 2), STATUS_FORMAT);
    assert_non_null(strstr(status_message(), "rank-0000.h5': dataset 'adam_v/"));
    assert_int_equal(load(&job.world, -1), 1);
}

/* One bit anywhere: an error, or (in bytes that nobody reads) the very same values. */
static void test_no_flipped_bit_passes(void **state) {
    (void)state;
    only_alone();
    assert_ok(save(&job.world, 1, 9));
    const char *files[] = {"rank-0000.h5", "index.h5"};
    int refused = 0, trials = 0;
    for (int f = 0; f < 2; f++) {
        char path[512];
        snprintf(path, sizeof path, "%s/step-00000001/%s", folder, files[f]);
        struct stat info;
        assert_int_equal(stat(path, &info), 0);
        off_t stride = info.st_size > 100000 ? info.st_size / 12 : 173;
        for (off_t at = 8; at < info.st_size; at += at < 3000 ? 173 : stride) {
            flip(path, at);
            refused += load_status(&job.world, 1) != STATUS_OK;
            flip(path, at);
            trials++;
        }
    }
    assert_true(refused > trials / 2);
    assert_int_equal(load_status(&job.world, 1), STATUS_OK);
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
    if (job.world.rank != 0) return;
    run("mkdir -p '%s'", folder);
    snprintf(path, sizeof path, "%s/crafted.h5", folder);
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
    assert_ok(save(&job.world, 1, 9));
    struct checkpoint_state at = {0};
    struct checkpoint_slab slab = slab_of(1, 0, 1, 1);
    slab.rows = 80;
    assert_int_equal(checkpoint_load(&job.world, folder, 1, &at, &slab, 1), STATUS_SHAPE);
    assert_non_null(strstr(status_message(), "q_proj.weight' is 72 x 40, the run's is 80 x 40"));
    slab.rows = 72;
    slab.name = "weights/model.layers.7.self_attn.q_proj.weight";
    assert_int_equal(checkpoint_load(&job.world, folder, 1, &at, &slab, 1), STATUS_SHAPE);
    assert_non_null(strstr(status_message(), "layers.7"));
    assert_null(at.config);
    slab.name = "weights/half";
    slab.rows = 144;
    struct checkpoint_state half = state_at(2);
    comm_barrier(&job.world, &stream);
    assert_int_equal(checkpoint_save(&job.world, claimed(), &half, &slab, job.world.rank == 0, 9),
                     STATUS_SHAPE);
    assert_non_null(strstr(status_message(), "'weights/half': the ranks give 2880 of its 5760"));
    assert_string_equal(listing(), "step-00000001");
    free(slab.values.data);
}

static void set_file_limit(rlim_t bytes) {
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* A write refused after any number of bytes: one sentence, the old checkpoint stays, nothing is
 * left over, and the next save goes through in the same process. */
static void test_refused_writes_leave_the_old_one(void **state) {
    (void)state;
    only_alone();
    signal(SIGXFSZ, SIG_IGN);
    assert_ok(save(&job.world, 1, 2));
    const rlim_t limits[] = {0, 100, 3000, 40000, 100000, 1000000};
    for (int i = 0; i < 6; i++) {
        set_file_limit(limits[i]);
        enum status status = save(&job.world, 2, 2);
        char message[512];
        snprintf(message, sizeof message, "%s", status_message());
        set_file_limit(RLIM_INFINITY);
        assert_int_equal(status, STATUS_IO);
        assert_non_null(strstr(message, "can't write '"));
        assert_non_null(strstr(message, "h5': File too large"));
        assert_string_equal(listing(), "step-00000001");
        assert_int_equal(load(&job.world, -1), 1);
    }
    assert_ok(save(&job.world, 2, 2));
    assert_int_equal(load(&job.world, -1), 2);
}

/* Saves a step of which every rank owns a part. */
static enum status save_parts(int64_t step) {
    struct checkpoint_slab slabs[TENSORS];
    int count = make_slabs(slabs, job.world.rank, job.world.size, 1);
    fill(slabs, count, step);
    struct checkpoint_state state = state_at(step);
    enum status status = checkpoint_save(&job.world, claimed(), &state, slabs, count, 2);
    free_slabs(slabs, count);
    return status;
}

/* The writes of one rank alone are refused: every rank hears of it in the same words, nobody waits
 * for who has gone, and the old checkpoint stays. */
static void test_one_ranks_refused_write_is_everyones(void **state) {
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    assert_ok(save_parts(1));
    for (int victim = 0; victim < job.world.size; victim++) {
        char want[64], message[512];
        if (job.world.rank == victim) set_file_limit(3000);
        enum status status = save_parts(2);
        snprintf(message, sizeof message, "%s", status_message());
        set_file_limit(RLIM_INFINITY);
        snprintf(want, sizeof want, job.world.size > 1 ? "rank %d: can't write" : "can't write",
                 victim);
        assert_int_equal(status, STATUS_IO);
        assert_non_null(strstr(message, want));
        assert_string_equal(listing(), "step-00000001");
        assert_int_equal(load(&job.world, -1), 1);
        comm_barrier(&job.world, &stream);
    }
    assert_ok(save_parts(2));
    assert_int_equal(load(&job.world, -1), 2);
}

/* A mount table of our own, as root or as root of a user namespace. */
static bool may_mount(void) {
    if (unshare(CLONE_NEWNS) == 0) return true;
    char map[32];
    int bytes = snprintf(map, sizeof map, "0 %d 1", (int)getuid());
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
    int descriptor = open("/proc/self/uid_map", O_WRONLY);
    bool mapped = descriptor >= 0 && write(descriptor, map, (size_t)bytes) == bytes;
    if (descriptor >= 0) close(descriptor);
    return mapped;
}

/* The same on a disk of a few MiB that is really full. Child of the test below. */
static int fill_a_disk(void) {
    if (mkdir(folder, 0777) != 0) return 1;
    if (!may_mount()) return 77;
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return 77;
    if (mount("tmpfs", folder, "tmpfs", 0, "size=2500k") != 0) return 77;
    if (save(&job.world, 1, 2) != STATUS_OK) return 2;
    if (save(&job.world, 2, 2) != STATUS_IO) return 3;
    if (!strstr(status_message(), "No space left on device")) return 4;
    if (strcmp(listing(), "step-00000001") != 0) return 5;
    if (load_status(&job.world, 1) != STATUS_OK) return 6;
    return 0;
}

static void test_full_disk_leaves_the_old_one(void **state) {
    (void)state;
    only_alone();
    pid_t child = fork();
    if (child == 0) _exit(fill_a_disk());
    int code = 0;
    waitpid(child, &code, 0);
    assert_true(WIFEXITED(code));
    if (WEXITSTATUS(code) == 77) skip_because("no right to mount a tmpfs");
    assert_int_equal(WEXITSTATUS(code), 0);
}

/* A writer killed at any moment leaves an intact checkpoint, at least the last one it reported. */
static void test_killed_writers_leave_an_intact_one(void **state) {
    (void)state;
    only_alone();
    int64_t base = 0;
    uint64_t random = 12345;
    for (int trial = 0; trial < 10; trial++) {
        int reports[2];
        assert_int_equal(pipe(reports), 0);
        pid_t child = fork();
        if (child == 0) {
            for (int64_t step = base + 1;; step++)
                if (save(&job.world, step, 2) != STATUS_OK || write(reports[1], &step, 8) != 8)
                    _exit(1);
        }
        close(reports[1]);
        int64_t reported = 0, next;
        assert_int_equal(read(reports[0], &reported, 8), 8);
        random = random * 6364136223846793005u + 1442695040888963407u;
        usleep((useconds_t)(random >> 40) % 60000);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        while (read(reports[0], &next, 8) == 8) reported = next;
        close(reports[0]);
        base = load(&job.world, -1);
        assert_in_range(base, reported, reported + 1);
    }
    assert_ok(save(&job.world, base + 1, 2));
    assert_null(strstr(listing(), ".tmp"));
}

static enum status take_as(int64_t number, int64_t restart, struct checkpoint_claim *mine) {
    return checkpoint_claim_take(&job.world, folder, &(struct checkpoint_start){number, restart},
                                 mine);
}

/* A start that a later one has taken over from changes nothing any more, whatever it tries; nor can
 * it take the directory back. */
static void test_a_former_start_is_fenced(void **state) {
    (void)state;
    struct checkpoint_claim former, latest;
    assert_ok(take_as(7, 0, &former));
    claim = former;
    assert_ok(save(&job.world, 5, 1));
    comm_barrier(&job.world, &stream);
    assert_false(checkpoint_claim_is_former(folder, &(struct checkpoint_start){7, 0}));
    assert_true(checkpoint_claim_is_former(folder, &(struct checkpoint_start){7, 1}));
    assert_false(checkpoint_claim_is_former(folder, &(struct checkpoint_start){8, 1}));
    comm_barrier(&job.world, &stream);
    assert_ok(take_as(7, 1, &latest));
    comm_barrier(&job.world, &stream);

    assert_int_equal(save(&job.world, 6, 1), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "has taken over"));
    assert_int_equal(save(&job.world, 5, 1), STATUS_CONFIG);
    comm_barrier(&job.world, &stream);
    if (job.world.rank == 0) { /* also where it is beyond its checks already */
        assert_int_equal(checkpoint_mark_best(&former, 5), STATUS_CONFIG);
        assert_int_equal(checkpoint_directory_publish(&former, 6), STATUS_CONFIG);
        assert_int_equal(checkpoint_directory_prune(&former, 5, 0, -1), STATUS_CONFIG);
        checkpoint_directory_sweep(&former);
        checkpoint_claim_release(&former);
    }
    comm_barrier(&job.world, &stream);
    assert_int_equal(take_as(7, 0, &former), STATUS_CONFIG);
    claim = latest;
    assert_string_equal(listing(), "step-00000005");
    comm_barrier(&job.world, &stream);
    load(&job.world, 5);
    assert_ok(save(&job.world, 6, 1));
    struct checkpoint_claim other;
    assert_ok(take_as(3, 0, &other)); /* another job comes last */
    assert_int_equal(save(&job.world, 7, 1), STATUS_CONFIG);
    claim = other;
    assert_ok(save(&job.world, 7, 1));
    comm_barrier(&job.world, &stream);
    if (job.world.rank == 0) checkpoint_claim_release(&other);
    comm_barrier(&job.world, &stream);
    assert_string_equal(listing(), "step-00000007");
}

/* Whatever a writer was doing when it lost its claim: what is there once the claim is taken stays
 * as it is, and it is whole. */
static void test_a_writer_loses_its_claim_at_any_moment(void **state) {
    (void)state;
    only_alone();
    uint64_t random = 99;
    for (int trial = 0; trial < 12; trial++) {
        int reports[2];
        char first;
        assert_int_equal(pipe(reports), 0);
        pid_t child = fork();
        if (child == 0) {
            alarm(60); /* one that never loses it must not go on for ever */
            claim = (struct checkpoint_claim){0};
            enum status status = save(&job.world, 1, 2);
            if (write(reports[1], "1", 1) != 1) _exit(1);
            for (int64_t step = 2; status == STATUS_OK; step++)
                status = save(&job.world, step % 3 + 1, 2);
            _exit(status == STATUS_CONFIG ? 0 : 1);
        }
        assert_int_equal(read(reports[0], &first, 1), 1);
        random = random * 6364136223846793005u + 1442695040888963407u;
        usleep((useconds_t)(random >> 40) % 30000);
        assert_ok(take_as(1, 1, &claim));
        close(reports[0]);
        close(reports[1]);
        char seen[256];
        snprintf(seen, sizeof seen, "%s", listing());
        int code = 0;
        waitpid(child, &code, 0);
        assert_true(WIFEXITED(code) && WEXITSTATUS(code) == 0);
        assert_string_equal(listing(), seen);
        assert_true(load(&job.world, -1) > 0);
    }
}

/* HDF5's own tool sees every logical tensor whole in the index. */
static void test_other_tools_read_it(void **state) {
    (void)state;
    if (access("/usr/bin/h5dump", X_OK) != 0) skip_because("h5dump is not installed");
    int size = job.world.size;
    struct checkpoint_slab slabs[TENSORS];
    int count = make_slabs(slabs, job.world.rank, size, 1);
    fill(slabs, count, 3);
    struct checkpoint_state at = state_at(3);
    assert_ok(checkpoint_save(&job.world, claimed(), &at, slabs, count, 1));
    free_slabs(slabs, count);
    for (int t = 0; t < TENSORS && job.world.rank == 0; t++) {
        run("cd / && h5dump -d '/%s' -b LE -o '%s/raw' '%s/step-00000003/index.h5' >/dev/null",
            shapes[t].name, folder, folder);
        char path[512];
        snprintf(path, sizeof path, "%s/raw", folder);
        FILE *file = fopen(path, "rb");
        assert_non_null(file);
        for (int64_t r = 0; r < shapes[t].rows; r++)
            for (int64_t c = 0; c < shapes[t].cols; c++) {
                float got = 0, want = value(3, t, r, c);
                assert_int_equal(fread(&got, sizeof got, 1, file), 1);
                assert_memory_equal(&got, &want, sizeof want);
            }
        assert_int_equal(fgetc(file), EOF);
        fclose(file);
    }
}

#define folder_test(f) cmocka_unit_test_setup_teardown(f, open_folder, close_folder)

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        folder_test(test_nothing_there),
        folder_test(test_comes_back_bit_for_bit),
        folder_test(test_any_layout_reads_any_other),
        folder_test(test_the_last_k_and_the_best_stay),
        folder_test(test_torn_folders_are_passed_over),
        folder_test(test_rotten_bits_are_found),
        folder_test(test_no_flipped_bit_passes),
        folder_test(test_sizes_that_lie_are_found),
        folder_test(test_what_does_not_fit_is_named),
        folder_test(test_refused_writes_leave_the_old_one),
        folder_test(test_one_ranks_refused_write_is_everyones),
        folder_test(test_full_disk_leaves_the_old_one),
        folder_test(test_killed_writers_leave_an_intact_one),
        folder_test(test_a_former_start_is_fenced),
        folder_test(test_a_writer_loses_its_claim_at_any_moment),
        folder_test(test_other_tools_read_it),
    };
    if (parallel_start(&job, &argc, &argv) != STATUS_OK) {
        fprintf(stderr, "%s\n", status_message());
        return 1;
    }
    stream_open_cpu(&stream, 1);
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    parallel_finish(&job);
    return failures != 0;
}
