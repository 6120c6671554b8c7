/* Few rows against a weight's panels as they lie: every byte of the weight is read once, in long
 * runs, fetched ahead of its use; A is packed whole. */
#include "kernels/gemm.h"

enum {
    L1_STEPS = 192,     /* of a pair of panels that stay in the L1 cache while strips pass */
    AHEAD_BYTES = 2048, /* enough for a load from memory at one core's share of its bandwidth */
};

/* What of the panels is walked now. `piece` is the run of steps whose A is packed. */
struct walk {
    int64_t piece, piece_steps, first, steps;
    int64_t panel;
    int panels;
};

static struct tile_place place_of(const struct product *p, const struct part *part,
                                  const struct walk *w, int64_t row) {
    return (struct tile_place){.row = part->row + row,
                               .panel = w->panel,
                               .first = w->first == 0,
                               .last = w->first + w->steps == p->steps};
}

/* The strips of A against one group of panels over one block of depth. */
static void strips_run(const struct product *p, const struct part *part, const struct walk *w,
                       int strip, const float *a, float *sums) {
    const struct operand *b = &p->g.b;
    int64_t element = b->bf16 ? 2 : 4;
    struct gemm_tile tile = {.kind = p->pairs  ? TILE_PAIRS
                                     : b->bf16 ? TILE_WIDE
                                               : TILE_F32,
                             .panels = w->panels,
                             .depth = w->steps,
                             .a_row = w->piece_steps + SPILL,
                             .b_panel = b->stride * element,
                             .next_step = GEMM_LINE};
    int64_t line = tile.kind == TILE_WIDE ? GEMM_LINE / 2 : GEMM_LINE; /* of a step of A */
    tile.b = (const char *)b->data + w->panel * tile.b_panel + w->first * line;
    tile.next = tile.b + AHEAD_BYTES;
    tile.next_panel = tile.b_panel;
    for (int64_t r = 0; r < part->rows; r += strip) {
        tile.rows = (int)smaller(strip, part->rows - r);
        tile.a = a + r * tile.a_row + w->first - w->piece;
        struct tile_place place = place_of(p, part, w, r);
        if (sums) {
            place.sums = sums + r * 16;
            place.sum_rows = part->rows;
        }
        VARIANT(gemm_place)(&p->g, &tile, &place);
        tile.next = tile.b + w->steps * line; /* the next block, if there is another strip */
    }
}

/* Panels [from, end) over one piece of depth. */
static void panels_run(const struct product *p, const struct part *part, struct walk w, int64_t end,
                       int strip, struct scratch *scratch, bool wait) {
    int64_t first_panel = w.panel, most = part->rows <= strip ? w.piece_steps : L1_STEPS;
    int wide = VARIANT(gemm_tile_panels)(strip);
    for (; w.panel < end; w.panel += w.panels) {
        w.panels = end - w.panel >= wide ? wide : 1;
        float *sums = wait ? scratch->c + (w.panel - first_panel) * part->rows * 16 : NULL;
        for (w.first = w.piece; w.first < w.piece + w.piece_steps; w.first += w.steps) {
            w.steps = smaller(most, w.piece + w.piece_steps - w.first);
            strips_run(p, part, &w, strip, scratch->b, sums);
        }
    }
}

void VARIANT(gemm_few_rows)(const struct product *p, const struct part *part,
                            struct scratch *scratch) {
    int strip = (int)divide_up(part->rows, divide_up(part->rows, GEMM_ROWS));
    int64_t piece = even_piece(p->steps, (FLOATS_B / part->rows - SPILL) / 16 * 16, 16);
    bool wait = sums_wait(&p->g, p->steps <= piece && (part->rows <= strip || p->steps <= L1_STEPS));
    int64_t panels = wait ? FLOATS_C / (part->rows * 16) : part->panels;
    for (int64_t panel = 0; panel < part->panels; panel += panels) {
        struct walk w = {.panel = part->panel + panel};
        int64_t end = w.panel + smaller(panels, part->panels - panel);
        for (; w.piece < p->steps; w.piece += w.piece_steps) {
            w.piece_steps = smaller(piece, p->steps - w.piece);
            VARIANT(gemm_pack_a)
            (scratch->b, p, part->row, part->rows, w.piece_steps + SPILL, w.piece, w.piece_steps);
            panels_run(p, part, w, end, strip, scratch, wait);
        }
    }
}
