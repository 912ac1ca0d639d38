/*
 * memswap: how QEMU starts with it, or refuses to
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include <sys/resource.h>
#include "memswap-util.h"

/* A machine that is there at once. */
#define MACHINE "-nodefaults -m 128M "
#define ON MACHINE "-memswap limit=16M "

typedef struct Refusal {
    const char *name;
    const char *args;
    const char *message;
} Refusal;

static const Refusal refusals[] = {
    { "options/no-limit", MACHINE "-memswap pool-limit=16M",
      "Parameter 'limit' is missing" },
    { "options/limit-zero", MACHINE "-memswap limit=0",
      "limit must be at least 1 MiB" },
    { "options/limit-tiny", MACHINE "-memswap limit=1048575",
      "limit must be at least 1 MiB" },
    { "options/limit-above-ram", MACHINE "-memswap limit=129M",
      "limit must not be larger than guest RAM, 128 MiB" },
    { "options/limit-no-size", MACHINE "-memswap limit=much",
      "Parameter 'limit' expects a size value" },
    { "options/limit-negative", MACHINE "-memswap limit=-1",
      "Parameter 'limit' expects a size value" },
    { "options/limit-overflow", MACHINE "-memswap limit=99999999999999999999",
      "Parameter 'limit' expects a size value" },
    { "options/unknown", MACHINE "-memswap limit=16M,limits=16M",
      "Invalid parameter 'limits'" },
    { "options/when-full", MACHINE "-memswap limit=16M,when-full=panic",
      "Parameter 'when-full' does not accept value 'panic'" },
    { "options/level-high",
      MACHINE "-memswap limit=16M,compression-level=23",
      "compression level must be from -131072 to 22" },
    { "options/level-low",
      MACHINE "-memswap limit=16M,compression-level=-131073",
      "compression level must be from -131072 to 22" },
    { "options/level-wraps",
      MACHINE "-memswap limit=16M,compression-level=4294967297",
      "compression level must be from -131072 to 22" },
    { "options/pool-zero", MACHINE "-memswap limit=16M,pool-limit=0",
      "pool-limit must be at least" },
    { "options/pool-tiny", MACHINE "-memswap limit=16M,pool-limit=1048575",
      "pool-limit must be at least" },
    { "options/pin-tiny", MACHINE "-memswap limit=16M,pin-limit=255K",
      "pin-limit must be at least 256 KiB" },
    { "options/pin-large", MACHINE "-memswap limit=16M,pin-limit=17M",
      "pin-limit must be at most limit" },
    { "options/object", MACHINE "-object memswap,id=m,limit=0",
      "limit must be at least 1 MiB" },
    { "options/twice", ON "-memswap limit=16M",
      "Duplicate ID 'memswap0'" },
    { "options/two-objects", ON "-object memswap,id=other,limit=16M",
      "there is a memswap object already: remove this one" },

    { "fault-mode/unknown", MACHINE "-memswap limit=16M,fault-mode=kernel",
      "Parameter 'fault-mode' does not accept value 'kernel'" },
    { "fault-mode/inline-with-iothread", MACHINE "-object iothread,id=it"
      " -memswap limit=16M,fault-mode=inline,iothread=it",
      "memswap: iothread= needs fault-mode=iothread: remove one of them" },
    /* No vhost at all is behind descriptor 0; it isn't looked at. */
    { "fault-mode/inline-with-vhost", MACHINE
      "-memswap limit=16M,fault-mode=inline"
      " -device vhost-vsock-pci,guest-cid=3,vhostfd=0",
      "memswap: vhost needs page faults of the kernel resolved: use"
      " fault-mode=iothread" },

    { "iothread/missing", MACHINE "-memswap limit=16M,iothread=none",
      "there is no IOThread 'none': add -object iothread,id=none" },
    { "iothread/other-object", MACHINE "-object secret,id=it,data=x"
      " -memswap limit=16M,iothread=it", "there is no IOThread 'it'" },
    { "iothread/in-use", MACHINE "-object iothread,id=it"
      " -blockdev null-co,node-name=disk"
      " -device virtio-blk-pci,drive=disk,iothread=it"
      " -memswap limit=16M,iothread=it",
      "IOThread 'it' resolves page faults: give the device another one" },

    { "ram/private", ON "-object memory-backend-ram,id=ram,size=128M,share=off"
      " -machine memory-backend=ram",
      "RAM 'ram' is private memory: add share=on to its backend" },
    { "ram/private-memfd", ON
      "-object memory-backend-memfd,id=ram,size=128M,share=off"
      " -machine memory-backend=ram",
      "RAM 'ram' is private memory: add share=on to its backend" },
    { "ram/private-node", ON
      "-object memory-backend-memfd,id=a,size=64M"
      " -object memory-backend-memfd,id=b,size=64M,share=off"
      " -numa node,memdev=a -numa node,memdev=b",
      "RAM 'b' is private memory: add share=on to its backend" },
    { "ram/mem-prealloc", ON "-mem-prealloc",
      "is preallocated: remove prealloc=on from its backend" },
    { "ram/prealloc", ON
      "-object memory-backend-memfd,id=ram,size=128M,prealloc=on"
      " -machine memory-backend=ram",
      "RAM 'ram' is preallocated: remove prealloc=on from its backend" },

    { "migration/incoming", ON "-incoming defer",
      "migration and snapshots are not supported yet: remove -incoming" },
    { "migration/only-migratable", ON "-only-migratable",
      "memswap: migration and snapshots are not supported yet" },
    { "migration/loadvm", ON "-loadvm snap",
      "memswap: migration and snapshots are not supported yet" },

    { "devices/gpu-blob", ON "-device virtio-gpu-pci,blob=on",
      "memswap: blob resources are not supported yet: remove blob=on" },
    { "devices/vfio", ON "-device vfio-pci,host=0000:ff:1f.7",
      "memswap: VFIO devices are not supported yet" },
    { "devices/vhost-scsi", ON "-device vhost-scsi-pci,wwpn=naa.1",
      "memswap: vhost-scsi devices are not supported yet" },
    { "devices/virtio-mem-prealloc", ON "-m 128M,maxmem=256M"
      " -object memory-backend-memfd,id=mem,size=128M"
      " -device virtio-mem-pci,memdev=mem,prealloc=on",
      "virtio-mem can't preallocate memory that is swapped:"
      " remove prealloc=on" },
};

