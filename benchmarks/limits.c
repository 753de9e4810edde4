/* What one core can do at most: multiply-adds from registers, and reading. Built by limits.py for this machine. */
#include <stddef.h>

typedef float vector __attribute__((vector_size(64)));

/* Twelve independent sums, so that the latency of a multiply-add is hidden; 2 * 16 * 12 operations a round. */
float multiply_add(size_t rounds) {
    vector sum[12], factor = {0}, total = {0};
    for (int i = 0; i < 12; i++) sum[i] = factor + (float)i;
    factor += 0.999f;
    for (size_t round = 0; round < rounds; round++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) sum[i] = sum[i] * factor + factor;
    }
    for (int i = 0; i < 12; i++) total += sum[i];
    return total[0];
}

/* Call step(stream) `count` times, as a program in C does. */
void take_steps(int (*step)(void *), void *stream, size_t count) {
    for (size_t i = 0; i < count; i++) step(stream);
}

/* Read `count` vectors from `data`, `rounds` times. */
float read_all(const float *data, size_t count, size_t rounds) {
    const vector *p = (const vector *)data;
    vector sum[8] = {{0}};
    for (size_t round = 0; round < rounds; round++) {
        for (size_t i = 0; i + 8 <= count; i += 8) {
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++) sum[j] += p[i + (size_t)j];
        }
        __asm__ volatile("" ::: "memory");
    }
    for (int j = 1; j < 8; j++) sum[0] += sum[j];
    return sum[0][0];
}
