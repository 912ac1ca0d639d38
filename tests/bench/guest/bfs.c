/*
 * Guest program: breadth-first search in a graph
 *
 *     bfs VERTICES DEGREE
 *
 * Three of four edges lead to a vertex nearby, the others anywhere, as in the
 * web's graph.  Adjacency lists lie behind one another.  Prints how many
 * vertices were reached, and the sum of their distances.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NEAR 64

static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint32_t neighbour(uint64_t *state, uint32_t vertex, uint32_t vertices)
{
    uint64_t random = next(state) >> 16;

    if (random % 4) {
        return (vertex + vertices - NEAR + random / 4 % (2 * NEAR)) % vertices;
    }
    return random / 4 % vertices;
}

int main(int argc, char **argv)
{
    size_t vertices = argc == 3 ? strtoull(argv[1], NULL, 10) : 0;
    size_t degree = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
    uint32_t *edges = malloc(vertices * degree * sizeof(*edges));
    int32_t *distances = malloc(vertices * sizeof(*distances));
    uint32_t *queue = malloc(vertices * sizeof(*queue));
    uint64_t state = 88172645463325252ull, sum = 0;
    size_t head = 0, tail = 1;

    if (vertices <= NEAR || vertices > INT32_MAX || !degree || !edges ||
        !distances || !queue) {
        fprintf(stderr, "bfs: VERTICES DEGREE, and memory for them\n");
        return 1;
    }
    for (size_t i = 0; i < vertices * degree; i++) {
        edges[i] = neighbour(&state, i / degree, vertices);
    }
    memset(distances, -1, vertices * sizeof(*distances));
    distances[0] = 0;
    queue[0] = 0;
    while (head < tail) {
        uint32_t vertex = queue[head++];

        sum += distances[vertex];
        for (size_t i = 0; i < degree; i++) {
            uint32_t other = edges[vertex * degree + i];

            if (distances[other] < 0) {
                distances[other] = distances[vertex] + 1;
                queue[tail++] = other;
            }
        }
    }
    printf("bfs reached %zu, distances %llu\n", tail,
           (unsigned long long)sum);
    return 0;
}
