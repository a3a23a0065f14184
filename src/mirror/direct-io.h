/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Many reads or writes of a descriptor with O_DIRECT at once, by the kernel's asynchronous I/O: one thread asks for all of them and
 * waits. (Without O_DIRECT the kernel would do them one after another.) Thread-safe. */
#ifndef XMOTION_MIRROR_DIRECT_IO_H
#define XMOTION_MIRROR_DIRECT_IO_H

#include "mirror/blockdev.h"

/* Of one call at once, at most. */
#define DIRECT_IO_DEPTH 16u

/* How many at once a disk bears: what others ask it stands in line behind them. One that does several things at a time answers as fast
 * as before when it is asked for more; with any other each waits for the ones before it, and then nothing is gained. Zeroed before the
 * first call; depth 0 is 1. */
struct direct_io_pace {
    uint32_t depth;
    uint32_t quick;      /* ended since the last change, their mean in time */
    uint32_t sure;       /* so many times the depth must, before it is raised */
    bool raised;         /* the last change was that */
    uint64_t base_ns;    /* what one takes when it is asked for alone; 0 not known */
    uint64_t mean_ns;    /* of the last ones, at this depth */
    uint64_t lowered_ns; /* when the depth last was; what was asked for before says nothing */
};

/* One ended that was asked for then. `together`: others were found ended with it; when that is late, this thread may be what was late. */
void direct_io_pace_ended(struct direct_io_pace *p, uint64_t begun_ns, uint64_t now_ns, bool together);

/* Sets done[i] of each that was carried out in full, and leaves the others as they are: what failed, was short or could not be asked
 * for, a kernel that gives us none of this included, is for the caller to do in the plain way, which says why when it fails too. When
 * they return nothing is under way any more. `pace` is the calling thread's; NULL: as many as can be. */
void direct_io_read(int fd, const struct blockdev_read *reads, uint32_t count, bool *done, struct direct_io_pace *pace,
                    const struct blockdev_reader *reader);
void direct_io_write(int fd, const struct blockdev_write *writes, uint32_t count, bool *done, struct direct_io_pace *pace);

#endif
