/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The first round of xc_domain_save asks the hypervisor for the type of every PFN up to the largest
 * one. In an HVM or PVH guest that one is just below 4 GiB, where the special pages lie, so a guest
 * of 128 MiB is asked for 1,044,480 PFNs of which 1,011,712 are a hole: a second on fast machines,
 * most of a minute on slow ones.
 *
 * A hole that is proven need not be walked. The hypervisor tells how many pages the domain has
 * (tot_pages). The walk counts those it meets; at the first batch without any, the top of the
 * address space is searched downwards, and once all pages are accounted for, what lies between is a
 * hole. If the numbers do not meet (a device model's hidden pages, ballooning at this moment)
 * everything is walked as ever. Pages that appear in the hole later are dirty and come with the
 * next rounds, just as those that appear behind the walk.
 *
 * libxenguest has no hook for this, but calls libxenctrl's xc_get_pfn_type_batch through the
 * dynamic linker, which finds this program's function of that name first. Should it ever not,
 * nothing is spared and nothing else changes. */
#include "hv/xen/page-types.h"

#include <assert.h>
#include <dlfcn.h>
#include <stdbool.h>

#define BATCH 1024u /* the most the hypervisor takes at once */
#define SEARCH_MAX                                                                                 \
    256u /* batches searched from the top: special pages and ACPI tables lie within 64 */

typedef int (*type_batch)(xc_interface *xch, uint32_t domid, unsigned int count, xen_pfn_t *pfns);

static struct {
    bool walking; /* the first round is under way, in order */
    bool searched;
    uint32_t domid;
    xen_pfn_t next, end;            /* what the walk comes to next; the PFN behind the last */
    uint64_t seen;                  /* pages met so far */
    xen_pfn_t hole_first, hole_end; /* equal: none */
    uint64_t spared;
} walk;

static type_batch real_function(void)
{
    static type_batch real;

    if (!real) {
        void *found = dlsym(RTLD_NEXT, "xc_get_pfn_type_batch");

        __builtin_memcpy(&real, &found, sizeof(real));
    }
    assert(real);
    return real;
}

static int get_info(xc_interface *xch, uint32_t domid, xc_domaininfo_t *info)
{
    return xc_domain_getinfolist(xch, domid, 1, info) == 1 && info->domain == domid ? 0 : -1;
}

void page_types_begin(xc_interface *xch, uint32_t domid)
{
    xc_domaininfo_t info;
    xen_pfn_t last;

    if (get_info(xch, domid, &info) || !(info.flags & XEN_DOMINF_hvm_guest) ||
        xc_domain_maximum_gpfn(xch, domid, &last) < 0)
        return;
    walk.domid = domid;
    walk.end = last + 1;
    walk.walking = true;
}

uint64_t page_types_spared(void)
{
    return walk.spared;
}

static uint64_t count_pages(const xen_pfn_t *types, unsigned int count)
{
    uint64_t pages = 0;

    for (unsigned int i = 0; i < count; i++)
        pages += types[i] != XEN_DOMCTL_PFINFO_XTAB;
    return pages;
}

/* From the top down until every page of the domain is found, or there are no more batches above the
 * walk. */
static void search_hole(xc_interface *xch)
{
    xen_pfn_t types[BATCH], at = walk.end;
    uint64_t seen = walk.seen;
    xc_domaininfo_t info;

    for (unsigned int i = 0; i < SEARCH_MAX && at > walk.next + BATCH; i++) {
        at -= BATCH;
        for (unsigned int j = 0; j < BATCH; j++)
            types[j] = at + j;
        if (real_function()(xch, walk.domid, BATCH, types) || get_info(xch, walk.domid, &info))
            return;
        seen += count_pages(types, BATCH);
        if (seen == info.tot_pages) {
            walk.hole_first = walk.next;
            walk.hole_end = at;
            return;
        }
    }
}

/* Whether a request is the walk's next step. */
static bool is_next(const xen_pfn_t *pfns, unsigned int count)
{
    for (unsigned int i = 0; i < count; i++)
        if (pfns[i] != walk.next + i)
            return false;
    return true;
}

int xc_get_pfn_type_batch(xc_interface *xch, uint32_t dom, unsigned int num, xen_pfn_t *arr)
{
    uint64_t pages;
    int r;

    walk.walking = walk.walking && dom == walk.domid && is_next(arr, num);
    if (!walk.walking)
        return real_function()(xch, dom, num, arr);
    walk.next += num;
    if (arr[0] >= walk.hole_first && arr[num - 1] < walk.hole_end) {
        for (unsigned int i = 0; i < num; i++)
            arr[i] = XEN_DOMCTL_PFINFO_XTAB;
        walk.spared += num;
        return 0;
    }
    r = real_function()(xch, dom, num, arr);
    pages = r ? 0 : count_pages(arr, num);
    walk.seen += pages;
    if (!r && !pages && !walk.searched) {
        walk.searched = true;
        search_hole(xch);
    }
    return r;
}
