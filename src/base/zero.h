/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef XMOTION_BASE_ZERO_H
#define XMOTION_BASE_ZERO_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* Are all `len` octets zero? Compares the memory with itself shifted by 16: memcmp is as fast as anything here, and
 * most data that is not zero says so in its first octets. */
static inline bool is_zero(const void *mem, size_t len)
{
    static const char zeroes[16];

    if (len < sizeof(zeroes))
        return memcmp(mem, zeroes, len) == 0;
    return memcmp(mem, zeroes, sizeof(zeroes)) == 0 &&
           memcmp(mem, (const char *)mem + sizeof(zeroes), len - sizeof(zeroes)) == 0;
}

#endif