static void refused(const void *opaque)
{
    const Refusal *refusal = opaque;

    expect_refusal(refusal->args, refusal->message);
}

/* The socket's name is no file, and like no other program's. */
static void refused_vhost_user(const void *opaque)
{
    g_autofree char *args = g_strdup_printf(
        ON "-chardev socket,id=c,path=memswap-%d,abstract=on,server=on,wait=off"
        " %s", getpid(), (const char *)opaque);

    expect_refusal(args, "memswap: vhost-user devices keep all guest RAM"
                   " resident, 128 MiB, and the limit is 16 MiB: raise the"
                   " limit, or use no vhost-user device");
}

/* A disk file, which must not be on tmpfs: beside the program. */
static void refused_disk_file(void)
{
    g_autofree char *dir = g_strdup("./memswap-XXXXXX");
    g_autofree char *args = NULL;

    g_assert_nonnull(g_mkdtemp(dir));
    args = g_strdup_printf(ON "-object memory-backend-file,id=ram,size=128M,"
                           "share=on,mem-path=%s -machine memory-backend=ram",
                           dir);
    expect_refusal(args, "RAM 'ram' is on a disk file: put it on tmpfs, or use"
                   " memory-backend-memfd");
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

static void refused_read_only(void)
{
    g_autofree char *path = g_strdup("/dev/shm/memswap-XXXXXX");
    g_autofree char *args = NULL;
    int fd = g_mkstemp(path);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, 128 * MIB), ==, 0);
    args = g_strdup_printf(ON "-object memory-backend-file,id=ram,size=128M,"
                           "share=on,readonly=on,mem-path=%s"
                           " -machine memory-backend=ram", path);
    expect_refusal(args, "read-only");
    close(fd);
    g_assert_cmpint(g_unlink(path), ==, 0);
}

static void refused_locked(void)
{
    struct rlimit most;

    g_assert_cmpint(getrlimit(RLIMIT_MEMLOCK, &most), ==, 0);
    if (geteuid() && most.rlim_cur < 4096 * MIB) {
        g_test_skip("this user may not lock 4 GiB of memory");
        return;
    }
    expect_refusal(ON "-overcommit mem-lock=on",
                   "guest RAM is locked in memory: remove -overcommit"
                   " mem-lock");
}

