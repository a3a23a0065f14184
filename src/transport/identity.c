/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* This host's key and certificate: loaded, and made at first use. */
#include "transport/identity.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/fdio.h"
#include "transport/identity-internal.h"

#include <assert.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define STATE_DIR_DEFAULT "/var/lib/xmotion"
#define KEY_FILE          "identity.key"
#define CERT_FILE         "identity.crt"
#define PEM_FILE_MAX      KIB(256)
#define VALID_DAYS        36500 /* no date is checked where a fingerprint is; tools that look want one */

int identity_path(const char *dir, const char *name, char *ret, struct err *err)
{
    int n = snprintf(ret, PATH_MAX, "%s/%s", dir, name);

    if (n < 0 || n >= PATH_MAX)
        return err_set(err, -ENAMETOOLONG, "the state folder's name '%.60s...' is too long", dir);
    return 0;
}

int identity_lock(const char *dir, int *ret_fd, struct err *err)
{
    char path[PATH_MAX];
    CLEANUP_CLOSE int fd = -1;
    int r = identity_path(dir, "lock", path, err);

    if (r < 0)
        return r;
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_errno(err, -errno, "cannot open %s", path);
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR)
            return err_errno(err, -errno, "cannot lock %s", path);
    *ret_fd = take_fd(&fd);
    return 0;
}

int identity_fingerprint_of(const X509 *cert, char ret[IDENTITY_FINGERPRINT_LEN + 1])
{
    static const char digits[] = "0123456789abcdef";
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int len = 0;
    char *p = stpcpy(ret, "SHA256:");

    if (X509_digest(cert, EVP_sha256(), digest, &len) != 1)
        return -ENOMEM;
    assert(len == 32);
    for (unsigned int i = 0; i < len; i++) {
        *p++ = digits[digest[i] >> 4];
        *p++ = digits[digest[i] & 15];
    }
    *p = '\0';
    return 0;
}

/* A folder that others may write holds nothing worth believing. */
static int check_folder(const char *dir, struct err *err)
{
    struct stat st;

    if (stat(dir, &st) < 0)
        return err_errno(err, -errno, "cannot look at the state folder %s", dir);
    if (!S_ISDIR(st.st_mode))
        return err_set(err, -ENOTDIR, "the state folder %s is not a folder", dir);
    if (st.st_mode & 022)
        return err_set(err, -EPERM,
                       "the state folder %s can be written by others: run `chmod go-w %s`", dir,
                       dir);
    if (st.st_uid != geteuid() && st.st_uid != 0)
        return err_set(err, -EPERM, "the state folder %s belongs to user %u, not to us", dir,
                       (unsigned int)st.st_uid);
    return 0;
}

/* Never asks at a terminal for the password of an encrypted key. */
static int no_password(char *buf, int size, int rwflag, void *data)
{
    (void)buf, (void)size, (void)rwflag, (void)data;
    return -1;
}

static int check_key_mode(const char *path, mode_t refused, struct err *err)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return err_errno(err, -errno, "cannot read the private key %s", path);
    if (st.st_mode & refused)
        return err_set(err, -EPERM,
                       "the private key %s can be read by others (mode %04o): run `chmod 600 %s`",
                       path, (unsigned int)(st.st_mode & 07777), path);
    return 0;
}

static int load_key(struct identity *id, const char *path, mode_t refused, struct err *err)
{
    char *pem = NULL;
    size_t len = 0;
    BIO *bio;
    int r = check_key_mode(path, refused, err);

    if (r < 0)
        return r;
    r = file_read(path, PEM_FILE_MAX, &pem, &len);
    if (r < 0)
        return err_errno(err, r, "cannot read the private key %s", path);
    bio = BIO_new_mem_buf(pem, (int)len);
    if (bio)
        id->key = PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
    BIO_free(bio);
    OPENSSL_cleanse(pem, len);
    free(pem);
    if (!id->key)
        return err_set(err, -EINVAL, "%s holds no private key in PEM without a password", path);
    return 0;
}

/* The rest of the file is the chain up to, not including, the CA. */
static int load_chain(struct identity *id, BIO *bio)
{
    X509 *next;

    while ((next = PEM_read_bio_X509(bio, NULL, no_password, NULL))) {
        if (!id->chain)
            id->chain = sk_X509_new_null();
        if (!id->chain || !sk_X509_push(id->chain, next)) {
            X509_free(next);
            return -ENOMEM;
        }
    }
    return 0;
}

static int load_cert(struct identity *id, const char *path, struct err *err)
{
    CLEANUP_FREE char *pem = NULL;
    size_t len = 0;
    BIO *bio;
    int r = file_read(path, PEM_FILE_MAX, &pem, &len);

    if (r < 0)
        return err_errno(err, r, "cannot read the certificate %s", path);
    bio = BIO_new_mem_buf(pem, (int)len);
    if (!bio)
        return err_set(err, -ENOMEM, "no memory for a certificate");
    id->cert = PEM_read_bio_X509(bio, NULL, no_password, NULL);
    r = id->cert ? load_chain(id, bio) : -EINVAL;
    BIO_free(bio);
    if (r < 0)
        return err_set(err, r, "%s holds no certificate in PEM", path);
    return 0;
}

static int name_and_date(X509 *cert)
{
    char host[64] = "host";
    char name[80];
    uint64_t serial = 0;
    X509_NAME *subject = X509_get_subject_name(cert);

    (void)gethostname(host, sizeof(host) - 1);
    (void)snprintf(name, sizeof(name), "xmotion %.40s", host);
    if (RAND_bytes((unsigned char *)&serial, sizeof(serial)) != 1 ||
        ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert), serial >> 1 | 1) != 1 ||
        !X509_gmtime_adj(X509_getm_notBefore(cert), -86400) ||
        !X509_time_adj_ex(X509_getm_notAfter(cert), VALID_DAYS, 0, NULL) ||
        X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)name, -1,
                                   -1, 0) != 1 ||
        X509_set_issuer_name(cert, subject) != 1)
        return -EINVAL;
    return 0;
}

