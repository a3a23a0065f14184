/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest for QEMU that does to its RAM what the embedded guest does to its own (src/hv/guest-load-ram.c): the same kind of pages, one in
 * eight of them zeroes, all walked in the golden ratio's order at a given rate. No operating system: a multiboot image of 32 bits that
 * sleeps between the ticks of the timer. The rate, in MiB a second, is its command line. Says 'R' on the debug port when all is filled. */
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned char u8;

#define PAGE      4096u
#define FIRST     (16u << 20) /* behind the image, its stack and the firmware's tables */
#define LEFT      (4u << 20)  /* at the end: the firmware's */
#define TICKS     1000u       /* a second */
#define PIT_HZ    1193182u
#define DEBUG     0xe9
#define LOADER_ID 0x2badb002u

struct multiboot {
    u32 flags;
    u32 lower, upper; /* KiB */
    u32 boot_device;
    u32 command_line;
};

__attribute__((section(".multiboot"), used)) static const u32 multiboot_header[3] = {0x1badb002, 2, -(0x1badb002u + 2)};

static volatile u32 ticks;
static u32 page_count, stride;

static void out(unsigned short port, u8 value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static u64 mix(u64 x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* Half noise, half something that compresses. */
static void fill(u32 page, u32 lap)
{
    u32 *words = (u32 *)(FIRST + page * PAGE);
    u32 x = (u32)mix(((u64)lap << 32) | page) | 1;
    u32 i;

    if (mix(page * 31ull + lap) % 8 == 0) {
        for (i = 0; i < PAGE / 4; i++)
            words[i] = 0;
        return;
    }
    for (i = 0; i < PAGE / 8; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        words[i] = x;
    }
    for (; i < PAGE / 4; i++)
        words[i] = page + (i & 7);
}

__asm__(".globl tick\n"
        "tick: pushl %eax\n"
        "incl ticks\n"
        "movb $0x20, %al\n"
        "outb %al, $0x20\n"
        "popl %eax\n"
        "iret\n");
extern void tick(void);

static struct {
    unsigned short low, selector, type, high;
} interrupts[33];

static u32 code_selector(void)
{
    u32 selector;

    __asm__("mov %%cs, %0" : "=r"(selector));
    return selector;
}

static void start_timer(void)
{
    struct {
        unsigned short limit;
        u32 base;
    } __attribute__((packed)) table = {sizeof(interrupts) - 1, (u32)interrupts};

    interrupts[32].low = (unsigned short)(u32)tick;
    interrupts[32].high = (unsigned short)((u32)tick >> 16);
    interrupts[32].selector = (unsigned short)code_selector();
    interrupts[32].type = 0x8e00;
    __asm__ volatile("lidt %0" : : "m"(table));
    out(0x20, 0x11); /* interrupt controllers: vectors 32 and 40, the timer only */
    out(0xa0, 0x11);
    out(0x21, 32);
    out(0xa1, 40);
    out(0x21, 4);
    out(0xa1, 2);
    out(0x21, 1);
    out(0xa1, 1);
    out(0x21, 0xfe);
    out(0xa1, 0xff);
    out(0x43, 0x34);
    out(0x40, (PIT_HZ / TICKS) & 0xff);
    out(0x40, (PIT_HZ / TICKS) >> 8);
    __asm__ volatile("sti");
}

static u32 divisor(u32 a, u32 b)
{
    while (b) {
        u32 rest = a % b;

        a = b;
        b = rest;
    }
    return a;
}

static u32 number(const char *text)
{
    u32 n = 0;

    while (*text && (*text < '0' || *text > '9'))
        text++;
    for (; *text >= '0' && *text <= '9'; text++)
        n = n * 10 + (u32)(*text - '0');
    return n;
}

/* The last word of the command line: the loader puts the file's name before it. */
static const char *last_word(const char *text)
{
    const char *word = text;

    for (; *text; text++) {
        if (*text == ' ')
            word = text + 1;
    }
    return word;
}

__attribute__((used)) static void guest(u32 magic, const struct multiboot *boot)
{
    u32 step = 0, lap = 0, position = 0, done = 0, rate, i;

    if (magic != LOADER_ID)
        return;
    page_count = (boot->upper * 1024 + (1u << 20) - FIRST - LEFT) / PAGE;
    for (stride = page_count / 100 * 61; divisor(stride, page_count) != 1; stride++)
        ;
    rate = number(last_word((const char *)boot->command_line)) * (1048576 / PAGE);
    for (i = 0; i < page_count; i++)
        fill(i, 0);
    start_timer();
    out(DEBUG, 'R');
    for (;;) {
        while ((u64)done * TICKS < (u64)ticks * rate) {
            fill(position, lap + 1);
            position = (position + stride) % page_count;
            done++;
            if (++step == page_count) {
                step = 0;
                lap++;
            }
        }
        __asm__ volatile("hlt");
    }
}

__asm__(".globl _start\n"
        "_start: movl $stack_end, %esp\n"
        "pushl %ebx\n"
        "pushl %eax\n"
        "call guest\n"
        "1: hlt\n"
        "jmp 1b\n"
        ".bss\n.align 16\n.skip 16384\nstack_end:\n.text\n");
