/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether the target's CPUs have what the guest has seen at the source. Xen itself does not refuse
 * a guest that has more: it takes the features away, and the guest dies of it later. */
#include "hv/xen/xen-agent.h"

#include "base/bytes.h"
#include "base/cleanup.h"

#include <stdio.h>
#include <stdlib.h>
#include <xenguest.h>

#define WORDS_MAX 32u

enum reg { EAX, EBX, ECX, EDX };

/* Where the words of a featureset come from (xen/include/public/arch-x86/cpufeatureset.h), in their
 * order. */
static const struct {
    uint32_t leaf, subleaf;
    enum reg reg;
} words[] = {
    {0x1, 0, EDX},        {0x1, 0, ECX}, {0x80000001, 0, EDX}, {0x80000001, 0, ECX},
    {0xd, 1, EAX},        {0x7, 0, EBX}, {0x7, 0, ECX},        {0x80000007, 0, EDX},
    {0x80000008, 0, EBX}, {0x7, 0, EDX}, {0x7, 1, EAX},        {0x80000021, 0, EAX},
    {0x7, 1, EBX},        {0x7, 2, EDX}, {0x7, 1, ECX},        {0x7, 1, EDX},
};

/* AMD repeats leaf 1's edx in leaf 0x80000001's; featuresets have these bits once. */
#define WORD_E1D       2u
#define COMMON_1D_BITS 0x0183f3ffu

static const char *const reg_names[] = {"eax", "ebx", "ecx", "edx"};

static uint32_t reg_of(const xen_cpuid_leaf_t *leaf, enum reg reg)
{
    switch (reg) {
    case EAX:
        return leaf->a;
    case EBX:
        return leaf->b;
    case ECX:
        return leaf->c;
    default:
        return leaf->d;
    }
}

/* The featureset of a domain, from the CPUID policy it was given. */
static json_t *pack_words(const xen_cpuid_leaf_t *leaves, uint32_t count)
{
    json_t *list = json_array();

    for (size_t w = 0; w < ARRAY_SIZE(words); w++) {
        uint32_t value = 0;

        for (uint32_t i = 0; i < count; i++) {
            uint32_t subleaf = leaves[i].subleaf == XEN_CPUID_NO_SUBLEAF ? 0 : leaves[i].subleaf;

            if (leaves[i].leaf == words[w].leaf && subleaf == words[w].subleaf)
                value = reg_of(&leaves[i], words[w].reg);
        }
        json_array_append_new(list, json_integer(w == WORD_E1D ? value & ~COMMON_1D_BITS : value));
    }
    return list;
}

int xen_cpu_get(struct agent *a, json_t **ret, struct err *err)
{
    CLEANUP_FREE xen_cpuid_leaf_t *leaves = NULL;
    CLEANUP_FREE xen_msr_entry_t *msrs = NULL;
    xc_cpu_policy_t *policy = xc_cpu_policy_init();
    uint32_t leaf_count = 0, msr_count = 0;
    int r = -1;

    if (policy && !xc_cpu_policy_get_size(a->xch, &leaf_count, &msr_count)) {
        leaves = calloc(leaf_count, sizeof(*leaves));
        msrs = calloc(msr_count, sizeof(*msrs));
        if (leaves && msrs && !xc_cpu_policy_get_domain(a->xch, a->domid, policy))
            r = xc_cpu_policy_serialise(a->xch, policy, leaves, &leaf_count, msrs, &msr_count);
    }
    if (policy)
        xc_cpu_policy_destroy(policy);
    if (r)
        return err_errno(err, -EIO, "reading the domain's CPUID policy");
    *ret = pack_words(leaves, leaf_count);
    return 0;
}

int xen_cpu_check(struct agent *a, const json_t *cpu, bool pv, struct err *err)
{
    uint32_t here[WORDS_MAX] = {0}, count = WORDS_MAX;
    uint32_t which = pv ? XEN_SYSCTL_cpu_featureset_pv_max : XEN_SYSCTL_cpu_featureset_hvm_max;

    if (!json_is_array(cpu))
        return err_set(err, -EPROTO, "the guest comes without its CPU features");
    if (xc_get_cpu_featureset(a->xch, which, &count, here) && errno != ENOBUFS)
        return 0; /* an older hypervisor: nothing to compare with */
    for (size_t w = 0; w < MIN(ARRAY_SIZE(words), json_array_size(cpu)); w++) {
        uint32_t guest = (uint32_t)json_integer_value(json_array_get(cpu, w));
        uint32_t missing = w < count ? guest & ~here[w] : guest;

        if (missing)
            return err_set(err, -ENOTSUP,
                           "the guest uses CPU features that this host lacks (CPUID leaf 0x%x.%u "
                           "%s bits 0x%x): restart it "
                           "at the source with a cpuid= setting that masks them",
                           words[w].leaf, words[w].subleaf, reg_names[words[w].reg], missing);
    }
    return 0;
}
