/*
 * memswap inside QEMU: "info memswap", for people
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-memswap.h"
#include "qapi/qapi-types-memswap.h"
#include "qapi/type-helpers.h"
#include "qemu/cutils.h"
#include "qemu/module.h"
#include "qom/object.h"

static void print_size(GString *text, const char *name, uint64_t size)
{
    g_autofree char *string = size_to_str(size);

    g_string_append_printf(text, "  %-18s %s\n", name, string);
}

static void print_count(GString *text, const char *name, uint64_t count)
{
    g_string_append_printf(text, "  %-18s %" PRIu64 "\n", name, count);
}

static void print_time(GString *text, const char *name, uint64_t ns)
{
    g_string_append_printf(text, "  %-18s %.1f us\n", name, ns / 1000.0);
}

static void print_settings(GString *text, const MemswapSettingsInfo *settings)
{
    g_string_append(text, "settings\n");
    print_size(text, "limit", settings->limit);
    if (settings->has_pool_limit) {
        print_size(text, "pool limit", settings->pool_limit);
    } else {
        g_string_append(text, "  pool limit         none\n");
    }
    if (settings->compression == MEMSWAP_COMPRESSION_ZSTD) {
        g_string_append_printf(text, "  compression        zstd, level %"
                               PRId64 "\n", settings->compression_level);
    } else {
        g_string_append_printf(text, "  compression        %s\n",
                               MemswapCompression_str(settings->compression));
    }
    print_size(text, "read-ahead", settings->readahead);
    if (settings->has_keep_copies) {
        print_size(text, "keep copies of", settings->keep_copies);
    } else {
        g_string_append(text, "  keep copies of     a sixteenth of the limit"
                        "\n");
    }
    g_string_append_printf(text, "  huge regions       %s\n"
                           "  when full          %s\n",
                           settings->huge_regions ? "on" : "off",
                           MemswapWhenFull_str(settings->when_full));
    if (settings->fault_mode == MEMSWAP_FAULT_THREAD_INLINE) {
        g_string_append(text, "  faults             inline\n");
    } else {
        g_string_append_printf(text, "  faults             in IOThread %s%s\n",
                               settings->iothread ?: "of its own",
                               settings->user_mode_only ? ", user mode only" :
                               "");
    }
}

static void print_memory(GString *text, const MemswapMemoryInfo *memory)
{
    g_string_append(text, "guest RAM\n");
    print_size(text, "managed", memory->managed);
    print_size(text, "resident", memory->resident);
    print_size(text, "  on trial", memory->trial);
    print_size(text, "  pinned", memory->pinned);
    print_size(text, "  huge", memory->huge);
    print_size(text, "  copies kept", memory->kept);
    print_size(text, "  for devices", memory->retained);
    print_size(text, "  peak", memory->peak_resident);
    print_size(text, "stored", memory->stored);
    print_size(text, "zero", memory->zero);
    print_size(text, "untouched", memory->untouched);
    if (memory->poisoned) {
        print_size(text, "lost", memory->poisoned);
    }
    print_size(text, "bookkeeping", memory->metadata);
}

static void print_pool(GString *text, const MemswapPoolInfo *pool)
{
    g_string_append(text, "pool\n");
    print_size(text, "size", pool->bytes);
    g_string_append_printf(text, "  filled             %.0f %%\n"
                           "  compression        %.2f : 1\n",
                           pool->fill_ratio * 100, pool->compression_ratio);
}

static void print_faults(GString *text, const MemswapFaultInfo *faults)
{
    g_string_append(text, "faults\n");
    print_count(text, "total", faults->total);
    print_count(text, "never touched", faults->absent);
    print_count(text, "not mapped", faults->minor);
    print_count(text, "on trial", faults->trial);
    print_count(text, "zero", faults->zero);
    print_count(text, "stored", faults->stored);
    print_count(text, "waited", faults->waited);
    print_time(text, "half within", faults->p50_ns);
    print_time(text, "99 % within", faults->p99_ns);
}

static void print_reclaim(GString *text, const MemswapReclaimInfo *reclaim)
{
    g_string_append(text, "reclaim\n");
    print_count(text, "evictions", reclaim->evictions);
    print_count(text, "refaults", reclaim->refaults);
    print_count(text, "unchanged", reclaim->unchanged);
    print_count(text, "read ahead", reclaim->readahead);
    print_count(text, "made huge", reclaim->collapses);
    print_count(text, "made small again", reclaim->splits);
    print_count(text, "trials", reclaim->trials);
    print_count(text, "discards", reclaim->discards);
    print_count(text, "store full", reclaim->store_full);
    print_count(text, "overshoots", reclaim->overshoots);
    print_count(text, "stalls", reclaim->stalls);
    g_string_append_printf(text, "  stall time         %.3f s\n",
                           reclaim->stall_ns / 1e9);
}

static void print_working_sets(GString *text,
                               const MemswapWorkingSetList *list)
{
    g_string_append(text, "working set, at least, and with what was mapped\n");
    for (; list; list = list->next) {
        g_autofree char *least = size_to_str(list->value->at_least);
        g_autofree char *most = size_to_str(list->value->at_most);
        g_autofree char *name = g_strdup_printf("last %u min",
                                                list->value->seconds / 60);

        g_string_append_printf(text, "  %-18s %s, %s\n", name, least, most);
    }
}

/*
 * The points at which the rate has fallen to three quarters of that in the
 * line before: as many as a screen has room for.
 */
