/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Data connections with a worker thread each. At the sender, sources give records to whichever
 * worker is free, bounded in flight by count and by bytes per connection; at the receiver a sink
 * takes them. Knows nothing of disks or pages. */
#ifndef XMOTION_TRANSPORT_STREAM_H
#define XMOTION_TRANSPORT_STREAM_H

#include "base/err.h"
#include "transport/compress-choice.h"
#include "transport/conn.h"

#include <stdbool.h>
#include <stdint.h>

/* One record to be sent, made by a source in the worker's own buffer. */
struct stream_work {
    enum wire_type type;
    uint8_t *buffer;         /* in: WIRE_DATA_MAX octets, page-aligned, the worker's */
    uint32_t length;         /* out: octets of the body in `buffer` */
    const uint8_t *payload;  /* out: the rest of the body, elsewhere (in `scratch`, say): good until
                                done; NULL: none */
    uint32_t payload_length; /* out: its octets */
    uint64_t cookie[4];      /* out: the source's own, given back to done */
    uint8_t *scratch; /* in: WIRE_DATA_MAX octets, page-aligned: for reading before encoding */
    struct compress_choice *choice; /* in: the worker's, for stream_work_payload */
    uint64_t prepare_ns; /* out, for stream_work_payload: processor time that the source spent so that the payload compresses well */
    bool asks; /* out: the receiver may answer with NEED before it acknowledges */
};

/* For `take`: the body is `head` octets, which the source writes to `buffer`, and the `raw` octets of payload in `scratch`, sent from
 * there, or compressed behind the head where the stream's mode wants it and it saves an eighth. Returns which, and the payload's length
 * on the wire. */
enum wire_encoding stream_work_payload(struct stream_work *work, uint32_t head, uint32_t raw, uint32_t *ret_encoded);

struct stream_source_ops {
    const char *name;
    /* Worker thread. Makes one record. 0: made; -EAGAIN: nothing at the moment (stream_kick when
     * there is); another error ends the whole stream. May be called by several workers at once. */
    int (*take)(void *source, struct stream_work *work, struct err *err);
    /* Worker thread, between take and done: the receiver's answer to a record that `asks`. -EPROTO:
     * it is not one to this record. NULL: no record of this source asks. */
    int (*need)(void *source, const struct stream_work *work, const struct wire_need *need, struct err *err);
    /* Called exactly once for every record that take made, in the order of each connection. Worker
     * thread: the record was acknowledged (error 0). The thread that settles or destroys the
     * stream: it was taken after all (0), it was not (-ECONNRESET), nobody knows (-ECANCELED).
     * type, length and cookie are as take left them, the buffers are NULL. Cheap; must not call
     * back into the stream except stream_kick. */
    void (*done)(void *source, const struct stream_work *work, int error);
};

struct stream;

/* Who waits for a processor for a moment gets it from a worker, of either end, between so many records: guests' disks are served by such.
 * After each of them the guest's writes would be served one by one, which takes more of the processor in all (docs/performance.md). */
#define STREAM_YIELD_RECORDS 2

struct stream_config {
    uint32_t window_records; /* most records in flight per connection (default 32 when 0) */
    uint64_t window_bytes;   /* most octets in flight per connection (default 4 MiB when 0) */
    enum compress_mode compress;
    /* NULL, or: HELLO was sent on the connections that are added, and nobody waits for its answer. Worker thread, once for each: the
     * answer is `record`; the data connection stands with 0. */
    int (*greeted)(void *data, struct conn *c, const struct record *record, struct err *err);
    uint64_t answer_timeout_ns; /* longest silence of a peer that has records to acknowledge, then
                                   -ETIMEDOUT (default 60 s when 0) */
    /* Worker thread, once: the first error of any worker. The stream is then failed for good: all
     * workers leave, and what was in flight stays unanswered until it is settled or destroyed. */
    void (*failed)(void *data, const struct err *err);
    void *data;
};

/* The sender's side. Connections are taken over one by one by stream_add; each starts a worker.
 * When it fails (as the stream has already, or -ECANCELED: it was halted) the connection stays the
 * caller's. */
int stream_create(struct stream **ret, const struct stream_config *config, struct err *err);
int stream_add(struct stream *s, struct conn *c, struct err *err);

/* Registers a source; all are asked in turn. Thread-safe. The source must outlive the
 * stream. */
int stream_attach(struct stream *s, const struct stream_source_ops *ops, void *source,
                  struct err *err);

/* Wakes workers that found nothing. Thread-safe, cheap. */
void stream_kick(struct stream *s);

/* Octets sent on all data connections. Thread-safe. */
uint64_t stream_bytes_sent(const struct stream *s);

/* From now on all connections together send at most so many octets a second; 0: no limit, as at
 * first. Thread-safe, at once. */
void stream_set_rate(struct stream *s, uint64_t bytes_per_second);

/* Ends the workers of a stream, failed or not: shuts connections down and joins, and `failed` is
 * not called for that. Records in flight stay unanswered. May be called again. */
void stream_halt(struct stream *s);

/* After stream_halt, once for each connection, by its number in the order of stream_add: its peer
 * says that it took the first `taken` records of it. They are done (0), the others are done
 * (-ECONNRESET), and so is a record that asked when no acknowledgement came: its answer is lost.
 * -EPROTO, and nothing is settled: less than were acknowledged, or more than were sent. */
int stream_settle(struct stream *s, unsigned int connection, uint64_t taken, struct err *err);

/* Halts it; calls done(-ECANCELED) for what was not settled; destroys the connections. */
void stream_destroy(struct stream *s);

/* The receiver's side: runs in the calling thread until the peer closes (0 when nothing was cut in
 * the middle of a record), or an error. `take` handles one record (data types only); when it
 * returns 0 the record is taken, and acknowledged. Acknowledgements are batched while more input is
 * pending. `need` is empty; blocks that take sets in it are sent as NEED before the acknowledgement.
 * *ret_taken: records taken, also when it fails. */
int stream_receive(struct conn *c,
                   int (*take)(void *data, const struct record *record, struct wire_need *need, struct err *err),
                   void *data, uint64_t *ret_taken, struct err *err);

#endif
