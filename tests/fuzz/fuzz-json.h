/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For targets that read `FUZZ_JSON_AT` octets of choices and then one JSON text: half of the mutations keep the text JSON and
 * change one value of it, as nearly all blind ones end in the first line of the parser. Included by one file of a program. */
#ifndef XMOTION_TESTS_FUZZ_JSON_H
#define XMOTION_TESTS_FUZZ_JSON_H

#include "fuzz.h"

#include <jansson.h>

#ifndef FUZZ_JSON_AT
#define FUZZ_JSON_AT 1u
#endif
#define FUZZ_TEXT_MAX 4000u

static unsigned int fuzz_state;

static unsigned int fuzz_random(unsigned int below)
{
    fuzz_state = fuzz_state * 1103515245u + 12345u;
    return (fuzz_state >> 8) % below;
}

/* The text as the parsers under test read it. NULL: it is none. */
static inline json_t *fuzz_load(const uint8_t *text, size_t length)
{
    return json_loadb((const char *)text, length, JSON_REJECT_DUPLICATES, NULL);
}

static json_t *fuzz_number(void)
{
    static const json_int_t numbers[] = {
        0, 1, -1, 2, 3, 63, 64, 65, 255, 511, 512, 4095, 4096, 65535, 65536, 1 << 20, INT32_MAX, INT32_MIN, UINT32_MAX,
        (json_int_t)1 << 40, (json_int_t)1 << 46, ((json_int_t)1 << 46) + 1, (json_int_t)1 << 60, INT64_MAX, INT64_MIN};

    return json_integer(numbers[fuzz_random(sizeof(numbers) / sizeof(numbers[0]))]);
}

static json_t *fuzz_text(const char *old)
{
    uint8_t octets[FUZZ_TEXT_MAX] = "x";
    size_t length = strnlen(old, sizeof(octets) - 1);
    json_t *text;

    memcpy(octets, old, length);
    if (fuzz_random(16) == 0) { /* longer than anything may be */
        memset(octets + length, 'a', sizeof(octets) - 1 - length);
        length = 1 + fuzz_random(sizeof(octets) - 1);
    } else {
        length = LLVMFuzzerMutate(octets, length, fuzz_random(4) && length + 8 < sizeof(octets) ? length + 8 : sizeof(octets) - 1);
    }
    text = json_stringn((const char *)octets, length);
    return text ? text : json_string("\xc3\xa9");
}

static json_t *fuzz_value(const json_t *old)
{
    if (json_is_string(old) && fuzz_random(4))
        return fuzz_text(json_string_value(old));
    switch (fuzz_random(8)) {
    case 0:
        return json_null();
    case 1:
        return json_true();
    case 2:
        return json_real(fuzz_random(2) ? -1e300 : 0.5);
    case 3:
        return json_object();
    case 4:
        return json_array();
    case 5:
        return fuzz_text("text");
    default:
        return json_is_integer(old) && fuzz_random(2)
                   ? json_integer(json_integer_value(old) ^ (json_int_t)1 << fuzz_random(63))
                   : fuzz_number();
    }
}

static size_t fuzz_count(const json_t *j)
{
    size_t n = 1, i;
    const char *key;
    json_t *value;

    if (json_is_object(j)) {
        json_object_foreach((json_t *)(uintptr_t)j, key, value)
            n += fuzz_count(value);
    } else if (json_is_array(j)) {
        json_array_foreach(j, i, value)
            n += fuzz_count(value);
    }
    return n;
}

static void fuzz_change_member(json_t *object, const char *key, json_t *value)
{
    char other[32];

    switch (fuzz_random(6)) {
    case 0:
        json_object_del(object, key);
        break;
    case 1: /* once more under another name */
        (void)snprintf(other, sizeof(other), "%.8s%u", key, fuzz_random(4));
        (void)json_object_set_new(object, other, json_deep_copy(value));
        break;
    default:
        (void)json_object_set_new(object, key, fuzz_value(value));
    }
}

static void fuzz_change_element(json_t *array, size_t i, json_t *value)
{
    unsigned int copies = fuzz_random(12) ? 1 : 70;

    switch (fuzz_random(4)) {
    case 0:
        (void)json_array_remove(array, i);
        break;
    case 1:
        while (copies--)
            (void)json_array_append_new(array, json_deep_copy(value));
        break;
    default:
        (void)json_array_set_new(array, i, fuzz_value(value));
    }
}

/* Changes the value number *n below `j`, counted down on the way. */
static bool fuzz_change(json_t *j, size_t *n)
{
    const char *key;
    json_t *value;
    size_t i;

    if (json_is_object(j)) {
        json_object_foreach(j, key, value) {
            if (!(*n)--) {
                fuzz_change_member(j, key, value);
                return true;
            }
            if (fuzz_change(value, n))
                return true;
        }
    } else if (json_is_array(j)) {
        json_array_foreach(j, i, value) {
            if (!(*n)--) {
                fuzz_change_element(j, i, value);
                return true;
            }
            if (fuzz_change(value, n))
                return true;
        }
    }
    return false;
}

static size_t fuzz_mutate_json(uint8_t *text, size_t length, size_t most)
{
    json_t *j = fuzz_load(text, length);
    size_t values = fuzz_count(j), n = values > 1 ? fuzz_random((unsigned int)values - 1) : 0;
    size_t written = 0;

    if (j && fuzz_change(j, &n))
        written = json_dumpb(j, (char *)text, most, JSON_COMPACT);
    json_decref(j);
    return written <= most ? written : 0; /* 0: it could not be done */
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    size_t length = 0;

    fuzz_state = seed;
    if (seed & 1 && size > FUZZ_JSON_AT && max_size <= 1u << 16) {
        uint8_t *copy = malloc(max_size);

        CHECK(copy);
        memcpy(copy, data, size);
        length = fuzz_mutate_json(copy + FUZZ_JSON_AT, size - FUZZ_JSON_AT, max_size - FUZZ_JSON_AT);
        if (length)
            memcpy(data, copy, FUZZ_JSON_AT + length);
        free(copy);
    }
    return length ? FUZZ_JSON_AT + length : LLVMFuzzerMutate(data, size, max_size);
}

/* Jansson's hashes are random in every process; a finding must come again. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    json_object_seed(1);
    return 0;
}

#endif
