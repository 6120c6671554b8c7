/* Axes, texts and colours that pictures share. SVG 1.1. */
#ifndef STRATA_TRAIN_SVG_H
#define STRATA_TRAIN_SVG_H

#include <stdio.h>

/* Told apart also by those who see few colours: Okabe and Ito's palette, and a brown. */
enum { SVG_COLOURS = 8 };
extern const char *const svg_colours[SVG_COLOURS];

struct svg_axis {
    double low, high, tick; /* ticks at multiples of `tick` */
    int start, end;         /* pixels; start is that of `low` */
};

/* Widened to whole ticks, of which there are about eight. */
struct svg_axis svg_axis_over(double low, double high, int start, int end);

/* The pixel of a value. */
double svg_place(const struct svg_axis *axis, double value);

/* Text as XML holds it; control characters are left out. */
void svg_print_text(FILE *out, const char *text);

/* The picture's first lines: its size in pixels, the classes of its lines and texts, a white
 * ground. */
void svg_print_header(FILE *out, int width, int height);

/* Ticks, grid and frame of two axes, and what `y` counts beside it. */
void svg_print_axes(FILE *out, const struct svg_axis *x, const struct svg_axis *y,
                    const char *label);

/* 12000 -> 12k, 2500000 -> 2.5M */
void svg_format_tick(char text[32], double value);

#endif
