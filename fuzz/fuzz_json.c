/* fuzz_json.c - MSC4203_JSON against the test validator: the same verdict at the same byte.
 *
 * The first 2 bytes choose the chunks and their seed (see struct fuzz_way); the rest is the text.
 * It is read in one piece and in chunks. */
#include "reading.h"

const char fuzz_name[] = "fuzz_json";

enum { CHOICES = 2 };

static void check(const struct fuzz_way *way, const char *text, size_t bytes)
{
    struct fuzz_reading reading;
    size_t offset;
    int verdict = fuzz_verdict(text, bytes, &offset);
    fuzz_read(way, text, bytes, &reading);
    FUZZ_CHECK(reading.result == verdict);
    FUZZ_CHECK(reading.offset == offset);
    FUZZ_CHECK(reading.items.count == 0);
    fuzz_reading_free(&reading);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_way way;
    if (size < CHOICES)
        return 0;
    memset(&way, 0, sizeof way);
    way.shape = MSC4203_JSON;
    way.kinds = MSC4203_ALL_KINDS;
    way.empty_end = data[1] & 1;
    way.move = data[1] >> 1 & 1;
    check(&way, (const char *)data + CHOICES, size - CHOICES);
    way.chunk = data[0] ? data[0] : 1;
    way.seed = data[1];
    check(&way, (const char *)data + CHOICES, size - CHOICES);
    return 0;
}
