/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How long a pass takes to collect the marks of a disk of 4 TiB and to find them: what it costs however little was written. */
#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/clock.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>

#define DISK   (GIB(4) * 1024)
#define BLOCK  4096u
#define MARKS  1000u
#define ROUNDS 15u

static int compare(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

int main(void)
{
    uint64_t bits = DISK / BLOCK;
    struct bitmap marks, todo;
    uint64_t times[ROUNDS];

    if (bitmap_init(&marks, bits) < 0 || bitmap_init(&todo, bits) < 0)
        errx(1, "out of memory");
    bitmap_set_all(&marks); /* memory that was never touched is read from one page of zeroes */
    (void)bitmap_take(&todo, marks.words);
    bitmap_clear_run(&todo, 0, bits);
    for (unsigned int round = 0; round < ROUNDS; round++) {
        uint64_t found = 0;
        uint64_t first;
        uint64_t begin;

        for (uint64_t i = 0; i < MARKS; i++)
            bitmap_set(&marks, i * (bits / MARKS));
        begin = clock_now();
        (void)bitmap_take(&todo, marks.words);
        for (uint64_t at = 0, n; (n = bitmap_next_run(&todo, at, 16, &first)); at = first + n) {
            found += n;
            bitmap_clear_run(&todo, first, n);
        }
        times[round] = clock_now() - begin;
        if (found != MARKS)
            errx(1, "found %llu marks of %u", (unsigned long long)found, MARKS);
    }
    qsort(times, ROUNDS, sizeof(times[0]), compare);
    printf("%.1f\n", (double)times[ROUNDS / 2] / 1e6);
    bitmap_finish(&marks);
    bitmap_finish(&todo);
    return 0;
}
