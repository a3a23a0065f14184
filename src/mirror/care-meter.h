/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The guest's part of one block device's statistics: figures in, latencies out. No clock, no I/O. */
#ifndef XMOTION_MIRROR_CARE_METER_H
#define XMOTION_MIRROR_CARE_METER_H

#include "mirror/care.h"

/* A latency is the mean of at least this many requests. */
#define CARE_WINDOW_IOS 8u
/* A guest that makes fewer in this time is quiet. */
#define CARE_WINDOW_MAX (4 * UINT64_C(1000000000))

/* Since the device exists (Documentation/block/stat.rst). Milliseconds go round at 2^32. */
struct care_figures {
    uint64_t reads;
    uint64_t read_sectors; /* of 512 octets */
    uint32_t read_ms;
    uint64_t writes;
    uint64_t write_sectors;
    uint32_t write_ms;
    uint64_t flushes;
    uint32_t flush_ms;
    uint64_t writes_in_flight; /* now */
};

/* From the texts of the attributes "stat" and "inflight". -EPROTO: they read otherwise than expected. */
int care_figures_parse(struct care_figures *ret, const char *stat, const char *inflight, struct err *err);

enum care_kind { CARE_READS, CARE_WRITES, CARE_KIND_COUNT }; /* flushes are writes; discards are nothing */

enum care_news {
    CARE_NO_NEWS,  /* too few requests so far */
    CARE_NO_IO,    /* the guest made hardly any for a while */
    CARE_LATENCY,
};

struct care_sample {
    enum care_news news;
    uint64_t latency_ns; /* CARE_LATENCY: mean */
    uint64_t ios;        /* it is of so many requests; 0: of one that has not ended yet */
};

struct care_window {
    uint64_t begin_ns;
    uint64_t ios; /* all of the device */
    uint64_t ns;
    uint64_t octets;
    struct care_own_reads own;
};

struct care_meter {
    uint64_t max_request; /* octets of the longest request that the device takes */
    bool begun;
    uint64_t last_ns;
    struct care_figures last;
    struct care_own_reads last_own;
    uint64_t write_ended_ns; /* when the last write was seen to have ended */
    double split;            /* requests of the device for each read of ours; 0 not known yet */
    bool sure;               /* of it: a request too many is the guest's */
    struct care_window proof; /* reads of a longer time */
    struct care_window windows[CARE_KIND_COUNT];
    uint64_t written_per_second; /* octets, all writers */
    uint64_t own_per_second;     /* octets that we read */
};

/* `max_request`: octets; 0: not known. */
void care_meter_init(struct care_meter *m, uint64_t max_request);

/* Forgets what has gathered, so that the next latency is of what comes from now on. */
void care_meter_restart(struct care_meter *m, uint64_t now_ns);

/* Figures that went back (a counter was reset, another device under its number) begin anew. */
void care_meter_step(struct care_meter *m, uint64_t now_ns, const struct care_figures *f, const struct care_own_reads *own,
                     struct care_sample ret[CARE_KIND_COUNT]);

#endif
