/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A disk in simulated time: channels that serve one queue, a guest that asks as it pleases, a copy whose readers keep to a
 * limit, and the statistics that a kernel would keep of it. The same seed gives the same run. */
#ifndef XMOTION_TESTS_DISK_SIM_H
#define XMOTION_TESTS_DISK_SIM_H

#include "base/bytes.h"
#include "base/clock.h"
#include "mirror/care-brake.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SIM_QUEUE   4096u
#define SIM_CHANNELS_MAX 16u
#define SIM_READERS_MAX  16u
#define SIM_READ    KIB(256)
#define SIM_NEVER   UINT64_MAX

enum sim_kind { SIM_GUEST_READ, SIM_GUEST_WRITE, SIM_COPY };

struct sim_request {
    enum sim_kind kind;
    uint64_t begun_ns;
    unsigned int reader;
};

struct sim_disk {
    unsigned int channels;
    uint64_t guest_ns; /* mean service of a guest's request */
    uint64_t copy_ns;  /* of a read of the copy */
    unsigned int split; /* statistics count each read of the copy as so many */
    unsigned int readers;
    uint64_t link; /* octets per second that the network takes; 0: any */
};

struct sim_guest {
    double per_second;
    double reads; /* part of them */
    uint32_t octets; /* each */
    unsigned int depth; /* at most so many wait at once */
};

struct sim {
    struct sim_disk disk;
    struct sim_guest guest;
    uint64_t now_ns;
    uint64_t seed;
    struct sim_request queue[SIM_QUEUE];
    unsigned int head;
    unsigned int queued;
    struct sim_request served[SIM_CHANNELS_MAX];
    uint64_t ends_ns[SIM_CHANNELS_MAX];
    uint64_t guest_next_ns;
    uint64_t reader_next_ns[SIM_READERS_MAX];
    unsigned int guest_waiting;
    uint64_t limit;
    uint64_t bucket_ns; /* when the limit lets the next read begin */
    uint64_t link_ns;
    struct care_figures f;
    uint64_t read_ns;
    uint64_t write_ns;
    struct care_own_reads own;
    uint64_t guest_ios;
    uint64_t guest_ns;
};

static inline uint64_t sim_random(struct sim *s)
{
    s->seed ^= s->seed << 13;
    s->seed ^= s->seed >> 7;
    s->seed ^= s->seed << 17;
    return s->seed;
}

static inline double sim_uniform(struct sim *s)
{
    return ((double)(sim_random(s) >> 12) + 1) / (double)(UINT64_C(1) << 52);
}

/* Exponential, without a logarithm: a sum that has its mean and nearly its spread would do as well; this is exact. */
static inline uint64_t sim_exponential(struct sim *s, double mean_ns)
{
    double u = sim_uniform(s);
    double log = 0;

    for (; u < 0.5; u *= 2)
        log += 0.69314718056;
    u = 1 - u; /* -ln(1 - u) = u + u^2/2 + u^3/3 ... for u up to a half */
    for (double power = u, n = 1; n < 24; n++, power *= u)
        log += power / n;
    return (uint64_t)(mean_ns * log);
}

static inline void sim_init(struct sim *s, const struct sim_disk *disk, const struct sim_guest *guest, uint64_t seed)
{
    memset(s, 0, sizeof(*s));
    s->disk = *disk;
    s->guest = *guest;
    s->seed = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    s->now_ns = NS_PER_SEC;
    s->limit = CARE_NO_LIMIT;
    for (unsigned int i = 0; i < SIM_CHANNELS_MAX; i++)
        s->ends_ns[i] = SIM_NEVER;
    for (unsigned int i = 0; i < SIM_READERS_MAX; i++)
        s->reader_next_ns[i] = SIM_NEVER;
    s->guest_next_ns = s->now_ns;
}

static inline void sim_begin_copy(struct sim *s)
{
    assert(s->disk.readers <= SIM_READERS_MAX);
    for (unsigned int i = 0; i < s->disk.readers; i++)
        s->reader_next_ns[i] = s->now_ns;
}

static inline void sim_set_limit(struct sim *s, uint64_t limit)
{
    if (limit == s->limit)
        return;
    s->limit = limit;
    s->bucket_ns = s->now_ns;
    for (unsigned int i = 0; i < s->disk.readers; i++) {
        if (s->reader_next_ns[i] != SIM_NEVER)
            s->reader_next_ns[i] = s->now_ns;
    }
}

static inline void sim_serve(struct sim *s)
{
    for (unsigned int i = 0; i < s->disk.channels && s->queued; i++) {
        uint64_t mean;

        if (s->ends_ns[i] != SIM_NEVER)
            continue;
        s->served[i] = s->queue[s->head];
        s->head = (s->head + 1) % SIM_QUEUE;
        s->queued--;
        mean = s->served[i].kind == SIM_COPY ? s->disk.copy_ns : s->disk.guest_ns;
        s->ends_ns[i] = s->now_ns + (uint64_t)((double)mean * (0.5 + sim_uniform(s)));
    }
}

