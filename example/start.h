/* start.h - what a program does first. SPDX: 0BSD
 *
 * A function of an embedding program, not of the library: static, in a header. */
#ifndef START_H
#define START_H

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* Puts /dev/null on those of the descriptors 0, 1 and 2 that are closed. Otherwise a file or socket
 * that is opened next takes their place, and what is meant for the operator is written into it.
 * They are opened the wrong way round, so that reading 0 and writing to 1 or 2 still fail, as on a
 * closed descriptor: a program notices that its output goes nowhere.
 *
 * To be called before anything is opened. Returns 0 when it fails. */
static int start_descriptors(void)
{
    int fd;

    for (fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) >= 0)
            continue;
        if (errno != EBADF || open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd)
            return 0;
    }
    return 1;
}

#endif
