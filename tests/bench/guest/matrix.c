/*
 * Guest program: the product of a large matrix with a narrow one
 *
 *     matrix ROWS ROUNDS
 *
 * The large one is ROWS x ROWS floats and read from its start to its end in
 * each round, as a neural network reads its weights.  Its elements are
 * quantized, as those often are, so that they compress.  Prints a checksum.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define COLUMNS 4

static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* product = large * narrow; the narrow one by rows of COLUMNS. */
static void multiply(float *product, const float *large, const float *narrow,
                     size_t rows)
{
    for (size_t i = 0; i < rows; i++) {
        float sum[COLUMNS] = { 0 };

        for (size_t k = 0; k < rows; k++) {
            for (int j = 0; j < COLUMNS; j++) {
                sum[j] += large[i * rows + k] * narrow[k * COLUMNS + j];
            }
        }
        for (int j = 0; j < COLUMNS; j++) {
            product[i * COLUMNS + j] = sum[j];
        }
    }
}

int main(int argc, char **argv)
{
    size_t rows = argc == 3 ? strtoull(argv[1], NULL, 10) : 0;
    int rounds = argc == 3 ? atoi(argv[2]) : 0;
    float *large = malloc(rows * rows * sizeof(*large));
    float *narrow = malloc(rows * COLUMNS * sizeof(*narrow));
    float *product = malloc(rows * COLUMNS * sizeof(*product));
    uint64_t state = 88172645463325252ull;
    double sum = 0;

    if (!rows || rounds < 1 || !large || !narrow || !product) {
        fprintf(stderr, "matrix: ROWS ROUNDS, and memory for them\n");
        return 1;
    }
    for (size_t i = 0; i < rows * rows; i++) {
        large[i] = ((int)(next(&state) >> 56) - 128) / 128.0f;
    }
    for (size_t i = 0; i < rows * COLUMNS; i++) {
        narrow[i] = ((int)(next(&state) >> 56) - 128) / 128.0f;
    }
    for (int round = 0; round < rounds; round++) {
        multiply(product, large, narrow, rows);
        for (size_t i = 0; i < rows * COLUMNS; i++) {
            sum += product[i];
            /* The next factor, kept in range. */
            narrow[i] = product[i] / rows;
        }
    }
    printf("matrix checksum %.6f\n", sum);
    return 0;
}
