/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/checksum.h"
#include "config.h"

#if HAVE_XXH_DISPATCH
#include <xxh_x86dispatch.h> /* with it, XXH3_64bits chooses at run time */
#else
#include <xxhash.h>
#endif

uint64_t checksum(const void *mem, size_t len)
{
    return XXH3_64bits(mem, len);
}
