/*
 * lstm_edge_format.h: the program file (.lep), for those who write one.
 *
 * A program says what one time step of one row computes: a list of operations on flat buffers. It knows no
 * batch axis and no time axis; the library runs it for many rows and steps at once. With a unit it says what
 * several time steps compute; "step" then stands for a unit everywhere below.
 *
 * Everything is little-endian. A file is, one after the other:
 *
 *     le_header
 *     le_constant[header.constants]
 *     le_buffer[header.buffers]
 *     le_port[header.inputs + header.outputs + header.states]
 *     le_operation[header.operations]
 *     the constants' data, each at its own offset, a multiple of 8
 *
 * A matrix of weights may be stored without its blocks of zeros. Its data then are the other blocks, each row
 * after row, of 16 rows by 1 column, or of 8 rows by 4 columns where its input is quantized. An INT16
 * constant (1, any) lists them: the rows and columns of a block, then for each band of so many rows the
 * number of its blocks and the first column of each, ascending. No block spans two gates; columns beyond the
 * matrix are 0.
 *
 * A buffer is written before it is read: an input or a state's `buffer` is written when the step starts,
 * any other by one operation (or several COPY operations, each a part). Where a field names a constant or a
 * buffer that is not there, it holds LE_NONE. Fields and bits that are not described are 0.
 *
 * A state whose `next` is its own `buffer` is a past: the last frames of a value, in a ring. Its row is
 * `frames` frames, each as wide as the value, and the number of the oldest one. WINDOW operations read it,
 * then one PUSH operation replaces the oldest frames by the step's; nothing else writes it.
 */
#ifndef LSTM_EDGE_FORMAT_H
#define LSTM_EDGE_FORMAT_H

#include <stdint.h>

#define LE_MAGIC  "LSTMEDGE"
#define LE_FORMAT 1u /* the version; a library refuses any other */
#define LE_NONE   0xFFFFFFFFu

/* Limits: a program beyond them is refused. */
#define LE_MAX_ITEMS     65536u     /* constants, buffers, ports, operations: each */
#define LE_MAX_WIDTH     (1u << 20) /* elements of all buffers together */
#define LE_MAX_INT8_ROWS 65536u     /* columns of an int8 matrix, so that int32 sums are exact */
#define LE_BLOCK_LIST    2u         /* numbers of a list of blocks before its first band */

typedef struct {
    char magic[8];    /* LE_MAGIC */
    uint32_t version; /* LE_FORMAT */
    uint32_t crc;     /* CRC-32 (as in zlib) of the file from byte 16 to its end */
    uint64_t size;    /* of the file, in bytes */
    uint32_t constants, buffers, inputs, outputs, states, operations;
    uint32_t manifest;     /* a UINT8 constant with the JSON text, or LE_NONE */
    uint32_t golden_steps; /* time steps of each row of the golden case, 0 where there is none */
    uint32_t reset_every;  /* time steps after which a stream is reset, as in training; 0 for never */
    uint32_t unit;         /* time steps of a unit, from 1 */
} le_header;               /* 64 bytes */

/* A matrix, row after row; a vector is one row. The type is an lstm_edge_type. */
typedef struct {
    uint64_t offset;
    uint32_t rows, columns, type;
    uint32_t blocks; /* one more than the constant that lists its blocks; 0 if all of it is stored */
} le_constant;       /* 24 bytes */

typedef struct {
    uint32_t width; /* elements of one row */
    uint32_t type;  /* an lstm_edge_type; inputs may be of any, all else is FLOAT32 or INT64 */
} le_buffer;        /* 8 bytes */

