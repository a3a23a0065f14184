/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* hv-xen with an agent that is this program again: what it asks, what it does with events, and with
 * an agent's death. */
#include "hv/agent.h"
#include "hv/hv-recover.h"
#include "unit.h"

#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/xmotion-hv-xen.XXXXXX";

/* The agent's half */

static void tell(json_t *message)
{
    (void)agent_send(3, message, -1, NULL);
    json_decref(message);
}

static json_t *guest(void)
{
    return json_pack("{s:s,s:s,s:s,s:i,s:i,s:[{s:s,s:s,s:s,s:i,s:i,s:b}],s:{}}", "kind", "xen-pvh",
                     "name", "vm1", "uuid", "1-2", "memory", 1 << 20, "max_pfn", 1000, "disks",
                     "vbd", "xvda", "path", "/dev/vg0/vm1", "label", "/dev/vg0/vm1", "size", 4096,
                     "sector_size", 512, "read_only", 0, "config");
}

static bool exists(const char *name)
{
    char path[PATH_MAX];

    (void)snprintf(path, sizeof(path), "%s/%s", getenv("XMOTION_LIBEXEC_DIR"), name);
    return !access(path, F_OK);
}

static bool says(const json_t *request, const char *key, const char *value)
{
    const char *text = json_string_value(json_object_get(request, key));

    return text && !strcmp(text, value);
}

/* Right for the guest vm1 of the UUID 1-2 alone. */
static void answer_recover(const char *what, const json_t *request)
{
    const json_t *paths = json_object_get(request, "paths");
    bool start = !strcmp(what, "recover-start");

    if (!says(request, "name", "vm1") || (!start && !says(request, "uuid", "1-2")))
        tell(json_pack("{s:s,s:s,s:i}", "reply", what, "error", "another guest", "errno", ENOENT));
    else if (start && (json_array_size(paths) != 2 || strcmp(json_string_value(json_array_get(paths, 1)), "/dev/b") != 0 ||
                       !says(json_object_get(request, "config"), "libxl", "{}")))
        tell(json_pack("{s:s,s:s,s:i}", "reply", what, "error", "not as it was said", "errno", EINVAL));
    else if (!strcmp(what, "recover-find"))
        tell(json_pack("{s:s,s:b,s:b}", "reply", what, "still", 1, "incoming", 1));
    else
        tell(json_pack("{s:s}", "reply", what));
}

static void answer(const char *what, const json_t *request)
{
    if (!strcmp(what, "describe") &&
        strcmp(json_string_value(json_object_get(request, "guest")), "nobody") != 0)
        tell(json_pack("{s:s,s:o,s:i}", "reply", what, "guest", guest(), "domid", 7));
    else if (!strcmp(what, "describe"))
        tell(json_pack("{s:s,s:s,s:i}", "reply", what, "error", "no domain \"nobody\" here",
                       "errno", ENOENT));
    else if (!strcmp(what, "resume") && exists("die"))
        _exit(1);
    else if (!strncmp(what, "recover-", 8))
        answer_recover(what, request);
    else if (!strcmp(what, "throttle"))
        tell(json_integer_value(json_object_get(request, "percent")) == 40
                 ? json_pack("{s:s}", "reply", what)
                 : json_pack("{s:s,s:s,s:i}", "reply", what, "error", "not 40", "errno", EINVAL));
    else if (!strcmp(what, "policy"))
        tell(json_pack("{s:s,s:i}", "event", "suspended", "ns", 5));
    else
        tell(json_pack("{s:s}", "reply", what));
}

/* An event comes before the answer, as it may. */
static void before(const char *what)
{
    if (!strcmp(what, "save"))
        tell(json_pack("{s:s,s:{s:b,s:i,s:i,s:i}}", "event", "policy", "policy", "before_round", 1,
                       "iteration", 0, "total_written", 0, "dirty_pages", 99));
    if (!strcmp(what, "check"))
        tell(json_pack("{s:s,s:s}", "event", "gone", "text", "the guest shut down"));
}

