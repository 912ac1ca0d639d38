# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest program: an index of a text's words, and questions to it."""

import itertools
import sys


def read_index(path, count):
    """Of the first lines: {word: [numbers of the lines that hold it]}, and the lines' words."""
    index, lines = {}, []
    with open(path, encoding='ascii') as file:
        for number, line in enumerate(itertools.islice(file, count)):
            words = line.split()
            lines.append(words)
            for word in words:
                index.setdefault(word, []).append(number)
    return index, lines


def ask(index, lines):
    """For each word, what stands beside it; a sum that depends on all."""
    total = 0
    for word in sorted(index):
        for number in index[word][:20]:
            words = lines[number]
            total = (total * 31 + len(words) + words.index(word) +
                     len(words[-1])) % 1000003
    return total


def main():
    index, lines = read_index(sys.argv[1], int(sys.argv[2]))
    print('index', len(index), len(lines), ask(index, lines))


if __name__ == '__main__':
    main()
