/* A program as it runs. */
#ifndef LE_PROGRAM_H
#define LE_PROGRAM_H

#include <stdatomic.h>

#include "kernels.h"
#include "pool.h"

/* Bytes of weights in memory, int8 ones widened, up to which they stay in a first-level cache. */
#define LE_NEAR (40u << 10)
/* Working memory that is kept for the next call, for each of the two sizes. */
#define LE_SPARES      16u
#define LE_MAX_THREADS 256u

typedef struct {
    char *name;
    uint32_t buffer, next;
    bool every_step;
    bool given;    /* of an output: whether it is an input or an old state, which a step overwrites */
    bool in_place; /* of a state: whether a recurrent operation alone reads it and gives its new value, no
                      output */
    void *reset;   /* of a state: one row, padded to whole vectors; NULL for zeros */
    void *golden;
    float *tolerance;
    size_t table;          /* of an input: rows of the smallest table that it is looked up in, 0 for none */
    size_t frames, groups; /* of a past */
    size_t delay;          /* of an output: as in le_port */
    size_t per_unit;       /* frames in a unit of an input or an output for every step; else 0 */
    bool counts;           /* of a state: whether a step adds `more` to it, an int64_t, and nothing else */
    int64_t more;
} le_io;

struct lstm_edge_program {
    const le_kernels *kernels;
    atomic_size_t users;
    size_t buffers, ops, count[3];
    le_span *spans;
    le_io *io[3];
    le_op *op;
    char *manifest;
    size_t golden_steps, golden_rows; /* steps of each row of the golden case; 0 and 0 without one */
    uint64_t reset_every;             /* steps after which a stream is reset; UINT64_MAX for never */
    size_t unit;                      /* time steps in one run of the operations */
    size_t settled;                   /* units after a reset from which on all frames are real */
    const le_op *last_recurrent;      /* if it starts from a state; NULL otherwise */
    le_arena weights;
    bool indexed;     /* whether an input is looked up in a table */
    bool near;        /* whether a core's own cache keeps it, so that the order of reading does not matter */
    bool moves;       /* whether a step ends with copying outputs or states */
    bool chunked;     /* whether an operation may take many steps before the next operation runs */
    size_t row_bytes; /* of all buffers that are no past */
    size_t pasts, past_bytes; /* how many there are, and their bytes */
    size_t port_bytes; /* of a stream's own rows: a step's samples where there is a unit, and outputs that are
                          `given` */
    size_t gates, more_gates, hidden, quantized; /* numbers a row of each scratch area */
    le_pool *pool;
    _Atomic(le_workspace *) spare[2][LE_SPARES];
};

/* Return the bytes of an element of an lstm_edge_type, 0 for an unknown one. */
size_t le_size_of(uint32_t type);

/* Return the CRC-32 of bytes, as zlib does. */
uint32_t le_checksum(const unsigned char *bytes, size_t size);

/* Return the bytes of one step's row of an input, and those that it takes up in a stream's memory. */
static inline size_t le_row_bytes(const lstm_edge_program *p, const le_io *io) {
    return p->spans[io->buffer].width / p->unit * le_size_of(p->spans[io->buffer].type);
}
static inline size_t le_sample_bytes(const lstm_edge_program *p, const le_io *io) {
    return (le_row_bytes(p, io) + LE_ALIGN - 1) / LE_ALIGN * LE_ALIGN;
}

/* Free a program that nothing uses any more; its spare working memory is gone already. */
void le_program_free(lstm_edge_program *program);

#endif
