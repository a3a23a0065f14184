/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Addresses as people and other programs write them.
 * fuzz: -max_len=320 */
#include "fuzz.h"

#include "transport/conn-socket.h"
#include "transport/conn.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    char *text = take_text(&in, 400, -1);
    char canonical[CONN_ADDRESS_MAX], again[CONN_ADDRESS_MAX];
    struct socket_address a, b;
    struct err err = {0};

    if (conn_canonical_address(text, canonical, &err) == 0) {
        /* A key of `trusted`: one spelling, and one word of a line. */
        CHECK(conn_canonical_address(canonical, again, &err) == 0 && strcmp(canonical, again) == 0);
        CHECK(*canonical != '#' && !canonical[strcspn(canonical, " \t\r\n\v\f")]);
        CHECK(socket_parse(text, &a, &err) == 0 && socket_parse(canonical, &b, &err) == 0);
        CHECK(strcmp(a.host, b.host) == 0 && strcmp(a.port, b.port) == 0);
    } else {
        CHECK(err.code < 0 && *err.text);
    }
    free(text);
    return 0;
}
