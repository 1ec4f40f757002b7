/* start.c - from reset to main() on a Cortex-M3, without an operating system: the vector table, the
 * memory as C expects it, and the debugger (semihosting) as the only way out. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "mcu.h"

extern unsigned char mcu_data_from[], mcu_data[], mcu_data_end[], mcu_bss[], mcu_bss_end[];
extern unsigned char mcu_heap[], mcu_heap_end[], mcu_stack[], mcu_stack_top[];

int main(int argc, char **argv);
void mcu_reset(void);

/* Every fault ends here: it must not look like success. What the processor has put on the stack
 * tells where it was: the seventh word. */
__attribute__((used)) static void fault_at(const uint32_t *stack)
{
    mcu_say("fault: the program has crashed at ");
    mcu_say_number(stack[6]);
    mcu_say("\n");
    mcu_exit(1);
}

__attribute__((naked)) static void fault(void)
{
    __asm__ volatile("mrs r0, msp\n b fault_at");
}

/* The first word is the stack pointer, the rest are the exceptions. */
__attribute__((section(".vectors"), used)) static const struct {
    unsigned char *stack;
    void (*handlers[15])(void);
} vectors = {mcu_stack_top,
             {mcu_reset, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault,
              fault, fault, fault, fault}};

/* The stack is painted, to see later how much of it was used. */
static const unsigned char paint = 0xA5;

void mcu_reset(void)
{
    volatile unsigned char *p = mcu_stack;
    unsigned char *here = __builtin_frame_address(0);
    memcpy(mcu_data, mcu_data_from, (size_t)(mcu_data_end - mcu_data));
    memset(mcu_bss, 0, (size_t)(mcu_bss_end - mcu_bss));
    while (p < here - 64)
        *p++ = paint;
    mcu_start();
    mcu_exit(main(0, NULL));
}

size_t mcu_stack_used(void)
{
    const unsigned char *p = mcu_stack;
    while (p < mcu_stack_top && *p == paint)
        p++;
    return (size_t)(mcu_stack_top - p);
}

size_t mcu_static_used(void)
{
    return (size_t)(mcu_data_end - mcu_data) + (size_t)(mcu_bss_end - mcu_bss);
}

int mcu_call(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void mcu_say(const char *text)
{
    mcu_call(0x04, text); /* SYS_WRITE0 */
}

void mcu_say_number(size_t number)
{
    char digits[12];
    char *p = digits + sizeof digits - 1;
    *p = 0;
    do
        *--p = (char)('0' + number % 10);
    while (number /= 10);
    mcu_say(p);
}

void mcu_exit(int status)
{
    const uint32_t block[2] = {0x20026, (uint32_t)status}; /* ADP_Stopped_ApplicationExit */
    mcu_call(0x20, block);                                 /* SYS_EXIT_EXTENDED */
    for (;;)
        ;
}

/* For newlib's malloc(). */
void *_sbrk(ptrdiff_t more);
void *_sbrk(ptrdiff_t more)
{
    static unsigned char *next = mcu_heap;
    void *from = next;
    if (more > mcu_heap_end - next) {
        mcu_call(0x04, "out of memory\n");
        errno = ENOMEM;
        return (void *)-1;
    }
    next += more;
    return from;
}
