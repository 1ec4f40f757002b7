/* small_reader.c - test_reader.c in 64 KiB of RAM: all that it does with the bodies written by
 * hand, one body at a time, as the file with all of them does not fit. */
int test_reader_main(int argc, char **argv);
#define main test_reader_main
#include "test/test_reader.c"
#undef main

enum { LINE_MAX = 4096, CASE_MAX = 6000 }; /* the body and what it holds */

/* Reads a line without its end. Returns 0 at the end of the file. */
static int next_line(FILE *file, char *line, size_t *bytes)
{
    int c;
    for (*bytes = 0; (c = getc(file)) != EOF && c != '\n'; line[(*bytes)++] = (char)c) {
        if (*bytes == LINE_MAX - 1) {
            printf("test/data/bodies.txt: a line is too long\n");
            exit(2);
        }
    }
    line[*bytes] = 0;
    return c != EOF || *bytes != 0;
}

/* How many bytes a line will be, once expanded: %(N:TEXT) is TEXT N times, %HH a byte. */
static size_t expanded(const char *line)
{
    size_t bytes = 0;
    for (; *line; line++) {
        char *text;
        bytes++;
        if (line[0] == '%' && line[1] == '(') {
            unsigned long count = strtoul(line + 2, &text, 10);
            bytes += count * strcspn(text + 1, ")");
            line = strchr(text, ')');
        }
    }
    return bytes;
}

static unsigned long bodies, left_out;

/* A case is complete. */
static void run_case(struct bodies_case *one, struct items_text *body, int too_large)
{
    struct bodies_list list;
    if (one->name[0] && !too_large) {
        if (!one->body)
            bodies_end(one, body);
        list.cases = one;
        list.count = 1;
        check_bodies(&list);
        bodies++;
    }
    left_out += (unsigned long)too_large;
    free(one->body);
    free(one->want.text);
    free(body->text);
    memset(one, 0, sizeof *one);
    memset(body, 0, sizeof *body);
}

int main(void)
{
    static char line[LINE_MAX];
    struct bodies_case one;
    struct items_text body = {NULL, 0, 0};
    size_t bytes, total = 0;
    FILE *file = fopen("test/data/bodies.txt", "rb");
    test_seed(0x4203);
    memset(&one, 0, sizeof one);
    if (!file)
        return 2;
    while (next_line(file, line, &bytes)) {
        if (bytes == 0 || *line == '#')
            continue;
        if (*line != '<' && *line != '>') {
            char shape[32];
            run_case(&one, &body, total > CASE_MAX);
            if (sscanf(line, "%31s %63s", shape, one.name) != 2)
                return 2;
            one.shape = bodies_shape(shape);
            total = 0;
            continue;
        }
        total += expanded(line);
        if (total > CASE_MAX)
            continue;
        if (*line == '<') {
            bodies_expand(&one, &body, 1, line + 2, bytes - 2);
            continue;
        }
        if (!one.body)
            bodies_end(&one, &body);
        bodies_expand(&one, &one.want, 0, line + 2, bytes - 2);
        items_put(&one.want, "\n", 1);
    }
    run_case(&one, &body, total > CASE_MAX);
    fclose(file);
    printf("  %lu bodies; %lu left out, as they do not fit\n", bodies, left_out);
    CHECK(bodies > 100);
    return test_end("small_reader");
}
