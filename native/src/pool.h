/* Threads that sleep until there is work for them. */
#ifndef LE_POOL_H
#define LE_POOL_H

#include <stddef.h>

typedef struct le_pool le_pool;
typedef void (*le_task)(void *context, size_t index);
le_pool *le_pool_new(size_t threads);
void le_pool_free(le_pool *pool);
size_t le_pool_threads(const le_pool *pool);
/* Call task(context, i) for each i below count, on the pool's threads and this one. */
void le_pool_run(le_pool *pool, le_task task, void *context, size_t count);

#endif
