/* A weight's panels read where they lie: A is packed whole (or a piece of its depth) into the L2
 * cache, then every byte of the weight passes by once, in long runs, fetched ahead of its use. */
#include "kernels/gemm.h"

#include <assert.h>

enum {
    PAIR_STEPS = 768,   /* of a pair of panels that stay in the L2 cache while strips pass */
    AHEAD_BYTES = 2048, /* enough for a load from memory at one core's share of its bandwidth */
    GROUP_PANELS = 8,   /* whose sums are written together, in runs of lines */
};

/* Where the walk over the weight is: a few panels, a block of steps in the piece whose A is
 * packed. */
struct walk {
    int64_t piece, piece_steps, first, steps, panel;
    int panels;
};

/* The tile of a place in the walk, but for its rows, and what the walk reads after it. */
static struct gemm_tile tile_of(const struct product *p, const struct walk *w, const char **next) {
    const struct operand *b = &p->g.b;
    enum tile_kind kind = p->pairs ? TILE_PAIRS : b->bf16 ? TILE_WIDE : TILE_F32;
    int64_t line = kind == TILE_WIDE ? GEMM_LINE / 2 : GEMM_LINE; /* of an entry of A */
    int64_t b_panel = b->stride * (b->bf16 ? 2 : 4);
    const char *panels = (const char *)b->data + w->panel * b_panel;
    bool ends = w->first + w->steps == w->piece + w->piece_steps;
    *next = ends ? panels + w->panels * b_panel + w->piece * line
                 : panels + (w->first + w->steps) * line;
    return (struct gemm_tile){.kind = kind,
                              .panels = w->panels,
                              .depth = w->steps,
                              .a_row = w->piece_steps + SPILL,
                              .b = panels + w->first * line,
                              .b_panel = b_panel,
                              .next = {panels + w->first * line + AHEAD_BYTES, b_panel, GEMM_LINE}};
}

/* One strip, all of the depth at once: straight to C. */
static void one_strip_run(const struct product *p, const struct part *part, struct walk w,
                          int64_t end, const float *a) {
    int wide = VARIANT(gemm_tile_panels)((int)part->rows);
    w.first = w.piece;
    w.steps = w.piece_steps;
    for (; w.panel < end; w.panel += w.panels) {
        const char *next;
        w.panels = end - w.panel >= wide ? wide : 1;
        struct gemm_tile tile = tile_of(p, &w, &next);
        tile.rows = (int)part->rows;
        tile.a = a;
        struct place at = {part->row, w.panel};
        VARIANT(gemm_place)(&p->g, &tile, &at, NULL, p->g.accumulate, true);
    }
}

/* The strips of A against a few panels over one block of depth. */
static void strips_run(const struct product *p, const struct part *part, const struct walk *w,
                       int strip, const float *a, const struct sums *sums, bool load) {
    const char *next;
    struct gemm_tile tile = tile_of(p, w, &next);
    tile.c_row = 16;
    tile.c_panel = sums->rows * 16;
    tile.load = load;
    tile.near_end = true;
    tile.here = tile.after = (struct gemm_lines){NULL, tile.c_panel * 4, tile.c_row * 4};
    for (int64_t r = 0; r < part->rows; r += strip) {
        tile.rows = (int)min_i64(strip, part->rows - r);
        tile.a = a + r * tile.a_row + w->first - w->piece;
        tile.c = sums->at + r * 16;
        tile.here.at = (const char *)tile.c;
        tile.after.at = (const char *)(tile.c + strip * 16);
        VARIANT(gemm_micro)(&tile);
        tile.next.at = next; /* the first strip fetches its own, the others what follows */
    }
}

/* A group of panels over one piece of depth, into its sums. */
static void group_run(const struct product *p, const struct part *part, struct walk w, int64_t end,
                      int strip, const float *a, struct sums sums, bool load) {
    int wide = VARIANT(gemm_tile_panels)(strip);
    for (; w.panel < end; w.panel += w.panels) {
        w.panels = end - w.panel >= wide ? wide : 1;
        for (w.first = w.piece; w.first < w.piece + w.piece_steps; w.first += w.steps) {
            w.steps = min_i64(PAIR_STEPS, w.piece + w.piece_steps - w.first);
            strips_run(p, part, &w, strip, a, &sums, load || w.first > w.piece);
        }
        sums.at += w.panels * sums.rows * 16;
    }
}

/* Panels [w.panel, end) over one piece of depth. Where `wait`, all their sums stay for the next
 * piece, else a group's only until it is done. */
static void panels_run(const struct product *p, const struct part *part, struct walk w, int64_t end,
                       int strip, struct scratch *scratch, bool wait) {
    bool last = w.piece + w.piece_steps == p->steps;
    bool from_c = w.piece == 0 && p->g.accumulate;
    struct sums sums = {scratch->c, part->rows};
    struct region region = {.row = part->row, .rows = part->rows};
    for (; w.panel < end; w.panel += region.panels) {
        region.panel = w.panel;
        region.panels = min_i64(GROUP_PANELS, end - w.panel);
        if (from_c) VARIANT(gemm_read_c)(&sums, &p->g, &region);
        group_run(p, part, w, w.panel + region.panels, strip, scratch->b, sums,
                  from_c || w.piece > 0);
        if (last) VARIANT(gemm_write_c)(&p->g, &sums, &region, true);
        if (wait) sums.at += region.panels * sums.rows * 16;
    }
}

void VARIANT(gemm_in_place)(const struct product *p, const struct part *part,
                            struct scratch *scratch) {
    assert(part->rows * GROUP_PANELS * 16 <= FLOATS_C && p->g.a.order == OPERAND_ROWS);
    int strip = (int)divide_up(part->rows, divide_up(part->rows, GEMM_ROWS));
    int64_t piece = even_piece(p->steps, (FLOATS_B / part->rows - SPILL) / 16 * 16, 16);
    bool wait = p->steps > piece;
    int64_t panels = wait ? FLOATS_C / (part->rows * 16) : part->panels;
    for (int64_t panel = 0; panel < part->panels; panel += panels) {
        int64_t end = part->panel + min_i64(panel + panels, part->panels);
        struct walk w = {.panel = part->panel + panel};
        for (; w.piece < p->steps; w.piece += w.piece_steps) {
            w.piece_steps = min_i64(piece, p->steps - w.piece);
            VARIANT(gemm_pack_a)
            (scratch->b, p, part->row, part->rows, w.piece_steps + SPILL, w.piece, w.piece_steps);
            if (part->rows <= strip && !wait)
                one_strip_run(p, part, w, end, scratch->b);
            else
                panels_run(p, part, w, end, strip, scratch, wait);
        }
    }
}
