/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How the copy goes easy on the guest that runs (--max-bandwidth, the brake), and how the guest, when it is late, goes easy on the
 * copy (--on-timeout=throttle). */
#include "session/source-priv.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"

#define AREA "session.care"
#define STEP (500 * NS_PER_MS)

int source_care_begin(struct source *s, struct err *err)
{
    const char *paths[HV_DISKS_MAX];

    if (!s->config->brake)
        return 0;
    for (unsigned int i = 0; i < s->guest->disk_count; i++)
        paths[i] = s->guest->disks[i].path;
    return care_create(&s->care, paths, s->guest->disk_count, clock_now(), err);
}

void source_care_baseline(struct source *s)
{
    if (s->care)
        care_baseline(s->care, clock_now());
}

static uint64_t brake(struct source *s, uint64_t now)
{
    struct care_own_reads own[HV_DISKS_MAX] = {{0}};

    if (!s->care)
        return CARE_NO_LIMIT;
    for (unsigned int i = 0; i < s->guest->disk_count; i++) {
        struct mirror_source_stats st;

        mirror_source_stats(s->disks[i], &st);
        own[i] = (struct care_own_reads){.reads = st.reads, .octets = st.read_octets, .ns = st.read_ns};
    }
    return care_step(s->care, now, own, stream_bytes_sent(s->stream));
}

/* While the guest stands still nothing is spared: it waits for us. */
static uint64_t rate_now(struct source *s, uint64_t now)
{
    uint64_t most = s->config->max_bandwidth ? s->config->max_bandwidth : CARE_NO_LIMIT;

    return s->times.suspend_begin ? CARE_NO_LIMIT : MIN(most, brake(s, now));
}

static int throttle(struct source *s, struct err *err)
{
    unsigned int percent = s->throttle.percent ? s->throttle.percent : 100;
    int r;

    if (percent == s->throttled)
        return 0;
    r = s->hv->ops->throttle(s->hv, percent, err);
    if (r < 0)
        return err_prefix(err, r, "--on-timeout=throttle");
    log_info(AREA, "the guest gets %u%% of its processor time", percent);
    s->throttled = percent;
    return 0;
}

int source_care_turn(struct source *s, struct err *err)
{
    uint64_t now = clock_now();
    uint64_t rate;
    int r = throttle(s, err);

    if (r < 0 || !s->stream || !s->disks_begun)
        return r;
    if (!s->times.suspend_begin && now - s->care_ns < STEP)
        return 0;
    s->care_ns = now;
    rate = rate_now(s, now);
    if (rate != s->rate) {
        s->rate = rate;
        stream_set_rate(s->stream, rate == CARE_NO_LIMIT ? 0 : rate);
    }
    return 0;
}

void source_care_new_stream(struct source *s)
{
    s->rate = CARE_NO_LIMIT;
    s->care_ns = 0;
}

enum precopy_decision source_throttle(struct source *s, const struct precopy_stats *st)
{
    if (s->config->limits.on_timeout != PRECOPY_TIMEOUT_THROTTLE)
        return PRECOPY_CONTINUE;
    return precopy_throttle(st, &s->config->limits, &s->throttle);
}

void source_unthrottle(struct source *s)
{
    struct err err;

    s->throttle = (struct precopy_throttle){0};
    if (throttle(s, &err) < 0)
        log_warn(AREA, "%s", err.text);
}

void source_care_finish(struct source *s)
{
    care_destroy(s->care);
    s->care = NULL;
}
