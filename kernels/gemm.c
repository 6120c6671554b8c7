#include "kernels/gemm.h"

#include <assert.h>

enum {
    FEW_ROWS = 64,         /* that may each widen bf16 weights anew */
    REUSE_ROWS = 120,      /* that use a line of a weight at least once it is in the cache */
    CHUNK_ROWS = 240,      /* and at most */
    SERIAL_WORK = 1 << 16, /* multiply-adds below which waking threads costs more */
};

/* Threads form a grid of down x across parts; the best is the one whose largest part is smallest,
 * and of those the one with most columns across: B, which costs more to pack, once. */
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
    return min_i64(total, divide_up(total, unit) * part / parts * unit);
}

/* A weight in place, by chunks of rows: as many as fit the L2 cache with their whole depth, within
 * bounds. */
static void run_in_place(const struct product *p, const struct part *part,
                         struct scratch *scratch) {
    int64_t fit = FLOATS_B / (p->steps + SPILL) / GEMM_ROWS * GEMM_ROWS;
    int64_t most = fit < REUSE_ROWS ? REUSE_ROWS : min_i64(fit, CHUNK_ROWS);
    int64_t rows = part->rows <= most ? part->rows : even_piece(part->rows, most, GEMM_ROWS);
    for (int64_t r = 0; r < part->rows; r += rows) {
        struct part chunk = *part;
        chunk.row = part->row + r;
        chunk.rows = min_i64(rows, part->rows - r);
        VARIANT(gemm_in_place)(p, &chunk, scratch);
    }
}

static void part_run(const struct product *p, const struct part *part) {
    struct scratch scratch;
    bool widens = p->g.b.bf16 && !p->pairs;
    if (p->g.b.order == OPERAND_PANELS && !p->g.b.quantized && (!widens || part->rows <= FEW_ROWS))
        run_in_place(p, part, &scratch);
    else
        VARIANT(gemm_blocked)(p, part, &scratch);
}

static struct product product_of(const struct gemm *g) {
    struct product p = {.g = *g, .steps = g->depth};
#if defined(__AVX512BF16__)
    p.pairs = g->a.bf16 && g->b.bf16;
    if (p.pairs) p.steps = divide_up(g->depth, 2);
#endif
    return p;
}

void VARIANT(gemm_run)(struct stream *s, const struct gemm *g) {
    assert(g->rows >= 0 && g->cols >= 0 && g->depth >= 0 && s->threads >= 1);
    assert(g->depth > 0 || g->accumulate);
    if (g->rows == 0 || g->cols == 0 || g->depth == 0) return;
    struct product p = product_of(g);
    int threads = g->rows * g->cols * g->depth < SERIAL_WORK ? 1 : s->threads;
    int64_t panels = divide_up(g->cols, 16);
    int64_t row_unit = min_i64(g->rows, GEMM_ROWS), wide = panel_unit_of(&g->b);
    int64_t panel_unit = panels >= wide * threads ? wide : panels >= 2 * threads ? 2 : 1;
    int down = threads_down(threads, divide_up(g->rows, row_unit), divide_up(panels, panel_unit));
    int across = threads / down;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int i = 0; i < down * across; i++) {
        int64_t row = cut(g->rows, row_unit, i % down, down);
        int64_t panel = cut(panels, panel_unit, i / down, across);
        struct part part = {.row = row,
                            .rows = cut(g->rows, row_unit, i % down + 1, down) - row,
                            .panel = panel,
                            .panels = cut(panels, panel_unit, i / down + 1, across) - panel};
        if (part.rows > 0 && part.panels > 0) part_run(&p, &part);
    }
}
