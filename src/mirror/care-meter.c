/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mirror/care-meter.h"

#include "base/bytes.h"
#include "base/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SECTOR 512u
#define LEAP   (UINT64_C(1) << 42)
/* A write that has not ended for so long is a latency of its own: the figures have it only when it ends. */
#define STALL  (1 * NS_PER_SEC)
/* Guests read whole pages, but for few. */
#define SMALLEST_READ KIB(2)
/* Of a device's requests the guest's must be this part before anything is said of them. */
#define SHARE 16u
/* So many times what may be in flight says something. */
#define SURE_READS 8u
/* What lies back further counts less. */
#define PROOF_MAX  (30 * NS_PER_SEC)

int care_figures_parse(struct care_figures *ret, const char *stat, const char *inflight, struct err *err)
{
    uint64_t ms[3] = {0};
    int n;

    memset(ret, 0, sizeof(*ret));
    /* Flushes came with Linux 5.5. */
    n = sscanf(stat,
               "%" SCNu64 " %*u %" SCNu64 " %" SCNu64 " %" SCNu64 " %*u %" SCNu64 " %" SCNu64
               " %*u %*u %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64,
               &ret->reads, &ret->read_sectors, &ms[0], &ret->writes, &ret->write_sectors, &ms[1], &ret->flushes, &ms[2]);
    if (n != 8 && n != 6)
        return err_set(err, -EPROTO, "block statistics read \"%.*s\", expected at least 8 numbers", (int)strcspn(stat, "\n"),
                       stat);
    ret->read_ms = (uint32_t)ms[0];
    ret->write_ms = (uint32_t)ms[1];
    ret->flush_ms = (uint32_t)ms[2];
    if (sscanf(inflight, "%*u %" SCNu64, &ret->writes_in_flight) != 1)
        return err_set(err, -EPROTO, "requests in flight read \"%.*s\", expected 2 numbers", (int)strcspn(inflight, "\n"),
                       inflight);
    return 0;
}

void care_meter_init(struct care_meter *m, uint64_t max_request)
{
    memset(m, 0, sizeof(*m));
    m->max_request = max_request;
}

void care_meter_restart(struct care_meter *m, uint64_t now_ns)
{
    memset(m->windows, 0, sizeof(m->windows));
    m->windows[CARE_READS].begin_ns = m->windows[CARE_WRITES].begin_ns = now_ns;
}

static void begin(struct care_meter *m, uint64_t now_ns, const struct care_figures *f, const struct care_own_reads *own)
{
    m->begun = true;
    m->last_ns = m->write_ended_ns = now_ns;
    m->last = *f;
    m->last_own = *own;
    m->proof = (struct care_window){.begin_ns = now_ns};
    care_meter_restart(m, now_ns);
}

/* Since the last figures; milliseconds are brought over 2^32. */
static uint64_t ns_since(uint32_t now_ms, uint32_t then_ms)
{
    return (uint64_t)(uint32_t)(now_ms - then_ms) * NS_PER_MS;
}

/* A counter that fell, or rose by more than a device can do between two looks: it is another one's. */
static bool leapt(uint64_t now, uint64_t then)
{
    return now - then > LEAP;
}

static bool went_back(const struct care_figures *f, const struct care_figures *last)
{
    const uint64_t half = (UINT64_C(1) << 31) * NS_PER_MS;

    return leapt(f->reads, last->reads) || leapt(f->read_sectors, last->read_sectors) || leapt(f->writes, last->writes) ||
           leapt(f->write_sectors, last->write_sectors) || leapt(f->flushes, last->flushes) ||
           ns_since(f->read_ms, last->read_ms) > half || ns_since(f->write_ms, last->write_ms) > half ||
           ns_since(f->flush_ms, last->flush_ms) > half;
}

static bool own_went_back(const struct care_own_reads *own, const struct care_own_reads *last)
{
    return own->reads < last->reads || own->octets < last->octets || own->ns < last->ns;
}

static void gather_reads(struct care_meter *m, struct care_window *r, const struct care_figures *f,
                         const struct care_own_reads *own)
{
    r->ios += f->reads - m->last.reads;
    r->ns += ns_since(f->read_ms, m->last.read_ms);
    r->octets += (f->read_sectors - m->last.read_sectors) * SECTOR;
    r->own.reads += own->reads - m->last_own.reads;
    r->own.octets += own->octets - m->last_own.octets;
    r->own.ns += own->ns - m->last_own.ns;
}

static void gather(struct care_meter *m, const struct care_figures *f, const struct care_own_reads *own)
{
    struct care_window *w = &m->windows[CARE_WRITES];

    gather_reads(m, &m->windows[CARE_READS], f, own);
    gather_reads(m, &m->proof, f, own);
    w->ios += f->writes - m->last.writes + f->flushes - m->last.flushes;
    w->ns += ns_since(f->write_ms, m->last.write_ms) + ns_since(f->flush_ms, m->last.flush_ms);
}

static void note_rates(struct care_meter *m, uint64_t now_ns, const struct care_figures *f, const struct care_own_reads *own)
{
    double seconds = (double)(now_ns - m->last_ns) / (double)NS_PER_SEC;
    uint64_t written = (f->write_sectors - m->last.write_sectors) * SECTOR;

    if (now_ns <= m->last_ns)
        return;
    /* Guests write in bursts: half of it is what was. */
    m->written_per_second = (m->written_per_second + (uint64_t)((double)written / seconds)) / 2;
    m->own_per_second = (uint64_t)((double)(own->octets - m->last_own.octets) / seconds);
}