static inline void sim_ask(struct sim *s, enum sim_kind kind, unsigned int reader)
{
    assert(s->queued < SIM_QUEUE);
    s->queue[(s->head + s->queued++) % SIM_QUEUE] = (struct sim_request){kind, s->now_ns, reader};
    s->f.writes_in_flight += kind == SIM_GUEST_WRITE;
    s->guest_waiting += kind != SIM_COPY;
    sim_serve(s);
}

static inline void sim_end_guest(struct sim *s, const struct sim_request *r)
{
    uint64_t took = s->now_ns - r->begun_ns;

    s->guest_ios++;
    s->guest_ns += took;
    s->guest_waiting--;
    if (r->kind == SIM_GUEST_READ) {
        s->f.reads++;
        s->f.read_sectors += s->guest.octets / 512;
        s->read_ns += took;
    } else {
        s->f.writes++;
        s->f.writes_in_flight--;
        s->f.write_sectors += s->guest.octets / 512;
        s->write_ns += took;
    }
}

static inline void sim_end(struct sim *s, unsigned int channel)
{
    struct sim_request r = s->served[channel];
    uint64_t took = s->now_ns - r.begun_ns;

    s->ends_ns[channel] = SIM_NEVER;
    if (r.kind != SIM_COPY) {
        sim_end_guest(s, &r);
    } else {
        s->f.reads += s->disk.split;
        s->f.read_sectors += SIM_READ / 512;
        s->read_ns += took * s->disk.split;
        s->own.reads++;
        s->own.octets += SIM_READ;
        s->own.ns += took + 20 * NS_PER_US; /* waking up */
        s->link_ns = MAX(s->link_ns, s->now_ns) + (s->disk.link ? SIM_READ * NS_PER_SEC / s->disk.link : 0);
        s->reader_next_ns[r.reader] = MAX(s->now_ns, s->link_ns);
    }
    sim_serve(s);
}

/* A reader whose turn it is: reads, or waits for its limit. */
static inline void sim_reader(struct sim *s, unsigned int i)
{
    if (s->limit != CARE_NO_LIMIT && s->bucket_ns > s->now_ns) {
        s->reader_next_ns[i] = s->bucket_ns;
        return;
    }
    if (s->limit != CARE_NO_LIMIT)
        s->bucket_ns = MAX(s->bucket_ns, s->now_ns) + (uint64_t)((double)SIM_READ / (double)s->limit * 1e9);
    s->reader_next_ns[i] = SIM_NEVER;
    sim_ask(s, SIM_COPY, i);
}

static inline void sim_guest_asks(struct sim *s)
{
    double gap = s->guest.per_second > 0 ? 1e9 / s->guest.per_second : 1e8;

    if (s->guest.per_second > 0 && s->guest_waiting < s->guest.depth)
        sim_ask(s, sim_uniform(s) < s->guest.reads ? SIM_GUEST_READ : SIM_GUEST_WRITE, 0);
    s->guest_next_ns = s->now_ns + MAX(sim_exponential(s, gap), 1);
}

/* Until this time. */
static inline void sim_run(struct sim *s, uint64_t until_ns)
{
    for (;;) {
        uint64_t next = s->guest_next_ns;
        uint64_t *which = NULL;
        unsigned int i;

        for (i = 0; i < s->disk.channels; i++) {
            if (s->ends_ns[i] < next)
                next = *(which = &s->ends_ns[i]);
        }
        for (i = 0; i < s->disk.readers; i++) {
            if (s->reader_next_ns[i] < next)
                next = *(which = &s->reader_next_ns[i]);
        }
        if (next > until_ns)
            break;
        s->now_ns = MAX(s->now_ns, next);
        if (!which)
            sim_guest_asks(s);
        else if (which >= s->ends_ns && which < s->ends_ns + SIM_CHANNELS_MAX)
            sim_end(s, (unsigned int)(which - s->ends_ns));
        else
            sim_reader(s, (unsigned int)(which - s->reader_next_ns));
    }
    s->now_ns = until_ns;
}

/* As the kernel prints them. `ms_before`: what stood in the counters of milliseconds before. */
static inline void sim_stat(const struct sim *s, uint32_t ms_before, char *stat, char *inflight, size_t size)
{
    (void)snprintf(stat, size,
                   "%8" PRIu64 " %8u %8" PRIu64 " %8u %8" PRIu64 " %8u %8" PRIu64 " %8u %8u %8u %8u 0 0 0 0 0 0\n", s->f.reads,
                   0, s->f.read_sectors, (uint32_t)(s->read_ns / NS_PER_MS + ms_before), s->f.writes, 0, s->f.write_sectors,
                   (uint32_t)(s->write_ns / NS_PER_MS + ms_before), s->queued, 0, 0);
    (void)snprintf(inflight, size, "%8u %8" PRIu64 "\n", 0, s->f.writes_in_flight);
}

#endif
