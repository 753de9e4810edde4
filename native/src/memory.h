/* Zeroed memory, and the memory of a program's weights. */
#ifndef LE_MEMORY_H
#define LE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#define LE_ALIGN 64u
#ifdef _WIN32 /* has no aligned_alloc, and memory that is aligned otherwise is not for free */
#include <malloc.h>
#define aligned_alloc(align, bytes) _aligned_malloc(bytes, align)
#define calloc(count, size)         le_zeros(count, size)
#define free                        _aligned_free
#endif
#define LE_LARGE_PAGE (1u << 21)

/* Return zeroed memory at a multiple of LE_ALIGN, or NULL. It goes on for LE_ALIGN bytes after the last item,
   so that a vector that begins inside can be loaded. */
void *le_zeros(size_t count, size_t size);

typedef struct le_slab le_slab;

/* The weights of a program, freed together. */
typedef struct {
    le_slab *slabs;
    size_t size; /* of the program's file */
    bool far;    /* in large pages of their own */
} le_arena;

void *le_arena_take(le_arena *arena, size_t count, size_t size);
size_t le_arena_bytes(const le_arena *arena);
void le_arena_free(le_arena *arena);

#endif
