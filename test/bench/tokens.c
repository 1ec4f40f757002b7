/* tokens.c - gives a receiver one request, for counting instructions: comparing tokens must take
 * the same time whatever is wrong with the one that is given.
 *
 *     tokens WHERE TOKEN     WHERE: header or query; the right token is 32 times the letter a */
#define MSC4203_NO_SIMD
#define MSC4203_IMPLEMENTATION
#include "msc4203.h"

#include <stdio.h>

int measured(msc4203_receiver *receiver, const msc4203_span *target,
             const msc4203_span *authorization);

/* What is counted. */
__attribute__((noinline)) int measured(msc4203_receiver *receiver, const msc4203_span *target,
                                       const msc4203_span *authorization)
{
    static char scratch[1024];
    static const msc4203_span method = {"PUT", 3};
    return msc4203_receiver_request(receiver, &method, target, authorization, scratch,
                                    sizeof scratch);
}

int main(int argc, char **argv)
{
    static unsigned char memory[160];
    static char text[512];
    msc4203_receiver receiver;
    msc4203_receiver_config config = {{"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 32}, MSC4203_TO_DEVICE};
    msc4203_span target = {"/_matrix/app/v1/transactions/1", 30}, authorization = {NULL, 0};
    int result;

    if (argc != 3 || msc4203_receiver_init(&receiver, &config, memory, sizeof memory, 1) != 0)
        return 2;
    if (argv[1][0] == 'h') {
        authorization.len = (size_t)snprintf(text, sizeof text, "Bearer %s", argv[2]);
        authorization.ptr = text;
    } else {
        target.len = (size_t)snprintf(text, sizeof text, "%s?access_token=%s", target.ptr, argv[2]);
        target.ptr = text;
    }
    result = measured(&receiver, &target, &authorization);
    printf("%d\n", result);
    return 0;
}
