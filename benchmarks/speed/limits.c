/* What one core can do at most: multiply-adds from registers, and reading. Built by limits.py for this machine. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef float vector __attribute__((vector_size(64)));

/* Twelve independent sums, so that the latency of a multiply-add is hidden; 2 * 16 * 12 operations a round. */
float multiply_add(size_t rounds) {
    vector sum[12], factor = {0}, term = {0}, total = {0};
    for (int i = 0; i < 12; i++) sum[i] = factor + (float)i;
    factor += 0.999f;
    term += 0.5f;
    for (size_t round = 0; round < rounds; round++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) sum[i] = sum[i] * factor + term;
    }
    for (int i = 0; i < 12; i++) total += sum[i];
    return total[0];
}

/* Call step(stream) `count` times, as a program in C does. */
void take_steps(int (*step)(void *), void *stream, size_t count) {
    for (size_t i = 0; i < count; i++) step(stream);
}

/* Return `bytes` of weights as a program keeps them: written to, in large pages where the system has them. */
void *make_weights(size_t bytes) {
    const size_t page = (size_t)1 << 21, size = (bytes + page - 1) / page * page;
    char *weights = aligned_alloc(page, size);
    if (weights == NULL) return NULL;
#ifdef MADV_HUGEPAGE
    madvise(weights, size, MADV_HUGEPAGE);
#endif
    return memset(weights, 0x3d, bytes);
}

static vector sum_of(const vector *p, size_t count) {
    vector sum[8] = {{0}};
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) sum[j] += p[i + (size_t)j];
    }
    for (; i < count; i++) sum[0] += p[i];
    for (int j = 1; j < 8; j++) sum[0] += sum[j];
    return sum[0];
}

/*
 * Read `count` vectors from `data`, `rounds` times, alternately from the first block to the last and back: no order
 * finds more in a cache that is too small for all. A step comes near it, as far as its layers wait for each other.
 */
float read_all(const void *data, size_t count, size_t rounds) {
    const vector *p = data;
    const size_t block = 1024, blocks = (count + block - 1) / block;
    vector total = {0};
    for (size_t round = 0; round < rounds; round++) {
        for (size_t i = 0; i < blocks; i++) {
            const size_t at = (round % 2 ? blocks - 1 - i : i) * block;
            total += sum_of(p + at, count - at < block ? count - at : block);
        }
        __asm__ volatile("" ::: "memory");
    }
    return total[0];
}
