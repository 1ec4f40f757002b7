/* small_hostile.c - test_hostile.c in 64 KiB of RAM: but for what is very long. */
int test_hostile_main(void);
#define main test_hostile_main
#include "test/test_hostile.c"
#undef main

int main(void)
{
    size_t i;
    for (i = 0; i < sizeof bad_messages / sizeof *bad_messages; i++)
        check_bad_message(i);
    for (i = 0; i < sizeof bad_contents / sizeof *bad_contents; i++)
        check_bad_content(i);
    check_depth(1025, "[", "", "]");
    check_depth(2000, "[", "1e400", "]");
    check_broken_strings();
    return test_end("small_hostile");
}
