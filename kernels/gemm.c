#include "kernels/gemm.h"
#include "kernels/simd.h"

#include <assert.h>
#include <stdalign.h>
#include <string.h>

/* A thread's buffers, on its stack: 1.2 MB. A, a group's B and its part of C stay in an L2 cache of
 * 1 MB. */
enum {
    FLOATS_A = 128 * 1024,
    FLOATS_C = 128 * 1024,
    GROUP_PANELS = 8, /* of B packed at once: wide enough to read whole runs of lines */
    FLOATS_B = GEMM_DEPTH * GROUP_PANELS * 16,
    REUSE_ROWS = 120,      /* that use a panel at least once it is in the cache; if so many */
    CHUNK_ROWS = 240,      /* and at most */
    AHEAD_BYTES = 2048,    /* enough for a load from memory at one core's share of its bandwidth */
    SERIAL_WORK = 1 << 16, /* multiply-adds below which waking threads costs more */
    SPILL = 16,            /* gemm_pack_a writes whole vectors */
};

struct scratch {
    alignas(64) float a[FLOATS_A + SPILL];
    alignas(64) float b[FLOATS_B];
    alignas(64) float c[FLOATS_C];
};

/* A part of C: rows [row, row + rows), panels [panel, panel + panels), in strips of `strip` rows.
 * `piece` is the depth of A that is packed at once. */
struct chunk {
    int64_t row, rows, panel, panels, piece;
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

static int64_t c_at(const struct gemm *g, int64_t row, int64_t col) {
    return g->c_panels ? col / 16 * g->c_stride + row * 16 : row * g->c_stride + col;
}

/* C's rows of `panels` panels into c, [panel][row][16]. */
static void read_c(float *c, const struct gemm *g, const struct chunk *k, int64_t panel,
                   int64_t panels) {
    for (int64_t r = 0; r < k->rows; r++) {
        for (int64_t p = 0; p < panels; p++) {
            int64_t col = (panel + p) * 16, at = c_at(g, k->row + r, col);
            int width = (int)smaller(16, g->cols - col);
            float *to = c + (p * k->rows + r) * 16;
            if (g->c_bf16)
                for (int i = 0; i < width; i++)
                    to[i] = bf16_to_f32(((const uint16_t *)g->c)[at + i]);
            else
                for (int i = 0; i < width; i++) to[i] = ((const float *)g->c)[at + i];
            for (int i = width; i < 16; i++) to[i] = 0.0f;
        }
    }
}

static void write_line(const struct gemm *g, int64_t at, const float *from, int width,
                       const float *bias) {
    float line[16] = {0};
    for (int i = 0; i < width; i++) line[i] = from[i] + (bias ? bias[i] : 0.0f);
    if (g->c_bf16)
        for (int i = 0; i < width; i++) ((uint16_t *)g->c)[at + i] = f32_to_bf16(line[i]);
    else
        for (int i = 0; i < width; i++) ((float *)g->c)[at + i] = line[i];
}

static void write_whole_line(const struct gemm *g, int64_t at, const float *from,
                             const float *bias) {
    v16 line = v16_load(from);
    if (bias) line = v16_add(line, v16_load(bias));
    if (g->c_bf16)
        v16_store_bf16((uint16_t *)g->c + at, line);
    else
        v16_store((float *)g->c + at, line);
}

/* The reverse of read_c, with the bias. Columns that pad the last panel are not stored: 0 times a
 * NaN would leave one there. */
static void write_c(const struct gemm *g, const struct chunk *k, int64_t panel, int64_t panels,
                    const float *c) {
    for (int64_t r = 0; r < k->rows; r++) {
        for (int64_t p = 0; p < panels; p++) {
            int64_t col = (panel + p) * 16, at = c_at(g, k->row + r, col);
            const float *from = c + (p * k->rows + r) * 16, *bias = g->bias ? g->bias + col : NULL;
            if (g->cols - col >= 16)
                write_whole_line(g, at, from, bias);
            else
                write_line(g, at, from, (int)(g->cols - col), bias);
        }
    }
}

/* Starts to bring a tile's place in C near, before write_c. */
static void prefetch_c(const struct gemm *g, int64_t row, int rows, int64_t panel, int panels) {
    size_t element = g->c_bf16 ? sizeof(uint16_t) : sizeof(float);
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < panels; p++)
            __builtin_prefetch(
                (const char *)g->c + (size_t)c_at(g, row + r, (panel + p) * 16) * element, 1);
}

