/* chart.h - draws bar charts as SVG: panels, two side by side, of bars with names and values. */
#ifndef CHART_H
#define CHART_H

#include <stddef.h>

typedef struct chart_bar {
    const char *name, *mark; /* mark: "ours", "peer" or "less" */
    double value;
} chart_bar;

typedef struct chart_picture chart_picture;

/* Begins DIRECTORY/NAME.svg, with so many panels of at most so many bars. Ends the program when the
 * file cannot be written. */
chart_picture *chart_begin(const char *directory, const char *name, const char *title, int panels,
                           size_t bars);
void chart_panel(chart_picture *picture, const char *title, const chart_bar *bars, size_t count);
void chart_end(chart_picture *picture);

#endif
