/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Identities, whom they trust and authorize, and the spelling of addresses. */
#include "transport-pair.h"

#include <sys/stat.h>
#include <sys/wait.h>

START_TEST(identity_is_kept)
{
    struct host h;
    struct identity *again;
    struct err err;

    host_make(&h);
    ck_assert_uint_eq(strlen(identity_fingerprint(h.id)), IDENTITY_FINGERPRINT_LEN);
    ck_assert_int_eq(identity_load(&again, &(struct identity_config){.state_dir = h.dir}, &err), 0);
    ck_assert_str_eq(identity_fingerprint(h.id), identity_fingerprint(again));
    identity_destroy(again);
    host_remove(&h);
}
END_TEST

START_TEST(identity_race)
{
    struct host h = {.dir = "/tmp/xmotion-unit-XXXXXX"};
    char text[8][IDENTITY_FINGERPRINT_LEN];
    struct err err;
    int fds[2];

    ck_assert_ptr_nonnull(mkdtemp(h.dir));
    ck_assert_int_eq(pipe(fds), 0);
    for (int i = 0; i < 8; i++)
        if (fork() == 0) {
            if (identity_load(&h.id, &(struct identity_config){.state_dir = h.dir}, &err) < 0)
                _exit(1);
            (void)!write(fds[1], identity_fingerprint(h.id), IDENTITY_FINGERPRINT_LEN);
            _exit(0);
        }
    for (int i = 0, status; i < 8; i++) {
        ck_assert_int_gt(wait(&status), 0);
        ck_assert_int_eq(status, 0);
    }
    ck_assert_int_eq(fd_read_full(fds[0], text, sizeof(text)), 0);
    for (int i = 1; i < 8; i++)
        ck_assert_mem_eq(text[0], text[i], sizeof(text[0]));
    host_remove(&h);
}
END_TEST

START_TEST(identity_refuses)
{
    struct identity_config config = {0};
    struct identity *id = NULL;
    struct host h;
    char key[128];
    struct err err;

    host_make(&h);
    config.state_dir = h.dir;
    (void)snprintf(key, sizeof(key), "%s/identity.key", h.dir);
    ck_assert_int_eq(chmod(key, 0640), 0);
    ck_assert_int_eq(identity_load(&id, &config, &err), -EPERM);
    ck_assert_ptr_nonnull(strstr(err.text, "chmod 600"));
    ck_assert_int_eq(chmod(key, 0600), 0);
    ck_assert_int_eq(chmod(h.dir, 0770), 0);
    ck_assert_int_eq(identity_load(&id, &config, &err), -EPERM);
    ck_assert_int_eq(chmod(h.dir, 0700), 0);
    config.ca = "/nowhere";
    ck_assert_int_eq(identity_load(&id, &config, &err), -EINVAL);
    config.ca = NULL;
    host_write(&h, "identity.crt", "no certificate");
    ck_assert_int_eq(identity_load(&id, &config, &err), -EINVAL);
    ck_assert_int_eq(unlink(key), 0);
    ck_assert_int_eq(identity_load(&id, &config, &err), -ENOENT);
    host_write(&h, "identity.key", "no key");
    ck_assert_int_eq(identity_load(&id, &config, &err), -EINVAL);
    host_remove(&h);
}
END_TEST

