/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The load that proves a guest whole. It serves the embedded guest and the guests of the Xen lab alike, so it needs libc
 * and threads only, and its whole state lives inside the RAM it is given: whoever copies that RAM copies the load.
 *
 * RAM: dirtier threads walk the pages in a fixed pseudo-random order; a page holds its number, the lap and a checksum; at any
 * stop every page holds lap n or n+1, n+1 exactly for those the walk has passed.
 * Disks: writer threads write blocks of 4 KiB to 256 KiB at random places (some of them discards and zeroes where the disk can),
 * each block stamped with disk, offset, sequence number and checksum; the last sequence number of every block stands in RAM, so that
 * after a move the disk is compared with what RAM says it must hold: a lost, stale or foreign block is found.
 */
#ifndef XMOTION_HV_GUEST_LOAD_H
#define XMOTION_HV_GUEST_LOAD_H

#include <stddef.h>
#include <stdint.h>

#define GUEST_LOAD_DISKS_MAX 16

/* All return 0 or a negative errno, for exactly `len` octets at a multiple of 4096. `buf` is aligned to 4096. */
struct guest_disk_ops {
    int (*pread)(void *disk, void *buf, size_t len, uint64_t offset);
    int (*pwrite)(void *disk, const void *buf, size_t len, uint64_t offset);
    int (*zero)(void *disk, size_t len, uint64_t offset); /* NULL: written as zeroes */
    int (*flush)(void *disk);
};

struct guest_load_disk {
    const struct guest_disk_ops *ops;
    void *disk;
    uint64_t size;
};

struct guest_load_config {
    uint64_t dirty_rate; /* octets of RAM a second, each page that is touched counted whole; 0: none */
    uint64_t write_rate; /* octets a second to all disks together; 0: none */
    uint64_t dirty_part; /* of format: octets of a page that differ from one lap to the next, about; 0: all */
    uint64_t dirty_set;  /* of format: octets of RAM that are walked at most, the rest stands still; 0: all */
    unsigned int disk_count;
    struct guest_load_disk disks[GUEST_LOAD_DISKS_MAX];
};

struct guest_load;

#define GUEST_LOAD_PART_MAX 2048

/* Lays the state out in `ram` (page-aligned, zeroed, `ram_size` octets). -EINVAL: too small for its disks' tables, or `dirty_part`
 * is no multiple of 8 up to GUEST_LOAD_PART_MAX, or `dirty_set` less than 64 KiB.
 * Then everything is as after a stop at lap 0, nothing written. */
int guest_load_format(void *ram, size_t ram_size, const struct guest_load_config *config);

/* As format, for disks that a load of these sizes and rates wrote to until its RAM was lost: goes on from what they hold. Every
 * disk must hold exactly what its writer had written at one moment (the operation under way then in part, or not): -EBADMSG: it
 * does not, and ret_text says what is wrong; else it says at which write each disk is. -EIO: a disk could not be read. */
int guest_load_adopt(void *ram, size_t ram_size, const struct guest_load_config *config, char *ret_text, size_t text_size);

/* Opens formatted RAM, fresh or copied from elsewhere. Rates are taken from `config` (the disks' sizes must be those in RAM:
 * -EINVAL). No thread runs yet. */
int guest_load_open(struct guest_load **ret, void *ram, size_t ram_size, const struct guest_load_config *config);

/* Starts or goes on; stops all threads between two operations, nothing in flight. Both idempotent. */
int guest_load_start(struct guest_load *load);
void guest_load_stop(struct guest_load *load);

/* Stopped only. 0: RAM and disks are whole. -EBADMSG: text says the first thing that is not. -EIO: a disk could not be read. */
int guest_load_verify(struct guest_load *load, char *ret_text, size_t text_size);

struct guest_load_stats {
    uint64_t laps;          /* walks through all pages */
    uint64_t pages_dirtied; /* since format */
    uint64_t disk_writes;
    uint64_t disk_bytes;
    uint64_t heartbeats;    /* counted by guest_load_heartbeat; lives in RAM: a copy that ran on elsewhere goes on from it */
};

void guest_load_stats(struct guest_load *load, struct guest_load_stats *ret);

/* Counts one heartbeat and returns the count. */
uint64_t guest_load_heartbeat(struct guest_load *load);

/* Lets the threads do `percent` (1 to 100) of what their rates allow from here on. */
void guest_load_throttle(struct guest_load *load, unsigned int percent);

/* The first error of a writer thread, 0: none. */
int guest_load_error(struct guest_load *load);

void guest_load_destroy(struct guest_load *load); /* stops first */

#endif