/* Can the tiles read B where it lies? bf16 is widened once a block where several strips use it. */
static bool reads_in_place(const struct gemm *g, const struct chunk *k) {
    return g->b.order == OPERAND_PANELS && (!g->b.bf16 || k->rows <= k->strip);
}

/* One block: panels [panel, panel + panels) of B over depths [first, first + depth). */
struct block {
    int64_t panel, panels, first, depth;
};

/* Where the tiles of a block find B, packed first if need be. */
static void tile_set_b(struct gemm_tile *tile, const struct gemm *g, const struct chunk *k,
                       float *packed, const struct block *at) {
    if (!reads_in_place(g, k)) {
        VARIANT(gemm_pack_b)
        (packed, GEMM_DEPTH * 16, &g->b, g->cols, at->panel, at->panels, at->first, at->depth);
        tile->b = packed;
        tile->b_panel = GEMM_DEPTH * 16;
        return;
    }
    int64_t element = g->b.bf16 ? sizeof(uint16_t) : sizeof(float);
    tile->bf16 = g->b.bf16;
    tile->b_panel = g->b.stride;
    tile->b = (const char *)g->b.data + (at->panel * g->b.stride + at->first * 16) * element;
}

/* A tile's walk over memory to fetch while it computes; `calls` tiles in turn share the work, each
 * `call_step` bytes on. */
struct walk {
    const char *next;
    int64_t panel, step, call_step;
    int calls;
};

/* The walk over B's source of the block `at`, by tiles that are `depth` deep. */
static struct walk walk_over(const struct gemm *g, const struct chunk *k, const struct block *at,
                             int64_t depth) {
    const char *data = g->b.data;
    int64_t element = g->b.bf16 ? sizeof(uint16_t) : sizeof(float), line = 16 * element;
    if (g->b.order == OPERAND_PANELS && k->rows <= k->strip) /* one tile reads all: its own B */
        return (struct walk){.next = data + at->panel * g->b.stride * element + at->first * line +
                                     AHEAD_BYTES,
                             .panel = g->b.stride * element,
                             .step = line,
                             .calls = 1};
    if (g->b.order == OPERAND_PANELS)
        return (struct walk){.next = data + at->panel * g->b.stride * element + at->first * line,
                             .panel = g->b.stride * element,
                             .step = line / 2,
                             .call_step = depth * line / 2,
                             .calls = 2};
    if (g->b.order == OPERAND_DEPTH_OUTER) /* both panels of a tile the same line: half the rate */
        return (struct walk){.next = data + (at->first * g->b.stride + at->panel * 16) * element,
                             .step = g->b.stride * element,
                             .call_step = 64,
                             .calls = (int)divide_up(at->panels * line, 64)};
    int64_t run = at->panels * 16 * line; /* 16 depths of all columns, if they lie together */
    return (struct walk){.next = data + at->first / 16 * g->b.block * element +
                                 at->panel * 16 * g->b.stride * element,
                         .panel = run / 2,
                         .step = divide_up(run / 2, depth),
                         .call_step = g->b.block * element,
                         .calls = g->b.stride == 16 ? (int)(at->depth / 16) : 0};
}

/* Every strip of A against the panels of a block. a is the packed piece, `a_depth` deep, in which
 * the block starts at `offset`. */
static void block_run(const struct gemm *g, const struct chunk *k, struct gemm_tile tile,
                      const struct block *at, struct walk walk, const float *a, int64_t offset,
                      int64_t a_depth, float *c) {
    int wide = VARIANT(gemm_tile_panels)(k->strip), call = 0;
    int64_t element = tile.bf16 ? sizeof(uint16_t) : sizeof(float);
    bool last = at->first + at->depth == g->depth;
    const char *b = tile.b;
    tile.c_panel = k->rows * 16;
    tile.depth = at->depth;
    tile.next_panel = walk.panel;
    tile.next_step = walk.step;
    for (int64_t p = 0; p < at->panels; p += tile.panels) {
        tile.panels = at->panels - p >= wide ? wide : 1;
        tile.b = b + p * tile.b_panel * element;
        for (int64_t r = 0; r < k->rows; r += k->strip, call++) {
            tile.rows = (int)smaller(k->strip, k->rows - r);
            tile.a = a + r * a_depth + offset * tile.rows;
            tile.c = c + (p * k->rows + r) * 16;
            tile.next = call < walk.calls || tile.bf16 ? walk.next + call * walk.call_step : NULL;
            if (last) prefetch_c(g, k->row + r, tile.rows, at->panel + p, tile.panels);
            VARIANT(gemm_micro)(&tile);
        }
    }
}