START_TEST(authorize_checks)
{
    char fingerprint[IDENTITY_FINGERPRINT_LEN + 2], path[128];
    CLEANUP_FREE char *list = NULL;
    struct host h;
    struct err err;
    size_t len;

    host_make(&h);
    strcpy(fingerprint, identity_fingerprint(h.id));
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(identity_authorize(h.id, fingerprint, "host A", &err), 0);
    (void)snprintf(path, sizeof(path), "%s/authorized", h.dir);
    ck_assert_int_eq(file_read(path, 1000, &list, &len), 0);
    ck_assert_uint_eq(len, IDENTITY_FINGERPRINT_LEN + strlen(" host A\n"));
    ck_assert_int_eq(identity_authorize(h.id, fingerprint, "two\nlines", &err), -EINVAL);
    ck_assert_int_eq(identity_authorize(h.id, "", NULL, &err), -EINVAL);
    ck_assert_int_eq(identity_authorize(h.id, "SHA256:", NULL, &err), -EINVAL);
    fingerprint[70] = 'A';
    ck_assert_int_eq(identity_authorize(h.id, fingerprint, NULL, &err), -EINVAL);
    fingerprint[70] = '\0';
    ck_assert_int_eq(identity_authorize(h.id, fingerprint, NULL, &err), -EINVAL);
    strcpy(fingerprint + 70, "00");
    ck_assert_int_eq(identity_authorize(h.id, fingerprint, NULL, &err), -EINVAL);
    host_remove(&h);
}
END_TEST

static void probe(struct pair *p, const char *expected, bool replace, int result)
{
    char fingerprint[IDENTITY_FINGERPRINT_LEN + 1];
    struct acceptor a;
    struct err err = {0};
    int r;

    acceptor_start(&a, p->listener, p->receiver.id);
    r = identity_trust(p->sender.id, p->address, expected, replace, fingerprint, &err);
    ck_assert_msg(r == result, "%d: %s", r, err.text);
    ck_assert_str_eq(fingerprint, identity_fingerprint(p->receiver.id));
    if (acceptor_join(&a) == 0)
        conn_destroy(a.conn);
}

START_TEST(trust_is_stored)
{
    struct conn *client, *server;
    char line[400];
    struct pair p;

    pair_make(&p);
    host_write(&p.sender, "trusted", "# one\ndamaged line\nother:7799 SHA256:00\n");
    probe(&p, NULL, false, 0);
    probe(&p, NULL, false, 0);
    pair_connect(&p, &client, &server);
    conn_destroy(client);
    conn_destroy(server);
    /* Another certificate was trusted before; another is expected. */
    (void)snprintf(line, sizeof(line), "%s %s\n", p.address, identity_fingerprint(p.sender.id));
    host_write(&p.sender, "trusted", line);
    probe(&p, NULL, false, -EEXIST);
    probe(&p, identity_fingerprint(p.sender.id), true, -EACCES);
    probe(&p, identity_fingerprint(p.receiver.id), true, 0);
    pair_connect(&p, &client, &server);
    conn_destroy(client);
    conn_destroy(server);
    pair_remove(&p);
}
END_TEST

START_TEST(addresses)
{
    static const char *const good[][2] = {
        {"hostB", "hostb:7799"},
        {"hostB:1", "hostb:1"},
        {"10.0.0.1:007", "10.0.0.1:7"},
        {"[::1]:80", "[::1]:80"},
        {"::1", "[::1]:7799"},
        {"[0:0::1]", "[::1]:7799"},
        {"fe80::1%eth0", "[fe80::1%eth0]:7799"},
        {"[FE80:0::1%Eth0.7]", "[fe80::1%Eth0.7]:7799"},
    };
    static const char *const bad[] = {"",        ":80",       "host:", "host:0", "host:65536",
                                      "host:-1", "host:8o",   "a b",   "a\nb",   "[::1",
                                      "[::1]x",  "[name]:80", "a:b:c", "host#x", "h/x",
                                      "[%]",     "[a%b]",     "[fe80::1%]", "[fe80::1%a b]", "[fe80::1%abcdefghijklmnop]"};
    char canonical[CONN_ADDRESS_MAX];
    struct err err;

    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        ck_assert_msg(conn_canonical_address(good[i][0], canonical, &err) == 0, "%s", good[i][0]);
        ck_assert_str_eq(canonical, good[i][1]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        ck_assert_msg(conn_canonical_address(bad[i], canonical, &err) == -EINVAL, "%s", bad[i]);
}
END_TEST

UNIT_MAIN("identity", identity_is_kept, identity_race, identity_refuses, authorize_checks,
          trust_is_stored, addresses)
