/* What the parts of the library share: a program as it runs, and the kernels of one instruction set. */
#ifndef LE_INTERNAL_H
#define LE_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lstm_edge.h"
#include "lstm_edge_format.h"

#define LE_ALIGN 64u
#ifdef _WIN32 /* has no aligned_alloc, and memory that is aligned otherwise is not for free */
#include <malloc.h>
#define aligned_alloc(align, bytes) _aligned_malloc(bytes, align)
#define calloc(count, size) le_zeros(count, size)
#define free _aligned_free
#define LE_PRINTF gnu_printf
#else
#define LE_PRINTF printf
#endif
/* Rows (a step of a source each) that an operation takes at a time, so that they stay in the cache. */
#define LE_BLOCK 48u
/* Weights of a program from which on they lie in large pages of their own and are asked for ahead, as they do not
   all stay in a core's own cache; and how many bytes ahead. */
#define LE_FAR (1u << 20)
/* Bytes of weights in memory, int8 ones widened, up to which they stay in a first-level cache. */
#define LE_NEAR (40u << 10)
#define LE_LARGE_PAGE (1u << 21)
#define LE_AHEAD 2048u
/* Working memory that is kept for the next call, for each of the two sizes. */
#define LE_SPARES 16u
#define LE_MAX_THREADS 256u

typedef struct le_workspace le_workspace;
typedef struct le_matrix le_matrix;

/* The rows of a product: y = start + x @ weights.T. stride is in numbers; start_stride is 0 for a bias. */
typedef struct {
    const float *x;
    size_t stride;
    const float *start;
    size_t start_stride;
    float *y;
    size_t y_stride;
} le_rows;

/* The product of one row, and of several. */
typedef void le_one(const le_matrix *, const float *x, const float *start, float *y, const le_workspace *);
typedef void le_many(const le_matrix *, const le_rows *, const le_workspace *, size_t rows);

/* Weights as one instruction set wants them; kernels.c says how they lie. */
struct le_matrix {
    le_one *one;
    le_many *many;
    size_t k, m;     /* inputs and outputs */
    size_t tail;     /* of gates: from one to the next, where the units do not fill a vector */
    size_t units;    /* k, in the unit of one multiply-add: 4 inputs where they are quantized, else 1 */
    size_t groups;   /* of at most 5 vectors that lie side by side */
    size_t padded;   /* numbers in one row of output: whole vectors */
    bool seven;      /* quantized inputs, in bytes, and weights of at most 64: two products fit 16 bits */
    void *weights;
    float *bias;     /* padded */
    float *scales;   /* padded; NULL for float32 */
    int32_t *sums;   /* padded: the sum of each output's int8 weights; NULL where the inputs are not quantized */
};

typedef struct {
    le_function kind;
    float alpha, beta;
} le_activation;

typedef struct {
    le_code code;
    bool last_only;            /* nothing but a last step's output depends on it */
    bool usual;                /* of a layer: it has the usual functions, and neither clip, peepholes nor input_forget */
    bool shared;               /* its weights and vectors are an earlier operation's */
    uint32_t in, h, c, out, next_c;
    size_t size[6];            /* whole numbers, as the code says */
    uint32_t flags;
    float clip;
    le_activation act[3];
    le_matrix w, r, n;         /* n: the new gate's recurrent weights, GRU without linear_before_reset */
    float *first, *second;     /* vectors and tables */
} le_op;

typedef struct {
    size_t width, bytes; /* of one row; bytes is a multiple of LE_ALIGN */
    size_t offset;       /* in working memory of one row; of a past, in a stream's memory for them */
    lstm_edge_type type;
    uint32_t past;       /* of a past: one more than its number; 0 for all other buffers */
} le_place;

