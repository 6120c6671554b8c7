#define _GNU_SOURCE
#include "tests/checkpoint_site.h"

#include <dirent.h>
#include <unistd.h>

struct checkpoint_site site;

const struct site_tensor site_tensors[SITE_TENSORS] = {
    {"weights/model.embed_tokens.weight", 203, 40, LAYOUT_ROWS_F32},
    {"weights/model.layers.0.self_attn.q_proj.weight", 72, 40, LAYOUT_PANEL_F32},
    {"weights/model.norm.weight", 1, 40, LAYOUT_ROWS_F32},
    {"adam_m/model.layers.0.self_attn.q_proj.weight", 72, 40, LAYOUT_PANEL_F32},
    {"adam_v/model.layers.0.mlp.up_proj.weight", 45, 8200, LAYOUT_PANEL_F32}, /* several blocks */
};

float site_value(int64_t step, int tensor, int64_t row, int64_t col) {
    uint64_t x = (uint64_t)(((step * 8 + tensor) * 1000 + row) * 10000 + col + 1);
    return (float)(int32_t)((x * 0x9e3779b97f4a7c15u) >> 32) * 0x1p-31f;
}

/* The slab of a tensor that part `part` of a rows x cols grid of parts owns. */
struct checkpoint_slab site_slab(int tensor, int part, int grid_rows, int grid_cols) {
    int64_t rows = site_tensors[tensor].rows, cols = site_tensors[tensor].cols;
    int r = part / grid_cols, c = part % grid_cols;
    int64_t row = rows * r / grid_rows, col = cols * c / grid_cols;
    struct checkpoint_slab slab = {.name = site_tensors[tensor].name,
                                   .rows = rows,
                                   .cols = cols,
                                   .first_row = row,
                                   .first_col = col};
    slab.values = (struct weight){.layout = site_tensors[tensor].layout,
                                  .rows = rows * (r + 1) / grid_rows - row,
                                  .cols = cols * (c + 1) / grid_cols - col};
    size_t bytes = weight_bytes(slab.values.layout, slab.values.rows, slab.values.cols);
    slab.values.data = calloc(1, bytes);
    assert_non_null(slab.values.data);
    return slab;
}

int site_slabs(struct checkpoint_slab slabs[SITE_TENSORS], int part, int grid_rows, int grid_cols) {
    int count = 0;
    for (int t = 0; t < SITE_TENSORS; t++) {
        struct checkpoint_slab slab = site_slab(t, part, grid_rows, grid_cols);
        if (slab.values.rows > 0 && slab.values.cols > 0)
            slabs[count++] = slab;
        else
            free(slab.values.data);
    }
    return count;
}

void site_free_slabs(struct checkpoint_slab *slabs, int count) {
    for (int i = 0; i < count; i++) free(slabs[i].values.data);
}

static int tensor_of(const struct checkpoint_slab *slab) {
    int t = 0;
    while (strcmp(site_tensors[t].name, slab->name) != 0) t++;
    return t;
}

void site_fill(struct checkpoint_slab *slabs, int count, int64_t step) {
    for (int i = 0; i < count; i++) {
        struct checkpoint_slab *s = &slabs[i];
        float *rows = malloc((size_t)(s->values.rows * s->values.cols) * sizeof *rows);
        for (int64_t r = 0; r < s->values.rows; r++)
            for (int64_t c = 0; c < s->values.cols; c++)
                rows[r * s->values.cols + c] =
                    site_value(step, tensor_of(s), s->first_row + r, s->first_col + c);
        weight_pack(&s->values, 0, s->values.rows, rows);
        free(rows);
    }
}

bool site_holds(const struct checkpoint_slab *slabs, int count, int64_t step) {
    bool same = true;
    for (int i = 0; i < count; i++) {
        const struct checkpoint_slab *s = &slabs[i];
        float *rows = malloc((size_t)(s->values.rows * s->values.cols) * sizeof *rows);
        weight_unpack(rows, &s->values, 0, s->values.rows);
        for (int64_t r = 0; r < s->values.rows; r++)
            for (int64_t c = 0; c < s->values.cols; c++) {
                float want = site_value(step, tensor_of(s), s->first_row + r, s->first_col + c);
                same = same && memcmp(&rows[r * s->values.cols + c], &want, sizeof want) == 0;
            }
        free(rows);
    }
    return same;
}

struct checkpoint_state site_state(int64_t step) {
    return (struct checkpoint_state){.step = step,
                                     .cursor = step * 64 + 3,
                                     .tokens = step * 4096,
                                     .seed = 0xfeedfacecafebeefu,
                                     .tokenizer_hash = 0x8000000000000001u,
                                     .best_loss = 2.5 + 1.0 / (double)(step + 3),
                                     .config = "train:\n  lr: 1e-3 # \xc3\xa9\n"};
}

static void assert_state(const struct checkpoint_state *got, int64_t step) {
    struct checkpoint_state want = site_state(step);
    assert_int_equal(got->step, want.step);
    assert_int_equal(got->cursor, want.cursor);
    assert_int_equal(got->tokens, want.tokens);
    assert_true(got->seed == want.seed);
    assert_true(got->tokenizer_hash == want.tokenizer_hash);
    assert_true(got->best_loss == want.best_loss);
    assert_string_equal(got->config, want.config);
}

