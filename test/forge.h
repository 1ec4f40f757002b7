/* forge.h - seals what a test has changed in a log: the log's checksum, bit by bit. */
#ifndef FORGE_H
#define FORGE_H

#include <stddef.h>
#include <stdint.h>

/* CRC-32C, without the last inversion. */
static uint32_t forge_crc(uint32_t crc, const unsigned char *p, size_t bytes)
{
    int i;

    for (; bytes != 0; bytes--) {
        crc ^= *p++;
        for (i = 0; i < 8; i++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    }
    return crc;
}

static void forge_word(unsigned char *p, uint32_t word)
{
    int i;

    for (i = 0; i < 4; i++)
        p[i] = (unsigned char)(word >> 8 * i);
}

#endif