static void print_curve(GString *text, const MemswapRefaultPointList *list)
{
    double last = -1;

    g_string_append(text, "refaults a second, if so much were resident\n");
    for (; list; list = list->next) {
        if (last < 0 || !list->next || list->value->refaults <= last * 0.75) {
            g_autofree char *size = size_to_str(list->value->resident);

            g_string_append_printf(text, "  %-18s %.1f\n", size,
                                   list->value->refaults);
            last = list->value->refaults;
        }
    }
}

/* The longest-held, as many as a screen has room for. */
#define HOLDERS 8

static void print_pins(GString *text, const MemswapPinInfo *pins)
{
    const MemswapPinHolderList *list = pins->holders;

    g_string_append(text, "pins\n");
    print_size(text, "pinned", pins->bytes);
    print_size(text, "at most", pins->limit);
    print_count(text, "refused", pins->refused);
    for (int i = 0; list && i < HOLDERS; i++, list = list->next) {
        const MemswapPinHolder *holder = list->value;
        g_autofree char *size = size_to_str(holder->bytes);

        g_string_append_printf(text, "  %s: %s of %s in %" PRIu64 " pieces,"
                               " for %.1f s\n", holder->device ?: "unknown",
                               size, MemswapPinUse_str(holder->use),
                               holder->maps, holder->longest / 1e9);
    }
    if (list) {
        g_string_append(text, "  ...\n");
    }
}

static void print_blocks(GString *text, const MemswapRamBlockList *list)
{
    g_string_append(text, "blocks\n");
    for (; list; list = list->next) {
        const MemswapRamBlock *block = list->value;
        g_autofree char *size = size_to_str(block->size);

        if (block->managed) {
            g_autofree char *resident = size_to_str(block->memory->resident);

            g_string_append_printf(text, "  %s: %s, %s resident\n",
                                   block->name, size, resident);
        } else {
            g_string_append_printf(text, "  %s: %s, not managed: %s\n",
                                   block->name, size, block->reason);
        }
    }
}

static void print_devices(GString *text, const MemswapDeviceList *list)
{
    if (list) {
        g_string_append(text, "device processes\n");
    }
    for (; list; list = list->next) {
        const MemswapDevice *device = list->value;
        g_autofree char *resident = size_to_str(device->resident);
        g_autofree char *reachable = size_to_str(device->reachable);

        g_string_append_printf(text, "  %s (%s): %s%s, %s %s of %s\n",
                               device->id ?: device->chardev, device->chardev,
                               MemswapDeviceKind_str(device->kind),
                               device->attached ? "" : ", leaving",
                               device->has_pinned ? "has pinned" :
                               "keeps resident", resident, reachable);
    }
}

static void print_policies(GString *text, const MemswapLoadedPolicyList *list)
{
    if (list) {
        g_string_append(text, "policies\n");
    }
    for (; list; list = list->next) {
        const MemswapLoadedPolicy *policy = list->value;
        const MemswapPolicyCounterList *counter = policy->counters;
        g_autofree char *reclaimed = size_to_str(policy->reclaimed);

        g_string_append_printf(text, "  %s: %s, ", policy->id, policy->name);
        if (policy->error) {
            g_string_append_printf(text, "given up: %s, ", policy->error);
        }
        g_string_append_printf(text, "%" PRIu64 " events (%" PRIu64
                               " dropped), %" PRIu64 " requests (%" PRIu64
                               " refused), %s reclaimed, %" PRIu64
                               " prefetched (%" PRIu64 " hits, %" PRIu64
                               " wasted)\n", policy->events, policy->dropped,
                               policy->requests, policy->refused, reclaimed,
                               policy->prefetched, policy->hits,
                               policy->wasted);
        for (; counter; counter = counter->next) {
            g_string_append(text, "  ");
            print_count(text, counter->value->name, counter->value->value);
        }
    }
}

static HumanReadableText *info_memswap(Error **errp)
{
    g_autoptr(GString) text = g_string_new("");
    g_autoptr(MemswapInfo) info = qmp_query_memswap(errp);

    if (!info) {
        return NULL;
    }
    if (!info->enabled) {
        g_string_append(text, "Guest RAM is not swapped.\n");
    } else {
        print_settings(text, info->settings);
        print_memory(text, info->memory);
        print_pool(text, info->pool);
        print_faults(text, info->faults);
        print_reclaim(text, info->reclaim);
        print_pins(text, info->pins);
        print_working_sets(text, info->working_sets);
        print_curve(text, info->refault_curve);
        print_devices(text, info->devices);
        print_policies(text, info->policies);
        print_blocks(text, info->blocks);
    }
    return human_readable_text_from_str(text);
}

static void register_info_memswap(void)
{
    monitor_register_hmp_info_hrt("memswap", info_memswap);
}

type_init(register_info_memswap)
