/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The data connections of a migration at its target, each in a thread of its own. */
#include "session/target-priv.h"

#include <string.h>

static int take_record(struct target *t, const struct record *record, struct wire_need *need, struct err *err)
{
    struct wire_disk_head head;
    struct page_target *pages;
    const uint8_t *payload;
    int r;

    if (record->type == WIRE_MEMORY_PAGES) {
        pthread_mutex_lock(&t->lock);
        pages = t->pages;
        pthread_mutex_unlock(&t->lock);
        return pages ? page_target_take(pages, record, err)
                     : err_set(err, -EPROTO, "memory pages before the memory was begun");
    }
    r = wire_check_disk_data(record->body, record->length, t->disk_sizes, t->guest.disk_count, &head, &payload, err);
    if (r == 0)
        r = mirror_target_write(t->disks[head.disk], &head, record->body + WIRE_DISK_HEAD_SIZE, payload, need, err);
    return r;
}

/* A pipe or a disk of this host that fails like a connection is none. */
static int take(void *data, const struct record *record, struct wire_need *need, struct err *err)
{
    int r = take_record(data, record, need, err);

    return conn_error_is_drop(r) ? err_prefix(err, -EIO, "at the target") : r;
}

/* A place for it, which it may have to wait in until the disks are ready. Under the lock. */
static int take_place(struct target *t, struct conn *c, unsigned int number, unsigned int drops, struct err *err)
{
    if (t->data_state == DATA_OVER || drops != t->drops)
        return err_set(err, -EPROTO, "a data connection that nobody waits for");
    if (number >= TARGET_CONNECTIONS_MAX || t->data[number])
        return err_set(err, -EPROTO, "data connection %u: expected a number below %d, each once", number,
                       TARGET_CONNECTIONS_MAX);
    t->data[number] = c;
    t->data_count++;
    while (t->data_state == DATA_TO_COME)
        pthread_cond_wait(&t->data_changed, &t->lock);
    if (t->data_state == DATA_ACCEPTED)
        return 0;
    t->data[number] = NULL;
    t->data_count--;
    pthread_cond_broadcast(&t->data_changed);
    return err_set(err, -ECANCELED, "the migration has ended");
}

static int enter(struct target *t, struct conn *c, unsigned int number, unsigned int drops, struct err *err)
{
    int r;

    pthread_mutex_lock(&t->lock);
    r = take_place(t, c, number, drops, err);
    /* Whoever opens data connections has heard RESUMED: what it said is settled, and counts begin anew. */
    if (r == 0 && t->unheard) {
        memset(t->taken, 0, sizeof(t->taken));
        t->unheard = t->fresh = false;
    }
    if (r == 0)
        t->taken[number] = 0;
    pthread_mutex_unlock(&t->lock);
    return r;
}

static void leave(struct target *t, unsigned int number, uint64_t taken, int error)
{
    pthread_mutex_lock(&t->lock);
    t->data[number] = NULL;
    t->taken[number] = taken;
    t->data_count--;
    /* One that ends between two records is the sender's to end, but not while it still sends. */
    if (error == 0 ? t->data_state == DATA_ACCEPTED : conn_error_is_drop(error))
        t->data_dropped = true;
    pthread_cond_broadcast(&t->data_changed);
    pthread_mutex_unlock(&t->lock);
}

int target_data(struct target *t, struct conn *c, unsigned int number, unsigned int drops, struct err *err)
{
    uint64_t taken = 0;
    int r = enter(t, c, number, drops, err);

    if (r < 0)
        return r;
    conn_set_max_body(c, WIRE_DATA_MAX);
    conn_set_timeout(c, UINT64_MAX); /* idle data connections are normal; the control connection watches the peer */
    r = control_answer_hello(c, err);
    if (r == 0)
        r = stream_receive(c, take, t, &taken, err);
    if (conn_error_is_drop(r)) {
        pthread_mutex_lock(&t->lock);
        t->data_dropped = true;
        pthread_mutex_unlock(&t->lock);
    }
    if (r < 0 && r != -ECANCELED)
        target_fail(t, err);
    leave(t, number, taken, r);
    return r;
}

void target_accept_data(struct target *t)
{
    pthread_mutex_lock(&t->lock);
    t->data_state = DATA_ACCEPTED;
    pthread_cond_broadcast(&t->data_changed);
    pthread_mutex_unlock(&t->lock);
}

void target_end_data(struct target *t)
{
    pthread_mutex_lock(&t->lock);
    t->data_state = DATA_OVER;
    pthread_cond_broadcast(&t->data_changed);
    if (t->pages)
        page_target_cancel(t->pages);
    for (unsigned int i = 0; i < TARGET_CONNECTIONS_MAX; i++) {
        if (t->data[i])
            conn_shutdown(t->data[i]);
    }
    while (t->data_count)
        pthread_cond_wait(&t->data_changed, &t->lock);
    pthread_mutex_unlock(&t->lock);
}
