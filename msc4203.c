/* msc4203.c - for those who compile a .c file: the implementation of msc4203.h. SPDX: 0BSD */
#define MSC4203_IMPLEMENTATION
#include "msc4203.h"
