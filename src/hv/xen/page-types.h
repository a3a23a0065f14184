/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Spares libxenguest the walk over the great hole in an HVM or PVH guest's address space: see
 * page-types.c. */
#ifndef XMOTION_HV_PAGE_TYPES_H
#define XMOTION_HV_PAGE_TYPES_H

#include <stdint.h>
#include <xenctrl.h>

/* Before xc_domain_save. Without it, or for a PV guest, nothing is spared. */
void page_types_begin(xc_interface *xch, uint32_t domid);

/* libxenctrl's function, in its stead. */
int xc_get_pfn_type_batch(xc_interface *xch, uint32_t dom, unsigned int num, xen_pfn_t *arr);

/* PFNs that were known to be holes without asking. */
uint64_t page_types_spared(void);

#endif
