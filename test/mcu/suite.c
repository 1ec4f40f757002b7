/* suite.c - what the test suites need beside start.c: files and output through the debugger, and an
 * environment, which is the emulator's command line: NAME=VALUE words. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "mcu.h"

void initialise_monitor_handles(void); /* librdimon */
void _exit(int status);

static char words[256];

void mcu_start(void)
{
    const uintptr_t block[2] = {(uintptr_t)words, sizeof words};
    if (mcu_call(0x15, block) != 0) /* SYS_GET_CMDLINE */
        words[0] = 0;
    initialise_monitor_handles();
}

char *getenv(const char *name)
{
    static char value[32];
    size_t length = strlen(name);
    const char *word;
    for (word = words; word; word = strchr(word, ' ')) {
        word += *word == ' ';
        if (strncmp(word, name, length) == 0 && word[length] == '=') {
            word += length + 1;
            length = strcspn(word, " ");
            if (length >= sizeof value)
                return NULL;
            memcpy(value, word, length);
            value[length] = 0;
            return value;
        }
    }
    return NULL;
}

/* newlib's would leave without flushing what the debugger has to show. */
void _exit(int status)
{
    mcu_exit(status);
}
