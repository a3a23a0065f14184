/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The checksum of everything that xmotion moves: XXH3, 64 bits, by the widest vectors that this CPU has. */
#ifndef XMOTION_BASE_CHECKSUM_H
#define XMOTION_BASE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

uint64_t checksum(const void *mem, size_t len);

#endif
