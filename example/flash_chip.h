/* flash_chip.h - a NOR flash chip that exists in memory only, for flash.c. SPDX: 0BSD
 *
 * What a program needs of a chip are the four functions at the end: flash_read(), flash_program(),
 * flash_erase() and flash_sync(). Write your own for your chip, and nothing else here is needed.
 *
 * The rest makes them a strict and an unlucky chip. Erasing sets all bits of a block, programming
 * clears bits. It works on one command at a time, while the program goes on; the next command
 * waits for it. It refuses to set a bit by programming, to program less than a sector, and to
 * program a sector for the second time since its block was erased. It counts the erases of each
 * block. When the power fails, the sector or the block that it works on is left as it was, done,
 * done in part, or as garbage; in each case it must be erased before it can be used again. */
#ifndef FLASH_CHIP_H
#define FLASH_CHIP_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef FLASH_BYTES
#define FLASH_BYTES (128 * 1024)
#endif

enum {
    FLASH_SECTOR = 256, /* programmed together: what data sheets call a page */
    FLASH_BLOCK = 4096, /* erased together */
    FLASH_SECTORS = FLASH_BYTES / FLASH_SECTOR,
    FLASH_BLOCKS = FLASH_BYTES / FLASH_BLOCK
};

enum flash_work { FLASH_IDLE, FLASH_PROGRAMS, FLASH_ERASES };

struct flash_chip {
    unsigned char cells[FLASH_BYTES];
    unsigned char used[FLASH_SECTORS]; /* not erased since it was programmed */
    unsigned char page[FLASH_SECTOR];  /* what is being programmed */
    uint32_t work, work_at;            /* what it works on, of enum flash_work; where */
    uint32_t wear[FLASH_BLOCKS];       /* erases */
    uint32_t programs, erases;
    uint32_t power;                    /* commands until the power fails; 0: it does not */
    uint32_t marginal;                 /* it is noticed that a sector that looks erased is not */
    uint64_t random;
    const char *refused;               /* what it was asked for and refused, or NULL */
};

/* The program's own: the power has failed. Must not return. */
static void power_lost(void);

/* ---- the emulation ---- */

/* A random number (xorshift64*), also for the rest of the program. */
static uint64_t chip_random(struct flash_chip *chip)
{
    chip->random ^= chip->random >> 12;
    chip->random ^= chip->random << 25;
    chip->random ^= chip->random >> 27;
    return chip->random * UINT64_C(2685821657736338717);
}

/* From 0 to n - 1. */
static uint32_t chip_below(struct flash_chip *chip, uint32_t n)
{
    return (uint32_t)((chip_random(chip) >> 32) % n);
}

/* A new chip, as it comes out of the drawer: full of something, and to be erased. */
static void chip_begin(struct flash_chip *chip, uint64_t seed)
{
    size_t i;

    memset(chip, 0, sizeof *chip);
    memset(chip->used, 1, sizeof chip->used);
    chip->marginal = 1;
    chip->random = seed != 0 ? seed : 1;
    for (i = 0; i < 8; i++) /* so that small seeds are not alike */
        chip_random(chip);
    for (i = 0; i < sizeof chip->cells; i++)
        chip->cells[i] = (unsigned char)(chip_random(chip) >> 56);
}

static int chip_refuse(struct flash_chip *chip, const char *why)
{
    chip->refused = why;
    return -1;
}

/* What the chip works on is done. */
static void chip_finish(struct flash_chip *chip)
{
    unsigned char *cell = chip->cells + chip->work_at;
    size_t i;

    if (chip->work == FLASH_PROGRAMS) {
        for (i = 0; i < FLASH_SECTOR; i++)
            cell[i] &= chip->page[i];
    } else if (chip->work == FLASH_ERASES) {
        memset(cell, 0xFF, FLASH_BLOCK);
        memset(chip->used + chip->work_at / FLASH_SECTOR, 0, FLASH_BLOCK / FLASH_SECTOR);
    }
    chip->work = FLASH_IDLE;
}

