/*
 * Benchmarks: the choice of a clock
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <glib.h>

#include "clock.h"

#define CLOCKSOURCE \
    "/sys/devices/system/clocksource/clocksource0/current_clocksource"
#define CALIBRATION_US 50000

bool bench_clock_tsc;
double bench_ticks_per_ns = 1;

void bench_clock_init(void)
{
    g_autofree char *source = NULL;
    uint64_t begin_ns, begin_ticks;

    if (!g_file_get_contents(CLOCKSOURCE, &source, NULL, NULL)) {
        return;
    }
    g_strstrip(source);
#ifdef BENCH_TSC
    bench_clock_tsc = g_str_equal(source, "tsc");
#endif
    if (!bench_clock_tsc) {
        return;
    }
    begin_ns = bench_clock_ns();
    begin_ticks = bench_clock_ticks();
    g_usleep(CALIBRATION_US);
    bench_ticks_per_ns = (double)(bench_clock_ticks() - begin_ticks) /
                         (bench_clock_ns() - begin_ns);
}
