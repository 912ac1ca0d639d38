/*
 * memswap inside QEMU: what a vCPU was doing when it met a fault
 *
 * For x86-64 under TCG with inline faults: then we are in a signal handler, in
 * the vCPU's own thread, in the middle of generated code or of a function that
 * this called.  Registers are in CPUX86State, but for the lazy ones:
 *
 * - CR3 and the mode are always up to date.
 * - The instruction is found from an address in generated code, as for an
 *   exception: cpu_unwind_state_data() changes nothing.  It takes the lock of
 *   TCG's tree of translated code for a moment, which nobody holds who touches
 *   guest RAM.  That address is either where the fault was met; or, in a
 *   function that generated code called, where this returns to.  Functions
 *   have told us at the last TLB miss, and it is taken if that was in the same
 *   page: nearly every such fault comes right after a miss.  One that doesn't
 *   may be laid to an instruction that used the page before.
 * - The address is what the page was noted under when it came into the TLB.
 *   If the vCPU's TLB has the same now, it is taken for the address of the
 *   access, which came through there; if not, it is not known.  It is another
 *   if the page has two addresses in the TLB, or if what runs in this thread
 *   is TCG's walk through the tables, or a device.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/cpu-common.h"
#include "exec/cpu_ldst.h"
#include "exec/tlb-common.h"
#include "exec/translation-block.h"
#include "memswap/guest-table.h"
#include "memswap/hooks.h"
#include "memswap/policies.h"
#include "memswap/policy.h"
#include "system/tcg.h"
#ifdef CONFIG_TCG
#include "tcg/insn-start-words.h"
#endif
#include "glue.h"
#include "guest.h"

#ifdef TARGET_X86_64

bool memswap_cpu_has_tables(void)
{
    return true;
}

#ifdef CONFIG_TCG

/* False in a mode whose tables are others, or aren't the guest's own. */
static bool find_root(CPUX86State *env, uint64_t *root)
{
    if ((env->hflags & (HF_LMA_MASK | HF_SMM_MASK | HF_GUEST_MASK)) !=
        HF_LMA_MASK) {
        return false;
    }
    *root = memswap_guest_root(env->cr[3],
                               env->cr[4] & CR4_LA57_MASK ? 5 : 4);
    return true;
}

/* Is @address what the TLB has this page at? */
static bool in_tlb(CPUState *cpu, int mmu_index, vaddr address,
                   const void *host)
{
    CPUTLBDescFast *fast = &cpu->neg.tlb.f[mmu_index];
    uintptr_t n = (address >> TARGET_PAGE_BITS) &
                  (fast->mask >> CPU_TLB_ENTRY_BITS);
    const CPUTLBEntry *entry = &fast->table[n];

    if (entry->addend + address != (uintptr_t)host) {
        return false;
    }
    address &= TARGET_PAGE_MASK;
    return (entry->addr_read & TARGET_PAGE_MASK) == address ||
           (qatomic_read(&entry->addr_write) & TARGET_PAGE_MASK) == address ||
           (entry->addr_code & TARGET_PAGE_MASK) == address;
}

static bool find_address(CPUState *cpu, const void *host, uint64_t *address)
{
    int mmu_index = cpu_mmu_index(cpu, false);
    uint64_t root;

    return memswap_guest_noted(host, is_mmu_index_user(mmu_index), &root,
                               address) &&
           in_tlb(cpu, mmu_index, *address, host);
}

/* The last TLB miss in this thread. */
static __thread struct {
    CPUState *cpu;
    vaddr page;
    uintptr_t retaddr;
} last_miss;

void memswap_do_guest_misses(CPUState *cpu, uint64_t address,
                             uintptr_t retaddr)
{
    last_miss.cpu = cpu;
    last_miss.page = address & TARGET_PAGE_MASK;
    last_miss.retaddr = retaddr;
}

static bool find_pc(CPUState *cpu, uintptr_t host_pc,
                    const MemswapFaultContext *context, uint64_t *pc)
{
    CPUX86State *env = cpu_env(cpu);
    uint64_t data[TARGET_INSN_START_WORDS];
    bool found;

    /* It takes off so much to be in a call, not behind it; this is no call. */
    found = host_pc && cpu_unwind_state_data(cpu, host_pc + 2, data);
    if (!found && (context->known & MEMSWAP_POLICY_KNOWN_ADDRESS) &&
        last_miss.cpu == cpu && last_miss.retaddr &&
        last_miss.page == (context->address & TARGET_PAGE_MASK)) {
        found = cpu_unwind_state_data(cpu, last_miss.retaddr, data);
    }
    if (!found) {
        return false;
    }
    *pc = data[0];
    if (tcg_cflags_has(cpu, CF_PCREL)) {
        *pc |= (env->eip + env->segs[R_CS].base) & TARGET_PAGE_MASK;
    }
    return true;
}

void memswap_cpu_fault_context(CPUState *cpu, const void *host,
                               uintptr_t host_pc,
                               MemswapFaultContext *context)
{
    context->known |= MEMSWAP_POLICY_KNOWN_VCPU;
    context->vcpu = cpu->cpu_index;
    if (!tcg_enabled() || !qatomic_read(&cpu->running)) {
        return;
    }
    if (find_root(cpu_env(cpu), &context->root)) {
        context->known |= MEMSWAP_POLICY_KNOWN_ROOT;
        if (find_address(cpu, host, &context->address)) {
            context->known |= MEMSWAP_POLICY_KNOWN_ADDRESS;
        }
    }
    if (find_pc(cpu, host_pc, context, &context->pc)) {
        context->known |= MEMSWAP_POLICY_KNOWN_PC;
    }
}

/* The page at @host is about to get into the TLB. */
void memswap_do_guest_maps(CPUState *cpu, int mmu_index, uint64_t address,
                           const void *host)
{
    MemswapEngine *engine = memswap_engine();
    uint64_t root;

    if (engine && memswap_policies_want_context(engine) &&
        mmu_index < MMU_PHYS_IDX && find_root(cpu_env(cpu), &root)) {
        memswap_guest_note(host, is_mmu_index_user(mmu_index), root, address);
    }
}

#else /* no CONFIG_TCG */

void memswap_cpu_fault_context(CPUState *cpu, const void *host,
                               uintptr_t host_pc,
                               MemswapFaultContext *context)
{
    context->known |= MEMSWAP_POLICY_KNOWN_VCPU;
    context->vcpu = cpu->cpu_index;
}

#endif /* CONFIG_TCG */

#else /* of other guests nothing is known */

bool memswap_cpu_has_tables(void)
{
    return false;
}

void memswap_cpu_fault_context(CPUState *cpu, const void *host,
                               uintptr_t host_pc,
                               MemswapFaultContext *context)
{
    context->known |= MEMSWAP_POLICY_KNOWN_VCPU;
    context->vcpu = cpu->cpu_index;
}

void memswap_do_guest_maps(CPUState *cpu, int mmu_index, uint64_t address,
                           const void *host)
{
}

void memswap_do_guest_misses(CPUState *cpu, uint64_t address,
                             uintptr_t retaddr)
{
}

#endif /* TARGET_X86_64 */