typedef struct {
    char *name;
    uint32_t buffer, next;
    bool every_step;
    bool given;          /* of an output: whether it is an input or an old state, which a step overwrites */
    bool in_place;       /* of a state: whether a recurrent operation alone reads it and gives its new value, no output */
    float *reset;        /* of a state, padded to whole vectors; of a counter an int64_t */
    void *golden;
    float *tolerance;
    size_t table;        /* of an input: rows of the smallest table that it is looked up in, 0 for none */
    size_t frames, groups; /* of a past */
    size_t start;        /* in units: as in le_port */
    size_t each;         /* frames in a unit of an input or an output for every step, what a unit adds to a counter; else 0 */
    bool counts;         /* of a state: whether it is a counter */
    uint32_t end;        /* of a counter: as in le_port */
} le_io;

/*
 * Working memory of `capacity` rows.
 *
 * Steps alternate in the order in which they read the weights: one step from the first to the last, the next one
 * `backward`, so that it begins with what the one before read last and what the cache still holds. The layers
 * depend on each other in one order only, but not on the last recurrent operation's product with its old h: a
 * single row's backward step begins with that (`ahead`).
 */
struct le_workspace {
    size_t capacity;
    bool backward, is_ahead;
    bool far; /* whether each matrix is read once, and has to be asked for ahead if the program is large */
    char *base;
    char **buffer;
    float **past;  /* the row of each past, by its number and its row among `capacity`: the caller's memory */
    float *gates, *more_gates, *hidden, *ahead;
    int16_t *quantized;
    float *row_scale;
    int32_t *row_zero;
};

typedef struct le_pool le_pool;

/* A part of the weights' memory. */
typedef struct le_slab {
    struct le_slab *next;
    void *mapped; /* a large program's: never from the heap, whose pages may be there already, and small */
    char *start;
    size_t size, used;
} le_slab;

typedef struct {
    const char *name;
    size_t lanes;
    /* Lay out the (m, k) weights of `gates` gates; scales NULL for float32, `quantized` whether the inputs will be. False
       where there is no memory. */
    bool (*pack)(lstm_edge_program *program, le_matrix *matrix, const char *weights, size_t k, size_t m, size_t gates,
                 const float *bias, const float *scales, bool quantized);
    /* Begin a backward step of one row. */
    void (*look_ahead)(const lstm_edge_program *program, const le_workspace *workspace);
    /* Run one operation for `steps` times `rows` rows from row `first` of the working memory. */
    void (*run)(const lstm_edge_program *program, const le_op *op, le_workspace *workspace, size_t first, size_t rows,
                size_t steps);
} le_kernels;

struct lstm_edge_program {
    const le_kernels *kernels;
    atomic_size_t users;
    size_t buffers, ops, count[3];
    le_place *places;
    le_io *io[3];
    le_op *op;
    char *manifest;
    size_t golden_steps;
    size_t unit;       /* time steps in one run of the operations */
    size_t settled;    /* units after a reset from which on no state is held, and all frames are real */
    const le_op *last_recurrent; /* if it starts from a state; NULL otherwise */
    le_slab *slabs;
    size_t size;       /* of the file */
    bool far;          /* whether it is as large as LE_FAR */
    bool indexed;      /* whether an input is looked up in a table */
    bool near;         /* whether a core's own cache keeps it, so that the order of reading does not matter */
    bool moves;        /* whether a step ends with copying outputs or states, or counting */
    bool ends;         /* whether a counter has an end */
    bool chunked;      /* whether an operation may take many steps before the next operation runs */
    size_t row_bytes;  /* of all buffers that are no past */
    size_t pasts, past_bytes; /* how many there are, and their bytes */
    size_t port_bytes; /* of a stream's own rows: a step's samples where there is a unit, and outputs that are `given` */
    size_t gates, more_gates, hidden, quantized; /* numbers a row of each scratch area */
    le_pool *pool;
    _Atomic(le_workspace *) spare[2][LE_SPARES];
};

/*
 * The floating-point mode of a call: numbers below 2^-126 are zero, as they slow a processor down up to a hundred
 * times, and results do not depend on the mode that other code of the process left behind. RISC-V has a rounding alone.
 */