static X509 *make_cert(EVP_PKEY *key)
{
    X509 *cert = X509_new();

    if (cert && X509_set_version(cert, X509_VERSION_3) == 1 && X509_set_pubkey(cert, key) == 1 &&
        name_and_date(cert) == 0 && X509_sign(cert, key, EVP_sha256()) > 0)
        return cert;
    X509_free(cert);
    return NULL;
}

/* Writes what `bio` holds and wipes it: it may be the key. */
static int write_bio(const char *path, BIO *bio, bool written, struct err *err)
{
    char *data = NULL;
    long len = written ? BIO_get_mem_data(bio, &data) : 0;
    int r = len > 0 ? file_replace(path, data, (size_t)len) : -ENOMEM;

    if (len > 0)
        OPENSSL_cleanse(data, (size_t)len);
    BIO_free(bio);
    return r < 0 ? err_errno(err, r, "cannot write %s", path) : 0;
}

static int make_key_file(const char *path, struct err *err)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    BIO *bio = BIO_new(BIO_s_secmem());
    bool written =
        key && bio && PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) == 1;

    EVP_PKEY_free(key);
    return write_bio(path, bio, written, err);
}

static int make_cert_file(const struct identity *id, const char *path, struct err *err)
{
    X509 *cert = make_cert(id->key);
    BIO *bio = BIO_new(BIO_s_mem());
    bool written = cert && bio && PEM_write_bio_X509(bio, cert) == 1;

    X509_free(cert);
    return write_bio(path, bio, written, err);
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

/* The key first: a key without a certificate (power cut in between) gets one now, as nobody has
 * seen another. A certificate without its key is a loss that a person must know of. */
static int load_own(struct identity *id, struct err *err)
{
    char key[PATH_MAX], cert[PATH_MAX];
    CLEANUP_CLOSE int lock = -1;
    int r = identity_path(id->dir, KEY_FILE, key, err);

    if (r == 0)
        r = identity_path(id->dir, CERT_FILE, cert, err);
    if (r == 0)
        r = identity_lock(id->dir, &lock, err);
    if (r < 0)
        return r;
    if (!exists(key) && exists(cert))
        return err_set(
            err, -ENOENT,
            "%s is there but its key %s is not: put the key back, or remove the certificate "
            "to become a new identity that others must trust anew",
            cert, key);
    if (!exists(key))
        r = make_key_file(key, err);
    if (r == 0)
        r = load_key(id, key, 077, err);
    if (r == 0 && !exists(cert))
        r = make_cert_file(id, cert, err);
    return r < 0 ? r : load_cert(id, cert, err);
}

static int load_given(struct identity *id, const struct identity_config *config, struct err *err)
{
    int r;

    id->ca = X509_STORE_new();
    if (!id->ca || X509_STORE_load_file(id->ca, config->ca) != 1)
        return err_set(err, -EINVAL, "%s holds no CA certificate in PEM", config->ca);
    /* Groups such as Debian's ssl-cert may read a given key; the world may not. */
    r = load_key(id, config->key, 007, err);
    return r < 0 ? r : load_cert(id, config->cert, err);
}

static int load(struct identity *id, const struct identity_config *config, struct err *err)
{
    bool given = config->ca && config->cert && config->key;
    int r;

    if (!given && (config->ca || config->cert || config->key))
        return err_set(err, -EINVAL,
                       "a CA, a certificate and a key go together: give all three or none");
    r = dir_make(id->dir);
    if (r < 0)
        return err_errno(err, r, "cannot make the state folder %s", id->dir);
    r = check_folder(id->dir, err);
    if (r == 0)
        r = given ? load_given(id, config, err) : load_own(id, err);
    if (r < 0)
        return r;
    if (X509_check_private_key(id->cert, id->key) != 1)
        return err_set(err, -EINVAL, "the private key does not belong to the certificate (%s)",
                       given ? config->cert : id->dir);
    return identity_fingerprint_of(id->cert, id->fingerprint);
}

int identity_load(struct identity **ret, const struct identity_config *config, struct err *err)
{
    const char *dir = config->state_dir ? config->state_dir : getenv("XMOTION_STATE_DIR");
    struct identity *id = calloc(1, sizeof(*id));
    int r;

    if (id)
        id->dir = strdup(dir && *dir ? dir : STATE_DIR_DEFAULT);
    if (id)
        id->contexts = calloc(IDENTITY_CONTEXTS, sizeof(*id->contexts));
    if (!id || !id->dir || !id->contexts) {
        free(id);
        return err_set(err, -ENOMEM, "no memory for an identity");
    }
    r = load(id, config, err);
    if (r < 0) {
        identity_destroy(id);
        return r;
    }
    *ret = id;
    return 0;
}

void identity_destroy(struct identity *id)
{
    if (!id)
        return;
    EVP_PKEY_free(id->key); /* wipes the private part */
    X509_free(id->cert);
    sk_X509_pop_free(id->chain, X509_free);
    X509_STORE_free(id->ca);
    for (unsigned int i = 0; id->contexts && i < IDENTITY_CONTEXTS; i++)
        SSL_CTX_free(id->contexts[i]);
    free(id->contexts);
    free(id->dir);
    free(id);
}

const char *identity_fingerprint(const struct identity *id)
{
    return id->fingerprint;
}
