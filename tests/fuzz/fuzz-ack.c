/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a receiver answers on a data connection (ACK, NEED): every record that was sent is done with once, in order, whatever comes.
 * The first octet: how many records are in flight. The rest is what the peer sends.
 * fuzz: -max_len=600 */
#include "fake-tls.h"

#include "transport/stream-send.c"

static uint64_t done_count, needs;

static void done(void *source, const struct stream_work *work, int error)
{
    CHECK(work->cookie[0] == done_count);
    done_count++;
}

/* Asked only between take and done, by records that ask. */
static int need(void *source, const struct stream_work *work, const struct wire_need *n, struct err *err)
{
    CHECK(work->asks && work->cookie[0] >= done_count && n->record == work->cookie[0] && !wire_need_empty(n));
    needs++;
    return wire_need_block(n, 255) ? err_set(err, -EPROTO, "no such block") : 0;
}

static int take_nothing(void *source, struct stream_work *work, struct err *err)
{
    return -EAGAIN;
}

static void fly(struct worker *w, const struct source *source, unsigned int records)
{
    while (w->sent < records) {
        *ring_at(w, w->sent) = (struct sent){
            .work = {.type = WIRE_DISK_DATA, .length = 100, .cookie = {w->sent}, .asks = w->sent % 2}, .source = source};
        w->sent++;
        w->bytes += 100;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct stream_source_ops ops = {"fuzz", take_nothing, need, done};
    static const struct source source = {.ops = &ops};
    static struct stream stream = {.config = {.window_records = WINDOW_RECORDS, .window_bytes = WINDOW_BYTES}};
    struct sent ring[WINDOW_RECORDS];
    struct worker w = {.stream = &stream, .ring = ring};
    struct input in = {data, size};
    struct err err = {0};
    int r;

    fly(&w, &source, take_u8(&in) % (WINDOW_RECORDS + 1));
    w.conn = fake_conn(in, 0);
    done_count = needs = 0;
    conn_set_max_body(w.conn, WIRE_NEED_SIZE);
    r = take_answers(&w, &err);
    CHECK(r < 0 && r == err.code && *err.text); /* the peer's end of the line at the latest */
    CHECK(done_count == w.acked && w.acked <= w.sent && w.bytes == 100 * in_flight(&w));
    conn_destroy(w.conn);
    return 0;
}
