/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The walk over a guest's PFNs with a hypervisor made by hand: whatever is spared, every page must
 * be found. */
#include "unit.h"

#include <stdbool.h>
#include <string.h>

static void *fake_dlsym(void *handle, const char *name);
#define dlsym fake_dlsym
#include "hv/xen/page-types.c"
#undef dlsym

#define PFNS 0x100000u

static bool present[PFNS];
static uint64_t hidden; /* pages of the domain at no PFN */
static uint64_t asked;
static bool pv;

static int fake_types(xc_interface *xch, uint32_t domid, unsigned int count, xen_pfn_t *pfns)
{
    for (unsigned int i = 0; i < count; i++) {
        pfns[i] = present[pfns[i]] ? XEN_DOMCTL_PFINFO_NOTAB : XEN_DOMCTL_PFINFO_XTAB;
    }
    asked += count;
    return 0;
}

static void *fake_dlsym(void *handle, const char *name)
{
    type_batch fake = fake_types;
    void *found;

    memcpy(&found, &fake, sizeof(found));
    return found;
}

static uint64_t total(void)
{
    uint64_t pages = hidden;

    for (size_t i = 0; i < PFNS; i++)
        pages += present[i];
    return pages;
}

int xc_domain_getinfolist(xc_interface *xch, uint32_t first, unsigned int most,
                          xc_domaininfo_t *info)
{
    memset(info, 0, sizeof(*info));
    info->domain = (domid_t)first;
    info->flags = pv ? 0 : XEN_DOMINF_hvm_guest;
    info->tot_pages = total();
    return 1;
}

int xc_domain_maximum_gpfn(xc_interface *xch, uint32_t domid, xen_pfn_t *ret)
{
    for (*ret = PFNS - 1; !present[*ret]; --*ret)
        ;
    return 0;
}

/* A PVH guest of 128 MiB: RAM, ACPI tables, special pages. */
static void make_guest(void)
{
    memset(&walk, 0, sizeof(walk));
    memset(present, 0, sizeof(present));
    memset(present, true, 0x8000);
    memset(present + 0xfc000, true, 10);
    memset(present + 0xfeff8, true, 8);
    hidden = asked = 0;
    pv = false;
}

/* The first round, as libxenguest goes: everything in batches. */
static void expect_all_found(void)
{
    xen_pfn_t types[BATCH], end, last;

    page_types_begin(NULL, 7);
    xc_domain_maximum_gpfn(NULL, 7, &last);
    for (xen_pfn_t at = 0; at <= last; at = end) {
        unsigned int count = 0;

        for (end = at; end <= last && count < BATCH; end++)
            types[count++] = end;
        ck_assert_int_eq(xc_get_pfn_type_batch(NULL, 7, count, types), 0);
        for (unsigned int i = 0; i < count; i++)
            if ((types[i] != XEN_DOMCTL_PFINFO_XTAB) != present[at + i])
                ck_abort_msg("PFN 0x%lx", (unsigned long)(at + i));
    }
}

START_TEST(the_hole_is_spared)
{
    make_guest();
    expect_all_found();
    ck_assert_uint_gt(page_types_spared(), 900000);
    ck_assert_uint_lt(asked, 70000);
}
END_TEST

START_TEST(a_page_in_the_hole_is_found)
{
    for (size_t pfn = 0x8000; pfn < 0xfc000; pfn += 0x1ffff) {
        make_guest();
        present[pfn] = true;
        expect_all_found();
    }
}
END_TEST

START_TEST(hidden_pages_spare_nothing)
{
    make_guest();
    hidden = 1;
    expect_all_found();
    ck_assert_uint_eq(page_types_spared(), 0);
}
END_TEST

START_TEST(a_guest_without_a_hole_is_walked)
{
    make_guest();
    memset(present, true, PFNS - 5);
    expect_all_found();
    ck_assert_uint_eq(page_types_spared(), 0);
    make_guest();
    pv = true;
    expect_all_found();
    ck_assert_uint_eq(page_types_spared(), 0);
}
END_TEST

START_TEST(later_rounds_ask_for_everything)
{
    xen_pfn_t pfn = 0x50000;

    make_guest();
    expect_all_found();
    present[pfn] = true; /* ballooned in, and dirty */
    ck_assert_int_eq(xc_get_pfn_type_batch(NULL, 7, 1, &pfn), 0);
    ck_assert_uint_eq(pfn, XEN_DOMCTL_PFINFO_NOTAB);
}
END_TEST

START_TEST(another_domain_is_asked_for)
{
    xen_pfn_t pfn = 0;

    make_guest();
    page_types_begin(NULL, 7);
    ck_assert_int_eq(xc_get_pfn_type_batch(NULL, 8, 1, &pfn), 0);
    ck_assert_uint_eq(asked, 1);
    ck_assert(!walk.walking);
}
END_TEST

UNIT_MAIN("page-types", the_hole_is_spared, a_page_in_the_hole_is_found, hidden_pages_spare_nothing,
          a_guest_without_a_hole_is_walked, later_rounds_ask_for_everything,
          another_domain_is_asked_for)
