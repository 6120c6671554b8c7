#include "train/svg.h"

#include <math.h>
#include <stdint.h>

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

void svg_print_axes(FILE *out, const struct svg_axis *x, const struct svg_axis *y,
                    const char *label) {
    char text[32];
    int64_t ticks = llround((y->high - y->low) / y->tick);
    for (int64_t i = 0; i <= ticks; i++) {
        double value = y->low + (double)i * y->tick, at = svg_place(y, value);
        svg_format_tick(text, value);
        fprintf(out,
                "<line class=\"grid\" x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\"/>"
                "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
                x->start, at, x->end, at, x->start - 8, at + 4.0, text);
    }
    ticks = llround((x->high - x->low) / x->tick);
    for (int64_t i = 0; i <= ticks; i++) {
        double value = x->low + (double)i * x->tick, at = svg_place(x, value);
        svg_format_tick(text, value);
        fprintf(out,
                "<line class=\"grid\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\"/>"
                "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
                at, y->start, at, y->end, at, y->start + 18, text);
    }
    fprintf(out,
            "<rect class=\"frame\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n"
            "<text class=\"label\" text-anchor=\"middle\" transform=\"translate(22 %d) "
            "rotate(-90)\">%s</text>\n",
            x->start, y->end, x->end - x->start, y->start - y->end, (y->start + y->end) / 2, label);
}

void svg_print_header(FILE *out, int width, int height) {
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "viewBox=\"0 0 %d %d\">\n<style>text{font:13px sans-serif;fill:#222}"
            ".label{font-size:14px}.grid{stroke:#e2e2e2}.frame{fill:none;stroke:#888}"
            "polyline{fill:none;stroke-width:1.6;stroke-linejoin:round}</style>\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n",
            width, height, width, height);
}
