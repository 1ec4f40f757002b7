/* mcu.h - what programs on the emulated microcontroller may call. */
#ifndef MCU_H
#define MCU_H

#include <stddef.h>

/* Called before main(). */
void mcu_start(void);
void mcu_say(const char *text);
void mcu_say_number(size_t number);
__attribute__((noreturn)) void mcu_exit(int status);
/* A call to the debugger (semihosting). */
int mcu_call(int operation, const void *argument);

/* How many bytes of the stack have ever been used, and how many the static objects have. */
size_t mcu_stack_used(void);
size_t mcu_static_used(void);

#endif