static int be_agent(void)
{
    json_t *request;
    int fd;

    while (!agent_recv(3, -1, &request, &fd, NULL)) {
        const char *what = json_string_value(json_object_get(request, "do"));

        before(what);
        answer(what, request);
        if (fd >= 0)
            close(fd);
        json_decref(request);
    }
    return 0;
}

/* The tests */

static struct hv_source *open_source(void)
{
    struct hv_source *s = NULL;
    struct err err = {0};

    ck_assert_msg(hv_source_open_xen(&s, "vm1", &err) == 0, "%s", err.text);
    return s;
}

/* Waits as a loop does: an event that was kept must make the descriptor readable. */
static struct hv_event next_event(struct hv_source *s)
{
    struct pollfd p = {.fd = s->ops->fd(s), .events = POLLIN};
    struct hv_event event;
    int rc;

    do {
        ck_assert_int_eq(poll(&p, 1, 5000), 1);
        rc = s->ops->next_event(s, &event, NULL);
    } while (rc == -EAGAIN);
    ck_assert_int_eq(rc, 0);
    return event;
}

static void touch(const char *name)
{
    char path[PATH_MAX];
    FILE *f;

    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fclose(f);
}

static void forget(const char *name)
{
    char path[PATH_MAX];

    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    unlink(path);
}

START_TEST(a_guest_is_described)
{
    struct hv_source *s = open_source();
    const struct hv_guest *g = s->ops->guest(s);

    ck_assert_str_eq(g->name, "vm1");
    ck_assert_uint_eq(g->disk_count, 1);
    ck_assert_str_eq(g->disks[0].path, "/dev/vg0/vm1");
    s->ops->close(s);
}
END_TEST

START_TEST(an_unknown_guest_is_told)
{
    struct hv_source *s;
    struct err err;

    ck_assert_int_eq(hv_source_open_xen(&s, "nobody", &err), -ENOENT);
    ck_assert_str_eq(err.text, "no domain \"nobody\" here");
}
END_TEST

START_TEST(events_before_an_answer_are_kept)
{
    struct hv_source *s = open_source();
    struct hv_event event;
    int fd;

    ck_assert_int_eq(s->ops->check(s, NULL), 0);
    ck_assert_int_eq(s->ops->memory_begin(s, &fd, NULL, NULL), 0);
    event = next_event(s);
    ck_assert_int_eq(event.kind, HV_GONE);
    ck_assert_str_eq(event.text, "the guest shut down");
    event = next_event(s);
    ck_assert_int_eq(event.kind, HV_POLICY);
    ck_assert(event.before_round);
    ck_assert_int_eq(event.dirty_pages, 99);
    ck_assert_int_eq(s->ops->next_event(s, &event, NULL), -EAGAIN);
    ck_assert_int_eq(s->ops->policy_answer(s, HV_STOP, NULL), 0);
    event = next_event(s);
    ck_assert_int_eq(event.kind, HV_SUSPENDED);
    ck_assert_uint_eq(event.duration_ns, 5);
    close(fd);
    s->ops->close(s);
}
END_TEST

START_TEST(another_agent_resumes_when_one_died)
{
    struct hv_source *s = open_source();
    struct hv_event event;

    touch("die");
    ck_assert_int_eq(s->ops->resume(s, NULL), -ECONNRESET); /* the second one dies too */
    forget("die");
    ck_assert_int_eq(s->ops->resume(s, NULL), 0);
    ck_assert_int_eq(s->ops->resume(s, NULL), 0);
    ck_assert_int_eq(s->ops->next_event(s, &event, NULL), -EAGAIN);
    s->ops->close(s);
}
END_TEST

START_TEST(a_target_takes_its_name_and_disks)
{
    static const char *const paths[] = {"/dev/vg1/vm1"};
    struct hv_source *s = open_source();
    struct hv_target *t;
    uint64_t ns;
    int fd;

    ck_assert_int_eq(hv_target_open_xen(&t, s->ops->guest(s), NULL), 0);
    ck_assert_int_eq(t->ops->check(t, NULL), 0);
    ck_assert_int_eq(t->ops->memory_begin(t, paths, &fd, NULL, NULL), 0);
    ck_assert_int_eq(t->ops->run(t, NULL, &ns, NULL), 0);
    close(fd);
    t->ops->close(t);
    s->ops->close(s);
}
END_TEST

