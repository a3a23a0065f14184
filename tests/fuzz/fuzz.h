/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the fuzz targets share. A target may be built into one program with libFuzzer only; it includes the .c file of the
 * parser it looks at where that is static there, so that no parser is made public for a test's sake. */
#ifndef XMOTION_TESTS_FUZZ_H
#define XMOTION_TESTS_FUZZ_H

#include <sanitizer/asan_interface.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);

/* What must hold whatever came in. Not assert(): a finding must show in every build. */
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            (void)fprintf(stderr, "%s:%d: ERROR: does not hold: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* The octets of one execution, used up from the front. */
struct input {
    const uint8_t *at;
    size_t left;
};

static inline uint8_t take_u8(struct input *in)
{
    if (!in->left)
        return 0;
    in->left--;
    return *in->at++;
}

static inline uint64_t take_number(struct input *in, unsigned int octets)
{
    uint64_t n = 0;

    while (octets--)
        n = n << 8 | take_u8(in);
    return n;
}

/* At most `most` octets as a block of their own, so that ASan sees one step beyond. Freed by the caller. */
static inline uint8_t *take_block(struct input *in, size_t most, size_t *ret_length)
{
    size_t length = in->left < most ? in->left : most;
    uint8_t *block = malloc(length ? length : 1);

    CHECK(block);
    memcpy(block, in->at, length);
    in->at += length;
    in->left -= length;
    *ret_length = length;
    return block;
}

/* The same as a text, which ends at the first NUL or at `stop` (-1: nowhere before), and is used up with it. */
static inline char *take_text(struct input *in, size_t most, int stop)
{
    size_t length = 0;
    char *text;

    while (length < in->left && length < most && in->at[length] && in->at[length] != stop)
        length++;
    text = malloc(length + 1);
    CHECK(text);
    memcpy(text, in->at, length);
    text[length] = '\0';
    length += length < in->left && (!in->at[length] || in->at[length] == stop);
    in->at += length;
    in->left -= length;
    return text;
}

/* Octets that a check vouches for are really there. */
static inline void touch(const void *octets, size_t length)
{
    CHECK(!length || !__asan_region_is_poisoned((void *)(uintptr_t)octets, length));
}

#endif
