/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The first words of a peer at the receiver: HELLO, and what a connection for recovery asks for. The input is JSON: "hello", "then"
 * (the second message, of the type "type", or none). The first octet: 1 a migration is there already, 2 the receiver is full. Every connection ends up with
 * one owner, whoever it is given to, and is destroyed once. */
#include "fake-tls.h"
#include "fuzz-json.h"

#include "session/recover.h"
#include "session/registry.h"
#include "session/target.h"

static unsigned int destroyed, taken_over;
static void fake_destroy(struct conn *c);
#define conn_destroy fake_destroy
#include "session/answer.c"
#undef AREA
#include "session/server.c"
#undef conn_destroy

static struct target *const there = (struct target *)&there;
static bool is_there, no_room;

static void fake_destroy(struct conn *c)
{
    destroyed++;
    conn_destroy(c);
}

static void take_over(struct conn *c)
{
    taken_over++;
    conn_destroy(c);
}

static void check_session_text(const char *session)
{
    CHECK(strlen(session) == SESSION_LEN && !session[strspn(session, "0123456789abcdef")]);
}

int target_create(struct target **ret, const struct server_config *config, const char *session, struct conn *control,
                  struct err *err)
{
    check_session_text(session);
    take_over(control);
    *ret = there;
    return 0;
}

int target_create_again(struct target **ret, const struct server_config *config, const char *session, struct conn *control,
                        unsigned int drops, struct err *err)
{
    CHECK(drops <= UINT16_MAX);
    return target_create(ret, config, session, control, err);
}

int target_find_again(const char *state_dir, const char *session, const char *fingerprint, struct err *err)
{
    check_session_text(session);
    return session[0] == '0' ? 0 : err_set(err, -ENOENT, "no such migration");
}

void target_destroy(struct target *t)
{
}

int target_run(struct target *t, struct err *err)
{
    return err_set(err, -EPROTO, "pretended");
}

int target_check_only(struct target *t, struct err *err)
{
    return 0;
}

int target_data(struct target *t, struct conn *c, unsigned int number, unsigned int drops, struct err *err)
{
    CHECK(number <= UINT16_MAX && drops <= UINT16_MAX);
    return 0;
}

void target_resume(struct target *t, struct conn *control, unsigned int drops)
{
    CHECK(drops <= UINT16_MAX);
    take_over(control);
}

enum switchover_state target_state(struct target *t)
{
    return SW_PREPARED;
}

void target_forget(struct target *t)
{
}

void target_dissolve(struct target *t)
{
}

const char *target_guest(const struct target *t)
{
    return "vm1";
}

const char *target_session(const struct target *t)
{
    return "";
}

const char *target_fingerprint(const struct target *t)
{
    return "";
}

void target_cancel(struct target *t)
{
}

void target_refuse(struct target *t, const struct err *why)
{
    CHECK(why->code < 0 && *why->text);
}

void target_set_admission(struct target *t, int (*admit)(void *data, enum target_place what, struct err *err), void *data)
{
}

int door_greeted(struct door *d, int entry, bool control, struct err *err)
{
    return no_room ? err_set(err, -EBUSY, "no room") : 0;
}

bool door_may_log(struct door *d)
{
    return true;
}

int door_create(struct door **ret, const struct door_config *config, struct err *err) { abort(); }
void door_destroy(struct door *d) { abort(); }
int door_fd(const struct door *d) { abort(); }
uint64_t door_work(struct door *d) { abort(); }
bool door_accept(struct door *d, int listener) { abort(); }
void door_close(struct door *d) { abort(); }
int door_authorized(struct door *d, int entry, const char *fingerprint, struct err *err) { abort(); }
void door_leave(struct door *d, int entry) { abort(); }

struct target *registry_find(struct registry *g, const char *session, const char *fingerprint)
{
    check_session_text(session);
    return is_there ? there : NULL;
}

void registry_put(struct registry *g, struct target *t)
{
}

int registry_enroll(struct registry *g, struct target *t, struct err *err)
{
    return is_there ? err_set(err, -EEXIST, "there is one") : 0;
}

void registry_withdraw(struct registry *g, struct target *t)
{
}

bool registry_wait_gone(struct registry *g, const char *session, uint64_t timeout_ns)
{
    return true;
}

void registry_init(struct registry *g)
{
}

void registry_finish(struct registry *g)
{
}

void registry_close(struct registry *g)
{
}

int recover_answer(const char *state_dir, const char *session, const char *fingerprint, const struct journal_entry *asked,
                   bool *ret_here, struct err *err)
{
    check_session_text(session);
    CHECK(strnlen(asked->name, sizeof(asked->name)) < sizeof(asked->name) && !asked->guest && !asked->volume_count);
    *ret_here = session[0] == '1';
    return 0;
}

int recover_forget(const char *state_dir, const char *session, const char *fingerprint, struct err *err)
{
    check_session_text(session);
    return 0;
}

int recover_run(const struct recover_config *config, struct recover_count *ret, struct err *err)
{
    return 0;
}

static size_t put(uint8_t *to, size_t room, uint16_t type, uint64_t sequence, const json_t *message)
{
    size_t length = message ? json_dumpb(message, (char *)to + WIRE_HEADER_SIZE, room - WIRE_HEADER_SIZE, JSON_ENCODE_ANY) : 0;
    struct wire_header h = {.type = type, .length = (uint32_t)length, .sequence = sequence};

    if (!message || length > room - WIRE_HEADER_SIZE)
        return 0;
    wire_put_header(to, &h);
    return WIRE_HEADER_SIZE + length;
}

static void meet(struct input in)
{
    static const struct server_config config = {.state_dir = "/var/lib/xmotion"};
    static struct server s = {.config = &config, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct err err;

    if (!s.loop)
        CHECK(loop_create(&s.loop, &err) == 0);
    destroyed = taken_over = 0;
    serve_peer(&s, fake_conn(in, 0), 0);
    CHECK(destroyed + taken_over == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *json = size > 1 ? fuzz_load(data + 1, size - 1) : NULL;
    uint16_t type = (uint16_t)json_integer_value(json_object_get(json, "type"));
    static uint8_t octets[1u << 17];
    size_t length;

    log_set_level(LOG_ERROR);
    if (json) {
        is_there = data[0] & 1;
        no_room = data[0] & 2;
        length = put(octets, sizeof(octets) / 2, WIRE_HELLO, 0, json_object_get(json, "hello"));
        length += put(octets + length, sizeof(octets) / 2, type, 1, json_object_get(json, "then"));
        meet((struct input){octets, length});
    }
    json_decref(json);
    return 0;
}
