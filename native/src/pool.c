/* Threads that sleep until there is work for them. */
#include "pool.h"

#include "memory.h"
#ifdef __wasi__ /* has no threads: a pool takes one task after the other */

struct le_pool {
    size_t threads;
};

le_pool *le_pool_new(size_t threads) {
    le_pool *pool = calloc(1, sizeof *pool);
    if (pool != NULL) pool->threads = threads;
    return pool;
}
void le_pool_free(le_pool *pool) { free(pool); }
size_t le_pool_threads(const le_pool *pool) { return pool == NULL ? 1 : pool->threads; }
void le_pool_run(le_pool *pool, le_task task, void *context, size_t count) {
    (void)pool;
    for (size_t i = 0; i < count; i++) task(context, i);
}
#else
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "mode.h"

struct le_pool {
    pthread_mutex_t turn; /* held while a job runs */
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t work, done;
    _Atomic(pid_t) process; /* threads do not survive a fork */
    size_t threads, started, busy;
    unsigned long job;
    bool stop;
    le_task task;
    void *context;
    atomic_size_t next;
    size_t count;
    pthread_t *thread;
};

static void take_part(le_pool *pool) {
    for (;;) {
        const size_t index = atomic_fetch_add(&pool->next, 1);
        if (index >= pool->count) return;
        pool->task(pool->context, index);
    }
}

static void *sleep_and_work(void *argument) {
    le_pool *pool = argument;
    unsigned long seen = 0;
    le_enter();
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->stop && pool->job == seen) pthread_cond_wait(&pool->work, &pool->lock);
        if (pool->stop) break;
        seen = pool->job;
        pthread_mutex_unlock(&pool->lock);
        take_part(pool);
        pthread_mutex_lock(&pool->lock);
        if (--pool->busy == 0) pthread_cond_signal(&pool->done);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* Start the threads, as far as the system lets us: results do not depend on their number. */
static void start(le_pool *pool) {
    pthread_mutex_init(&pool->turn, NULL);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);
    pool->job = 0;
    for (pool->started = 0; pool->started + 1 < pool->threads; pool->started++) {
        if (pthread_create(&pool->thread[pool->started], NULL, sleep_and_work, pool) != 0) break;
    }
    pool->process = getpid();
}

/* Start them again in a process that was forked from the one that had them; whether they are there. No lock:
 * a thread that held it would be missing in a process that is forked meanwhile. */
static bool restart(le_pool *pool) {
    pid_t owner = pool->process;
    const pid_t self = getpid();
    if (owner == self) return true;
    if (owner == -self || !atomic_compare_exchange_strong(&pool->process, &owner, -self)) return false;
    start(pool);
    return true;
}

le_pool *le_pool_new(size_t threads) {
    le_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) return NULL;
    pool->threads = threads;
    pool->thread = calloc(threads, sizeof *pool->thread);
    if (pool->thread == NULL) {
        free(pool);
        return NULL;
    }
    start(pool);
    return pool;
}

void le_pool_free(le_pool *pool) {
    if (pool == NULL) return;
    if (pool->process == getpid()) {
        pthread_mutex_lock(&pool->lock);
        pool->stop = true;
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->lock);
        for (size_t i = 0; i < pool->started; i++) pthread_join(pool->thread[i], NULL);
        pthread_cond_destroy(&pool->work);
        pthread_cond_destroy(&pool->done);
        pthread_mutex_destroy(&pool->lock);
        pthread_mutex_destroy(&pool->turn);
    }
    free(pool->thread);
    free(pool);
}

size_t le_pool_threads(const le_pool *pool) { return pool == NULL ? 1 : pool->threads; }

void le_pool_run(le_pool *pool, le_task task, void *context, size_t count) {
    if (pool == NULL || count < 2 || !restart(pool) || pthread_mutex_trylock(&pool->turn) != 0) {
        for (size_t i = 0; i < count; i++)
            task(context, i); /* another caller has the threads, or none are needed */
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->task = task;
    pool->context = context;
    pool->count = count;
    atomic_store(&pool->next, 0);
    pool->busy = pool->started;
    pool->job++;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    take_part(pool);
    pthread_mutex_lock(&pool->lock);
    while (pool->busy > 0) pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    pthread_mutex_unlock(&pool->turn);
}
#endif
