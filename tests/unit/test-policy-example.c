/*
 * The example of docs/devel/memswap-policy.rst: built and loaded as it says
 *
 * TEST_SOURCE is the top of the sources.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "puppets.h"

/* The indented text after the line that says @after, without its margin. */
static char *block_after(const char *text, const char *after)
{
    const char *at = strstr(text, after);
    GString *block = g_string_new(NULL);
    g_auto(GStrv) lines = NULL;

    g_assert_nonnull(at);
    lines = g_strsplit(strchr(at, '\n') + 1, "\n", -1);
    for (char **line = lines; *line; line++) {
        if (g_str_has_prefix(*line, "    ")) {
            g_string_append_printf(block, "%s\n", *line + 4);
        } else if (**line) {
            break;
        } else {
            g_string_append_c(block, '\n');
        }
    }
    return g_string_free(block, false);
}

static void test_example(void)
{
    const char *source = TEST_SOURCE;
    g_autofree char *docs = NULL, *text = NULL, *code = NULL, *build = NULL;
    g_autofree char *path = NULL, *object = NULL, *include = NULL;
    g_autofree char *link = NULL, *here = g_get_current_dir();
    g_autofree char *directory = g_dir_make_tmp("memswap-XXXXXX", NULL);
    MemswapPolicyConfig config = { .id = "mine" };
    char *error = NULL;
    Harness *h;

    docs = g_build_filename(source, "docs/devel/memswap-policy.rst", NULL);
    g_assert_true(g_file_get_contents(docs, &text, NULL, NULL));
    code = block_after(text, "had to be fetched::");
    build = block_after(text, "Build it with::");
    g_assert_nonnull(strstr(build, "cc -shared"));

    path = g_build_filename(directory, "neighbour.c", NULL);
    object = g_build_filename(directory, "neighbour.so", NULL);
    link = g_build_filename(directory, "include", NULL);
    include = g_build_filename(source, "include", NULL);
    g_assert_true(g_file_set_contents(path, code, -1, NULL));
    g_assert_cmpint(symlink(include, link), ==, 0);
    g_assert_cmpint(chdir(directory), ==, 0);
    g_assert_cmpint(system(build), ==, 0);
    g_assert_cmpint(chdir(here), ==, 0);

    h = harness_new(&(HarnessOptions) { .size = 8 * MIB });
    write_pages(h, 0, 100);
    memswap_reclaim(h->engine, UINT64_MAX);
    config.path = object;
    if (memswap_policy_add(h->engine, &config, &error)) {
        g_error("%s", error);
    }
    check_pages(h, 10, 1);
    g_assert_cmpuint(puppet_counter(h, "mine", "asked"), ==, 1);
    g_assert_cmpint(ram_state(&h->ram, 11), ==, MEMSWAP_TRIAL);
    check_pages(h, 11, 1);
    g_assert_cmpuint(puppet_status(h, "mine").hits, ==, 1);
    check_pages(h, 0, 100);
    harness_free(h);

    unlink(path);
    unlink(object);
    unlink(link);
    rmdir(directory);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/policy-example", test_example);
    return g_test_run();
}