/* Of a save that was ended nothing is heard any more, but the guest's end is. */
START_TEST(a_save_begins_anew)
{
    struct hv_source *s = open_source();
    struct hv_event event;
    int fd;

    ck_assert_int_eq(s->ops->check(s, NULL), 0);
    ck_assert_int_eq(s->ops->memory_begin(s, &fd, NULL, NULL), 0);
    close(fd);
    ck_assert_int_eq(s->ops->resume(s, NULL), 0);
    ck_assert_int_eq(next_event(s).kind, HV_GONE);
    ck_assert_int_eq(s->ops->next_event(s, &event, NULL), -EAGAIN);
    ck_assert_int_eq(s->ops->memory_begin(s, &fd, NULL, NULL), 0);
    ck_assert_int_eq(next_event(s).kind, HV_POLICY);
    close(fd);
    s->ops->close(s);
}
END_TEST

START_TEST(a_guest_is_slowed_down)
{
    struct hv_source *s = open_source();
    struct err err;

    ck_assert_int_eq(s->ops->throttle(s, 40, &err), 0);
    ck_assert_int_eq(s->ops->throttle(s, 41, &err), -EINVAL);
    ck_assert_str_eq(err.text, "not 40");
    s->ops->close(s);
}
END_TEST

START_TEST(recovery_asks_the_agent)
{
    static const char *const paths[] = {"/dev/a", "/dev/b"};
    json_t *config = json_pack("{s:s}", "libxl", "{}");
    struct hv_found f;
    struct err err;

    ck_assert_int_eq(hv_recover_find(&f, "xen-pvh", "vm1", "1-2", &err), 0);
    ck_assert(!f.running && f.still && !f.aside && f.incoming);
    ck_assert_int_eq(hv_recover_find(&f, "xen-pvh", "vm1", "1-3", &err), -ENOENT);
    ck_assert_str_eq(err.text, "another guest");
    ck_assert_int_eq(hv_recover_resume("xen-pv", "vm1", "1-2", &err), 0);
    ck_assert_int_eq(hv_recover_resume("xen-pv", "vm2", "1-2", &err), -ENOENT);
    ck_assert_int_eq(hv_recover_destroy_aside("xen-hvm", "vm1", "1-2", &err), 0);
    ck_assert_int_eq(hv_recover_unthrottle("xen-hvm", "vm1", "1-2", &err), 0);
    ck_assert_int_eq(hv_recover_destroy_incoming("xen-hvm", "vm1", "1-2", &err), 0);
    ck_assert_int_eq(hv_recover_start("xen-pvh", "vm1", config, paths, 2, &err), 0);
    ck_assert_int_eq(hv_recover_start("xen-pvh", "vm1", config, paths, 1, &err), -EINVAL);
    json_decref(config);
}
END_TEST

/* The agent's program is this one, under the agent's name. */
static void make_folder(void)
{
    char self[PATH_MAX], path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    self[n > 0 ? n : 0] = '\0';
    if (!mkdtemp(folder))
        abort();
    (void)snprintf(path, sizeof(path), "%s/xmotion-xen", folder);
    if (symlink(self, path) || setenv("XMOTION_LIBEXEC_DIR", folder, 1))
        abort();
}

int main(int argc, char **argv)
{
    const TTest *const tests[] = {
        a_guest_is_described, an_unknown_guest_is_told, events_before_an_answer_are_kept,
        another_agent_resumes_when_one_died, a_target_takes_its_name_and_disks, a_save_begins_anew,
        a_guest_is_slowed_down, recovery_asks_the_agent};
    int rc;

    if (argc == 3 && !strcmp(argv[1], "--control"))
        return be_agent();
    make_folder();
    rc = unit_run("hv-xen", tests, sizeof(tests) / sizeof(tests[0]));
    forget("xmotion-xen");
    rmdir(folder);
    return rc;
}
