/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The file through which nbdkit-xmotion-plugin.so tells what was written (tracker-nbd.c maps it too):
 *
 *   0                 header, one page
 *   4096              summary: a bit for each page of the bitmap below, whole pages
 *   summary's end     bitmap: a bit for each 4 KiB of the disk, whole pages
 *
 * Who marks sets the bit, then the summary's. Who takes clears the summary's bit, then takes the page's bits. So a page whose
 * summary bit is clear has no mark of a write that was acknowledged before, and a 4 TiB disk is looked through in
 * microseconds while little is written.
 *
 * The server holds an open-file-description lock on octet 0 of this file as long as it lives: without it nobody marks any more.
 * The export's description is "xmotion bitmap=PATH id=16 hex digits"; the id stands in the header too, so that a file of
 * another server (or another host's path) is not taken for it.
 */
#ifndef XMOTION_MIRROR_NBD_BITMAP_H
#define XMOTION_MIRROR_NBD_BITMAP_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define NBD_BITMAP_MAGIC       UINT64_C(0x50414d5449424d58) /* "XMBITMAP" */
#define NBD_BITMAP_VERSION     1u
#define NBD_BITMAP_GRANULARITY 4096u
#define NBD_BITMAP_PAGE        4096u
#define NBD_BITMAP_PAGE_BITS   (NBD_BITMAP_PAGE * 8u)
#define NBD_BITMAP_PAGE_WORDS  (NBD_BITMAP_PAGE / 8u)

#define NBD_BITMAP_DESCRIPTION "xmotion bitmap="
#define NBD_BITMAP_ID          " id="

/* All counters only grow, but for in_flight, and are changed atomically. Each is kept at another place of the plugin's code (or
 * by the tracker), so that one forgotten makes them disagree:
 *   started    octets of writes, zeroes and trims, before the disk is touched
 *   completed  octets when the disk has answered, failed ones too
 *   marked     octets handed to the marking
 *   set        bits that were clear when they were marked
 *   taken      bits taken by trackers
 * When nothing is in flight: started == completed == marked, and set == taken + bits set now. */
struct nbd_bitmap_header {
    uint64_t magic;
    uint32_t version;
    uint32_t granularity;
    uint64_t size; /* of the disk, octets */
    uint64_t id;   /* of this run of the server, random */
    uint64_t server_pid;
    uint64_t generation; /* times the counters were set right by a tracker's reset */
    uint32_t file_fd_1; /* the server's descriptor of what it serves, plus 1; 0: not said */
    uint32_t file_device; /* the low bits of where its inode is */
    uint64_t file_inode;
    uint64_t in_flight; /* requests */
    uint64_t started;
    uint64_t completed;
    uint64_t marked;
    uint64_t set;
    uint64_t taken;
};

static_assert(sizeof(struct nbd_bitmap_header) == 112, "shared between processes");

struct nbd_bitmap_layout {
    uint64_t bits;
    uint64_t pages; /* of the bitmap */
    size_t summary; /* offsets in the file */
    size_t bitmap;
    size_t total;
};

static inline struct nbd_bitmap_layout nbd_bitmap_layout(uint64_t size)
{
    struct nbd_bitmap_layout l;

    l.bits = size / NBD_BITMAP_GRANULARITY + (size % NBD_BITMAP_GRANULARITY != 0);
    l.pages = l.bits / NBD_BITMAP_PAGE_BITS + (l.bits % NBD_BITMAP_PAGE_BITS != 0);
    l.summary = NBD_BITMAP_PAGE;
    l.bitmap = l.summary + (size_t)(l.pages / NBD_BITMAP_PAGE_BITS + 1) * NBD_BITMAP_PAGE;
    l.total = l.bitmap + (size_t)l.pages * NBD_BITMAP_PAGE;
    return l;
}

#endif
