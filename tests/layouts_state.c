#define _GNU_SOURCE
#include "tests/layouts.h"

#include <unistd.h>

/* What follows a record in a rank's file are the rectangle's values, fp32, row by row. */
struct record {
    char name[LAYOUT_NAME_BYTES];
    int64_t rows, cols; /* of the whole tensor */
    int64_t first_row, first_col, row_count, col_count;
};

static void state_path(char path[512], const char *folder, bool gradients, int rank) {
    snprintf(path, 512, "%s/%s-%d.bin", folder, gradients ? "gradients" : "weights", rank);
}

/* --- writing --------------------------------------------------------------------------------- */

static void write_rectangle(FILE *file, const struct record *record, const struct weight *view,
                            double scale) {
    size_t count = (size_t)(view->rows * view->cols);
    float *values = malloc(count * sizeof *values);
    assert_non_null(values);
    weight_unpack(values, view, 0, view->rows);
    for (size_t i = 0; i < count; i++) values[i] = (float)((double)values[i] / scale);
    assert_int_equal(fwrite(record, sizeof *record, 1, file), 1);
    assert_int_equal(fwrite(values, sizeof *values, count, file), count);
    free(values);
}

static void write_slot(FILE *file, const struct optimizer_slot *slot, int kind, double scale) {
    const struct optimizer_values from = optimizer_values(slot, kind);
    struct weight_part parts[WEIGHT_PARTS];
    struct weight views[WEIGHT_PARTS];
    const struct param_slice *slice = &slot->param->slice;
    int count = optimizer_views(slot, &from, parts, views);
    for (int i = 0; i < count; i++) {
        struct record record = {.rows = slice->rows,
                                .cols = slice->cols,
                                .first_row = slice->first_row + parts[i].first_row,
                                .first_col = slice->first_col + parts[i].first_col,
                                .row_count = views[i].rows,
                                .col_count = views[i].cols};
        snprintf(record.name, sizeof record.name, "%s", slot->param->name);
        write_rectangle(file, &record, &views[i], scale);
    }
}

/* The first moment after one step is (1 - beta1) * clip_scale * gradient. */
void layout_write_state(const struct layout_run *run, bool gradients, double norm) {
    const struct train_options *o = &run->options.train;
    const struct optimizer *optimizer = &run->trainer.optimizer;
    double clip = o->clip > 0.0 && norm > o->clip ? o->clip / norm : 1.0;
    double scale = gradients ? (1.0 - o->beta1) * clip : 1.0;
    char path[512];
    state_path(path, o->out, gradients, run->trainer.parallel->world.rank);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    for (int i = 0; i < optimizer->count; i++)
        write_slot(file, &optimizer->slots[i], gradients ? OPTIMIZER_M : OPTIMIZER_MASTER, scale);
    assert_int_equal(fclose(file), 0);
}

void layout_write_figures(const char *folder, const struct layout_figures *figures) {
    char path[512];
    snprintf(path, sizeof path, "%s/figures.bin", folder);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(figures, sizeof *figures, 1, file), 1);
    assert_int_equal(fclose(file), 0);
}

/* --- reading --------------------------------------------------------------------------------- */

static float *unwritten(int64_t count) {
    float *values = malloc((size_t)count * sizeof *values);
    assert_non_null(values);
    for (int64_t i = 0; i < count; i++) values[i] = NAN;
    return values;
}

static struct layout_tensor *find_tensor(struct layout_result *result,
                                         const struct record *record) {
    for (int i = 0; i < result->count; i++)
        if (strcmp(result->tensors[i].name, record->name) == 0) return &result->tensors[i];
    size_t room = (size_t)result->count + 1;
    result->tensors = realloc(result->tensors, room * sizeof *result->tensors);
    assert_non_null(result->tensors);
    struct layout_tensor *tensor = &result->tensors[result->count++];
    int64_t count = record->rows * record->cols;
    *tensor = (struct layout_tensor){.rows = record->rows,
                                     .cols = record->cols,
                                     .gradient = unwritten(count),
                                     .weights = unwritten(count)};
    memcpy(tensor->name, record->name, sizeof tensor->name);
    return tensor;
}

static void read_rectangles(FILE *file, struct layout_result *result, bool gradients) {
    struct record record;
    while (fread(&record, sizeof record, 1, file) == 1) {
        struct layout_tensor *tensor = find_tensor(result, &record);
        float *values = gradients ? tensor->gradient : tensor->weights;
        size_t cols = (size_t)record.col_count;
        for (int64_t i = 0; i < record.row_count; i++) {
            float *row = values + (record.first_row + i) * record.cols + record.first_col;
            assert_int_equal(fread(row, sizeof *row, cols, file), cols);
        }
    }
    assert_true(feof(file));
}

static void read_ranks(const char *folder, struct layout_result *result, bool gradients) {
    char path[512];
    FILE *file;
    for (int rank = 0;; rank++) {
        state_path(path, folder, gradients, rank);
        file = fopen(path, "rb");
        if (!file) break;
        read_rectangles(file, result, gradients);
        assert_int_equal(fclose(file), 0);
    }
}

void layout_read(const struct layout_site *site, const char *name, struct layout_result *result) {
    char folder[400], path[512];
    *result = (struct layout_result){0};
    snprintf(folder, sizeof folder, "%s/%s", site->folder, name);
    snprintf(path, sizeof path, "%s/figures.bin", folder);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(&result->figures, sizeof result->figures, 1, file), 1);
    assert_int_equal(fclose(file), 0);
    read_ranks(folder, result, true);
    read_ranks(folder, result, false);
}

void layout_result_free(struct layout_result *result) {
    for (int i = 0; i < result->count; i++) {
        free(result->tensors[i].gradient);
        free(result->tensors[i].weights);
    }
    free(result->tensors);
    *result = (struct layout_result){0};
}