/* Ends the window, with what is known in it. */
static struct care_sample end_window(struct care_window *w, uint64_t now_ns, uint64_t ios, uint64_t ns)
{
    struct care_sample s = {.news = CARE_NO_NEWS};

    if (ios >= CARE_WINDOW_IOS)
        s = (struct care_sample){.news = CARE_LATENCY, .latency_ns = ns / ios, .ios = ios};
    else if (now_ns - w->begin_ns >= CARE_WINDOW_MAX)
        s.news = CARE_NO_IO;
    if (s.news != CARE_NO_NEWS)
        *w = (struct care_window){.begin_ns = now_ns};
    return s;
}

static struct care_sample sample_writes(struct care_meter *m, uint64_t now_ns, const struct care_figures *f)
{
    struct care_window *w = &m->windows[CARE_WRITES];
    bool ended = f->writes != m->last.writes || f->flushes != m->last.flushes;

    if (ended || f->writes_in_flight == 0)
        m->write_ended_ns = now_ns;
    if (now_ns - m->write_ended_ns >= STALL)
        return (struct care_sample){.news = CARE_LATENCY, .latency_ns = now_ns - m->write_ended_ns};
    return end_window(w, now_ns, w->ios, w->ns);
}

static double expected_split(const struct care_meter *m, const struct care_own_reads *own)
{
    if (m->split > 0)
        return m->split;
    if (!m->max_request || !own->reads)
        return 1;
    return (double)DIV_ROUND_UP(MAX(own->octets / own->reads, 1), m->max_request);
}

/* Reads of ours that may have ended in the device and not yet here. */
static uint64_t skew(const struct care_window *w, uint64_t now_ns)
{
    return w->own.ns / MAX(now_ns - w->begin_ns, 1) + 2;
}

static void halve(struct care_window *w, uint64_t now_ns)
{
    w->begin_ns += (now_ns - w->begin_ns) / 2;
    w->ios /= 2;
    w->ns /= 2;
    w->octets /= 2;
    w->own.reads /= 2;
    w->own.octets /= 2;
    w->own.ns /= 2;
}

/* The device may take a read of ours apart (limits of its queue, chunks of a thin volume) or join it to its neighbour, so that its
 * count of requests says nothing for certain. Its octets do, over a time that is long against what is in flight: ours are not
 * more requests than all, and the guest's are not more than its octets allow. */
static void prove_split(struct care_meter *m, uint64_t now_ns)
{
    struct care_window *w = &m->proof;
    double split = expected_split(m, &w->own);
    double guest = (double)w->ios - (double)w->own.reads * split;
    uint64_t reads = skew(w, now_ns);
    uint64_t octets = w->own.reads ? reads * (w->own.octets / w->own.reads) : 0;
    uint64_t most = (w->octets + octets - MIN(w->octets + octets, w->own.octets)) / SMALLEST_READ;

    if (w->own.reads < SURE_READS * reads)
        return;
    if (guest < -(double)reads * split) {
        m->split = (double)w->ios / (double)w->own.reads;
    } else if (guest > (double)most) {
        m->split = (double)(w->ios - most) / (double)w->own.reads;
        m->sure = false;
    } else if (guest < (double)reads * split || w->octets > w->own.octets + octets) {
        m->sure = true;
    }
    if (now_ns - w->begin_ns > PROOF_MAX)
        halve(w, now_ns);
}

/* Ours are taken out as they looked from outside, which is never shorter than the device took: what is left to the guest is
 * rather too little than too much. */
static struct care_sample sample_reads(struct care_meter *m, uint64_t now_ns)
{
    struct care_window *w = &m->windows[CARE_READS];
    double split = expected_split(m, &w->own);
    double guest = (double)w->ios - (double)w->own.reads * split;
    double ns = (double)w->ns - (double)w->own.ns * split;
    uint64_t least = CARE_WINDOW_IOS;

    if (!w->own.reads && w->ios >= CARE_WINDOW_IOS)
        m->sure = true;
    if (w->own.reads)
        least = MAX(least + skew(w, now_ns), w->ios / SHARE);
    if (!m->sure || guest < (double)least || ns <= 0)
        guest = ns = 0;
    return end_window(w, now_ns, (uint64_t)guest, (uint64_t)ns);
}

void care_meter_step(struct care_meter *m, uint64_t now_ns, const struct care_figures *f, const struct care_own_reads *own,
                     struct care_sample ret[CARE_KIND_COUNT])
{
    memset(ret, 0, CARE_KIND_COUNT * sizeof(*ret));
    if (!m->begun || went_back(f, &m->last) || own_went_back(own, &m->last_own)) {
        begin(m, now_ns, f, own);
        return;
    }
    gather(m, f, own);
    note_rates(m, now_ns, f, own);
    prove_split(m, now_ns);
    ret[CARE_READS] = sample_reads(m, now_ns);
    ret[CARE_WRITES] = sample_writes(m, now_ns, f);
    m->last = *f;
    m->last_own = *own;
    m->last_ns = now_ns;
}
