/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The few kernel types and constants that tracker.bpf.c uses, instead of a vmlinux.h of 100,000
 * lines. Only the names matter: libbpf moves every access to where the running kernel has the
 * field (CO-RE), so neither order nor size nor the rest of a struct need be right. */
#ifndef XMOTION_MIRROR_BPF_KERN_H
#define XMOTION_MIRROR_BPF_KERN_H

typedef _Bool bool;
#define true  1
#define false 0
typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed int __s32;
typedef signed long long __s64;
/* Named by libbpf's helper declarations. */
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

/* From the kernel's user interface (linux/bpf.h): these never change. */
enum { BPF_ANY = 0 };
enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_PERCPU_ARRAY = 6 };
enum { BPF_F_MMAPABLE = 1024 };

/* From linux/blk_types.h. The lowest bit of an operation says that it changes data. */
enum {
    REQ_OP_MASK = 0xff,
    REQ_OP_CHANGES = 1,
    REQ_OP_DISCARD = 3,
    REQ_OP_DRV_IN = 34, /* this and the next: passthrough, the sector means nothing */
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct gendisk {
    int major;
    int first_minor;
};

struct block_device {
    __u32 bd_dev;
    struct gendisk *bd_disk;
};

struct request_queue {
    struct gendisk *disk; /* 5.15 and later */
};

struct bvec_iter {
    __u64 bi_sector;
    __u32 bi_size;
};

struct bio {
    struct bio *bi_next;
    struct block_device *bi_bdev;
    __u32 bi_opf;
    struct bvec_iter bi_iter;
    void *bi_private;
};

struct request {
    struct request_queue *q;
    int tag;
    __u32 cmd_flags;
    __u32 __data_len;
    __u64 __sector;
    struct bio *bio;
    struct block_device *part;
};

#pragma clang attribute pop

#endif