static void refused_hugetlb(void)
{
    g_autofree char *text = NULL;
    const char *line;

    g_assert_true(g_file_get_contents("/proc/meminfo", &text, NULL, NULL));
    line = strstr(text, "HugePages_Free:");
    if (!line || atoi(line + strlen("HugePages_Free:")) < 64) {
        g_test_skip("needs 64 free huge pages");
        return;
    }
    expect_refusal(ON "-object memory-backend-memfd,id=ram,size=128M,"
                   "hugetlb=on -machine memory-backend=ram",
                   "has its hugepages reserved: add reserve=off");
    expect_refusal(MACHINE "-memswap limit=16M "
                   "-object memory-backend-memfd,id=ram,size=128M,"
                   "hugetlb=on,reserve=off -machine memory-backend=ram",
                   "limit must be at least 32 MiB");
}

static void refused_no_hugepages(void)
{
    /* None has so many. */
    expect_refusal("-nodefaults -m 512G -memswap limit=512G "
                   "-object memory-backend-memfd,id=ram,size=512G,"
                   "hugetlb=on,reserve=off -machine memory-backend=ram",
                   "raise vm.nr_hugepages");
}

static void help(void)
{
    g_autofree char *out = NULL;
    g_autofree char *err = NULL;

    g_assert_cmpint(run_qemu("-memswap help", &out, &err), ==, 0);
    g_assert_nonnull(strstr(out, "limit=<size>"));
    g_assert_nonnull(strstr(out, "pool-limit=<size>"));
    g_assert_nonnull(strstr(out, "compression-level=<int>"));
    g_assert_nonnull(strstr(out, "when-full="));
    g_assert_nonnull(strstr(out, "fault-mode="));
    g_assert_nonnull(strstr(out, "iothread="));
    g_assert_cmpstr(err, ==, "");
}

typedef struct Accepted {
    const char *name;
    const char *args;
    const char *block;
    uint64_t size;
} Accepted;

static const Accepted accepted[] = {
    { "default-ram", ON, "pc.ram", 128 * MIB },
    { "q35", ON "-machine q35", "pc.ram", 128 * MIB },
    { "object", MACHINE "-object memswap,id=m,limit=16M", "pc.ram",
      128 * MIB },
    { "inline", MACHINE "-memswap limit=16M,fault-mode=inline", "pc.ram",
      128 * MIB },
    { "inline-nodes", MACHINE "-memswap limit=16M,fault-mode=inline"
      " -object memory-backend-memfd,id=first,size=64M"
      " -object memory-backend-memfd,id=second,size=64M"
      " -numa node,memdev=first -numa node,memdev=second", "second",
      64 * MIB },
    { "in-iothread", MACHINE "-memswap limit=16M,fault-mode=iothread",
      "pc.ram", 128 * MIB },
    { "stopped", ON "-S", "pc.ram", 128 * MIB },
    { "odd-size", "-nodefaults -m 129M -memswap limit=16M", "pc.ram",
      129 * MIB },
    { "limit-is-ram", MACHINE "-memswap limit=128M", "pc.ram", 128 * MIB },
    { "limit-smallest", MACHINE "-memswap limit=1M", "pc.ram", 128 * MIB },
    { "shared-ram", ON "-object memory-backend-ram,id=ram,size=128M"
      " -machine memory-backend=ram", "ram", 128 * MIB },
    { "memfd", ON "-object memory-backend-memfd,id=ram,size=128M"
      " -machine memory-backend=ram", "ram", 128 * MIB },
    { "tmpfs", ON "-object memory-backend-file,id=ram,size=128M,share=on,"
      "mem-path=/dev/shm -machine memory-backend=ram", "ram", 128 * MIB },
    { "nodes", ON "-object memory-backend-memfd,id=first,size=64M"
      " -object memory-backend-memfd,id=second,size=64M"
      " -numa node,memdev=first -numa node,memdev=second", "second",
      64 * MIB },
};

static void starts(const void *opaque)
{
    const Accepted *accept = opaque;
    QTestState *qts = qtest_init(accept->args);
    g_autoptr(QDict) info = query(qts);
    g_autoptr(QDict) status = NULL;

    g_assert_true(qdict_get_bool(info, "enabled"));
    g_assert_cmpint(block_number(qts, accept->block, "managed"), ==,
                    accept->size);
    g_assert_cmpint(block_number(qts, accept->block, "page-size"), ==, PAGE);
    expect_swapping(qts);
    status = qtest_qmp_assert_success_ref(qts,
                                          "{ 'execute': 'query-status' }");
    g_assert_cmpint(qdict_get_bool(status, "running"), ==,
                    !strstr(accept->args, "-S"));
    qtest_quit(qts);
}

