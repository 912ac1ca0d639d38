/*
 * Tests on a file system that makes huge pages, whatever the host does
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include "harness.h"
#include "puppets.h"

static char *directory;

/* A file on such a mount, which nobody else sees; -1, and skipped: no way. */
static int open_file(const char *options)
{
    g_autofree char *path = NULL;
    int fd;

    directory = g_dir_make_tmp("memswap-XXXXXX", NULL);
    g_assert_nonnull(directory);
    if (unshare(CLONE_NEWNS) ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("tmpfs", directory, "tmpfs", 0, options)) {
        g_test_skip("no right to mount, or a kernel without huge pages");
        g_assert_cmpint(g_rmdir(directory), ==, 0);
        g_free(directory);
        return -1;
    }
    path = g_build_filename(directory, "ram", NULL);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static Harness *harness_mounted(const char *options)
{
    int fd = open_file(options);
    Harness *h = NULL;

    if (fd >= 0) {
        h = harness_new(&(HarnessOptions) { .limit = 8 * MIB, .huge = true });
        h->ram = ram_new_in(fd, 4 * MIB);
        ram_add(h, &h->ram, "ram");
    }
    return h;
}

static void harness_unmount(Harness *h)
{
    harness_free(h);
    g_assert_cmpint(umount(directory), ==, 0);
    g_assert_cmpint(g_rmdir(directory), ==, 0);
    g_free(directory);
}

/* Folios that nobody knows of may be there: it isn't exposed. */
static void test_expose(void)
{
    int file = memfd_create("file", MFD_CLOEXEC);
    bool kept_out = memswap_huge_kept_out(file);
    g_autofree char *error = NULL;
    Harness *h;

    close(file);
    if (!kept_out) {
        g_test_skip("the host would be the reason, not the mount");
        return;
    }
    h = harness_mounted("huge=always");
    if (!h) {
        return;
    }
    g_assert_false(h->ram.block->huge);
    g_assert_cmpint(memswap_block_expose(h->ram.block, &error), ==, -ENOTSUP);
    g_assert_nonnull(strstr(error, "mount without huge="));
    g_assert_false(memswap_block_exposed(h->ram.block));
    harness_unmount(h);
}

/* On another one it is as with a memfd. */
static void test_plain(void)
{
    Harness *h = harness_mounted("size=16m");

    if (!h) {
        return;
    }
    g_assert_cmpint(h->ram.block->huge, ==, h->engine->huge);
    if (h->engine->huge) {
        g_assert_cmpint(memswap_block_expose(h->ram.block, NULL), ==, 0);
        memswap_block_conceal(h->ram.block);
    }
    harness_unmount(h);
}

/* A page that is brought in to be watched is one page, and no more. */
static void test_prefetch(void)
{
    Harness *h = harness_mounted("huge=always");

    if (!h) {
        return;
    }
    puppet_add(h, "p", "puppet");
    write_pages(h, 0, 1024);
    g_assert_cmpuint(memswap_reclaim(h->engine, 4 * MIB), ==, 4 * MIB);
    g_assert_cmpuint(ram_cached(&h->ram), ==, 0);
    g_assert_cmpint(puppet_ask(h, "p", "prefetch", "0 700 1"), ==, 1);
    g_assert_cmpuint(ram_cached(&h->ram), ==, PAGE);
    check_pages(h, 0, 1024);
    harness_check(h);
    harness_unmount(h);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/huge-mount/expose", test_expose);
    g_test_add_func("/huge-mount/plain", test_plain);
    g_test_add_func("/huge-mount/prefetch", test_prefetch);
    return g_test_run();
}
