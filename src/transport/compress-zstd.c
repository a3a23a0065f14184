/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The only file that knows zstd. Contexts are costly to make, so each thread keeps its own. */
#include "transport/compress.h"

#include "base/bytes.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <zstd.h>

struct contexts {
    ZSTD_CCtx *encoder;
    ZSTD_DCtx *decoder;
};

static pthread_key_t contexts_key;
static pthread_once_t contexts_once = PTHREAD_ONCE_INIT;
static bool contexts_ready;

static void contexts_free(void *data)
{
    struct contexts *c = data;

    (void)ZSTD_freeCCtx(c->encoder);
    (void)ZSTD_freeDCtx(c->decoder);
    free(c);
}

static void contexts_prepare(void)
{
    contexts_ready = pthread_key_create(&contexts_key, contexts_free) == 0;
}

/* The calling thread's, or NULL without memory. */
static struct contexts *contexts_get(void)
{
    struct contexts *c;

    (void)pthread_once(&contexts_once, contexts_prepare);
    if (!contexts_ready)
        return NULL;
    c = pthread_getspecific(contexts_key);
    if (c)
        return c;
    c = calloc(1, sizeof(*c));
    if (c && pthread_setspecific(contexts_key, c) != 0) {
        free(c);
        return NULL;
    }
    return c;
}

int compress_encode(void *dst, size_t cap, const void *src, size_t len, int level, size_t *ret_len)
{
    struct contexts *c = contexts_get();
    size_t n;

    if (c && !c->encoder)
        c->encoder = ZSTD_createCCtx();
    /* Without memory for a context the payload goes as it is: slower, not wrong. */
    if (!c || !c->encoder)
        return -ENOSPC;
    n = ZSTD_compressCCtx(c->encoder, dst, cap, src, len, level);
    if (ZSTD_isError(n) || n >= cap)
        return -ENOSPC;
    *ret_len = n;
    return 0;
}

/* The decoder would take several frames, skippable ones and old formats; the protocol has one plain
 * frame. */
static int check_frame(size_t len, const void *src, size_t src_len, struct err *err)
{
    unsigned long long content;

    if (src_len < sizeof(uint32_t) || get_le32(src) != ZSTD_MAGICNUMBER)
        return err_set(err, -EPROTO, "a zstd payload does not begin with a zstd frame");
    content = ZSTD_getFrameContentSize(src, src_len);
    if (content == ZSTD_CONTENTSIZE_ERROR)
        return err_set(err, -EPROTO, "a zstd frame has a damaged head");
    if (content != ZSTD_CONTENTSIZE_UNKNOWN && content != len)
        return err_set(err, -EPROTO, "a zstd frame holds %llu octets instead of %zu", content, len);
    if (ZSTD_findFrameCompressedSize(src, src_len) != src_len)
        return err_set(err, -EPROTO, "a zstd payload of %zu octets is not one whole frame",
                       src_len);
    return 0;
}

int compress_decode(void *dst, size_t len, const void *src, size_t src_len, struct err *err)
{
    struct contexts *c = contexts_get();
    size_t n;
    int r;

    if (c && !c->decoder)
        c->decoder = ZSTD_createDCtx();
    if (!c || !c->decoder)
        return err_set(err, -ENOMEM, "no memory for a zstd decoder");
    r = check_frame(len, src, src_len, err);
    if (r < 0)
        return r;
    n = ZSTD_decompressDCtx(c->decoder, dst, len, src, src_len);
    if (ZSTD_isError(n))
        return err_set(err, -EPROTO, "a zstd frame of %zu octets is damaged: %s", src_len,
                       ZSTD_getErrorName(n));
    if (n != len)
        return err_set(err, -EPROTO, "a zstd frame gave %zu octets instead of %zu", n, len);
    return 0;
}