/* What isn't RAM of the guest stays as it is, and is listed with a reason. */
static void unmanaged(void)
{
    QTestState *qts = qtest_init(ON "-device VGA"
                                 " -object memory-backend-memfd,id=spare,"
                                 "size=4M");
    g_autofree char *vga = block_reason(qts, "vga.vram");
    g_autofree char *rom = block_reason(qts, "pc.bios");
    g_autofree char *spare = block_reason(qts, "spare");
    g_autofree char *ram = block_reason(qts, "pc.ram");

    g_assert_cmpstr(vga, ==, "belongs to a device");
    g_assert_cmpstr(rom, ==, "belongs to a device");
    g_assert_cmpstr(spare, ==, "is not RAM of the guest");
    g_assert_null(ram);
    expect_sums(qts);
    qtest_quit(qts);
}

static void settings(void)
{
    QTestState *qts = qtest_init(MACHINE "-object iothread,id=faults -memswap "
                                 "limit=20M,pool-limit=32M,iothread=faults,"
                                 "compression=zstd,compression-level=3,"
                                 "readahead=0,keep-copies=1M,"
                                 "huge-regions=off,when-full=overshoot");
    g_autoptr(QDict) info = query(qts);
    QDict *now = qdict_get_qdict(info, "settings");

    g_assert_cmpint(qdict_get_int(now, "limit"), ==, 20 * MIB);
    g_assert_cmpint(qdict_get_int(now, "pool-limit"), ==, 32 * MIB);
    g_assert_cmpstr(qdict_get_str(now, "compression"), ==, "zstd");
    g_assert_cmpint(qdict_get_int(now, "compression-level"), ==, 3);
    g_assert_cmpint(qdict_get_int(now, "readahead"), ==, 0);
    g_assert_cmpint(qdict_get_int(now, "keep-copies"), ==, MIB);
    g_assert_false(qdict_get_bool(now, "huge-regions"));
    g_assert_cmpstr(qdict_get_str(now, "when-full"), ==, "overshoot");
    g_assert_cmpstr(qdict_get_str(now, "iothread"), ==, "faults");
    expect_swapping(qts);
    qtest_quit(qts);
}

static void defaults(void)
{
    QTestState *qts = qtest_init(ON);
    g_autoptr(QDict) info = query(qts);
    QDict *now = qdict_get_qdict(info, "settings");

    g_assert_false(qdict_haskey(now, "pool-limit"));
    g_assert_cmpstr(qdict_get_str(now, "compression"), ==, "lz4");
    g_assert_cmpint(qdict_get_int(now, "compression-level"), ==, -1);
    g_assert_cmpint(qdict_get_int(now, "readahead"), ==, 16 * 1024);
    g_assert_false(qdict_haskey(now, "keep-copies"));
    g_assert_cmpstr(qdict_get_str(now, "when-full"), ==, "hold");
    g_assert_false(qdict_haskey(now, "iothread"));
    /* Main RAM has never been touched, but by firmware at most. */
    g_assert_cmpuint(number(qts, "memory", "untouched"), >=, 127 * MIB);
    qtest_quit(qts);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (int i = 0; i < ARRAY_SIZE(refusals); i++) {
        g_autofree char *path = g_strdup_printf("memswap/refused/%s",
                                                refusals[i].name);
        qtest_add_data_func(path, &refusals[i], refused);
    }
    qtest_add_data_func("memswap/refused/devices/vhost-user-net",
                        "-netdev vhost-user,id=n,chardev=c"
                        " -device virtio-net-pci,netdev=n",
                        refused_vhost_user);
    qtest_add_func("memswap/refused/ram/disk-file", refused_disk_file);
    qtest_add_func("memswap/refused/ram/read-only", refused_read_only);
    qtest_add_func("memswap/refused/ram/locked", refused_locked);
    qtest_add_func("memswap/refused/ram/hugetlb", refused_hugetlb);
    qtest_add_func("memswap/refused/ram/no-hugepages", refused_no_hugepages);
    for (int i = 0; i < ARRAY_SIZE(accepted); i++) {
        g_autofree char *path = g_strdup_printf("memswap/starts/%s",
                                                accepted[i].name);
        qtest_add_data_func(path, &accepted[i], starts);
    }
    qtest_add_func("memswap/starts/unmanaged", unmanaged);
    qtest_add_func("memswap/starts/settings", settings);
    qtest_add_func("memswap/starts/defaults", defaults);
    qtest_add_func("memswap/help", help);
    return g_test_run();
}
