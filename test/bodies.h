/* bodies.h - reads test/data/bodies.txt: small bodies by hand, with what they hold. */
#ifndef BODIES_H
#define BODIES_H

#include "items.h"

struct bodies_case {
    int shape;
    char name[64];
    char *body; /* exactly sized: nothing may be read behind it */
    size_t bytes;
    struct items_text want; /* a line each; one that ends in "..." may go on */
    size_t marks[26];
};

struct bodies_list {
    struct bodies_case *cases;
    size_t count;
};

static TEST_UNUSED int bodies_shape(const char *name)
{
    static const char *const names[] = {"transaction", "send", "edu", "sync", "json"};
    int i;
    for (i = 0; i < 5; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    printf("test/data/bodies.txt: no shape is called %s\n", name);
    exit(2);
}

/* Appends a line of the file: %HH is a byte, %(N:TEXT) repeats. In a body ^A is a mark; in what is
 * wanted @^A is its offset and @$ the body's length. */
static TEST_UNUSED void bodies_expand(struct bodies_case *one, struct items_text *to, int in_body,
                                      const char *line, size_t bytes)
{
    size_t i;
    for (i = 0; i < bytes; i++) {
        const char *at = line + i;
        if (in_body && *at == '^') {
            one->marks[at[1] - 'A'] = to->bytes;
            i++;
        } else if (!in_body && *at == '@' && at[1] == '^') {
            items_printf(to, "@%lu", (unsigned long)one->marks[at[2] - 'A']);
            i += 2;
        } else if (!in_body && *at == '@' && at[1] == '$') {
            items_printf(to, "@%lu", (unsigned long)one->bytes);
            i++;
        } else if (*at == '%' && at[1] == '(') {
            char *text;
            unsigned long count = strtoul(at + 2, &text, 10);
            size_t length = strcspn(++text, ")");
            for (; count; count--)
                bodies_expand(one, to, in_body, text, length);
            i = (size_t)(text - line) + length;
        } else if (*at == '%') {
            char digits[3], byte;
            memcpy(digits, at + 1, 2);
            digits[2] = 0;
            byte = (char)strtoul(digits, NULL, 16);
            items_put(to, &byte, 1);
            i += 2;
        } else
            items_put(to, at, 1);
    }
}

static TEST_UNUSED void bodies_end(struct bodies_case *one, struct items_text *body)
{
    one->bytes = body->bytes;
    one->body = (char *)malloc(body->bytes ? body->bytes : 1);
    if (body->bytes)
        memcpy(one->body, body->text, body->bytes);
    free(body->text);
    memset(body, 0, sizeof *body);
}

static TEST_UNUSED struct bodies_list bodies_load(void)
{
    struct bodies_list list = {NULL, 0};
    struct items_text body = {NULL, 0, 0};
    size_t bytes, at, length;
    char *file = test_read("test/data/bodies.txt", &bytes);
    for (at = 0; at < bytes; at += length + 1) {
        const char *line = file + at;
        struct bodies_case *one = list.count ? &list.cases[list.count - 1] : NULL;
        length = strcspn(line, "\n");
        if (!length || *line == '#')
            continue;
        if (one && *line == '<') {
            bodies_expand(one, &body, 1, line + 2, length - 2);
        } else if (one && *line == '>') {
            if (!one->body)
                bodies_end(one, &body);
            bodies_expand(one, &one->want, 0, line + 2, length - 2);
            items_put(&one->want, "\n", 1);
        } else {
            char shape[32];
            list.cases =
                (struct bodies_case *)realloc(list.cases, (list.count + 1) * sizeof *list.cases);
            one = &list.cases[list.count++];
            memset(one, 0, sizeof *one);
            if (sscanf(line, "%31s %63s", shape, one->name) != 2)
                exit(2);
            one->shape = bodies_shape(shape);
        }
    }
    free(body.text);
    free(file);
    return list;
}

static TEST_UNUSED void bodies_free(struct bodies_list *list)
{
    size_t i;
    for (i = 0; i < list->count; i++) {
        free(list->cases[i].body);
        free(list->cases[i].want.text);
    }
    free(list->cases);
}

/* Whether `got` is what is wanted, line by line. */
static TEST_UNUSED int bodies_match(const struct items_text *want, const struct items_text *got)
{
    const char *w = want->text, *g = got->text;
    while (*w && *g) {
        size_t wanted = strcspn(w, "\n"), given = strcspn(g, "\n");
        if (wanted >= 3 && memcmp(w + wanted - 3, "...", 3) == 0) {
            if (given < wanted - 3 || memcmp(w, g, wanted - 3) != 0)
                return 0;
        } else if (wanted != given || memcmp(w, g, wanted) != 0)
            return 0;
        w += wanted + (w[wanted] == '\n');
        g += given + (g[given] == '\n');
    }
    return !*w && !*g;
}

#endif