/* What a sector or a block is like when the power fails while the chip works on it. */
static void chip_spoil(struct flash_chip *chip)
{
    unsigned char *cell = chip->cells + chip->work_at, *used;
    uint32_t bytes = chip->work == FLASH_PROGRAMS ? FLASH_SECTOR : FLASH_BLOCK, how, at, i;

    if (chip->work == FLASH_IDLE)
        return;
    how = chip_below(chip, 5);
    at = chip_below(chip, bytes);
    for (i = 0; i < bytes; i++) {
        unsigned char noise = (unsigned char)(chip_random(chip) >> 56);
        unsigned char done = chip->work == FLASH_ERASES ? 0xFF : cell[i] & chip->page[i];
        if (how == 1 || (how == 2 && i < at))
            cell[i] = done; /* all of it, or up to some byte */
        else if (how == 3)
            cell[i] = (unsigned char)((cell[i] & ~noise) | (done & noise)); /* some bits */
        else if (how == 4)
            cell[i] = noise;
    }
    for (i = 0; i < bytes; i += FLASH_SECTOR) {
        used = chip->used + (chip->work_at + i) / FLASH_SECTOR;
        *used = 1;
        for (at = 0; !chip->marginal && at < FLASH_SECTOR && cell[i + at] == 0xFF; at++)
            *used = at + 1 < FLASH_SECTOR;
    }
    chip->work = FLASH_IDLE;
}

/* A moment in which the power may fail. */
static void chip_power(struct flash_chip *chip)
{
    if (chip->power != 0 && --chip->power == 0) {
        chip_spoil(chip);
        power_lost();
    }
}

/* Before each command. */
static int chip_command(struct flash_chip *chip, uint64_t at, size_t bytes)
{
    chip_power(chip);
    chip_finish(chip);
    if (chip->refused != NULL)
        return -1;
    if (at > FLASH_BYTES || bytes > FLASH_BYTES - at)
        return chip_refuse(chip, "an address outside the chip");
    return 0;
}

/* ---- the four functions ---- */

static int flash_read(void *context, uint64_t at, void *data, size_t bytes)
{
    struct flash_chip *chip = (struct flash_chip *)context;

    if (chip_command(chip, at, bytes) != 0)
        return -1;
    memcpy(data, chip->cells + at, bytes);
    return 0;
}

/* Whole sectors, each a command: "page program". */
static int flash_program(void *context, uint64_t at, const void *data, size_t bytes)
{
    struct flash_chip *chip = (struct flash_chip *)context;
    const unsigned char *from = (const unsigned char *)data;
    size_t i;

    for (; bytes != 0; at += FLASH_SECTOR, from += FLASH_SECTOR, bytes -= FLASH_SECTOR) {
        if (chip_command(chip, at, bytes) != 0)
            return -1;
        if (at % FLASH_SECTOR != 0 || bytes < FLASH_SECTOR)
            return chip_refuse(chip, "to program less than a sector");
        for (i = 0; i < FLASH_SECTOR; i++)
            if ((from[i] & ~chip->cells[at + i]) != 0)
                return chip_refuse(chip, "to set a bit by programming");
        if (chip->used[at / FLASH_SECTOR])
            return chip_refuse(chip, "to program a sector twice");
        memcpy(chip->page, from, FLASH_SECTOR);
        chip->used[at / FLASH_SECTOR] = 1;
        chip->work_at = (uint32_t)at;
        chip->work = FLASH_PROGRAMS;
        chip->programs++;
    }
    return 0;
}

/* One block. */
static int flash_erase(void *context, uint64_t at, size_t bytes)
{
    struct flash_chip *chip = (struct flash_chip *)context;

    if (chip_command(chip, at, bytes) != 0)
        return -1;
    if (at % FLASH_BLOCK != 0 || bytes != FLASH_BLOCK)
        return chip_refuse(chip, "to erase anything other than one block");
    chip->wear[at / FLASH_BLOCK]++;
    chip->work_at = (uint32_t)at;
    chip->work = FLASH_ERASES;
    chip->erases++;
    return 0;
}

/* Waits until all that was begun is done. */
static int flash_sync(void *context)
{
    return chip_command((struct flash_chip *)context, 0, 0);
}

#endif
