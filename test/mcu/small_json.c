/* small_json.c - test_json.c in 64 KiB of RAM: but for the parts with long texts. */
int test_json_main(void);
#define main test_json_main
#include "test/test_json.c"
#undef main

int main(void)
{
    run_scale = test_scale();
    run_share = test_share();
    test_seed(0x4203);
    every_cut = 100;
    check_all_known();
    check_every_text();
    check_short_sequences();
    check_long_sequences();
    check_long_strings();
    check_random_strings();
    check_numbers();
    return test_end("small_json");
}
