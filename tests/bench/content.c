/*
 * Benchmarks: filling pages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "content.h"

static void map_corpus(Content *content, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0) {
        bench_fail(errno, "%s", path);
    }
    content->corpus_pages = st.st_size / TOUCH_SIZE;
    if (!content->corpus_pages) {
        bench_fail(0, "%s: shorter than a page", path);
    }
    content->corpus = mmap(NULL, content->corpus_pages * TOUCH_SIZE,
                           PROT_READ, MAP_SHARED, fd, 0);
    if (content->corpus == MAP_FAILED) {
        bench_fail(errno, "%s", path);
    }
    close(fd);
}

Content *content_new(const BenchOptions *options)
{
    static const struct {
        const char *name;
        unsigned int random;
    } kinds[] = {
        { "half", 7 }, { "ratio1", 16 }, { "ratio4", 3 }, { "real", 0 },
    };
    Content *content = g_new0(Content, 1);
    unsigned int i;

    for (i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (g_str_equal(options->data, kinds[i].name)) {
            break;
        }
    }
    if (i == G_N_ELEMENTS(kinds)) {
        bench_fail(0, "--data: no kind \"%s\"", options->data);
    }
    content->random = kinds[i].random;
    content->seed = content_mix(options->seed);
    content->samples = g_new0(uint32_t, options->size / TOUCH_SIZE);
    if (!content->random) {
        map_corpus(content, options->corpus);
    }
    return content;
}

void content_fill(Content *content, uint64_t page, uint64_t *words)
{
    uint64_t tag = content_tag(content, page);
    uint64_t state = tag;

    if (content->corpus) {
        memcpy(words, content->corpus +
               page % content->corpus_pages * TOUCH_SIZE, TOUCH_SIZE);
    } else {
        for (unsigned int i = CONTENT_DATA; i < CONTENT_WORDS; i++) {
            words[i] = i % 16 < content->random ? content_mix(state++)
                                               : page & 0xff;
        }
    }
    words[0] = tag;
    memset(&words[CONTENT_COUNTER], 0,
           (CONTENT_DATA - CONTENT_COUNTER) * sizeof(words[0]));
    content->samples[page] = words[content_sampled(tag)];
}