static void chunk_run(const struct gemm *g, const struct chunk *k, struct scratch *scratch) {
    bool one_tile = reads_in_place(g, k) && k->rows <= k->strip, whole = k->piece >= g->depth;
    int64_t step = one_tile ? k->piece : GEMM_DEPTH;
    int64_t group =
        g->b.order == OPERAND_PANELS ? VARIANT(gemm_tile_panels)(k->strip) : GROUP_PANELS;
    for (int64_t first = 0; first < g->depth; first += k->piece) {
        int64_t depth = smaller(k->piece, g->depth - first);
        VARIANT(gemm_pack_a)(scratch->a, &g->a, k->row, k->rows, k->strip, first, depth);
        for (int64_t p = 0; p < k->panels; p += group) {
            int64_t panels = smaller(group, k->panels - p);
            float *c = scratch->c + (whole ? p % GROUP_PANELS : p) * k->rows * 16;
            if (first == 0 && g->accumulate) read_c(c, g, k, k->panel + p, panels);
            for (int64_t d = 0; d < depth; d += step) {
                struct block at = {k->panel + p, panels, first + d, smaller(step, depth - d)};
                struct block next = at;
                if (!one_tile && d + step < depth) {
                    next.first += step;
                    next.depth = smaller(step, depth - d - step);
                } else if (!one_tile && p + group < k->panels) {
                    next = (struct block){at.panel + group, smaller(group, k->panels - p - group),
                                          first, smaller(step, depth)};
                }
                struct gemm_tile tile = {.load = first + d > 0 || g->accumulate};
                tile_set_b(&tile, g, k, scratch->b, &at);
                block_run(g, k, tile, &at, walk_over(g, k, &next, at.depth), scratch->a, d, depth,
                          c);
            }
            int64_t done = p % GROUP_PANELS; /* written together, to write longer runs */
            if (first + depth == g->depth &&
                (done + panels == GROUP_PANELS || p + panels == k->panels))
                write_c(g, k, k->panel + p - done, done + panels, c - done * k->rows * 16);
        }
    }
}

/* A thread's part of C in chunks that fit its buffers: the depth whole if enough rows of A fit. */
static void part_run(const struct gemm *g, const struct chunk *part) {
    struct scratch scratch;
    int64_t reuse = smaller(part->rows, REUSE_ROWS), piece = g->depth;
    if (piece > FLOATS_A / reuse)
        piece = even_piece(g->depth, FLOATS_A / reuse / GEMM_DEPTH * GEMM_DEPTH, GEMM_DEPTH);
    int64_t most = smaller(CHUNK_ROWS, FLOATS_A / piece);
    int64_t rows = part->rows <= most
                       ? part->rows
                       : even_piece(part->rows, most / GEMM_ROWS * GEMM_ROWS, GEMM_ROWS);
    int64_t panels = part->panels;
    if (piece < g->depth) panels = even_piece(panels, FLOATS_C / (rows * 16), 2);
    for (int64_t r = 0; r < part->rows; r += rows) {
        struct chunk k = {
            .row = part->row + r, .rows = smaller(rows, part->rows - r), .piece = piece};
        k.strip = (int)divide_up(k.rows, divide_up(k.rows, GEMM_ROWS));
        for (int64_t p = 0; p < part->panels; p += panels) {
            k.panel = part->panel + p;
            k.panels = smaller(panels, part->panels - p);
            chunk_run(g, &k, &scratch);
        }
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
    int threads = g->rows * g->cols * g->depth < SERIAL_WORK ? 1 : s->threads;
    int64_t panels = divide_up(g->cols, 16);
    int64_t row_unit = smaller(g->rows, GEMM_ROWS), panel_unit = panels >= 2 * threads ? 2 : 1;
    int down = threads_down(threads, divide_up(g->rows, row_unit), divide_up(panels, panel_unit));
    int across = threads / down;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
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