/* An input, output or state. golden and tolerance are constants, of the buffer's width. */
typedef struct {
    uint32_t name;   /* a UINT8 constant, UTF-8 without NUL */
    uint32_t buffer; /* of a state: where its old value stands when the step starts */
    uint32_t next; /* of a state: the buffer in which an operation leaves its new value, `buffer` for a past;
                      else LE_NONE */
    uint32_t option;    /* of a state: the constant with its reset value, LE_NONE for zeros;
                           of an output: 1 where a chunk gives it for every step; of an input: 0 */
    uint32_t golden;    /* for each row of the golden case, which starts from reset: of an input golden_steps
                           rows to    feed; of an output what is expected, a row a step or the last step's; of a
                           state of    FLOAT32 what is expected after the last step */
    uint32_t tolerance; /* largest allowed difference of each number in golden; LE_NONE for inputs */
    uint32_t delay; /* of an output: its first frames after a reset, which mean nothing (units where it has no
                       frames); else 0 */
    uint32_t frames; /* of an input: the unit; of an output for every step: its frames in a unit,
                        each of width / frames numbers, one after another; else 0 */
} le_port;           /* 32 bytes */

typedef struct {
    uint32_t code;    /* an le_code */
    uint32_t arg[31]; /* as the code says; "f" marks a float32 by its bits */
} le_operation;       /* 128 bytes */

/* Arguments, by index. "const" is a constant, all else without a mark a buffer. */
typedef enum {
    /* 0 in, 1 out, 2 const weights (M, K), 3 const bias (M) or NONE, 4 const scales (M) or NONE.
       out = in @ weights.T + bias, for each K elements of in in turn. With scales the weights are INT8:
       in is quantized to 8 bits, a row at a time, as DynamicQuantizeLinear does; the product is exact.
       5 one more than const scales (M), 0 for none: with them the weights are INT8 times their scale, and in
       stays as it is. */
    LE_LINEAR = 1,
    /* 0 x, 1 h, 2 c (NONE but for LSTM), 3 new h, 4 new c (NONE but for LSTM), 5 const W, 6 const R,
       7 const bias or NONE, 8 const W scales or NONE, 9 const R scales or NONE, 10 flags: 1
       linear_before_reset (GRU), then for each activation 11 + 3i kind, 12 + 3i f alpha, 13 + 3i f beta.
       Gates are in ONNX's order. The bias of LSTM and RNN is Wb + Rb, that of GRU Wb, Rb. 20 and 21 for W and
       R as 5 of LINEAR. 22 one more than the number of an earlier operation that has the same code, widths
       and arguments 5 to 21, whose weights it shares: the layer at the next of several frames; 0 for weights
       of its own. */
    LE_LSTM = 2,
    LE_GRU = 3,
    LE_RNN = 4,
    /* 0 in, 1 out, 2 le_function, 3 f alpha, 4 f beta. */
    LE_UNARY = 5,
    /* 0 a, 1 b or NONE, 2 const b or NONE, 3 out, 4 le_binary, 5 flags: 1 to swap a and b.
       Each of a and b is as wide as out or 1 wide. All are FLOAT32, or all are INT64. */
    LE_BINARY = 6,
    /* 0 in, 1 out, 2 axis length, 3 flags: 1 for the logarithm. */
    LE_SOFTMAX = 7,
    /* 0 in, 1 out, 2 axis length, 3 f epsilon, 4 const scale or NONE, 5 const bias or NONE. */
    LE_NORMALIZE = 8,
    /* 0 in (an input of whole numbers), 1 out, 2 const table (V, E), 3 as 5 of LINEAR, scales (V). Negative
       indices count from the end. */
    LE_GATHER = 9,
    /* 0 in, 1 out (both FLOAT32 or both INT64), 2 in offset, 3 out offset, 4 length, 5 count, 6 in stride,
       7 out stride. */
    LE_COPY = 10,
    /* 0 in (any type), 1 out (FLOAT32 or INT64), 2 flags: 1 for numbers of 32 bits in INT64. Floats are
       truncated; NaN, and what the bits cannot hold, becomes the least whole number, as on x86. Whole numbers
       wrap. */
    LE_CAST = 11,
    /* 0 const (1, width), 1 out. */
    LE_CONSTANT = 12,
    /* 0 condition, 1 a, 2 b, 3 out, all of one width: a where the condition is not 0, else b. */
    LE_WHERE = 13,
    /* 0 x, 1 past, 2 out, 3 first, 4 dilation, 5 count: out is `count` frames of x, one after another, from
       number `first`, each `dilation` after the one before. Frame 0 is the oldest of the past, and those
       after its last are x itself: 6 of them, 0 for one. */
    LE_WINDOW = 14,
    /* 0 x, 1 past, 2 frames, 3 groups: the past takes in the frames of x. In the ONNX file the state is
       (groups, frames, the rest of a frame). */
    LE_PUSH = 15,
    /* 0 in, 1 out, 2 const weights (K, M) or NONE, 3 const bias (M) or NONE: the numbers of K stretches of M,
       added up with their weights; without weights the largest of them. */
    LE_DEPTHWISE = 16
} le_code;

