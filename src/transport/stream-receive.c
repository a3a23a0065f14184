/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The receiver's end of one data connection. */
#include "transport/stream.h"

#include "base/bytes.h"
#include "transport/conn-internal.h"

#include <assert.h>
#include <sched.h>

/* The sender's window is 32 records and 4 MiB: at half of it an acknowledgement is due even while
 * more input is waiting, or the sender would run dry. */
#define ACK_RECORDS 16
#define ACK_BYTES   MIB(2)

struct receiver {
    struct conn *conn;
    uint64_t taken;        /* records, since the connection began */
    uint64_t acknowledged; /* of them */
    uint64_t bytes;        /* of those not acknowledged */
};

static int acknowledge(struct receiver *v, struct err *err)
{
    uint8_t count[8];
    int r;

    assert(v->taken > v->acknowledged);
    put_be64(count, v->taken);
    r = conn_send(v->conn, WIRE_ACK, &(struct iovec){count, sizeof(count)}, 1, err);
    if (r < 0)
        return r;
    v->acknowledged = v->taken;
    v->bytes = 0;
    return 0;
}

static int ask(struct receiver *v, const struct wire_need *need, struct err *err)
{
    uint8_t body[WIRE_NEED_SIZE];

    wire_put_need(body, need);
    return conn_send(v->conn, WIRE_NEED, &(struct iovec){body, sizeof(body)}, 1, err);
}

static int take_one(struct receiver *v, const struct record *record,
                    int (*take)(void *data, const struct record *record, struct wire_need *need, struct err *err),
                    void *data, struct err *err)
{
    struct wire_need need = {.record = v->taken};
    int r;

    if (record->type != WIRE_DISK_DATA && record->type != WIRE_MEMORY_PAGES)
        return err_set(err, -EPROTO, "%s sent %s on a data connection", conn_peer(v->conn),
                       wire_type_name(record->type));
    if (v->taken % STREAM_YIELD_RECORDS == 0)
        (void)sched_yield();
    r = take(data, record, &need, err);
    if (r < 0)
        return r;
    v->taken++;
    v->bytes += record->length;
    r = wire_need_empty(&need) ? 0 : ask(v, &need, err);
    if (r < 0)
        return r;
    if (v->taken - v->acknowledged >= ACK_RECORDS || v->bytes >= ACK_BYTES)
        return acknowledge(v, err);
    return 0;
}

/* Nothing is pending: whoever waits for us hears so first. */
static int wait_for_input(struct receiver *v, struct err *err)
{
    int r = v->taken > v->acknowledged ? acknowledge(v, err) : 0;

    return r < 0 ? r : conn_wait(v->conn, err);
}

int stream_receive(struct conn *c,
                   int (*take)(void *data, const struct record *record, struct wire_need *need, struct err *err),
                   void *data, uint64_t *ret_taken, struct err *err)
{
    struct receiver v = {.conn = c};
    int r;

    conn_set_max_body(c, WIRE_DATA_MAX);
    do {
        struct record record;

        r = conn_try_recv(c, &record, err);
        if (r == -EAGAIN)
            r = wait_for_input(&v, err);
        else if (r == 0)
            r = take_one(&v, &record, take, data, err);
    } while (r == 0);
    *ret_taken = v.taken;
    /* The peer closes when it needs no more of us. What it sent before was taken; whether it was
     * everything is for the control connection to say. */
    return conn_ended(c) ? 0 : r;
}
