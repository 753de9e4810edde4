/* The kernels of one instruction set, and what they work on. */
#ifndef LE_KERNELS_H
#define LE_KERNELS_H

#include <stdint.h>

#include "lstm_edge.h"
#include "lstm_edge_format.h"
#include "memory.h"

/* Rows (a step of a source each) that an operation takes at a time, so that they stay in the cache. */
#define LE_BLOCK 48u
/* Weights of a program from which on they lie in large pages of their own and are asked for ahead, as they do
   not all stay in a core's own cache; and how many bytes ahead. */
#define LE_FAR   (1u << 20)
#define LE_AHEAD 2048u

typedef struct le_workspace le_workspace;
typedef struct le_matrix le_matrix;

/* The rows of a product: y = bias + x @ weights.T. Strides are in numbers. */
typedef struct {
    const float *x;
    size_t stride;
    float *y;
    size_t y_stride;
} le_rows;

/* The product of one row, and of several. */
typedef void le_one(const le_matrix *, const float *x, float *y, const le_workspace *);
typedef void le_many(const le_matrix *, const le_rows *, const le_workspace *, size_t rows);

/* Rows and columns of a block of weights: float32 or int8 that is widened, and int8 of quantized inputs. */
#define LE_BAND         16u
#define LE_INT8_BAND    8u
#define LE_INT8_COLUMNS 4u

/* The blocks of a matrix that are stored: those of band b are first[b] to first[b + 1]. */
typedef struct {
    const uint32_t *first;
    const uint16_t *column; /* of each block */
} le_blocks;

/* Weights as a file has them. */
typedef struct {
    const char *numbers;
    size_t k, m, gates;
    const float *bias;   /* NULL for none */
    const float *scales; /* NULL for float32 */
    bool quantized;      /* whether the inputs will be */
    le_blocks blocks;    /* NULLs if all of it is stored */
} le_weights;

/* Weights as one instruction set wants them; kernels.c says how they lie. */
struct le_matrix {
    le_one *one;
    le_many *many;
    size_t k, m;   /* inputs and outputs */
    size_t tail;   /* of gates: from one to the next, where the units do not fill a vector */
    size_t units;  /* k, in the unit of one multiply-add: 4 inputs where they are quantized, else 1 */
    size_t groups; /* of at most 5 vectors that lie side by side */
    size_t padded; /* numbers in one row of output: whole vectors */
    bool seven;    /* quantized inputs, in bytes, and weights of at most 64: two products fit 16 bits */
    void *weights;
    float *bias;   /* padded */
    float *scales; /* padded; NULL for float32 */
    int32_t
        *sums; /* padded: the sum of each output's int8 weights; NULL where the inputs are not quantized */
    /* Of a matrix in blocks: */
    size_t bands;     /* or groups of them that lie side by side, where the inputs are quantized */
    uint32_t *first;  /* the first block of each band or group, and the end of the last one */
    uint32_t *place;  /* where each vector of a band's outputs, at most a band, lies in a row */
    uint16_t *column; /* the first input of each block; of quantized inputs, a fourth of it */
};

typedef struct {
    le_function kind;
    float alpha, beta;
} le_activation;

typedef struct {
    le_code code;
    bool last_only; /* nothing but a last step's output depends on it */
    bool usual;     /* of a layer: it has the usual functions */
    bool shared;    /* its weights and vectors are an earlier operation's */
    uint32_t in, h, c, out, next_c;
    size_t size[6]; /* whole numbers, as the code says */
    uint32_t flags;
    float epsilon;
    le_activation act[3];
    le_matrix w, r, n;     /* n: the new gate's recurrent weights, GRU without linear_before_reset */
    float *first, *second; /* vectors and tables */
} le_op;

typedef struct {
    size_t width, bytes; /* of one row; bytes is a multiple of LE_ALIGN */
    size_t offset;       /* in working memory of one row; of a past, in a stream's memory for them */
    lstm_edge_type type;
    uint32_t past; /* of a past: one more than its number; 0 for all other buffers */
} le_span;

/*
 * Working memory of `capacity` rows.
 *
 * Steps alternate in the order in which they read the weights: one step from the first to the last, the next
 * one `backward`, so that it begins with what the one before read last and what the cache still holds. The
 * layers depend on each other in one order only, but not on the last recurrent operation's product with its
 * old h: a single row's backward step begins with that (`ahead`).
 */
struct le_workspace {
    size_t capacity;
    bool backward, is_ahead;
    bool far; /* whether each matrix is read once, and has to be asked for ahead if the program is large */
    char *base;
    char **buffer;
    float **past; /* the row of each past, by its number and its row among `capacity`: the caller's memory */
    float *gates, *more_gates, *hidden, *ahead;
    int16_t *quantized;
    float *row_scale;
    int32_t *row_zero;
};

typedef struct {
    const char *name;
    size_t lanes;
    /* Lay out weights. False where there is no memory. */
    bool (*pack)(le_arena *arena, le_matrix *matrix, const le_weights *weights);
    /* Begin a backward step of one row. */
    void (*look_ahead)(const lstm_edge_program *program, const le_workspace *workspace);
    /* Run one operation for `steps` times `rows` rows from row `first` of the working memory. */
    void (*run)(const lstm_edge_program *program, const le_op *op, le_workspace *workspace, size_t first,
                size_t rows, size_t steps);
} le_kernels;

/* Return the best kernels that this machine has, or those that LSTM_EDGE_ISA names; NULL if it has none of
 * that name. */
const le_kernels *le_choose(void);

#endif
