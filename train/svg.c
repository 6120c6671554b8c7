#include "train/svg.h"

#include <math.h>

const char *const svg_colours[SVG_COLOURS] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                              "#e69f00", "#56b4e9", "#000000", "#8c6d31"};

enum { MAX_TICKS = 8 };

/* 1, 2 or 5 times a power of ten: at most MAX_TICKS of them in the range. */
static double nice_tick(double range) {
    double power = pow(10.0, floor(log10(range / MAX_TICKS)));
    static const double steps[] = {1.0, 2.0, 5.0, 10.0};
    for (int i = 0; i < 4; i++)
        if (range / (steps[i] * power) <= MAX_TICKS) return steps[i] * power;
    return 10.0 * power;
}

struct svg_axis svg_axis_over(double low, double high, int start, int end) {
    if (!(high > low)) {
        double margin = fabs(low) > 0.0 ? 0.05 * fabs(low) : 1.0;
        low -= margin;
        high += margin;
    }
    double tick = nice_tick(high - low);
    return (struct svg_axis){floor(low / tick) * tick, ceil(high / tick) * tick, tick, start, end};
}

double svg_place(const struct svg_axis *axis, double value) {
    return axis->start + (value - axis->low) / (axis->high - axis->low) * (axis->end - axis->start);
}

void svg_print_text(FILE *out, const char *text) {
    for (; *text; text++) {
        if (*text == '<')
            fputs("&lt;", out);
        else if (*text == '&')
            fputs("&amp;", out);
        else if ((unsigned char)*text >= ' ')
            fputc(*text, out);
    }
}

void svg_format_tick(char text[32], double value) {
    if (fabs(value) < 1e-9) value = 0.0;
    if (fabs(value) >= 1e6)
        snprintf(text, 32, "%gM", value * 1e-6);
    else if (fabs(value) >= 1e4)
        snprintf(text, 32, "%gk", value * 1e-3);
    else
        snprintf(text, 32, "%.6g", value);
}
