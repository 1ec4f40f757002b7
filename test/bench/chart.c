/* chart.c - see chart.h. */
#include "chart.h"

#include <stdio.h>
#include <stdlib.h>

enum { WIDTH = 960, PANEL = 470, NAMES = 215, BARS = 195, ROW = 20, HEAD = 40, TITLE = 34 };

struct chart_picture {
    FILE *file;
    int panels; /* drawn so far */
    int height; /* of a panel */
};

/* Colours that can be told apart, in the light and in the dark; what does less is drawn hollow. */
static const char style[] =
    "<style>\n"
    "text { font: 12px system-ui, sans-serif; fill: #1f2328 }\n"
    ".head { font-weight: 600; font-size: 13px } .title { font-weight: 600; font-size: 15px }\n"
    ".value { font-size: 11px; fill: #59636e }\n"
    ".ours { fill: #0969da } .peer { fill: #8c959f }\n"
    ".less { fill: none; stroke: #8c959f; stroke-dasharray: 3 2 }\n"
    "@media (prefers-color-scheme: dark) {\n"
    "text { fill: #e6edf3 } .value { fill: #9198a1 } .ours { fill: #4493f8 }\n"
    ".peer { fill: #656c76 } .less { stroke: #9198a1 }\n"
    "}\n"
    "</style>\n";

chart_picture *chart_begin(const char *directory, const char *name, const char *title, int panels,
                           size_t bars)
{
    static chart_picture picture;
    char path[4096];
    int height;
    snprintf(path, sizeof path, "%s/%s.svg", directory, name);
    picture.file = fopen(path, "w");
    if (!picture.file) {
        printf("cannot write %s\n", path);
        exit(1);
    }
    picture.panels = 0;
    picture.height = HEAD + ROW * (int)bars;
    height = TITLE + (panels + 1) / 2 * picture.height;
    fprintf(picture.file,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">\n%s"
            "<text class=\"title\" x=\"10\" y=\"22\">%s</text>\n",
            WIDTH, height, WIDTH, height, title, style, title);
    return &picture;
}

void chart_panel(chart_picture *picture, const char *title, const chart_bar *bars, size_t count)
{
    int x = 10 + picture->panels % 2 * (PANEL + 10);
    int y = TITLE + picture->panels / 2 * picture->height;
    double most = 1;
    size_t i;
    for (i = 0; i < count; i++)
        most = bars[i].value > most ? bars[i].value : most;
    fprintf(picture->file, "<text class=\"head\" x=\"%d\" y=\"%d\">%s</text>\n", x, y + 18, title);
    y += 26;
    for (i = 0; i < count; i++, y += ROW) {
        double width = bars[i].value / most * BARS;
        fprintf(picture->file,
                "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>"
                "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>"
                "<text class=\"value\" x=\"%.1f\" y=\"%d\">%.0f</text>\n",
                x + NAMES - 6, y + 13, bars[i].name, bars[i].mark, x + NAMES, y + 3, width, ROW - 6,
                x + NAMES + width + 5, y + 13, bars[i].value);
    }
    picture->panels++;
}

void chart_end(chart_picture *picture)
{
    fprintf(picture->file, "</svg>\n");
    if (fclose(picture->file) != 0)
        exit(1);
}