typedef enum {
    LE_IDENTITY = 0,
    LE_RELU,
    LE_SIGMOID,
    LE_TANH,
    LE_AFFINE,           /* alpha * x + beta */
    LE_LEAKY_RELU,       /* x < 0 ? alpha * x : x */
    LE_THRESHOLDED_RELU, /* x > alpha ? x : 0 */
    LE_SCALED_TANH,      /* alpha * tanh(beta * x) */
    LE_HARD_SIGMOID,     /* min(max(alpha * x + beta, 0), 1) */
    LE_ELU,              /* x < 0 ? alpha * (exp(x) - 1) : x */
    LE_SOFTSIGN,         /* x / (1 + |x|) */
    LE_SOFTPLUS,         /* log(1 + exp(x)) */
    LE_SELU,             /* beta * (x < 0 ? alpha * (exp(x) - 1) : x) */
    LE_CLIP,             /* min(max(x, alpha), beta) */
    LE_GELU,             /* x / 2 * (1 + erf(x / sqrt(2))) */
    LE_ABS,
    LE_NEGATE,
    LE_EXP,
    LE_LOG,
    LE_SQRT,
    LE_RECIPROCAL,
    LE_ERF,
    LE_GELU_TANH, /* x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) */
    LE_FLOOR,
    LE_CEIL,
    LE_ROUND, /* halves to the even number */
    LE_SIN,
    LE_COS,
    LE_FUNCTIONS /* how many there are */
} le_function;

typedef enum {
    LE_ADD = 0,
    LE_SUBTRACT,
    LE_MULTIPLY,
    LE_DIVIDE,
    LE_MAXIMUM,
    LE_MINIMUM,
    LE_PRELU, /* a < 0 ? a * b : a */
    LE_POWER, /* of FLOAT32 alone, as PRELU */
    LE_LESS,  /* 1 where it holds, else 0 */
    LE_LESS_EQUAL,
    LE_EQUAL,
    LE_BINARIES /* how many there are */
} le_binary;

/*
 * A saved stream, which C, Python and JavaScript write and read: a header, then its arrays one after another.
 * Each is an le_saved_array, its shape (dims numbers of 64 bits), its name (UTF-8) and its elements, both
 * padded with zeros to 8 bytes. A state is one row in the order of the ONNX file; its shape may have a batch
 * axis of 1, or be flat. Samples are those of an input that do not fill a unit yet, (age % unit, width).
 * Readers ignore arrays of other kinds.
 */
#define LE_SAVED_MAGIC   "LSTMSAVE"
#define LE_SAVED_FRONT   12u /* bytes that the checksum leaves out */
#define LE_IDENTITY_SIZE 64u

typedef struct {
    char magic[8];
    uint32_t crc; /* CRC-32 of all bytes behind it */
    uint32_t zero;
    uint64_t age;                    /* steps since the reset */
    uint32_t arrays;                 /* how many there are */
    uint32_t more;                   /* 0 */
    char identity[LE_IDENTITY_SIZE]; /* the manifest's, in hex; zeros if it has none */
} le_saved_stream;                   /* 96 bytes */

typedef enum { LE_SAVED_STATE = 0, LE_SAVED_SAMPLES = 1, LE_SAVED_OTHER = 2 } le_saved_kind;

typedef struct {
    uint32_t kind;
    uint32_t type;      /* an lstm_edge_type; in other arrays also 6 float64, 7 float16, 8 bool, 9 uint16, 10
                           uint32, 11 uint64 */
    uint32_t name_size; /* bytes */
    uint32_t dims;
    uint64_t count; /* elements */
} le_saved_array;   /* 24 bytes */

#endif
