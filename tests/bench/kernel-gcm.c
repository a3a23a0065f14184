/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* AES-128-GCM of the kernel (6.1) beside OpenSSL's on this processor: the functions of its module aesni-intel touch nothing but registers
 * and memory, so tests/bench/ktls.sh links them into this program, whatever kernel runs. TLS records of 16 KiB, 256 KiB in turn. */
#include <err.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <wmmintrin.h>

#define RECORD  16384u
#define RECORDS 16u
#define ROUNDS  9u
#define TAG     16u

/* arch/x86/crypto/aesni-intel_glue.c: `key` is its expanded key, then at 480 the key's length; `data` its struct gcm_context_data. */
#define KERNEL_GCM(set)                                                                                                       \
    void aesni_gcm_init##set(const void *key, void *data, const uint8_t *iv, const uint8_t *subkey, const uint8_t *aad,       \
                             unsigned long aad_len);                                                                         \
    void aesni_gcm_enc_update##set(const void *key, void *data, uint8_t *out, const uint8_t *in, unsigned long len);          \
    void aesni_gcm_finalize##set(const void *key, void *data, uint8_t *tag, unsigned long tag_len);                           \
    static void kernel##set(uint8_t *out, const uint8_t *in)                                                                  \
    {                                                                                                                         \
        aesni_gcm_init##set(kernel_key, kernel_data, iv, subkey, aad, sizeof(aad));                                           \
        aesni_gcm_enc_update##set(kernel_key, kernel_data, out, in, RECORD);                                                  \
        aesni_gcm_finalize##set(kernel_key, kernel_data, out + RECORD, TAG);                                                  \
    }

/* What the module's functions call in the kernel: the way back, and the tracer's place. */
__asm__(".globl __x86_return_thunk, __fentry__\n__x86_return_thunk:\n__fentry__:\n ret\n");

static uint8_t kernel_key[512] __attribute__((aligned(64)));
static uint8_t kernel_data[1024] __attribute__((aligned(64)));
static uint8_t subkey[16] __attribute__((aligned(16)));
static const uint8_t iv[16] __attribute__((aligned(16))) = {[15] = 1};
static const uint8_t aad[5] = {23, 3, 3, 64, 16};
static const uint8_t key[16] = {1, 2, 3};
static EVP_CIPHER_CTX *cipher;

KERNEL_GCM()
KERNEL_GCM(_avx_gen2)
KERNEL_GCM(_avx_gen4)

static void openssl(uint8_t *out, const uint8_t *in)
{
    int n;

    if (EVP_EncryptInit_ex(cipher, NULL, NULL, NULL, iv) != 1 || EVP_EncryptUpdate(cipher, NULL, &n, aad, sizeof(aad)) != 1 ||
        EVP_EncryptUpdate(cipher, out, &n, in, RECORD) != 1 || EVP_EncryptFinal_ex(cipher, out + RECORD, &n) != 1 ||
        EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_GET_TAG, TAG, out + RECORD) != 1)
        errx(1, "OpenSSL does not encrypt");
}

static __m128i next_key(__m128i k, __m128i assist)
{
    k = _mm_xor_si128(k, _mm_slli_si128(k, 4));
    k = _mm_xor_si128(k, _mm_slli_si128(k, 8));
    return _mm_xor_si128(k, _mm_shuffle_epi32(assist, 0xff));
}

#define NEXT_KEY(n, constant)                                \
    k = next_key(k, _mm_aeskeygenassist_si128(k, constant)); \
    memcpy(kernel_key + 16 * (n), &k, sizeof(k))

static void expand_key(void)
{
    const uint32_t length = sizeof(key);
    __m128i k;

    memcpy(&k, key, sizeof(k));
    memcpy(kernel_key, &k, sizeof(k));
    NEXT_KEY(1, 0x01);
    NEXT_KEY(2, 0x02);
    NEXT_KEY(3, 0x04);
    NEXT_KEY(4, 0x08);
    NEXT_KEY(5, 0x10);
    NEXT_KEY(6, 0x20);
    NEXT_KEY(7, 0x40);
    NEXT_KEY(8, 0x80);
    NEXT_KEY(9, 0x1b);
    NEXT_KEY(10, 0x36);
    memcpy(kernel_key + 480, &length, sizeof(length));
}

/* GCM's subkey is a block of zeroes, encrypted. */
static void prepare(void)
{
    EVP_CIPHER_CTX *block = EVP_CIPHER_CTX_new();
    const uint8_t zero[16] = {0};
    int n;

    cipher = EVP_CIPHER_CTX_new();
    if (!block || !cipher || EVP_EncryptInit_ex(cipher, EVP_aes_128_gcm(), NULL, key, NULL) != 1 ||
        EVP_EncryptInit_ex(block, EVP_aes_128_ecb(), NULL, key, NULL) != 1 ||
        EVP_EncryptUpdate(block, subkey, &n, zero, sizeof(zero)) != 1)
        errx(1, "no AES");
    EVP_CIPHER_CTX_free(block);
    expand_key();
}

static double seconds(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double once(void (*encrypt)(uint8_t *, const uint8_t *), uint8_t *out, const uint8_t *in, unsigned int mib)
{
    double begin = seconds();

    for (unsigned int i = 0; i < mib * 64; i++)
        encrypt(out, in + (size_t)(i % RECORDS) * RECORD);
    return (seconds() - begin) * 1024 / mib;
}

/* kernel-gcm [MIB]: the best of some rounds, in which each has its turn. */
int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*encrypt)(uint8_t *, const uint8_t *);
    } ways[] = {{"OpenSSL", openssl}, {"kernel, SSE", kernel}, {"kernel, AVX", kernel_avx_gen2}, {"kernel, AVX2", kernel_avx_gen4}};
    static uint8_t in[RECORDS * RECORD], out[4][RECORD + TAG];
    unsigned int mib = argc > 1 ? (unsigned int)atoi(argv[1]) : 512;
    double best[4] = {1e9, 1e9, 1e9, 1e9};

    prepare();
    memset(in, 'x', sizeof(in));
    for (unsigned int i = 0; i < ROUNDS * 4; i++) {
        double s = once(ways[i % 4].encrypt, out[i % 4], in, mib);

        best[i % 4] = s < best[i % 4] ? s : best[i % 4];
    }
    for (unsigned int i = 0; i < 4; i++) {
        if (memcmp(out[i], out[0], sizeof(out[0])) != 0)
            errx(1, "%s encrypts to something else", ways[i].name);
        printf("%-13s %.3f s/GiB\n", ways[i].name, best[i]);
    }
    EVP_CIPHER_CTX_free(cipher);
    return 0;
}
