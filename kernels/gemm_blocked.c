/* Many rows: a block of B is packed into the L2 cache, strips of A pass by, each packed into the L1
 * cache right before, and meet every panel of the block. */
#include "kernels/gemm.h"

/* A block of B, packed, and the rows that meet it. */
struct block {
    int64_t row, rows, panel, panels, first, steps;
    float *sums; /* where they wait for the next block of depth, or NULL: in C */
};

/* Lets the tiles of a strip fetch the next strip of A while they compute. */
static void fetch_a(struct gemm_tile *tile, const struct product *p, const struct block *b,
                    int64_t row, int turn) {
    const struct operand *a = &p->g.a;
    int64_t element = a->bf16 ? 2 : 4, deep = p->pairs ? 2 : 1, next = row + GEMM_ROWS;
    tile->next = (struct gemm_lines){(const char *)tile->a, 0, 0}; /* is there already */
    if (next >= b->row + b->rows) return;
    if (a->order == OPERAND_COLUMNS && turn == 0) {
        int64_t end = next + 15; /* the line that this strip does not touch */
        tile->next.at = (const char *)a->data + (b->first * deep * a->stride + end) * element;
        tile->next.step = deep * a->stride * element;
        tile->next.panel = deep == 2 ? a->stride * element : 0;
    } else if (a->order == OPERAND_ROWS && turn < GEMM_ROWS / 2) {
        tile->next.at =
            (const char *)a->data + ((next + 2 * turn) * a->stride + b->first * deep) * element;
        tile->next.step = deep * element;
        tile->next.panel = a->stride * element;
    }
}

/* A tile whose sums wait for the next block of depth. */
static void waiting_run(const struct block *b, struct gemm_tile *tile, int64_t row, int64_t panel,
                        bool load) {
    tile->load = load;
    tile->c = b->sums + (panel * b->rows + row - b->row) * 16;
    tile->c_row = 16;
    tile->c_panel = b->rows * 16;
    tile->near_end = true;
    tile->here = (struct gemm_lines){(const char *)tile->c, tile->c_panel * 4, tile->c_row * 4};
    tile->after = tile->here;
    tile->after.at += tile->panels * tile->after.panel;
    VARIANT(gemm_micro)(tile);
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
            waiting_run(b, &tile, row, i, from_c);
            continue;
        }
        bool ends = i + tile.panels == b->panels;
        struct place at = {row, b->panel + i}, after = {row, b->panel + i + tile.panels};
        if (ends) after = (struct place){min_i64(row + GEMM_ROWS, g->rows - 1), b->panel};
        VARIANT(gemm_place)(g, &tile, &at, &after, from_c, last);
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
