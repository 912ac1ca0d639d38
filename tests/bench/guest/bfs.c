/*
 * Guest program: breadth-first search in a graph
 *
 *     bfs VERTICES DEGREE SEARCHES
 *
 * Three of four edges lead to a vertex nearby, the others anywhere, as in the
 * web's graph.  Adjacency lists lie behind one another.  Each search starts
 * from another vertex; prints how many were reached by the last one, and the
 * sum of all distances.
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

/* Returns how many vertices were reached; adds their distances to *sum. */
static size_t search(uint32_t start, const uint32_t *edges, size_t degree,
                     int32_t *distances, uint32_t *queue, uint64_t *sum)
{
    size_t head = 0, tail = 1;

    distances[start] = 0;
    queue[0] = start;
    while (head < tail) {
        uint32_t vertex = queue[head++];

        *sum += distances[vertex];
        for (size_t i = 0; i < degree; i++) {
            uint32_t other = edges[vertex * degree + i];

            if (distances[other] < 0) {
                distances[other] = distances[vertex] + 1;
                queue[tail++] = other;
            }
        }
    }
    return tail;
}

int main(int argc, char **argv)
{
    size_t vertices = argc == 4 ? strtoull(argv[1], NULL, 10) : 0;
    size_t degree = argc == 4 ? strtoull(argv[2], NULL, 10) : 0;
    uint32_t *edges = malloc(vertices * degree * sizeof(*edges));
    size_t searches = argc == 4 ? strtoull(argv[3], NULL, 10) : 0;
    int32_t *distances = malloc(vertices * sizeof(*distances));
    uint32_t *queue = malloc(vertices * sizeof(*queue));
    uint64_t state = 88172645463325252ull, sum = 0;
    size_t reached = 0;

    if (vertices <= NEAR || vertices > INT32_MAX || !degree || !edges ||
        !distances || !queue) {
        fprintf(stderr, "bfs: VERTICES DEGREE SEARCHES, and memory\n");
        return 1;
    }
    for (size_t i = 0; i < vertices * degree; i++) {
        edges[i] = neighbour(&state, i / degree, vertices);
    }
    for (size_t i = 0; i < searches; i++) {
        memset(distances, -1, vertices * sizeof(*distances));
        reached = search(i * NEAR % vertices, edges, degree, distances, queue,
                         &sum);
    }
    printf("bfs reached %zu, distances %llu\n", reached,
           (unsigned long long)sum);
    return 0;
}
