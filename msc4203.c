/* msc4203.c - for those who compile a .c file: the implementation of msc4203.h. SPDX: 0BSD */
#if !defined(MSC4203_NO_FILE) && !defined(MSC4203_NO_LOG) && \
    (defined(__unix__) || defined(__APPLE__))
/* macOS and the BSDs show everything, until this hides what is not POSIX: flock(), for one. */
#if !defined(_POSIX_C_SOURCE) && !defined(_GNU_SOURCE) && !defined(__APPLE__) && \
    !defined(__FreeBSD__) && !defined(__NetBSD__) && !defined(__OpenBSD__) && \
    !defined(__DragonFly__)
#define _POSIX_C_SOURCE 200809L
#endif
#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64
#endif
#define MSC4203_FILE
#endif
#define MSC4203_IMPLEMENTATION
#include "msc4203.h"
