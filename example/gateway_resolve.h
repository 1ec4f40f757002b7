/* gateway_resolve.h - looks names up for the gateway, without holding it up: getaddrinfo() blocks,
 * so a process of its own calls it. That is forked before there is anything it should not have; it
 * forks once more for each question, so that a slow answer keeps no other waiting, and what the
 * system says of names is read anew each time. It ends when the gateway does.
 *
 * Questions and answers go through two pipes, each in one piece: they are smaller than what a pipe
 * takes at once. */
#ifndef GATEWAY_RESOLVE_H
#define GATEWAY_RESOLVE_H

#include "http.h"
#include "say.h"

#include <signal.h>
#include <sys/types.h>
#include <sys/wait.h>

enum { RESOLVE_ADDRESSES = 8, RESOLVE_SECONDS = 25, RESOLVE_DESCRIPTORS = 4400 };

struct resolve_address {
    uint8_t bytes;            /* of a sockaddr: of IPv4 or IPv6 */
    unsigned char address[28];
};

struct resolve_question {
    uint32_t id;
    char host[256], port[6];
};

struct resolve_answer {
    uint32_t id, count;
    int error;                /* of getaddrinfo(); 0 when there are addresses */
    struct resolve_address addresses[RESOLVE_ADDRESSES];
};

struct resolver {
    pid_t pid;                /* 0: there is none */
    int questions, answers;
};

/* Looks a name up; with `flags` AI_NUMERICHOST it does not block. */
static void resolve_name(struct resolve_answer *answer, const char *host, const char *port,
                         int flags)
{
    struct addrinfo hints, *found = NULL, *a;

    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = flags;
    answer->count = 0;
    answer->error = getaddrinfo(host, port, &hints, &found);
    if (answer->error != 0)
        return;
    for (a = found; a != NULL && answer->count < RESOLVE_ADDRESSES; a = a->ai_next) {
        struct resolve_address *to = &answer->addresses[answer->count];
        if (a->ai_addrlen > sizeof to->address)
            continue;
        to->bytes = (uint8_t)a->ai_addrlen;
        memcpy(to->address, a->ai_addr, a->ai_addrlen);
        answer->count++;
    }
    freeaddrinfo(found);
    if (answer->count == 0)
        answer->error = EAI_FAIL;
}

/* Answers one question, in a process of its own. */
static void resolve_one(int answers, const struct resolve_question *question)
{
    struct resolve_answer answer;

    signal(SIGALRM, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    alarm(RESOLVE_SECONDS);
    memset(&answer, 0, sizeof answer);
    answer.id = question->id;
    resolve_name(&answer, question->host, question->port, 0);
    (void)!write(answers, &answer, sizeof answer);
}

/* Takes questions until the gateway has gone. */
static void resolve_all(int questions, int answers)
{
    struct resolve_question question;
    struct resolve_answer answer;
    ssize_t n;

    for (;;) {
        n = read(questions, &question, sizeof question);
        if (n < 0 && errno == EINTR)
            continue;
        if (n != (ssize_t)sizeof question)
            return;
        switch (fork()) {
        case 0:
            close(questions);
            resolve_one(answers, &question);
            return;
        case -1:
            memset(&answer, 0, sizeof answer);
            answer.id = question.id;
            answer.error = EAI_AGAIN;
            (void)!write(answers, &answer, sizeof answer);
            break;
        default:
            break;
        }
    }
}

/* The process: it keeps nothing open but its pipes. */
static void resolve_run(int questions, int answers)
{
    int fd, null = open("/dev/null", O_RDWR);

    for (fd = 0; fd < 3; fd++)
        dup2(null, fd);
    for (fd = 3; fd < RESOLVE_DESCRIPTORS; fd++)
        if (fd != questions && fd != answers)
            close(fd);
    signal(SIGCHLD, SIG_IGN); /* nobody waits for who answers */
    signal(SIGTERM, SIG_IGN); /* it ends with the gateway, which may have to look up names yet */
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    resolve_all(questions, answers);
}

/* Starts the process. Returns 0 when that fails. */
static int resolver_start(struct resolver *r)
{
    int to[2], from[2];

    if (pipe(to) != 0)
        return 0;
    if (pipe(from) != 0) {
        close(to[0]);
        close(to[1]);
        return 0;
    }
    r->pid = fork();
    if (r->pid == 0) {
        resolve_run(to[0], from[1]);
        _exit(0);
    }
    close(to[0]);
    close(from[1]);
    if (r->pid < 0) {
        close(to[1]);
        close(from[0]);
        r->pid = 0;
        return 0;
    }
    r->questions = to[1];
    r->answers = from[0];
    fcntl(r->questions, F_SETFL, O_NONBLOCK);
    fcntl(r->answers, F_SETFL, O_NONBLOCK);
    fcntl(r->questions, F_SETFD, FD_CLOEXEC);
    fcntl(r->answers, F_SETFD, FD_CLOEXEC);
    return 1;
}

static void resolver_stop(struct resolver *r)
{
    if (r->pid == 0)
        return;
    close(r->questions);
    close(r->answers);
    kill(r->pid, SIGKILL);
    waitpid(r->pid, NULL, 0);
    r->pid = 0;
}

/* Asks for a name. Returns 0 when that is not possible now. */
static int resolver_ask(struct resolver *r, uint32_t id, const char *host, const char *port)
{
    struct resolve_question question;

    if (r->pid == 0 && !resolver_start(r))
        return 0;
    memset(&question, 0, sizeof question);
    question.id = id;
    snprintf(question.host, sizeof question.host, "%s", host);
    memcpy(question.port, port, sizeof question.port);
    return write(r->questions, &question, sizeof question) == (ssize_t)sizeof question;
}

/* Takes an answer. Returns 0 when there is none. */
static int resolver_take(struct resolver *r, struct resolve_answer *answer)
{
    ssize_t n;

    if (r->pid == 0)
        return 0;
    n = read(r->answers, answer, sizeof *answer);
    if (n == 0) /* it has been killed: the next question starts another one */
        resolver_stop(r);
    return n == (ssize_t)sizeof *answer;
}

#endif
