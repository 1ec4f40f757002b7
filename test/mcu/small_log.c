/* small_log.c - test_log.c in 64 KiB of RAM: the contract test on logs of 24 and 20 KiB in memory,
 * with a small model beside them. A storage that fails, or loses its power, needs a second copy of
 * the region: it is left to the board with more RAM. */
#define CONTRACT_SMALL
int test_log_main(void);
#define main test_log_main
#include "test/test_log.c"
#undef main

int main(void)
{
    unsigned long operations = 300000 * test_scale() / test_share();

    if (operations < 20000)
        operations = 20000;
    test_seed(0x106);
    test_model("memory", &shapes[SHAPE_512], 24 * 1024, 1, 0, operations, 0, 0);
    test_model("few", &shapes[SHAPE_512], 20 * 1024, 1, 0, operations / 2, 0, 1);
    test_model("pinned", &shapes[SHAPE_512], 24 * 1024, 1, 0, operations / 2, 1, 0);
    return test_end("small_log");
}
