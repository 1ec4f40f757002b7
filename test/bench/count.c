/* count.c - reads one body, for callgrind to count the instructions that measured() takes.
 *
 *     count FILE [CHUNK]       prints what was read, so that nobody can leave the work out */
#define MSC4203_STATIC
#define MSC4203_IMPLEMENTATION
#include "msc4203.h"

#include <stdio.h>
#include <stdlib.h>

size_t measured(const char *body, size_t size, size_t chunk, void *scratch, size_t scratch_bytes);

/* Returns how many bytes the messages have, or 0 when the body is not valid. */
#if defined(__GNUC__)
__attribute__((noinline))
#endif
size_t
measured(const char *body, size_t size, size_t chunk, void *scratch, size_t scratch_bytes)
{
    msc4203_reader reader;
    const msc4203_item *item;
    size_t from = 0, sum = 1;
    int result;
    msc4203_reader_init(&reader, MSC4203_TRANSACTION, MSC4203_TO_DEVICE, scratch, scratch_bytes);
    do {
        size_t bytes = size - from < chunk ? size - from : chunk;
        msc4203_reader_feed(&reader, body + from, bytes, from + bytes == size);
        from += bytes;
        while ((result = msc4203_reader_next(&reader, &item)) == MSC4203_ITEM)
            sum += item->sender.len + item->type.len + item->user_id.len + item->device_id.len +
                   item->content.len;
    } while (result == MSC4203_MORE);
    return result == MSC4203_END ? sum : 0;
}

int main(int argc, char **argv)
{
    FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    char *body, *scratch;
    size_t size, chunk, sum;
    long end;
    if (!file || fseek(file, 0, SEEK_END) != 0 || (end = ftell(file)) <= 0)
        return 2;
    rewind(file);
    size = (size_t)end;
    body = (char *)malloc(size);
    scratch = (char *)malloc(size);
    if (!body || !scratch || fread(body, 1, size, file) != size)
        return 2;
    fclose(file);
    chunk = argc > 2 ? (size_t)strtoul(argv[2], NULL, 10) : size;
    sum = measured(body, size, chunk, scratch, size);
    printf("%lu bytes, %lu in messages\n", (unsigned long)size, (unsigned long)sum);
    return sum == 0;
}
