/* Many rows: a block of B is packed into the L2 cache, strips of A pass by, each packed into the L1
 * cache right before, and meet every panel of the block. */
#include "kernels/gemm.h"

/* A block of B, packed, and the rows that meet it. */
struct block {
    int64_t row, rows, panel, panels, first, steps;
    float *sums; /* where they wait for the next block of depth, or NULL: in C */
};

/* Brings a tile's place in C near: a store to a line far away holds up those behind it. */
static void fetch_c(const struct gemm *g, int64_t row, int rows, int64_t panel, int panels) {
    if (panel * 16 >= g->cols) return;
    const char *c = g->c;
    int64_t element = g->c_bf16 ? 2 : 4;
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < panels; p++)
            __builtin_prefetch(c + (g->c_panels ? (panel + p) * g->c_stride + (row + r) * 16
                                                : (row + r) * g->c_stride + (panel + p) * 16) *
                                       element,
                               1);
}

/* Lets the tiles of a strip fetch the next strip of A while they compute. */
static void fetch_a(struct gemm_tile *tile, const struct product *p, const struct block *b,
                    int64_t row, int turn) {
    const struct operand *a = &p->g.a;
    int64_t element = a->bf16 ? 2 : 4, deep = p->pairs ? 2 : 1, next = row + GEMM_ROWS;
    tile->next = (const char *)tile->a; /* is there already */
    tile->next_panel = tile->next_step = 0;
    if (next >= b->row + b->rows) return;
    if (a->order == OPERAND_COLUMNS && turn == 0) {
        int64_t end = next + 15; /* the line that this strip does not touch */
        tile->next = (const char *)a->data + (b->first * deep * a->stride + end) * element;
        tile->next_step = deep * a->stride * element;
        tile->next_panel = deep == 2 ? a->stride * element : 0;
    } else if (a->order == OPERAND_ROWS && turn < GEMM_ROWS / 2) {
        tile->next =
            (const char *)a->data + ((next + 2 * turn) * a->stride + b->first * deep) * element;
        tile->next_step = deep * element;
        tile->next_panel = a->stride * element;
    }
}

/* A strip of A against the panels of the block. */
static void strip_run(const struct product *p, const struct block *b, struct gemm_tile tile,
                      int64_t row, const struct scratch *scratch) {
    const struct gemm *g = &p->g;
    bool first = b->first == 0, last = b->first + b->steps == p->steps;
    bool from_c = first ? g->accumulate : true;
    int wide = VARIANT(gemm_tile_panels)(GEMM_ROWS), turn = 0;
    for (int64_t i = 0; i < b->panels; i += tile.panels, turn++) {
        tile.panels = b->panels - i >= wide ? wide : 1;
        tile.b = (const char *)(scratch->b + i * b->steps * 16);
        fetch_a(&tile, p, b, row, turn);
        if (b->sums) {
            tile.load = from_c;
            tile.c = b->sums + (i * b->rows + row - b->row) * 16;
            tile.c_row = 16;
            tile.c_panel = b->rows * 16;
            VARIANT(gemm_micro)(&tile);
            continue;
        }
        /* what a tile loads at once must be fetched by the one before it */
        fetch_c(g, row, tile.rows, b->panel + i + (from_c ? tile.panels : 0), tile.panels);
        VARIANT(gemm_place)(g, &tile, row, b->panel + i, from_c, last);
    }
}

static void block_run(const struct product *p, const struct block *b, struct scratch *scratch) {
    struct gemm_tile tile = {.kind = p->pairs ? TILE_PAIRS : TILE_F32,
                             .a = scratch->a,
                             .a_row = p->g.a.order == OPERAND_ROWS ? b->steps + SPILL : 0,
                             .depth = b->steps,
                             .b_panel = b->steps * GEMM_LINE};
    const struct region region = {b->row, b->rows, b->panel, b->panels};
    const struct sums sums = {b->sums, b->rows};
    VARIANT(gemm_pack_b)(scratch->b, p, b->panel, b->panels, b->first, b->steps);
    if (b->sums && b->first == 0 && p->g.accumulate) VARIANT(gemm_read_c)(&sums, &p->g, &region);
    for (int64_t r = 0; r < b->rows; r += GEMM_ROWS) {
        tile.rows = (int)min_i64(GEMM_ROWS, b->rows - r);
        VARIANT(gemm_pack_a)
        (scratch->a, p, b->row + r, tile.rows, b->steps + SPILL, b->first, b->steps);
        strip_run(p, b, tile, b->row + r, scratch);
    }
    if (b->sums && b->first + b->steps == p->steps)
        VARIANT(gemm_write_c)(&p->g, &sums, &region, true);
}

void VARIANT(gemm_blocked)(const struct product *p, const struct part *part,
                           struct scratch *scratch) {
    bool wait = p->g.c_bf16 && p->steps > STRIP_STEPS; /* only fp32 holds them exactly */
    struct block b = {.sums = wait ? scratch->c : NULL};
    int64_t unit = panel_unit_of(&p->g.b), rows = part->rows;
    bool chunks = p->g.b.quantized && unit == 2; /* of the depth */
    int64_t steps = even_piece(p->steps, unit == 2 ? STRIP_STEPS : FLOATS_B / (unit * 16) / 16 * 16,
                               chunks ? QUANTIZED_CHUNK : 16);
    int64_t panels = even_piece(part->panels, FLOATS_B / (steps * 16) / unit * unit, unit);
    if (wait) rows = even_piece(rows, FLOATS_C / (panels * 16) / GEMM_ROWS * GEMM_ROWS, GEMM_ROWS);
    for (int64_t r = 0; r < part->rows; r += rows) {
        b.row = part->row + r;
        b.rows = min_i64(rows, part->rows - r);
        for (int64_t i = 0; i < part->panels; i += panels) {
            b.panel = part->panel + i;
            b.panels = min_i64(panels, part->panels - i);
            for (b.first = 0; b.first < p->steps; b.first += b.steps) {
                b.steps = min_i64(steps, p->steps - b.first);
                block_run(p, &b, scratch);
            }
        }
    }
}
