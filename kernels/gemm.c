#include "kernels/gemm.h"

#include <assert.h>
#include <omp.h>
#include <stdalign.h>
#include <string.h>

/* A thread's buffers, on its stack: 0.8 MB, so that C and A together stay in an L2 cache of 1 MB.
 */
enum {
    FLOATS_A = 64 * 1024,
    FLOATS_C = 128 * 1024,
    FLOATS_B = GEMM_DEPTH * GEMM_PANELS * 16,
    CHUNK_ROWS = 20 * GEMM_ROWS,
    SPILL = 16, /* gemm_pack_a writes whole vectors */
};

struct scratch {
    alignas(64) float a[FLOATS_A + SPILL];
    alignas(64) float b[FLOATS_B];
    alignas(64) float c[FLOATS_C];
};

/* A part of C: rows [row, row + rows), panels [panel, panel + panels), as blocks of `strip` rows.
 */
struct chunk {
    int64_t row, rows, panel, panels;
    int strip;
};

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* The size of `total` cut into equal pieces of at most `most`, a multiple of `unit`. */
static int64_t even_piece(int64_t total, int64_t most, int64_t unit) {
    int64_t pieces = divide_up(total, most);
    return smaller(most, divide_up(divide_up(total, pieces), unit) * unit);
}

static float act_or_float(const struct gemm *g, int64_t at) {
    return g->c_bf16 ? bf16_to_f32(((const uint16_t *)g->c)[at]) : ((const float *)g->c)[at];
}

static int64_t c_at(const struct gemm *g, int64_t row, int64_t col) {
    return g->c_panels ? col / 16 * g->c_stride + row * 16 : row * g->c_stride + col;
}

/* C's chunk into scratch, [panel][row][16]. */
static void read_c(float *c, const struct gemm *g, const struct chunk *k) {
    for (int64_t p = 0; p < k->panels; p++) {
        int64_t col = (k->panel + p) * 16;
        int width = (int)smaller(16, g->cols - col);
        for (int64_t r = 0; r < k->rows; r++) {
            int64_t at = c_at(g, k->row + r, col);
            float *to = c + (p * k->rows + r) * 16;
            for (int i = 0; i < width; i++) to[i] = act_or_float(g, at + i);
            for (int i = width; i < 16; i++) to[i] = 0.0f;
        }
    }
}

static void write_line(const struct gemm *g, int64_t at, const float *from, int width,
                       const float *bias) {
    float line[16];
    for (int i = 0; i < 16; i++) line[i] = from[i];
    if (bias)
        for (int i = 0; i < width; i++) line[i] += bias[i];
    if (g->c_bf16) {
        uint16_t *to = (uint16_t *)g->c + at;
        if (width == 16)
            for (int i = 0; i < 16; i++) to[i] = f32_to_bf16(line[i]);
        else
            for (int i = 0; i < width; i++) to[i] = f32_to_bf16(line[i]);
    } else if (width == 16) {
        memcpy((float *)g->c + at, line, sizeof line);
    } else {
        memcpy((float *)g->c + at, line, (size_t)width * sizeof *line);
    }
}

/* Columns that pad the last panel are not stored: 0 times a NaN would leave one there. */
static void write_c(const struct gemm *g, const struct chunk *k, const float *c) {
    for (int64_t r = 0; r < k->rows; r++) {
        for (int64_t p = 0; p < k->panels; p++) {
            int64_t col = (k->panel + p) * 16;
            int width = (int)smaller(16, g->cols - col);
            write_line(g, c_at(g, k->row + r, col), c + (p * k->rows + r) * 16, width,
                       g->bias ? g->bias + col : NULL);
        }
    }
}

/* Can the tiles read B where it lies? bf16 is widened once a block where several strips use it. */
static bool reads_in_place(const struct gemm *g, const struct chunk *k) {
    return g->b.order == OPERAND_PANELS && (!g->b.bf16 || k->rows <= k->strip);
}

/* One block of depth of one group of panels: every strip of A against it. */
static void block_run(const struct gemm *g, const struct chunk *k, struct scratch *scratch,
                      int64_t group, int panels, int64_t a_first, int64_t a_depth, int64_t first,
                      int64_t depth) {
    bool in_place = reads_in_place(g, k);
    size_t element = g->b.bf16 ? sizeof(uint16_t) : sizeof(float);
    const char *source = g->b.data;
    if (g->b.order == OPERAND_PANELS)
        source += (size_t)((k->panel + group) * g->b.stride + first * 16) * element;
    if (!in_place)
        for (int p = 0; p < panels; p++) VARIANT(gemm_pack_b)
    (scratch->b + (int64_t)p * GEMM_DEPTH * 16, &g->b, g->cols, k->panel + group + p, first, depth);
    int64_t strips = divide_up(k->rows, k->strip);
    int64_t line = 16 * (int64_t)element;
    struct gemm_tile tile = {
        .b = in_place ? (const void *)source : scratch->b,
        .b_panel = in_place ? g->b.stride : GEMM_DEPTH * 16,
        .c_panel = k->rows * 16,
        .next = source + (strips > 1 ? depth * line : 2048),
        .next_panel = g->b.order == OPERAND_PANELS ? g->b.stride * (int64_t)element : 0,
        .next_step = g->b.order == OPERAND_PANELS ? divide_up(line, strips) : 0,
        .depth = depth,
        .panels = panels,
        .bf16 = in_place && g->b.bf16,
        .load = first > 0 || g->accumulate,
    };
    for (int64_t r = 0; r < k->rows; r += k->strip) {
        tile.rows = (int)smaller(k->strip, k->rows - r);
        tile.a = scratch->a + r * a_depth + (first - a_first) * tile.rows;
        tile.c = scratch->c + (group * k->rows + r) * 16;
        VARIANT(gemm_micro)(&tile);
        tile.next += depth * tile.next_step;
    }
}

