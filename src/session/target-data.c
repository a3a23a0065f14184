/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The data connections of a migration at its target, each in a thread of its own. */
#include "session/target-priv.h"

#include <string.h>

static int take(void *data, const struct record *record, struct err *err)
{
    struct target *t = data;
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
        r = mirror_target_write(t->disks[head.disk], &head, record->body + WIRE_DISK_HEAD_SIZE, payload, err);
    return r;
}

static int enter(struct target *t, struct conn *c, unsigned int *ret_slot, struct err *err)
{
    int r = 0;

    pthread_mutex_lock(&t->lock);
    if (!t->accepting)
        r = err_set(err, -EPROTO, "a data connection that nobody waits for");
    for (*ret_slot = 0; r == 0 && *ret_slot < TARGET_CONNECTIONS_MAX && t->data[*ret_slot]; (*ret_slot)++)
        ;
    if (r == 0 && *ret_slot == TARGET_CONNECTIONS_MAX)
        r = err_set(err, -EPROTO, "more than %d data connections", TARGET_CONNECTIONS_MAX);
    if (r == 0) {
        t->data[*ret_slot] = c;
        t->data_count++;
    }
    pthread_mutex_unlock(&t->lock);
    return r;
}

static void leave(struct target *t, unsigned int slot)
{
    pthread_mutex_lock(&t->lock);
    t->data[slot] = NULL;
    t->data_count--;
    pthread_cond_broadcast(&t->left);
    pthread_mutex_unlock(&t->lock);
}

int target_data(struct target *t, struct conn *c, struct err *err)
{
    unsigned int slot;
    int r = enter(t, c, &slot, err);

    if (r < 0)
        return r;
    conn_set_max_body(c, WIRE_DATA_MAX);
    conn_set_timeout(c, UINT64_MAX); /* idle data connections are normal; the control connection watches the peer */
    r = control_answer_hello(c, err);
    if (r == 0)
        r = stream_receive(c, take, t, err);
    if (r < 0 && r != -ECANCELED)
        target_fail(t, err);
    leave(t, slot);
    return r;
}

void target_end_data(struct target *t)
{
    pthread_mutex_lock(&t->lock);
    t->accepting = false;
    if (t->pages)
        page_target_cancel(t->pages);
    for (unsigned int i = 0; i < TARGET_CONNECTIONS_MAX; i++) {
        if (t->data[i])
            conn_shutdown(t->data[i]);
    }
    while (t->data_count)
        pthread_cond_wait(&t->left, &t->lock);
    pthread_mutex_unlock(&t->lock);
}
