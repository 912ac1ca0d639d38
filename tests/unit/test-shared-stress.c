/*
 * Pins that a device process takes in shared memory, with everything at once
 *
 * A real process pins and changes pages in no order while a guest counts in
 * them and they are reclaimed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "device.h"
#include "tally.h"

#define STRESS_SIZE (8 * MIB)
#define STRESS_PAGES (STRESS_SIZE / PAGE)
#define ROUNDS FEWER(20)
#define CHURN 1500

/* How often the devices' churning has added to any counter. */
static uint64_t sum_counts(Harness *h)
{
    uint64_t sum = 0;

    for (uint64_t page = 0; page < STRESS_PAGES; page++) {
        const uint8_t *at = h->ram.host + page * PAGE;

        sum += *(const uint64_t *)(at + DEVICE_COUNTER);
    }
    return sum;
}

/* What so many parts of requests add: random numbers that are no secret. */
static uint64_t churned(uint64_t times)
{
    uint64_t random = 7, sum = 0;

    while (times--) {
        uint64_t page, n;

        random = random * 6364136223846793005ULL + 1;
        page = (random >> 33) % STRESS_PAGES;
        n = 1 + (random >> 20) % 4;
        sum += MIN(n, STRESS_PAGES - page);
    }
    return sum;
}

static void test_stress(void)
{
    Harness *h = harness_new(&(HarnessOptions) {
        .size = STRESS_SIZE, .limit = STRESS_SIZE / 3, .evictors = 1,
        .reserve_low = 16 * PAGE, .reserve_high = 32 * PAGE,
    });
    Device *device = device_new(h);
    Tally *tally = tally_start(h);

    for (unsigned int round = 0; round < ROUNDS; round++) {
        g_assert_cmpint(device_do(device, DEVICE_CHURN, 0, CHURN), ==, 0);
        g_assert_cmpuint(memswap_client_pinned(device_client(device)), ==, 0);
    }
    tally_end(tally);
    g_assert_cmpuint(sum_counts(h), ==, churned(ROUNDS * CHURN * DEVICE_PARTS));
    g_assert_cmpuint(stats_of(h).refaults, >, 1000);
    device_kill(device);
    harness_free(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/shared-pins/stress", test_stress);
    return g_test_run();
}