#if defined(__x86_64__)
typedef unsigned le_mode;
static inline le_mode le_get_mode(void) { return __builtin_ia32_stmxcsr(); }
/* The flags of past exceptions stay: a processor takes about 100 ns to change them. */
static inline void le_set_mode(le_mode mode) { __builtin_ia32_ldmxcsr((mode & ~0x3fu) | (le_get_mode() & 0x3fu)); }
#define LE_FLUSH 0x9fc0u /* flush results and operands, round to nearest, no traps */
#elif defined(__aarch64__)
typedef uint64_t le_mode;
static inline le_mode le_get_mode(void) {
    le_mode mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static inline void le_set_mode(le_mode mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
#define LE_FLUSH ((le_mode)1 << 24)
#elif defined(__arm__) && defined(__VFP_FP__) && !defined(__SOFTFP__)
typedef uint32_t le_mode;
static inline le_mode le_get_mode(void) {
    le_mode mode;
    __asm__ volatile("vmrs %0, fpscr" : "=r"(mode));
    return mode;
}
/* The flags of past exceptions and of the last comparison, which share the register, stay. */
static inline void le_set_mode(le_mode mode) {
    const le_mode flags = 0xf800009fu;
    __asm__ volatile("vmsr fpscr, %0" : : "r"((mode & ~flags) | (le_get_mode() & flags)));
}
#define LE_FLUSH ((le_mode)1 << 24)
#elif defined(__riscv_flen)
typedef unsigned long le_mode;
static inline le_mode le_get_mode(void) {
    le_mode mode;
    __asm__ volatile("frrm %0" : "=r"(mode));
    return mode;
}
static inline void le_set_mode(le_mode mode) { __asm__ volatile("fsrm %0" : : "r"(mode)); }
#define LE_FLUSH 0ul /* round to nearest */
#else
typedef int le_mode;
static inline le_mode le_get_mode(void) { return 0; }
static inline void le_set_mode(le_mode mode) { (void)mode; }
#define LE_FLUSH 0
#endif

const le_kernels *le_choose(void);

/* Note why a call fails, and return `status`. */
lstm_edge_status le_fail(lstm_edge_status status, const char *format, ...) __attribute__((format(LE_PRINTF, 2, 3)));

/* Return the bytes of an element of an lstm_edge_type, 0 for an unknown one. */
size_t le_size_of(uint32_t type);

/* Return the bytes of one step's row of an input, and those that it takes up in a stream's memory. */
static inline size_t le_row_bytes(const lstm_edge_program *p, const le_io *io) {
    return p->places[io->buffer].width / p->unit * le_size_of(p->places[io->buffer].type);
}
static inline size_t le_sample_bytes(const lstm_edge_program *p, const le_io *io) {
    return (le_row_bytes(p, io) + LE_ALIGN - 1) / LE_ALIGN * LE_ALIGN;
}

/* Return zeroed memory at a multiple of LE_ALIGN, or NULL. It goes on for LE_ALIGN bytes behind the last item, so that a
   vector that begins inside can be loaded. */
void *le_zeros(size_t count, size_t size);

/* The same for weights; it is freed with the program. */
void *le_weights(lstm_edge_program *program, size_t count, size_t size);
size_t le_weight_bytes(const lstm_edge_program *program);
void le_free_weights(lstm_edge_program *program);

/* `own`: with memory for the pasts and `port_bytes`, behind that of `capacity` rows. */
le_workspace *le_workspace_new(const lstm_edge_program *program, size_t capacity, bool own);
le_workspace *le_take(const lstm_edge_program *program, bool single);
void le_give(const lstm_edge_program *program, le_workspace *workspace);
void le_drop(le_workspace *workspace);
void le_release(lstm_edge_program *program);

typedef void (*le_task)(void *context, size_t index);
le_pool *le_pool_new(size_t threads);
void le_pool_free(le_pool *pool);
size_t le_pool_threads(const le_pool *pool);
/* Call task(context, i) for each i below count, on the pool's threads and this one. */
void le_pool_run(le_pool *pool, le_task task, void *context, size_t count);

#endif
