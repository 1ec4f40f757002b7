/* test_route.c - whom a message waits for: every row of MSC4203's rules, and all of small worlds
 * against the rules written down another way. */
#include "msc4203.h"
#include "test.h"

/* The namespaces of the test: one letter for each user in each list. */
struct spaces {
    const char *inclusive, *exclusive;
    int asked;
};

static int in_list(const char *list, const msc4203_span *user)
{
    return user->len == 1 && strchr(list, user->ptr[0]) != NULL;
}

static int match(const msc4203_appservice *service, const msc4203_span *user)
{
    const struct spaces *spaces = (const struct spaces *)service->context;

    if (in_list(spaces->exclusive, user))
        return MSC4203_EXCLUSIVE;
    return in_list(spaces->inclusive, user) ? MSC4203_INCLUSIVE : MSC4203_OUTSIDE;
}

static int never(const msc4203_appservice *service, const msc4203_span *user)
{
    (void)service;
    (void)user;
    CHECK(!"asked about a service that has not opted in, or about a sender");
    return MSC4203_OUTSIDE;
}

static msc4203_span span(const char *string)
{
    msc4203_span s;
    s.ptr = string;
    s.len = strlen(string);
    return s;
}

enum { NOBODY = 99 };

static uint32_t route(const msc4203_appservice *services, size_t count, const char *user,
                      size_t maker)
{
    msc4203_span id = span(user);
    return msc4203_route(services, count, &id, maker, match);
}

static void test_table(void)
{
    static const struct spaces irc = {"i", "x", 0}, xmpp = {"ixy", "e", 0};
    msc4203_appservice s[2];

    memset(s, 0, sizeof s);
    s[0].channel = 1;
    s[0].opted_in = 1;
    s[0].sender = span("bot");
    s[0].context = &irc;
    s[1] = s[0];
    s[1].channel = 7;
    s[1].sender = span("xbot");
    s[1].context = &xmpp;
    CHECK(route(s, 1, "x", NOBODY) == 2);            /* exclusive: the service alone */
    CHECK(route(s, 1, "bot", NOBODY) == 2);          /* so is its sender */
    CHECK(route(s, 1, "i", NOBODY) == 3);            /* inclusive: both */
    CHECK(route(s, 1, "i", 0) == 2);                 /* but a device that it made */
    CHECK(route(s, 1, "n", NOBODY) == 1);            /* nobody's */
    CHECK(route(s, 1, "n", 0) == 1);                 /* made, but outside */
    CHECK(route(NULL, 0, "n", NOBODY) == 1);
    CHECK(route(s, 2, "i", NOBODY) == (1 | 2 | 128)); /* two that want it, and /sync */
    CHECK(route(s, 2, "i", 1) == (2 | 128));          /* one of them made the device */
    CHECK(route(s, 2, "x", NOBODY) == (2 | 128));     /* one owns it exclusively */
    CHECK(route(s, 2, "e", NOBODY) == 128);
    CHECK(route(s, 2, "xbot", NOBODY) == 128);
    s[0].opted_in = 0;
    CHECK(route(s, 1, "x", NOBODY) == 1);             /* not opted in: /sync */
    CHECK(route(s, 1, "i", 0) == 1);
    CHECK(route(s, 2, "x", NOBODY) == (1 | 128));     /* it owns it, but has not opted in */
    CHECK(route(s, 2, "i", 0) == (1 | 128));
    {
        msc4203_span user = span("x"), bot = span("bot");
        CHECK(msc4203_route(s, 1, &user, 0, never) == 1);
        s[0].opted_in = 1;
        CHECK(msc4203_route(s, 1, &bot, NOBODY, never) == 2);
        CHECK(route(s, 1, "bat", NOBODY) == 1);       /* as long as the sender, and another */
        s[0].sender = span("");
        CHECK(route(s, 1, "", NOBODY) == 2);
        s[0].sender.ptr = NULL;
        s[0].sender.len = 0;
        CHECK(route(s, 1, "bot", NOBODY) == 1);
    }
}

/* Three services, each in or out, owning or not, of which any or none made the device. */
static void test_all(void)
{
    static const struct spaces kinds[3] = {{"", "", 0}, {"u", "", 0}, {"", "u", 0}};
    msc4203_appservice s[3];
    unsigned world, i;

    for (world = 0; world < 6 * 6 * 6 * 4; world++) {
        unsigned rest = world / 4, maker = world % 4;
        uint32_t services = 0, all;
        int alone = 0;

        memset(s, 0, sizeof s);
        for (i = 0; i < 3; i++, rest /= 6) {
            s[i].channel = 5 + i;
            s[i].opted_in = (int)(rest % 2);
            s[i].context = &kinds[rest % 6 / 2];
            if (s[i].opted_in && rest % 6 / 2 != 0) {
                services |= 32u << i;
                if (rest % 6 / 2 == 2 || maker == i)
                    alone = 1;
            }
        }
        all = route(s, 3, "u", maker);
        CHECK((all & ~1u) == services);
        CHECK((all & 1) == (services == 0 || !alone));
        CHECK(all != 0);
    }
}

int main(void)
{
    test_table();
    test_all();
    return test_end("route");
}
