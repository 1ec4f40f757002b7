/* flash.c - example/flash.c with its data in 64 KiB of RAM. When the power fails, the processor is
 * reset, and everything begins anew. What outlives that lies in another memory, which is as it was
 * (and zero at first). */
#include <stddef.h>
#include <stdint.h>

#include "mcu.h"

static void board_reset(void);

extern struct outside mcu_outside; /* these two: from the linker's command line */
extern size_t mcu_stack_most;
#define FLASH_OUTSIDE (&mcu_outside)
#define FLASH_RESET   board_reset

int flash_main(int argc, char **argv);
#define main flash_main
#include "example/flash.c"
#undef main

#include "test/test.h"

/* (The last run is not measured: it prints, and printf() needs more than all the rest.) */
static void board_reset(void)
{
    size_t used = mcu_stack_used();

    if (used > mcu_stack_most)
        mcu_stack_most = used;
    __asm__ volatile("dsb" ::: "memory");
    *(volatile uint32_t *)0xE000ED0C = 0x05FA0004; /* AIRCR: SYSRESETREQ */
    for (;;)
        ;
}

int main(void)
{
    static char out[256]; /* without it, printf() would take memory from the heap */

    setvbuf(stdout, out, _IOLBF, sizeof out);
    CHECK(flash_main(0, NULL) == 0);
    printf("  %lu bytes of static data and %lu of stack, in 64 KiB\n",
           (unsigned long)mcu_static_used(), (unsigned long)mcu_stack_most);
    CHECK(outside->resets >= 300);
    CHECK(outside->messages >= 500);
    CHECK(mcu_stack_most > 256 && mcu_stack_most < 4096);
    return test_end("flash");
}