static void chunk_run(const struct gemm *g, const struct chunk *k, struct scratch *scratch) {
    if (g->accumulate) read_c(scratch->c, g, k);
    bool one_strip = k->rows <= k->strip && reads_in_place(g, k);
    int64_t most = smaller(FLOATS_A / k->rows, g->depth);
    int64_t a_piece = most;
    if (most < g->depth) a_piece = most / GEMM_DEPTH * GEMM_DEPTH;
    int64_t piece = one_strip ? a_piece : GEMM_DEPTH;
    int wide = VARIANT(gemm_tile_panels)(k->strip);
    for (int64_t a_first = 0; a_first < g->depth; a_first += a_piece) {
        int64_t a_depth = smaller(a_piece, g->depth - a_first);
        VARIANT(gemm_pack_a)(scratch->a, &g->a, k->row, k->rows, k->strip, a_first, a_depth);
        for (int64_t group = 0; group < k->panels;) {
            int panels = k->panels - group >= wide ? wide : 1;
            for (int64_t d = a_first; d < a_first + a_depth; d += piece)
                block_run(g, k, scratch, group, panels, a_first, a_depth, d,
                          smaller(piece, a_first + a_depth - d));
            group += panels;
        }
    }
    write_c(g, k, scratch->c);
}

/* A thread's part of C in chunks that fit its buffers. */
static void part_run(const struct gemm *g, const struct chunk *part) {
    struct scratch scratch;
    int64_t rows = even_piece(part->rows, CHUNK_ROWS, part->rows > GEMM_ROWS ? GEMM_ROWS : 1);
    int64_t panels = even_piece(part->panels, FLOATS_C / (rows * 16), 1);
    for (int64_t r = 0; r < part->rows; r += rows) {
        int64_t chunk_rows = smaller(rows, part->rows - r);
        int64_t strips = divide_up(chunk_rows, GEMM_ROWS);
        for (int64_t p = 0; p < part->panels; p += panels)
            chunk_run(g,
                      &(struct chunk){.row = part->row + r,
                                      .rows = chunk_rows,
                                      .panel = part->panel + p,
                                      .panels = smaller(panels, part->panels - p),
                                      .strip = (int)divide_up(chunk_rows, strips)},
                      &scratch);
    }
}

/* Threads form a grid of down x across parts; the best is the one whose largest part is smallest,
 * and of those the one with most columns across, which packs A least often. */
static int threads_down(int threads, int64_t strips, int64_t groups) {
    int best = 1;
    int64_t least = INT64_MAX;
    for (int down = 1; down <= threads; down++) {
        if (threads % down != 0) continue;
        int64_t work = divide_up(strips, down) * divide_up(groups, threads / down);
        if (work < least) {
            least = work;
            best = down;
        }
    }
    return best;
}

static int64_t cut(int64_t total, int64_t unit, int part, int parts) {
    return smaller(total, divide_up(total, unit) * part / parts * unit);
}

void VARIANT(gemm_run)(struct stream *s, const struct gemm *g) {
    assert(g->rows >= 0 && g->cols >= 0 && g->depth >= 0 && s->threads >= 1);
    assert(g->depth > 0 || g->accumulate);
    if (g->rows == 0 || g->cols == 0 || g->depth == 0) return;
    int64_t panels = divide_up(g->cols, 16);
    int64_t row_unit = smaller(g->rows, GEMM_ROWS), panel_unit = panels >= 2 * s->threads ? 2 : 1;
    int down =
        threads_down(s->threads, divide_up(g->rows, row_unit), divide_up(panels, panel_unit));
    int across = s->threads / down;
#pragma omp parallel for num_threads(s->threads) schedule(static, 1)
    for (int part = 0; part < down * across; part++) {
        int i = part % down, j = part / down;
        int64_t row = cut(g->rows, row_unit, i, down);
        int64_t panel = cut(panels, panel_unit, j, across);
        struct chunk mine = {.row = row,
                             .rows = cut(g->rows, row_unit, i + 1, down) - row,
                             .panel = panel,
                             .panels = cut(panels, panel_unit, j + 1, across) - panel};
        if (mine.rows > 0 && mine.panels > 0) part_run(g, &mine);
    }
}
