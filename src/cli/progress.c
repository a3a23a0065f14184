/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One line for each disk and for RAM, drawn in place on a terminal; a line every few seconds elsewhere. */
#include "cli/cli.h"

#include "base/bytes.h"
#include "base/clock.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BAR_WIDTH  30
#define LINE_EVERY (2 * NS_PER_SEC)

void progress_init(struct progress *p, bool json, bool quiet)
{
    memset(p, 0, sizeof(*p));
    p->json = json;
    p->quiet = quiet;
    p->terminal = isatty(STDOUT_FILENO);
}

static uint64_t number(const json_t *o, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(o, key));

    return n > 0 ? (uint64_t)n : 0;
}

static const char *text(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    return s ? s : "";
}

static double real(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

/* Mean of the last seconds; the first moments say little. */
static void update_rate(struct progress *p, const json_t *e)
{
    uint64_t now = clock_now();
    uint64_t bytes = number(e, "wire_bytes");

    if (p->last_ns && now > p->last_ns && bytes >= p->last_bytes) {
        double rate = (double)(bytes - p->last_bytes) * (double)NS_PER_SEC / (double)(now - p->last_ns);

        p->rate = p->rate > 0 ? 0.8 * p->rate + 0.2 * rate : rate;
    }
    p->last_ns = now;
    p->last_bytes = bytes;
}

static void bar(char *out, uint64_t done, uint64_t total)
{
    unsigned int filled = total ? (unsigned int)(MIN(done, total) * BAR_WIDTH / total) : BAR_WIDTH;

    memset(out, '#', filled);
    memset(out + filled, '.', BAR_WIDTH - filled);
    out[BAR_WIDTH] = '\0';
}

static void time_left(char *out, size_t size, uint64_t left, double rate)
{
    if (rate < 1.0)
        (void)snprintf(out, size, "-");
    else
        (void)snprintf(out, size, "%.0f s", (double)left / rate);
}

static void clear_lines(struct progress *p)
{
    if (p->lines)
        (void)printf("\033[%dA\033[J", p->lines);
    p->lines = 0;
}

static void draw_disk(struct progress *p, const json_t *d)
{
    char drawn[BAR_WIDTH + 1];
    char left[32];
    uint64_t total = number(d, "pass_total");
    uint64_t done = number(d, "pass_done");

    bar(drawn, done, total);
    time_left(left, sizeof(left), total - MIN(done, total), p->rate);
    (void)printf("  %-10s [%s] pass %llu  %6llu/%llu MiB  dirty %.1f MiB  left %s\n", text(d, "vbd"), drawn,
                 (unsigned long long)number(d, "pass"), (unsigned long long)(done >> 20),
                 (unsigned long long)(total >> 20), (double)number(d, "dirty") / 1048576.0, left);
    p->lines++;
}

static void draw_memory(struct progress *p, const json_t *m)
{
    char drawn[BAR_WIDTH + 1];
    char left[32];
    uint64_t total = number(m, "round_total");
    uint64_t done = number(m, "round_done");

    bar(drawn, done, total);
    time_left(left, sizeof(left), (total - MIN(done, total)) * 4096, p->rate);
    (void)printf("  %-10s [%s] round %llu %6llu/%llu MiB  dirtied %.1f MiB/s  left %s\n", "RAM", drawn,
                 (unsigned long long)number(m, "round"), (unsigned long long)(done >> 8),
                 (unsigned long long)(total >> 8), (double)number(m, "dirtied_per_second") / 256.0, left);
    p->lines++;
}

static void draw(struct progress *p, const json_t *e)
{
    const json_t *memory = json_object_get(e, "memory");
    json_t *d;
    size_t i;

    clear_lines(p);
    (void)printf("%s: %s, %.0f s, %.1f MiB/s\n", text(e, "guest"), text(e, "phase"), real(e, "elapsed_ms") / 1000.0,
                 p->rate / 1048576.0);
    p->lines++;
    json_array_foreach(json_object_get(e, "disks"), i, d)
        draw_disk(p, d);
    if (memory)
        draw_memory(p, memory);
    (void)fflush(stdout);
}

static void print_line(struct progress *p, const json_t *e)
{
    uint64_t done = 0;
    uint64_t total = 0;
    json_t *d;
    size_t i;

    json_array_foreach(json_object_get(e, "disks"), i, d)
    {
        done += number(d, "pass_done");
        total += number(d, "pass_total");
    }
    (void)printf("%s: %s, %.0f s, disks %llu/%llu MiB, RAM round %llu, %.1f MiB/s\n", text(e, "guest"), text(e, "phase"),
                 real(e, "elapsed_ms") / 1000.0, (unsigned long long)(done >> 20), (unsigned long long)(total >> 20),
                 (unsigned long long)number(json_object_get(e, "memory"), "round"), p->rate / 1048576.0);
    (void)fflush(stdout);
}

static void print_parts(const json_t *parts)
{
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)parts, name, value)
        (void)printf("    %-18.*s %9.1f ms\n", (int)strlen(name) - 3, name, json_number_value(value));
}

static void print_result(const json_t *e)
{
    const json_t *memory = json_object_get(e, "memory");
    json_t *d;
    size_t i;

    if (strcmp(text(e, "outcome"), "moved") != 0) {
        (void)printf("%s: %s; the guest is at: %s\n", text(e, "guest"), text(e, "outcome"), text(e, "guest_is_at"));
        return;
    }
    (void)printf("%s moved to %s in %.1f s, %.1f MiB on the wire\n", text(e, "guest"), text(e, "target"),
                 real(e, "total_ms") / 1000.0, (double)number(e, "wire_bytes") / 1048576.0);
    (void)printf("  downtime %.1f ms (last passes predicted %.1f ms):\n", real(e, "downtime_ms"),
                 real(e, "predicted_tail_ms"));
    print_parts(json_object_get(e, "downtime_parts"));
    json_array_foreach(json_object_get(e, "disks"), i, d)
        (void)printf("  %s: %llu MiB, %.1f MiB sent in %llu passes, %s\n", text(d, "vbd"),
                     (unsigned long long)(number(d, "size") >> 20), (double)number(d, "sent") / 1048576.0,
                     (unsigned long long)number(d, "passes"),
                     json_is_true(json_object_get(d, "verified")) ? "verified" : "NOT verified");
    if (number(memory, "pages"))
        (void)printf("  RAM: %llu pages, %llu sent, %llu of them as deltas, %llu zero, %llu rounds\n",
                     (unsigned long long)number(memory, "pages"), (unsigned long long)number(memory, "sent_pages"),
                     (unsigned long long)number(memory, "delta_pages"), (unsigned long long)number(memory, "zero_pages"),
                     (unsigned long long)number(memory, "rounds"));
}

static void print_json_line(const json_t *e)
{
    (void)json_dumpf(e, stdout, JSON_COMPACT);
    (void)putchar('\n');
    (void)fflush(stdout);
}

void progress_event(void *progress, const json_t *e)
{
    struct progress *p = progress;
    const char *kind = text(e, "event");
    bool due = !p->last_ns || clock_now() - p->last_ns >= LINE_EVERY;

    if (p->json) {
        print_json_line(e);
        return;
    }
    if (strcmp(kind, "result") == 0) {
        clear_lines(p);
        print_result(e);
        (void)fflush(stdout);
        return;
    }
    if (p->quiet || strcmp(kind, "progress") != 0 || (!p->terminal && !due))
        return;
    update_rate(p, e);
    if (p->terminal)
        draw(p, e);
    else
        print_line(p, e);
}
