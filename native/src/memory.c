/* Zeroed memory, and the memory of a program's weights. */
#include <stdint.h>
#include <string.h>
#if !defined(_WIN32) && !defined(__wasi__)
#include <sys/mman.h>
#endif

#include "memory.h"

struct le_slab {
    le_slab *next;
    void *mapped; /* a large program's: never from the heap, whose pages may be there already, and small */
    char *start;
    size_t size, used;
};

void *le_zeros(size_t count, size_t size) {
    if (size != 0 && count > (SIZE_MAX - 2 * LE_ALIGN) / size) return NULL;
    const size_t bytes = (count * size + LE_ALIGN - 1) / LE_ALIGN * LE_ALIGN + LE_ALIGN;
    void *memory = aligned_alloc(LE_ALIGN, bytes);
    return memory == NULL ? NULL : memset(memory, 0, bytes);
}

/* Add a part with room for `bytes`, and for all other weights of a large program. */
static le_slab *add_slab(le_arena *arena, size_t bytes) {
    const size_t align = arena->far ? LE_LARGE_PAGE : LE_ALIGN,
                 wanted = arena->far && bytes < arena->size ? arena->size : bytes;
    le_slab *slab = calloc(1, sizeof *slab);
    if (slab == NULL) return NULL;
    slab->size = (wanted + align - 1) / align * align;
#if !defined(_WIN32) && !defined(__wasi__)
    if (arena->far) {
        void *mapped =
            mmap(NULL, slab->size + align, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped != MAP_FAILED) {
            slab->mapped = mapped;
            slab->start = (char *)mapped + (align - (uintptr_t)mapped % align) % align;
#ifdef MADV_HUGEPAGE
            madvise(slab->start, slab->size, MADV_HUGEPAGE); /* refused: slower, and else the same */
#endif
        }
    }
#endif
    if (slab->start == NULL) slab->start = aligned_alloc(align, slab->size);
    if (slab->start == NULL) {
        free(slab);
        return NULL;
    }
    slab->next = arena->slabs;
    arena->slabs = slab;
    return slab;
}

void *le_arena_take(le_arena *arena, size_t count, size_t size) {
    if (size != 0 && count > (SIZE_MAX - LE_LARGE_PAGE) / size) return NULL;
    const size_t bytes = (count * size + LE_ALIGN - 1) / LE_ALIGN * LE_ALIGN;
    le_slab *slab = arena->slabs;
    if (slab == NULL || slab->size - slab->used < bytes) slab = add_slab(arena, bytes);
    if (slab == NULL) return NULL;
    char *to = slab->start + slab->used;
    slab->used += bytes;
    return memset(to, 0, bytes);
}

size_t le_arena_bytes(const le_arena *arena) {
    size_t bytes = 0;
    for (const le_slab *slab = arena->slabs; slab != NULL; slab = slab->next) bytes += slab->used;
    return bytes;
}

void le_arena_free(le_arena *arena) {
    while (arena->slabs != NULL) {
        le_slab *slab = arena->slabs;
        arena->slabs = slab->next;
#if !defined(_WIN32) && !defined(__wasi__)
        if (slab->mapped != NULL) munmap(slab->mapped, slab->size + LE_LARGE_PAGE);
#endif
        if (slab->mapped == NULL) free(slab->start);
        free(slab);
    }
}