/* The claim, taken by the first that asks. */
const struct checkpoint_claim *site_claimed(void) {
    if (!*site.claim.folder)
        assert_ok(checkpoint_claim_take(&site.job.world, site.folder, &(struct checkpoint_start){0},
                                        &site.claim));
    return &site.claim;
}

/* Saves a step of which rank 0 owns everything. */
enum status site_save(struct comm *comm, int64_t step, int keep) {
    struct checkpoint_slab slabs[SITE_TENSORS];
    int count = comm->rank == 0 ? site_slabs(slabs, 0, 1, 1) : 0;
    site_fill(slabs, count, step);
    struct checkpoint_state state = site_state(step);
    enum status status = checkpoint_save(comm, site_claimed(), &state, slabs, count, keep);
    site_free_slabs(slabs, count);
    return status;
}

/* Saves a step of which every rank owns a part. */
enum status site_save_parts(int64_t step) {
    struct checkpoint_slab slabs[SITE_TENSORS];
    int count = site_slabs(slabs, site.job.world.rank, site.job.world.size, 1);
    site_fill(slabs, count, step);
    struct checkpoint_state state = site_state(step);
    enum status status = checkpoint_save(&site.job.world, site_claimed(), &state, slabs, count, 2);
    site_free_slabs(slabs, count);
    return status;
}

/* Loads step (or resumes when step < 0) as rank of comm->size rows of parts; checks the values.
 * Returns the step. */
int64_t site_load(struct comm *comm, int64_t step) {
    struct checkpoint_slab slabs[SITE_TENSORS];
    struct checkpoint_state state = {0};
    int count = site_slabs(slabs, comm->rank, comm->size, 1);
    if (step >= 0)
        assert_ok(checkpoint_load(comm, site.folder, step, &state, slabs, count));
    else
        assert_ok(checkpoint_resume(comm, site.folder, INT64_MAX, &step, &state, slabs, count));
    if (step >= 0) {
        assert_state(&state, step);
        assert_true(site_holds(slabs, count, step));
    }
    free(state.config);
    site_free_slabs(slabs, count);
    return step;
}

enum status site_load_status(struct comm *comm, int64_t step) {
    struct checkpoint_slab slabs[SITE_TENSORS];
    struct checkpoint_state state = {0};
    int count = site_slabs(slabs, 0, 1, 1);
    enum status status = checkpoint_load(comm, site.folder, step, &state, slabs, count);
    if (status == STATUS_OK) assert_true(site_holds(slabs, count, step));
    free(state.config);
    site_free_slabs(slabs, count);
    return status;
}

void site_run(const char *format, ...) {
    char command[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    if (system(command) != 0) fail_msg("%s", command);
}

int site_open_folder(void **state) {
    (void)state;
    site.claim = (struct checkpoint_claim){0};
    if (site.job.world.rank == 0) {
        const char *base = getenv("TMPDIR");
        snprintf(site.folder, sizeof site.folder, "%.200s/strata-ckpt-XXXXXX",
                 base ? base : "/tmp");
        if (!mkdtemp(site.folder)) return -1;
        strcat(site.folder, "/run");
    }
    comm_broadcast(&site.job.world, &site.stream, site.folder, sizeof site.folder, DTYPE_U8, 0);
    return stream_check(&site.stream) == STATUS_OK ? 0 : -1;
}

int site_close_folder(void **state) {
    (void)state;
    comm_barrier(&site.job.world, &site.stream);
    site.folder[strlen(site.folder) - strlen("/run")] = '\0';
    if (site.job.world.rank == 0) site_run("rm -rf '%s'", site.folder);
    comm_barrier(&site.job.world, &site.stream);
    return stream_check(&site.stream) == STATUS_OK ? 0 : -1;
}

/* A claim's folder with nothing in it is as it should be between saves. */
static bool is_empty_claim(const char *name) {
    char path[512];
    if (strcmp(name, site.claim.folder) != 0) return false;
    snprintf(path, sizeof path, "%s/%s", site.folder, name);
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, NULL);
    for (int i = 0; i < count; i++) free(entries[i]);
    if (count >= 0) free(entries);
    return count == 2;
}

/* Names in the folder, sorted and joined by spaces. */
const char *site_listing(void) {
    static char text[1024];
    struct dirent **entries;
    text[0] = '\0';
    int count = scandir(site.folder, &entries, NULL, alphasort);
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
void site_only_alone(void) {
    if (site.job.mpi) skip_because("it is about one process, and runs without a launcher");
}

int site_main(int argc, char **argv, int (*run)(void)) {
    if (parallel_start(&site.job, &argc, &argv) != STATUS_OK) {
        fprintf(stderr, "%s\n", status_message());
        return 1;
    }
    stream_open_cpu(&site.stream, 1);
    int failures = run();
    parallel_finish(&site.job);
    return failures != 0;
}
