/* test_reader.c - the reader: what it finds in bodies written by hand (test/data/bodies.txt), and
 * that it finds the same however a body is cut, with as little scratch as it promises, and
 * whichever kinds are asked for.
 *
 * `test_reader bodies DIR` writes the bodies into files of an existing folder, SHAPE-NAME each. */
#include "bodies.h"
#include "reading.h"

/* ------------------------------------------------------------------------------------------------
 * All bodies
 * ------------------------------------------------------------------------------------------------
 */

/* A body that is cut short is just that, and what was read until then was read in the same way. */
static void check_prefixes(const struct subject *subject)
{
    size_t n, complete = subject->bytes;
    int good = 1;
    if (subject->end.result < 0 || subject->shape == MSC4203_JSON)
        return;
    while (complete && strchr(" \t\n\r", subject->body[complete - 1]))
        complete--;
    for (n = 0; n < complete && good; n += test_share()) {
        char *body = (char *)malloc(n ? n : 1), end[64];
        struct items_way way;
        struct items_text text;
        memcpy(body, subject->body, n);
        memset(&way, 0, sizeof way);
        way.shape = subject->shape;
        way.preset = subject->preset;
        way.scratch_bytes = n + 64;
        way.chunk = n & 1 ? 1 + n % 9 : 0;
        text = items_text_of(&way, body, n);
        sprintf(end, "TRUNCATED @%lu\n", (unsigned long)n);
        good = text.bytes >= strlen(end) && !strcmp(text.text + text.bytes - strlen(end), end);
        text.bytes -= strlen(end);
        if (subject->shape != MSC4203_EDU) /* which has looked ahead, or has not */
            good = good && text.bytes <= subject->whole.bytes &&
                   memcmp(text.text, subject->whole.text, text.bytes) == 0;
        if (!good)
            printf("  the first %lu bytes: %.400s\n", (unsigned long)n, text.text);
        free(text.text);
        free(body);
    }
    CHECK_CASE(good, subject->name);
}

static void check_subject(const struct subject *subject)
{
    int small = subject->bytes <= 8192;
    check_syntax(subject);
    check_fixed_chunks(subject);
    check_single_cuts(subject, subject->bytes <= 4096 ? 4096 : small ? 512 : 16);
    if (subject->bytes <= 256)
        check_pairs_of_cuts(subject);
    check_random_cuts(subject, (small ? 24 : 3) * test_scale());
    if (small) {
        check_little_scratch(subject);
        check_kinds(subject);
    }
}

/* What the shape does not tell. */
static msc4203_item some_preset(void)
{
    msc4203_item preset;
    memset(&preset, 0, sizeof preset);
    preset.sender.ptr = "@preset:x";
    preset.sender.len = 9;
    preset.type.ptr = "m.preset";
    preset.type.len = 8;
    preset.user_id.ptr = "@user:x";
    preset.user_id.len = 7;
    preset.device_id.ptr = "PRESET";
    preset.device_id.len = 6;
    return preset;
}

static void check_bodies(const struct bodies_list *list)
{
    msc4203_item preset = some_preset();
    size_t i;
    for (i = 0; i < list->count; i++) {
        const struct bodies_case *one = &list->cases[i];
        struct subject subject;
        subject_begin(&subject, one->name, one->shape, one->body, one->bytes, NULL);
        if (!CHECK_CASE(bodies_match(&one->want, &subject.whole), one->name)) {
            items_show(&one->want, &subject.whole);
            printf("  in all:\n%.600s\n", subject.whole.text);
        }
        check_subject(&subject);
        if (one->bytes <= 2000)
            check_prefixes(&subject);
        subject_end(&subject);
        if (one->shape != MSC4203_JSON && one->bytes < 2000) {
            subject_begin(&subject, one->name, one->shape, one->body, one->bytes, &preset);
            check_fixed_chunks(&subject);
            check_random_cuts(&subject, 8);
            check_little_scratch(&subject);
            check_kinds(&subject);
            subject_end(&subject);
        }
    }
}

static void check_captured(void)
{
    size_t bytes;
    char *index = test_read("test/data/expected/index.txt", &bytes);
    char *line = strtok(index, "\n");
    for (; line; line = strtok(NULL, "\n")) {
        char folder[41], name[81], path[256], *file, *body;
        struct subject subject;
        int shape;
        if (!CHECK(sscanf(line, "%40s %80s", folder, name) == 2))
            continue;
        shape = folder[0] == 't'   ? MSC4203_TRANSACTION
                : folder[0] == 's' ? MSC4203_SYNC
                                   : MSC4203_SEND;
        sprintf(path, "test/data/synapse/%s/%s.%s", folder, name,
                shape == MSC4203_SEND ? "req" : "json");
        file = test_read(path, &bytes);
        body = (char *)malloc(bytes);
        memcpy(body, file, bytes);
        subject_begin(&subject, name, shape, body, bytes, NULL);
        check_subject(&subject);
        subject_end(&subject);
        free(body);
        free(file);
    }
    free(index);
}

/* Writes each body into a file, for other tests to begin with. */
static int write_bodies(const struct bodies_list *list, const char *folder)
{
    static const char *const shapes[] = {"transaction", "send", "edu", "sync", "json"};
    size_t i;
    for (i = 0; i < list->count; i++) {
        const struct bodies_case *one = &list->cases[i];
        char path[1000];
        FILE *file;
        sprintf(path, "%.800s/%s-%.64s", folder, shapes[one->shape], one->name);
        file = fopen(path, "wb");
        if (!file) {
            printf("cannot write %s\n", path);
            return 1;
        }
        if (fwrite(one->body, 1, one->bytes, file) != one->bytes)
            printf("cannot write %s\n", path);
        fclose(file);
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct bodies_list list = bodies_load();
    test_seed(0x4203);
    if (argc == 3 && strcmp(argv[1], "bodies") == 0)
        return write_bodies(&list, argv[2]);
    CHECK(list.count > 150);
    check_bodies(&list);
    check_captured();
    bodies_free(&list);
    return test_end("reader");
}
