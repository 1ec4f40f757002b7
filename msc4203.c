/* msc4203.c - for those who compile a .c file: the implementation of msc4203.h. SPDX: 0BSD */
#if !defined(MSC4203_NO_FILE) && !defined(MSC4203_NO_LOG) && \
    (defined(__unix__) || defined(__APPLE__))
#if !defined(_POSIX_C_SOURCE) && !defined(_GNU_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif
#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64
#endif
#define MSC4203_FILE
#endif
#define MSC4203_IMPLEMENTATION
#include "msc4203.h"
