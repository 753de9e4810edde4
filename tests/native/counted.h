/* Counts the allocations and locks of a thread while it is `armed`; the program's own definitions come before
 * libc's. */
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>

static __thread int armed;
static int calls;
#ifdef __cplusplus
extern "C" {
#endif
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);
static void note(void) {
    if (armed) __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
}
void *malloc(size_t size) { return note(), __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return note(), __libc_calloc(count, size); }
void *realloc(void *old, size_t size) { return note(), __libc_realloc(old, size); }
void *aligned_alloc(size_t align, size_t size) { return note(), __libc_memalign(align, size); }
void free(void *memory) { note(), __libc_free(memory); }
static int (*real_lock)(pthread_mutex_t *), (*real_trylock)(pthread_mutex_t *);
__attribute__((constructor)) static void find(void) {
    *(void **)&real_lock = dlsym(RTLD_NEXT, "pthread_mutex_lock");
    *(void **)&real_trylock = dlsym(RTLD_NEXT, "pthread_mutex_trylock");
}
int pthread_mutex_lock(pthread_mutex_t *mutex) { return note(), real_lock == NULL ? 0 : real_lock(mutex); }
int pthread_mutex_trylock(pthread_mutex_t *mutex) {
    return note(), real_trylock == NULL ? 0 : real_trylock(mutex);
}
#ifdef __cplusplus
}
#endif
