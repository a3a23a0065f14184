/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The lists `trusted` and `authorized` of the state folder, read and changed: no line may ever give leave to somebody who is not
 * named in it, nor be lost when another is written. The first octet chooses the list, the second line of the input is whom it is asked for.
 * fuzz: -max_len=1500 */
#include "fuzz.h"

static int fake_read(const char *path, size_t max, char **ret, size_t *ret_len);
static int fake_replace(const char *path, const void *data, size_t len);
#define file_read    fake_read
#define file_replace fake_replace
#include "transport/trust.c"

#define SOMEBODY "SHA256:1111111111111111111111111111111111111111111111111111111111111111"
#define OTHER    "SHA256:2222222222222222222222222222222222222222222222222222222222222222"

static char *list;
static size_t list_length;

static int fake_read(const char *path, size_t max, char **ret, size_t *ret_len)
{
    *ret = malloc(list_length + 1);
    CHECK(*ret);
    memcpy(*ret, list, list_length);
    (*ret)[list_length] = '\0';
    return 0;
}

static int fake_replace(const char *path, const void *data, size_t len)
{
    free(list);
    list = malloc(len + 1);
    CHECK(list);
    memcpy(list, data, len);
    list[len] = '\0';
    list_length = len;
    return 0;
}

int identity_lock(const char *dir, int *ret_fd, struct err *err)
{
    *ret_fd = -1;
    return 0;
}

int identity_path(const char *dir, const char *name, char *ret, struct err *err)
{
    (void)snprintf(ret, PATH_MAX, "%s/%s", dir, name);
    return 0;
}

int tls_probe(const struct identity *id, const char *address, uint64_t timeout_ns,
              char ret_fingerprint[IDENTITY_FINGERPRINT_LEN + 1], struct err *err)
{
    strcpy(ret_fingerprint, SOMEBODY);
    return 0;
}

/* What the list says of an address that the changes are not about. */
static int neighbour(const struct identity *id, char ret[IDENTITY_FINGERPRINT_LEN + 1])
{
    ret[0] = '\0';
    return trust_look_up(id, "b:7799", ret, NULL);
}

static void check_trusted(const struct identity *id, const char *address, bool replace)
{
    char shown[IDENTITY_FINGERPRINT_LEN + 1], now[IDENTITY_FINGERPRINT_LEN + 1], canonical[CONN_ADDRESS_MAX];
    char before[IDENTITY_FINGERPRINT_LEN + 1], after[IDENTITY_FINGERPRINT_LEN + 1];
    struct err err = {0};
    int had;

    if (conn_canonical_address(address, canonical, NULL) < 0)
        return;
    had = neighbour(id, before);
    if (trust_look_up(id, canonical, now, &err) == 0)
        CHECK(trust_is_fingerprint(now) && strstr(list, canonical) && strstr(list, now));
    if (identity_trust(id, address, NULL, replace, shown, &err) == 0) {
        CHECK(trust_look_up(id, canonical, now, &err) == 0 && strcmp(now, SOMEBODY) == 0);
    } else {
        CHECK(err.code == -EEXIST && !replace);
    }
    if (strcmp(canonical, "b:7799") != 0)
        CHECK(neighbour(id, after) == had && strcmp(before, after) == 0);
}

static void check_authorized(const struct identity *id, const char *comment)
{
    bool other = trust_is_authorized(id, OTHER);
    struct err err = {0};

    CHECK(!other || strstr(list, OTHER));
    if (identity_authorize(id, SOMEBODY, comment, &err) == 0)
        CHECK(trust_is_authorized(id, SOMEBODY) && trust_is_authorized(id, OTHER) == other);
    else
        CHECK(err.code == -EINVAL);
}

static void quiet(enum log_level level, const char *line)
{
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct identity id = {.dir = (char *)"state"};
    struct input in = {data, size};
    uint8_t choice = take_u8(&in);
    char *text = take_text(&in, 400, '\n');

    log_set_sink(quiet);
    list = NULL;
    (void)fake_replace("", in.at, in.left);
    if (choice & 1)
        check_authorized(&id, choice & 2 ? text : NULL);
    else
        check_trusted(&id, text, choice & 2);
    free(list);
    free(text);
    return 0;
}
