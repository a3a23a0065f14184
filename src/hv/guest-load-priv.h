/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of the load share: how its RAM is laid out, the stamp of a page or block, pacing. libc and threads only: the
 * guests of the Xen lab link this statically.
 *
 * RAM, in pages of 4 KiB:
 *   0        header: written by format, never again
 *   1        what the dirtier and the heartbeat count
 *   2..17    one page for each writer
 *   18..     the tables of the disks, 4 octets for each block of 4 KiB
 *   then     the pages that are walked, to the end
 * Tables take an eighth of RAM at most. When that is too little for a disk, only its first part is written and verified
 * (256 MiB of RAM are enough for 32 GiB of disks).
 */
#ifndef XMOTION_HV_GUEST_LOAD_PRIV_H
#define XMOTION_HV_GUEST_LOAD_PRIV_H

#include "guest-load.h"

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>

#define LOAD_PAGE        4096u
#define LOAD_PAGE_WORDS  (LOAD_PAGE / sizeof(uint64_t))
#define LOAD_WRITE_MAX   64u /* blocks in one write */
#define LOAD_TABLE_SHARE 8u  /* RAM divided by this is the most the tables take */

/* An entry of a disk's table: how often the block was written (0: never, its content is not ours), and whether the last write
 * was one of zeroes. */
#define LOAD_ENTRY_ZERO UINT32_C(0x80000000)

struct load_header {
    uint64_t magic;
    uint64_t version;
    uint64_t ram_size;
    uint64_t id; /* of this guest: stamps of another one are foreign */
    uint64_t first_page;
    uint64_t page_count;
    uint64_t walk_count; /* of these, from the first on */
    uint64_t disk_count;
    uint64_t dirty_part, dirty_set; /* as formatted: what pages hold depends on them */
    struct {
        uint64_t size;
        uint64_t blocks; /* logged, from the first one on */
        uint64_t table;  /* offset in RAM */
    } disks[GUEST_LOAD_DISKS_MAX];
};

/* Words that other threads read meanwhile are accessed with load_get and load_put. */
struct load_counts {
    uint64_t walked; /* pages: lap = walked / walk_count */
    uint64_t heartbeats;
};

/* What a writer is about to do stands here before it is done; whoever opens a copy of RAM sees whether it was. */
struct load_writer {
    uint64_t writes;
    uint64_t bytes;
    uint64_t pending_first;
    uint64_t pending_count; /* 0: nothing is in flight */
    uint64_t pending_zero;
};

struct load_pace {
    uint64_t rate; /* octets a second */
    uint64_t next; /* when the next operation is due, ns */
};

struct load_thread {
    struct guest_load *load;
    unsigned int disk;
    pthread_t thread;
    bool running;
};

struct guest_load {
    uint8_t *ram;
    struct load_header *header;
    struct load_counts *counts;
    struct guest_load_config config;
    struct load_thread dirtier;
    struct load_thread writers[GUEST_LOAD_DISKS_MAX];
    pthread_mutex_t lock; /* for `wake` only */
    pthread_cond_t wake;
    unsigned int percent; /* of the rates */
    int stopping;
    int error;
    bool started;
};

#define load_get(p)    __atomic_load_n((p), __ATOMIC_RELAXED)
#define load_put(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)

static inline struct load_writer *load_writer_state(const struct guest_load *load, unsigned int disk)
{
    return (struct load_writer *)(void *)(load->ram + (size_t)LOAD_PAGE * (2 + disk));
}

static inline uint32_t *load_table(const struct guest_load *load, unsigned int disk)
{
    return (uint32_t *)(void *)(load->ram + load->header->disks[disk].table);
}

/* Mixes all bits of x (the finalizer of splitmix64). */
static inline uint64_t load_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* Where a stamp belongs: `space` 0 is RAM, 1 + n is disk n. */
struct load_stamp {
    uint64_t id;
    uint64_t space;
    uint64_t index;
    uint64_t number; /* lap of a page, sequence number of a block */
    uint64_t part;   /* octets, besides the stamp, in which it differs from what number 0 would make it; 0: in all. Not on the page */
};

/* Fills one page from its stamp: the stamp with its checksum, noise derived from it, and a half that compresses well. With a part only
 * so much noise, somewhere on the page, and the stamp itself depend on the number. */
void load_stamp_fill(void *page, const struct load_stamp *stamp);
bool load_stamp_matches(const void *page, const struct load_stamp *stamp);
bool load_page_is_zero(const void *page);

/* Whether the page carries a stamp with a good checksum; its content may be torn all the same. */
bool load_stamp_read(const void *page, struct load_stamp *ret);

/* Says what stands on a page that is not what it should be. */
void load_stamp_describe(const void *page, const struct load_stamp *want, char *ret_text, size_t text_size);

void load_pace_start(struct load_pace *pace, uint64_t rate);
/* Accounts for `bytes` that were done. */
void load_pace_done(const struct guest_load *load, struct load_pace *pace, uint64_t bytes);
/* Waits until something is due, or until the load stops: false. */
bool load_pace_wait(struct guest_load *load, struct load_pace *pace);

/* guest-load-ram.c */
void load_ram_format(struct guest_load *load);
void *load_dirtier_run(void *thread);
int load_ram_verify(const struct guest_load *load, char *ret_text, size_t text_size);

/* guest-load-disk.c */
void *load_writer_run(void *thread);
/* The id in a stamp of the disk; untouched when it has none. */
int load_disk_id(const struct guest_load *load, unsigned int disk, uint64_t *ret_id);
/* Makes the table and the writer's state what the disk holds (guest_load_adopt). */
int load_disk_adopt(const struct guest_load *load, unsigned int disk, char *ret_text, size_t text_size);
int load_disk_verify(const struct guest_load *load, unsigned int disk, char *ret_text, size_t text_size);

#endif
