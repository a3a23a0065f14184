/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Certificates and keys: the files of the state folder or of one's own PKI, and a peer's in DER, as the handshake has it. The
 * first octet: 0 a peer's certificate, 1 a certificate's file, 2 a key's, 3 a certificate's with its chain in DER, made PEM here. */
#include "fuzz.h"

#include <openssl/err.h>
#include <sys/stat.h>

static int fake_read(const char *path, size_t max, char **ret, size_t *ret_len);
static int fake_stat(const char *path, struct stat *st);
#define file_read      fake_read
#define stat(path, st) fake_stat(path, st)
#include "transport/identity.c"
#undef stat

static const uint8_t *content;
static size_t content_length;

static int fake_read(const char *path, size_t max, char **ret, size_t *ret_len)
{
    *ret_len = content_length < max ? content_length : max;
    *ret = malloc(*ret_len + 1);
    CHECK(*ret);
    memcpy(*ret, content, *ret_len);
    (*ret)[*ret_len] = '\0';
    return 0;
}

static int fake_stat(const char *path, struct stat *st)
{
    memset(st, 0, sizeof(*st));
    st->st_mode = S_IFREG | 0600;
    return 0;
}

static void check_fingerprint(const X509 *cert)
{
    char text[IDENTITY_FINGERPRINT_LEN + 1];

    CHECK(identity_fingerprint_of(cert, text) == 0 && trust_is_fingerprint(text));
}

static void peer_shows(const uint8_t *der, size_t length)
{
    const unsigned char *at = der;
    X509 *cert = d2i_X509(NULL, &at, (long)length);

    if (cert)
        check_fingerprint(cert);
    X509_free(cert);
}

static void file_has(bool key)
{
    struct identity id = {.dir = NULL};
    struct err err = {0};
    int r = key ? load_key(&id, "key", 077, &err) : load_cert(&id, "crt", &err);

    CHECK(r == 0 || (r < 0 && err.code == r && *err.text));
    if (id.cert)
        check_fingerprint(id.cert);
    EVP_PKEY_free(id.key);
    X509_free(id.cert);
    sk_X509_pop_free(id.chain, X509_free);
}

/* Twice the same: a certificate and its chain. */
static void as_pem(const uint8_t *der, size_t length)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *text = NULL;

    CHECK(bio && PEM_write_bio(bio, "CERTIFICATE", "", der, (long)length) > 0 &&
          PEM_write_bio(bio, "CERTIFICATE", "", der, (long)length) > 0);
    content_length = (size_t)BIO_get_mem_data(bio, &text);
    content = (const uint8_t *)text;
    file_has(false);
    BIO_free(bio);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint8_t choice = take_u8(&in) & 3;

    content = in.at;
    content_length = in.left;
    if (choice == 0)
        peer_shows(in.at, in.left);
    else if (choice == 3 && in.left)
        as_pem(in.at, in.left);
    else
        file_has(choice == 2);
    ERR_clear_error(); /* or its texts count as a leak to be looked for */
    return 0;
}
