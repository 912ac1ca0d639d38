/*
 * Huge pages: can this kernel, and does this host let us?
 *
 * Asked of the kernel itself, with memory of our own.  In Linux 6.1
 * MADV_COLLAPSE fills a hole with zeroes although userfaultfd wants to hear of
 * it; newer ones refuse.  Without that we do without.
 *
 * Where the host lets shared memory have huge pages by itself, large folios
 * can be anywhere, and we would know nothing of them: there we keep out.  A
 * tmpfs that is mounted has an option of its own for that, whatever the host's
 * setting is.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "internal.h"
#include "uffd.h"

/* While the host has no memory for the answer. */
#define PROBE_TRIES 5
#define PROBE_WAIT_US 20000

#define THP_DIR "/sys/kernel/mm/transparent_hugepage"

/* Is one of these the value chosen, in brackets? */
static bool chosen(const char *path, const char *a, const char *b)
{
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) &&
           (strstr(text, a) || strstr(text, b));
}

static bool host_keeps_out(void)
{
    GDir *dir;
    const char *name;
    bool ok = chosen(THP_DIR "/shmem_enabled", "[never]", "[deny]");

    /* Newer kernels have a setting for each size as well. */
    dir = ok ? g_dir_open(THP_DIR, 0, NULL) : NULL;
    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(THP_DIR, name,
                                                 "shmem_enabled", NULL);

        if (g_str_has_prefix(name, "hugepages-") &&
            !access(path, F_OK) && !chosen(path, "[never]", "[inherit]")) {
            ok = false;
        }
    }
    g_clear_pointer(&dir, g_dir_close);
    return ok;
}

/* Does the mount, if there is one: what is none, as a memfd, is not found. */
static bool mount_keeps_out(int fd)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    struct stat st;

    if (fstat(fd, &st) ||
        !g_file_get_contents("/proc/self/mountinfo", &text, NULL, NULL)) {
        return true;
    }
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        unsigned int on_major, on_minor;

        if (sscanf(*line, "%*d %*d %u:%u", &on_major, &on_minor) == 2 &&
            on_major == major(st.st_dev) && on_minor == minor(st.st_dev)) {
            /* of those of the file system, "never" isn't told */
            const char *options = strstr(*line, " - ");

            return !options || !strstr(options, ",huge=");
        }
    }
    return true;
}

bool memswap_huge_kept_out(int fd)
{
    return host_keeps_out() && mount_keeps_out(fd);
}

static int collapse(uint8_t *at)
{
    return madvise(at, MEMSWAP_REGION_SIZE, MADV_COLLAPSE) ? -errno : 0;
}

/* That says nothing of the kernel, but that it has no memory right now. */
static bool says_nothing(int error)
{
    return error == -ENOMEM || error == -EAGAIN || error == -EINTR;
}

/*
 * Two regions, the second with a hole for its first page.  Returns 1 if this
 * kernel can, 0 if it can't, a negative errno if there is no telling.
 */
static int probe_range(MemswapEngine *engine, int fd, uint8_t *at)
{
    const size_t size = MEMSWAP_REGION_SIZE;
    const size_t page = sysconf(_SC_PAGESIZE);
    g_autofree uint8_t *zeroes = g_malloc0(size);
    int ret = memswap_uffd_register(engine->uffd, at, 2 * size);

    if (ret) {
        return ret;
    }
    ret = memswap_uffd_copy(engine->uffd, at, zeroes, size, NULL) ?:
          memswap_uffd_copy(engine->uffd, at + size + page, zeroes,
                            size - page, NULL);
    if (!ret && madvise(at, size, MADV_DONTNEED)) {
        ret = -errno;
    }
    ret = ret ?: collapse(at);
    if (!ret) {
        /* refused for the hole, and not for want of memory? */
        ret = collapse(at + size);
        if (!says_nothing(ret)) {
            ret = ret && lseek(fd, size, SEEK_DATA) == (off_t)(size + page);
        }
    }
    memswap_uffd_unregister(engine->uffd, at, 2 * size);
    return ret;
}

/* As probe_range() does. */
static int probe(MemswapEngine *engine)
{
    const size_t size = MEMSWAP_REGION_SIZE;
    uint8_t *space, *at;
    int ret;
    int fd = memfd_create("memswap-probe", MFD_CLOEXEC);

    if (fd < 0) {
        return -errno;
    }
    space = mmap(NULL, 3 * size, PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED) {
        ret = -errno;
    } else {
        at = (uint8_t *)(((uintptr_t)space + size - 1) & ~(size - 1));
        if (ftruncate(fd, 2 * size) ||
            mmap(at, 2 * size, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_FIXED, fd, 0) != at) {
            ret = -errno;
        } else {
            ret = probe_range(engine, fd, at);
        }
        munmap(space, 3 * size);
    }
    close(fd);
    return ret;
}

void memswap_huge_probe(MemswapEngine *engine)
{
    unsigned int tries = PROBE_TRIES;
    int ret;

    if (!host_keeps_out()) {
        return;
    }
    while (says_nothing(ret = probe(engine)) && --tries) {
        g_usleep(PROBE_WAIT_US);
    }
    engine->huge = ret > 0;
}
