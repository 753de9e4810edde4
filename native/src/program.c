/*
 * From a program file to a program. The file may come from a stranger: nothing in it is used before it is
 * checked, and no size is multiplied before it is bounded.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if !defined(_WIN32) && !defined(__wasi__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

#include "error.h"
#include "program.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a program file is read as it lies, little-endian");
_Static_assert(sizeof(float) == 4 && sizeof(le_header) == 64 && sizeof(le_constant) == 24,
               "the format's sizes");
_Static_assert(sizeof(le_buffer) == 8 && sizeof(le_port) == 32 && sizeof(le_operation) == 128,
               "the format's sizes");

/* Wide enough for a whole vector of any instruction set. */
#define PAD 16u

typedef struct {
    const char *data;
    size_t size;
    le_header header;
    const char *constants, *buffers, *ports, *operations;
    lstm_edge_program *program;
    bool *packed;     /* a constant: whether an operation has taken its weights */
    uint8_t *written; /* an element of a row: whether it holds a value yet */
    size_t *start;    /* a buffer: where its elements begin in `written` */
    uint32_t at;      /* the operation that is read, for messages */
} reader;

#define REFUSE(...)               (le_fail(LSTM_EDGE_BAD_PROGRAM, __VA_ARGS__), false)
#define REFUSE_OPERATION(r, text) REFUSE("operation %u: %s", (unsigned)(r)->at, text)

static bool no_memory(void) {
    le_fail(LSTM_EDGE_NO_MEMORY, "no memory for the program");
    return false;
}

/* Eight bytes at a time. */
uint32_t le_checksum(const unsigned char *p, size_t size) {
    static const uint32_t polynomial = 0xEDB88320u;
    uint32_t table[8][256], crc = 0xFFFFFFFFu;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++) value = value >> 1 ^ (value & 1 ? polynomial : 0);
        table[0][i] = value;
    }
    for (uint32_t i = 0; i < 256; i++) {
        for (int t = 1; t < 8; t++) table[t][i] = table[t - 1][i] >> 8 ^ table[0][table[t - 1][i] & 255];
    }
    for (; size >= 8; p += 8, size -= 8) {
        uint32_t low, high;
        memcpy(&low, p, 4);
        memcpy(&high, p + 4, 4);
        low ^= crc;
        crc = table[7][low & 255] ^ table[6][low >> 8 & 255] ^ table[5][low >> 16 & 255] ^
              table[4][low >> 24] ^ table[3][high & 255] ^ table[2][high >> 8 & 255] ^
              table[1][high >> 16 & 255] ^ table[0][high >> 24];
    }
    for (; size > 0; p++, size--) crc = crc >> 8 ^ table[0][(crc ^ *p) & 255];
    return ~crc;
}

size_t le_size_of(uint32_t type) {
    static const size_t sizes[] = {4, 8, 4, 2, 1, 1};
    return type < sizeof sizes / sizeof *sizes ? sizes[type] : 0;
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static le_constant constant(const reader *r, uint32_t index) {
    le_constant c;
    memcpy(&c, r->constants + index * sizeof c, sizeof c);
    return c;
}

/* Check that a constant is there with this type and shape; 0 rows or columns stand for any number. */
static bool matches(const reader *r, uint32_t index, uint32_t type, size_t rows, size_t columns,
                    const char *what) {
    if (index >= r->header.constants) return REFUSE("%s: there is no constant %u", what, (unsigned)index);
    const le_constant c = constant(r, index);
    if (c.type != type || (rows != 0 && c.rows != rows) || (columns != 0 && c.columns != columns)) {
        return REFUSE("%s: constant %u is (%u, %u) of type %u, expected (%zu, %zu) of type %u", what,
                      (unsigned)index, (unsigned)c.rows, (unsigned)c.columns, (unsigned)c.type, rows, columns,
                      (unsigned)type);
    }
    return true;
}

/* The same for a constant of which all is stored. */
static bool expect(const reader *r, uint32_t index, uint32_t type, size_t rows, size_t columns,
                   const char *what) {
    if (!matches(r, index, type, rows, columns, what)) return false;
    if (constant(r, index).blocks != 0)
        return REFUSE("%s: constant %u is stored in blocks, as weights alone can be", what, (unsigned)index);
    return true;
}

/* Copy a constant's bytes, followed by `extra` zero bytes. */
static void *copy(const reader *r, uint32_t index, size_t extra) {
    const le_constant c = constant(r, index);
    const size_t bytes = (size_t)c.rows * c.columns * le_size_of(c.type);
    char *to = le_zeros(1, bytes + extra);
    if (to == NULL) no_memory();
    else memcpy(to, r->data + c.offset, bytes);
    return to;
}

/* Copy a vector of float32 if there is one; `rows` of `width` each, padded to whole vectors. */
static bool vector(const reader *r, uint32_t index, size_t rows, size_t width, float **to) {
    *to = NULL;
    if (index == LE_NONE) return true;
    if (!expect(r, index, LSTM_EDGE_FLOAT32, 1, rows * width, "a vector")) return false;
    const size_t lanes = r->program->kernels->lanes, padded = (width + lanes - 1) / lanes * lanes;
    *to = le_zeros(rows * padded + PAD, sizeof(float));
    if (*to == NULL) return no_memory();
    const char *from = r->data + constant(r, index).offset;
    for (size_t row = 0; row < rows; row++) memcpy(*to + row * padded, from + row * width * 4, width * 4);
    return true;
}

static void free_matrix(le_matrix *m) {
    free(m->bias);
    free(m->scales);
    free(m->sums);
}

/* The weights of an operation. */
typedef struct {
    uint32_t index, scales; /* constants, LE_NONE where there is none */
    bool quantized, int8;   /* whether its input is; whether they are */
    size_t rows, k;
    float *scale;     /* of each row, in memory of its own; NULL where there is none, here and below */
    uint32_t *first;  /* the first block of each band, and the end of the last one */
    uint16_t *column; /* of each block */
} weights_of;

static void free_weights(weights_of *w) {
    free(w->scale);
    free(w->first);
    free(w->column);
}

static size_t band_of(const weights_of *w) { return w->quantized ? LE_INT8_BAND : LE_BAND; }
static size_t block_of(const weights_of *w) {
    return w->quantized ? LE_INT8_BAND * LE_INT8_COLUMNS : LE_BAND;
}

/* Take in a list of blocks: where those of each band begin, and their columns. */
static bool take_list(const uint16_t *list, size_t size, weights_of *w) {
    const size_t columns = block_of(w) / band_of(w), bands = w->rows / band_of(w);
    size_t at = LE_BLOCK_LIST;
    uint32_t blocks = 0;
    for (size_t b = 0; b < bands; b++) {
        if (at == size || list[at] > size - at - 1) return REFUSE("a list of blocks ends within its bands");
        for (size_t left = list[at++], i = 0; i < left; i++, at++) {
            if (list[at] >= w->k || list[at] % columns != 0 || (i > 0 && list[at] <= list[at - 1]))
                return REFUSE("a block at column %u of %zu, expected ascending multiples of %zu",
                              (unsigned)list[at], w->k, columns);
            w->column[blocks++] = list[at];
        }
        w->first[b + 1] = blocks;
    }
    if (at != size) return REFUSE("a list of blocks goes on after its last band");
    return true;
}

/* Read which blocks of the rows of some gates are stored, and check that their data is there. */
static bool read_blocks(reader *r, weights_of *w, size_t gates) {
    const le_constant c = constant(r, w->index);
    const uint32_t index = c.blocks - 1;
    if (!expect(r, index, LSTM_EDGE_INT16, 1, 0, "a list of blocks")) return false;
    if (r->packed[index])
        return REFUSE("constant %u: two matrices take the same list of blocks", (unsigned)index);
    r->packed[index] = true;
    const size_t size = constant(r, index).columns, band = band_of(w);
    if (w->rows % (gates * band) != 0) return REFUSE_OPERATION(r, "blocks of rows that span two gates");
    if (w->rows / band > size) return REFUSE("a list of blocks ends within its bands");
    uint16_t *list = copy(r, index, 0);
    w->column = le_zeros(size, sizeof *w->column);
    w->first = le_zeros(w->rows / band + 1, sizeof *w->first);
    bool done = (list != NULL && w->column != NULL && w->first != NULL) || no_memory();
    if (done && (size < LE_BLOCK_LIST || list[0] != band || list[1] != block_of(w) / band))
        done = REFUSE_OPERATION(r, "blocks of another size than its weights take");
    done = done && take_list(list, size, w);
    free(list);
    if (!done) return false;
    const uint64_t count = (uint64_t)w->first[w->rows / band] * block_of(w);
    if (count > (r->size - c.offset) / le_size_of(c.type))
        return REFUSE("constant %u: blocks beyond the end of the file", (unsigned)w->index);
    return true;
}

/* Check (rows, k) weights of some gates, and read what belongs to them. `scales`: of quantized inputs;
   `stored`: one more than that of others. 0 rows and columns stand for any. */
static bool read_weights(reader *r, weights_of *w, uint32_t scales, uint32_t stored, size_t gates) {
    w->quantized = scales != LE_NONE;
    if (w->quantized && stored != 0) return REFUSE_OPERATION(r, "two scales of the same weights");
    w->scales = w->quantized ? scales : stored - 1;
    w->int8 = w->quantized || stored != 0;
    const uint32_t type = w->int8 ? LSTM_EDGE_INT8 : LSTM_EDGE_FLOAT32;
    if (!matches(r, w->index, type, w->rows, w->k, "weights")) return false;
    const le_constant c = constant(r, w->index);
    w->rows = c.rows;
    w->k = c.columns;
    if (w->quantized && w->k > LE_MAX_INT8_ROWS)
        return REFUSE_OPERATION(r, "too many inputs for exact int8 sums");
    if (r->packed[w->index])
        return REFUSE("constant %u: two operations take the same weights", (unsigned)w->index);
    r->packed[w->index] = true;
    if (w->int8) {
        if (!expect(r, w->scales, LSTM_EDGE_FLOAT32, 1, w->rows, "scales")) return false;
        w->scale = copy(r, w->scales, 0);
        if (w->scale == NULL) return false;
    }
    return c.blocks == 0 || read_blocks(r, w, gates);
}

/* Rows of some weights that are packed by themselves. */
typedef struct {
    size_t first, count, gates;
    const float *bias; /* NULL for none */
} part;

static bool pack(reader *r, le_matrix *to, const weights_of *w, part rows) {
    const char *data = r->data + constant(r, w->index).offset;
    const size_t size = w->int8 ? 1 : sizeof(float);
    le_weights given = {.numbers = data + rows.first * w->k * size,
                        .k = w->k,
                        .m = rows.count,
                        .gates = rows.gates,
                        .bias = rows.bias,
                        .scales = w->int8 ? w->scale + rows.first : NULL,
                        .quantized = w->quantized};
    if (w->first != NULL) {
        const uint32_t *first = w->first + rows.first / band_of(w);
        given.blocks = (le_blocks){first, w->column + *first};
        given.numbers = data + *first * block_of(w) * size;
    }
    return r->program->kernels->pack(&r->program->weights, to, &given) || no_memory();
}

static size_t width(const reader *r, uint32_t buffer) { return r->program->spans[buffer].width; }

/* Check that a buffer is there and holds float32 (any type where `any`). */
static bool is_buffer(const reader *r, uint32_t buffer, bool any) {
    if (buffer >= r->header.buffers) return REFUSE_OPERATION(r, "a buffer that is not there");
    if (!any && r->program->spans[buffer].type != LSTM_EDGE_FLOAT32) {
        return REFUSE_OPERATION(r, "a buffer of whole numbers, expected float32");
    }
    return true;
}

static bool reads(const reader *r, uint32_t buffer, bool any) {
    if (!is_buffer(r, buffer, any)) return false;
    if (r->program->spans[buffer].past != 0)
        return REFUSE_OPERATION(r, "a past that is read as a row of numbers");
    const size_t start = r->start[buffer];
    if (memchr(r->written + start, 0, width(r, buffer)) != NULL) {
        return REFUSE_OPERATION(r, "a buffer that is read before it is written");
    }
    return true;
}

static bool writes_part(reader *r, uint32_t buffer, size_t from, size_t count) {
    uint8_t *written = r->written + r->start[buffer] + from;
    if (memchr(written, 1, count) != NULL) return REFUSE_OPERATION(r, "a buffer that is written twice");
    memset(written, 1, count);
    return true;
}

static bool writes(reader *r, uint32_t buffer) {
    return is_buffer(r, buffer, false) && writes_part(r, buffer, 0, width(r, buffer));
}

static bool is_whole(const reader *r, uint32_t buffer) {
    return buffer < r->header.buffers && r->program->spans[buffer].type == LSTM_EDGE_INT64;
}

/* The same for a buffer of INT64. */
static bool writes_whole(reader *r, uint32_t buffer) {
    if (!is_whole(r, buffer)) return REFUSE_OPERATION(r, "a buffer that is not INT64, as its operands are");
    return writes_part(r, buffer, 0, width(r, buffer));
}

static void at_least(size_t *most, size_t value) {
    if (*most < value) *most = value;
}

/* Note the working memory that a product takes. */
static void needs(lstm_edge_program *p, const le_matrix *m, size_t *area) {
    at_least(area, m->padded);
    if (m->sums != NULL) at_least(&p->quantized, m->units * 4);
}

static bool read_activations(const reader *r, const uint32_t *arg, size_t count, le_op *op) {
    for (size_t i = 0; i < count; i++, arg += 3) {
        if (arg[0] >= LE_FUNCTIONS) return REFUSE_OPERATION(r, "an unknown function");
        op->act[i] = (le_activation){(le_function)arg[0], float_of(arg[1]), float_of(arg[2])};
    }
    return true;
}

/* Find how often the weights of a linear layer are applied to its input. */
static bool fit_linear(const reader *r, const weights_of *w, le_op *op) {
    const size_t repeat = width(r, op->in) / w->k;
    if (repeat == 0 || width(r, op->in) % w->k != 0 || width(r, op->out) % w->rows != 0 ||
        width(r, op->out) / w->rows != repeat) {
        return REFUSE_OPERATION(r, "weights that fit neither its input nor its output");
    }
    op->size[0] = repeat;
    return true;
}

static bool read_linear(reader *r, const uint32_t *arg, le_op *op) {
    lstm_edge_program *p = r->program;
    op->in = arg[0];
    op->out = arg[1];
    if (!reads(r, op->in, false) || !writes(r, op->out)) return false;
    weights_of weights = {.index = arg[2]};
    float *bias = NULL;
    const bool done = read_weights(r, &weights, arg[4], arg[5], 1) && fit_linear(r, &weights, op) &&
                      vector(r, arg[3], 1, weights.rows, &bias) &&
                      pack(r, &op->w, &weights, (part){0, weights.rows, 1, bias});
    free_weights(&weights);
    free(bias);
    if (done) needs(p, &op->w, &p->gates);
    return done;
}

/* Let a layer share the weights of an earlier operation, of which it has the arguments. */
static bool share(reader *r, const uint32_t *arg, le_op *op) {
    const uint32_t from = arg[22] - 1;
    if (from >= r->at) return REFUSE_OPERATION(r, "weights of an operation that is not before it");
    le_operation raw;
    memcpy(&raw, r->operations + from * sizeof raw, sizeof raw);
    const le_op *other = &r->program->op[from];
    if (raw.code != (uint32_t)op->code || raw.arg[22] != 0 ||
        memcmp(raw.arg + 5, arg + 5, 17 * sizeof *arg) != 0 || width(r, other->in) != width(r, op->in) ||
        width(r, other->h) != width(r, op->h)) {
        return REFUSE_OPERATION(r, "weights of an operation that differs");
    }
    op->shared = true;
    op->w = other->w;
    op->r = other->r;
    op->n = other->n;
    op->usual = other->usual;
    memcpy(op->act, other->act, sizeof op->act);
    return true;
}

/* LSTM, GRU and RNN. */
static size_t gates_of(const le_op *op) { return op->code == LE_LSTM ? 4 : op->code == LE_GRU ? 3 : 1; }

/* Read the buffers of a layer: its input, its states and their new values. */
static bool read_cell(reader *r, const uint32_t *arg, le_op *op) {
    const bool is_lstm = op->code == LE_LSTM;
    op->in = arg[0];
    op->h = arg[1];
    op->c = arg[2];
    op->out = arg[3];
    op->next_c = arg[4];
    if (!is_lstm && (op->c != LE_NONE || op->next_c != LE_NONE))
        return REFUSE_OPERATION(r, "a cell state, which an LSTM alone has");
    if (!reads(r, op->in, false) || !reads(r, op->h, false) || !writes(r, op->out)) return false;
    if (is_lstm && (!reads(r, op->c, false) || !writes(r, op->next_c))) return false;
    const size_t h = width(r, op->h);
    const bool has_cell = !is_lstm || (width(r, op->c) == h && width(r, op->next_c) == h);
    if (width(r, op->out) != h || !has_cell) return REFUSE_OPERATION(r, "states of unequal widths");
    return true;
}

static bool read_functions(reader *r, const uint32_t *arg, le_op *op) {
    static const le_function usual[] = {LE_SIGMOID, LE_TANH, LE_TANH};
    const size_t functions = op->code == LE_LSTM ? 3 : op->code == LE_GRU ? 2 : 1;
    if (!read_activations(r, arg, functions, op)) return false;
    op->usual = true;
    for (size_t i = 0; i < functions; i++) op->usual = op->usual && op->act[i].kind == usual[i];
    return true;
}

/* Add the bias of a GRU's sums to one of them, as in C; the new gate's may have to wait for the reset gate.
 */
static void join_biases(float *bias, size_t rows, size_t joined) {
    for (size_t i = 0; i < joined; i++) {
        bias[i] += bias[rows + i];
        bias[rows + i] = 0.f;
    }
}

/* Pack W and R; the new gate of a GRU alone if it waits for the reset gate. */
static bool pack_layer(reader *r, le_op *op, const weights_of *w, const weights_of *recurrent,
                       const float *bias) {
    const size_t gates = gates_of(op), h = width(r, op->h), rows = gates * h;
    const float *recurrent_bias = op->code == LE_GRU && bias != NULL ? bias + rows : NULL;
    if (!pack(r, &op->w, w, (part){0, rows, gates, bias})) return false;
    const bool waits = op->code == LE_GRU && !(op->flags & 1);
    if (!waits) return pack(r, &op->r, recurrent, (part){0, rows, gates, recurrent_bias});
    const float *new_bias = recurrent_bias == NULL ? NULL : recurrent_bias + 2 * h;
    return pack(r, &op->r, recurrent, (part){0, 2 * h, 2, recurrent_bias}) &&
           pack(r, &op->n, recurrent, (part){2 * h, h, 1, new_bias});
}

static bool read_recurrent(reader *r, const uint32_t *arg, le_op *op) {
    lstm_edge_program *p = r->program;
    const bool is_gru = op->code == LE_GRU;
    op->flags = arg[10];
    if (!read_cell(r, arg, op)) return false;
    if (arg[22] != 0) return share(r, arg, op);
    if (!read_functions(r, arg + 11, op)) return false;
    const size_t h = width(r, op->h), gates = gates_of(op), rows = gates * h;
    weights_of w = {.index = arg[5], .rows = rows, .k = width(r, op->in)};
    weights_of recurrent = {.index = arg[6], .rows = rows, .k = h};
    float *bias = NULL;
    bool done = read_weights(r, &w, arg[8], arg[20], gates) &&
                read_weights(r, &recurrent, arg[9], arg[21], gates) &&
                vector(r, arg[7], 1, is_gru ? 2 * rows : rows, &bias);
    if (done && is_gru && bias != NULL) join_biases(bias, rows, op->flags & 1 ? 2 * h : rows);
    done = done && pack_layer(r, op, &w, &recurrent, bias);
    free(bias);
    free_weights(&w);
    free_weights(&recurrent);
    if (!done) return false;
    needs(p, &op->w, &p->gates);
    needs(p, &op->r, &p->more_gates);
    if (op->n.weights != NULL) {
        needs(p, &op->n, &p->hidden);
        at_least(&p->hidden, p->spans[op->out].bytes / sizeof(float) + op->n.padded);
    }
    return true;
}

/* Read the second operand of a binary operation: a buffer, or a constant. */
static bool read_second(reader *r, uint32_t index, bool whole, le_op *op, size_t *count) {
    if (op->h != LE_NONE) {
        if (!reads(r, op->h, whole)) return false;
        if (whole && !is_whole(r, op->h)) return REFUSE_OPERATION(r, "operands of two types");
        *count = width(r, op->h);
        return true;
    }
    if (!expect(r, index, whole ? LSTM_EDGE_INT64 : LSTM_EDGE_FLOAT32, 1, 0, "an operand")) return false;
    *count = constant(r, index).columns;
    if (!whole) return vector(r, index, 1, *count, &op->first);
    op->first = copy(r, index, 0);
    return op->first != NULL;
}

static bool read_binary(reader *r, const uint32_t *arg, le_op *op) {
    op->in = arg[0];
    op->h = arg[1];
    op->out = arg[3];
    const bool whole = is_whole(r, op->in);
    if (!reads(r, op->in, whole) || !(whole ? writes_whole(r, op->out) : writes(r, op->out))) return false;
    const size_t out = width(r, op->out), left = width(r, op->in);
    size_t right;
    if (!read_second(r, arg[2], whole, op, &right)) return false;
    if ((left != out && left != 1) || (right != out && right != 1))
        return REFUSE_OPERATION(r, "operands of unequal widths");
    if (arg[4] >= LE_BINARIES) return REFUSE_OPERATION(r, "an unknown function");
    if (whole && (arg[4] == LE_PRELU || arg[4] == LE_POWER))
        return REFUSE_OPERATION(r, "a function of numbers of another type");
    op->size[0] = arg[4];
    op->size[1] = left == out;
    op->size[2] = right == out;
    op->flags = arg[5];
    return true;
}

static bool read_where(reader *r, const uint32_t *arg, le_op *op) {
    op->in = arg[0];
    op->h = arg[1];
    op->c = arg[2];
    op->out = arg[3];
    for (size_t i = 0; i < 3; i++) {
        if (!reads(r, arg[i], false)) return false;
    }
    if (!writes(r, op->out)) return false;
    for (size_t i = 0; i < 3; i++) {
        if (width(r, arg[i]) != width(r, op->out)) return REFUSE_OPERATION(r, "operands of unequal widths");
    }
    return true;
}

static bool read_constant(reader *r, const uint32_t *arg, le_op *op) {
    op->in = LE_NONE;
    op->out = arg[1];
    if (!writes(r, op->out)) return false;
    if (arg[0] == LE_NONE) return REFUSE_OPERATION(r, "a constant that is not there");
    return vector(r, arg[0], 1, width(r, op->out), &op->first);
}

static bool read_copy(reader *r, const uint32_t *arg, le_op *op) {
    op->in = arg[0];
    op->out = arg[1];
    const bool whole = is_whole(r, op->in);
    if (!reads(r, op->in, whole) || !is_buffer(r, op->out, whole)) return false;
    if (whole && !is_whole(r, op->out)) return REFUSE_OPERATION(r, "a copy to numbers of another type");
    const size_t length = arg[4], count = arg[5];
    if (length == 0 || count == 0 || length > LE_MAX_WIDTH || count > LE_MAX_WIDTH) {
        return REFUSE_OPERATION(r, "nothing to copy, or too much");
    }
    const uint64_t last = count - 1;
    if (arg[2] + last * arg[6] + length > width(r, op->in) ||
        arg[3] + last * arg[7] + length > width(r, op->out)) {
        return REFUSE_OPERATION(r, "a copy beyond the end of a buffer");
    }
    for (size_t i = 0; i < 6; i++) op->size[i] = arg[2 + i];
    for (size_t i = 0; i < count; i++) {
        if (!writes_part(r, op->out, arg[3] + i * arg[7], length)) return false;
    }
    return true;
}

static bool read_gather(reader *r, const uint32_t *arg, le_op *op) {
    op->in = arg[0];
    op->out = arg[1];
    if (!reads(r, op->in, true) || !writes(r, op->out)) return false;
    if (r->program->spans[op->in].type == LSTM_EDGE_FLOAT32)
        return REFUSE_OPERATION(r, "an index in float32");
    const bool stored = arg[3] != 0;
    if (!expect(r, arg[2], stored ? LSTM_EDGE_INT8 : LSTM_EDGE_FLOAT32, 0, 0, "a table")) return false;
    const le_constant table = constant(r, arg[2]);
    if (width(r, op->out) % table.columns != 0 || width(r, op->out) / table.columns != width(r, op->in)) {
        return REFUSE_OPERATION(r, "a table that does not fit its output");
    }
    op->size[0] = table.rows;
    op->size[1] = table.columns;
    if (stored && !vector(r, arg[3] - 1, 1, table.rows, &op->second)) return false;
    op->first = copy(r, arg[2], 0);
    le_io *input = NULL;
    for (size_t i = 0; i < r->program->count[LSTM_EDGE_INPUT]; i++) {
        if (r->program->io[LSTM_EDGE_INPUT][i].buffer == op->in) input = &r->program->io[LSTM_EDGE_INPUT][i];
    }
    if (input == NULL) return REFUSE_OPERATION(r, "an index that is no input");
    if (input->table == 0 || input->table > table.rows) input->table = table.rows;
    r->program->indexed = true;
    return op->first != NULL;
}

/* Return the state that is a past in this buffer and that nothing has been pushed to, or NULL. */
static le_io *open_past(const reader *r, uint32_t buffer) {
    const lstm_edge_program *p = r->program;
    if (buffer >= p->buffers || p->spans[buffer].past == 0) {
        (void)REFUSE_OPERATION(r, "a past that is not there");
        return NULL;
    }
    le_io *io = p->io[LSTM_EDGE_STATE];
    while (io->buffer != buffer) io++;
    if (io->frames == 0) return io;
    (void)REFUSE_OPERATION(r, "a past that is used after its PUSH");
    return NULL;
}

static bool read_window(reader *r, const uint32_t *arg, le_op *op) {
    op->in = arg[0];
    op->out = arg[2];
    if (!reads(r, op->in, false) || open_past(r, arg[1]) == NULL || !writes(r, op->out)) return false;
    const size_t new = arg[6] == 0 ? 1 : arg[6], numbers = width(r, arg[1]) - 1, count = arg[5];
    if (width(r, op->in) % new != 0) return REFUSE_OPERATION(r, "frames that do not fit its input");
    const size_t size = width(r, op->in) / new, frames = numbers / size, last = frames + new - 1;
    if (frames == 0 || numbers % size != 0 || count == 0 || arg[3] > last || width(r, op->out) % size != 0 ||
        width(r, op->out) / size != count || arg[3] + (uint64_t)(count - 1) * arg[4] > last) {
        return REFUSE_OPERATION(r, "frames that are not there, or that do not fit its output");
    }
    op->size[5] = new;
    op->size[0] = r->program->spans[arg[1]].past - 1;
    op->size[1] = frames;
    for (size_t i = 0; i < 3; i++) op->size[2 + i] = arg[3 + i];
    return true;
}

static bool read_push(reader *r, const uint32_t *arg, le_op *op) {
    op->in = arg[0];
    op->out = arg[1];
    le_io *io = open_past(r, op->out);
    if (io == NULL || !reads(r, op->in, false)) return false;
    const size_t numbers = width(r, arg[1]) - 1, frames = arg[2], groups = arg[3];
    if (frames == 0 || groups == 0 || numbers == 0 || numbers % frames != 0 ||
        numbers / frames % groups != 0 || width(r, op->in) % (numbers / frames) != 0) {
        return REFUSE_OPERATION(r, "frames that do not fit a past");
    }
    op->size[0] = r->program->spans[arg[1]].past - 1;
    op->size[1] = frames;
    op->size[5] = width(r, op->in) / (numbers / frames);
    io->frames = frames;
    io->groups = groups;
    return true;
}

static bool read_depthwise(reader *r, const uint32_t *arg, le_op *op) {
    op->in = arg[0];
    op->out = arg[1];
    if (!reads(r, op->in, false) || !writes(r, op->out)) return false;
    const size_t m = width(r, op->out), k = width(r, op->in) / m;
    if (k == 0 || width(r, op->in) % m != 0)
        return REFUSE_OPERATION(r, "stretches that do not fit its output");
    op->size[0] = k;
    return vector(r, arg[2], k, m, &op->first) && vector(r, arg[3], 1, m, &op->second);
}

/* Operations with one input and one output of the same width, and what goes with it. */
static bool read_simple(reader *r, const uint32_t *arg, le_op *op) {
    op->in = arg[0];
    op->out = arg[1];
    const bool whole = op->code == LE_CAST && is_whole(r, op->out);
    if (!reads(r, op->in, op->code == LE_CAST) || !(whole ? writes_whole(r, op->out) : writes(r, op->out)))
        return false;
    if (width(r, op->in) != width(r, op->out))
        return REFUSE_OPERATION(r, "an output of another width than the input");
    if (op->code == LE_CAST) {
        op->flags = arg[2];
        return arg[2] <= whole || REFUSE_OPERATION(r, "a flag that is not known");
    }
    if (op->code == LE_UNARY) return read_activations(r, arg + 2, 1, op);
    const size_t length = arg[2];
    if (length == 0 || width(r, op->in) % length != 0)
        return REFUSE_OPERATION(r, "an axis that does not fit its input");
    op->size[0] = length;
    if (op->code == LE_SOFTMAX) {
        op->flags = arg[3];
        return true;
    }
    op->epsilon = float_of(arg[3]);
    return vector(r, arg[4], 1, length, &op->first) && vector(r, arg[5], 1, length, &op->second);
}

static bool read_operation(reader *r, le_op *op) {
    le_operation raw;
    memcpy(&raw, r->operations + r->at * sizeof raw, sizeof raw);
    if (raw.code < LE_LINEAR || raw.code > LE_DEPTHWISE) return REFUSE_OPERATION(r, "an unknown code");
    op->code = (le_code)raw.code;
    op->h = op->c = op->next_c = LE_NONE;
    switch (op->code) {
    case LE_LINEAR: return read_linear(r, raw.arg, op);
    case LE_LSTM:
    case LE_GRU:
    case LE_RNN: return read_recurrent(r, raw.arg, op);
    case LE_BINARY: return read_binary(r, raw.arg, op);
    case LE_GATHER: return read_gather(r, raw.arg, op);
    case LE_COPY: return read_copy(r, raw.arg, op);
    case LE_CONSTANT: return read_constant(r, raw.arg, op);
    case LE_WHERE: return read_where(r, raw.arg, op);
    case LE_WINDOW: return read_window(r, raw.arg, op);
    case LE_PUSH: return read_push(r, raw.arg, op);
    case LE_DEPTHWISE: return read_depthwise(r, raw.arg, op);
    default: return read_simple(r, raw.arg, op);
    }
}

/* Read by how much each number of an output or state may differ from the golden case. */
static bool read_tolerance(reader *r, uint32_t index, size_t rows, le_io *io) {
    if (!expect(r, index, LSTM_EDGE_FLOAT32, rows, width(r, io->buffer), "the golden case")) return false;
    if (io->per_unit != 0 && (size_t)r->header.golden_steps * io->per_unit <= io->delay)
        return REFUSE("%s: a golden case shorter than its delay", io->name);
    io->tolerance = copy(r, index, 0);
    return io->tolerance != NULL;
}

static bool read_golden(reader *r, lstm_edge_kind kind, const le_port *port, le_io *io) {
    const uint32_t steps = r->header.golden_steps;
    const le_span *span = &r->program->spans[io->buffer];
    const bool is_input = kind == LSTM_EDGE_INPUT;
    if (steps == 0 || (port->golden == LE_NONE && !is_input)) return true;
    if (kind == LSTM_EDGE_STATE && span->type == LSTM_EDGE_INT64)
        return REFUSE("%s: a golden case of whole numbers", io->name);
    if (r->program->golden_rows == 0 && port->golden < r->header.constants)
        r->program->golden_rows = constant(r, port->golden).rows / steps;
    const size_t rows = r->program->golden_rows * (is_input || io->every_step ? steps : 1);
    if (rows == 0) return REFUSE("%s: a golden case shorter than its steps", io->name);
    if (!expect(r, port->golden, span->type, rows, span->width, "the golden case")) return false;
    io->golden = copy(r, port->golden, 0);
    return io->golden != NULL && (is_input || read_tolerance(r, port->tolerance, rows, io));
}

/* Read the delay and the frames of an input, output or state. */
static bool read_pace(reader *r, lstm_edge_kind kind, const le_port *port, le_io *io) {
    lstm_edge_program *p = r->program;
    const bool framed = kind == LSTM_EDGE_INPUT || io->every_step;
    const size_t whole = r->program->spans[io->buffer].width;
    io->per_unit = port->frames;
    io->delay = port->delay;
    if (framed ? io->per_unit == 0 || whole % io->per_unit != 0 : io->per_unit != 0)
        return REFUSE("%s: frames that do not fit its row", io->name);
    if (kind == LSTM_EDGE_INPUT && io->per_unit != p->unit)
        return REFUSE("%s: an input of another unit", io->name);
    if (kind != LSTM_EDGE_OUTPUT && io->delay != 0)
        return REFUSE("%s: a delay of an input or a state", io->name);
    if (io->delay * (uint64_t)p->unit > INT32_MAX) return REFUSE("%s: its delay is too long", io->name);
    const size_t units = io->per_unit == 0 ? io->delay : (io->delay + io->per_unit - 1) / io->per_unit;
    if (p->settled < units) p->settled = units;
    if (kind == LSTM_EDGE_INPUT && p->unit > 1) p->port_bytes += le_sample_bytes(p, io);
    return true;
}

static bool read_state(reader *r, const le_port *port, le_io *io) {
    lstm_edge_program *p = r->program;
    const lstm_edge_type type = p->spans[io->buffer].type;
    if (io->next >= p->buffers || width(r, io->next) != width(r, io->buffer) ||
        p->spans[io->next].type != type) {
        return REFUSE("%s: a new value that is not there, or of another width or type", io->name);
    }
    if (type == LSTM_EDGE_FLOAT32) {
        if (io->next == io->buffer) p->spans[io->buffer].past = (uint32_t)++p->pasts;
        float *reset;
        const bool done = vector(r, port->option, 1, width(r, io->buffer), &reset);
        io->reset = reset;
        return done;
    }
    if (io->next == io->buffer) return REFUSE("%s: a past of whole numbers", io->name);
    if (port->option == LE_NONE) return true;
    if (!expect(r, port->option, type, 1, width(r, io->buffer), "a reset value")) return false;
    io->reset = copy(r, port->option, 0);
    return io->reset != NULL;
}

static int compare_names(const void *a, const void *b) {
    return strcmp((*(const le_io *const *)a)->name, (*(const le_io *const *)b)->name);
}

/* Check that no two inputs, outputs or states have one name: a saved state finds them by it. */
static bool names_differ(const lstm_edge_program *p, lstm_edge_kind kind) {
    const size_t count = p->count[kind];
    const le_io **sorted = le_zeros(count, sizeof *sorted);
    if (sorted == NULL) return no_memory();
    for (size_t i = 0; i < count; i++) sorted[i] = &p->io[kind][i];
    qsort(sorted, count, sizeof *sorted, compare_names);
    const char *twice = NULL;
    for (size_t i = 1; i < count && twice == NULL; i++) {
        if (compare_names(&sorted[i - 1], &sorted[i]) == 0) twice = sorted[i]->name;
    }
    static const char *const kinds[] = {"inputs", "outputs", "states"};
    if (twice != NULL) le_fail(LSTM_EDGE_BAD_PROGRAM, "%s: two %s of this name", twice, kinds[kind]);
    free(sorted);
    return twice == NULL;
}

/* Note that a step begins with the values of an input or a state. */
static bool fill(reader *r, const le_io *io) {
    uint8_t *written = r->written + r->start[io->buffer];
    const size_t count = width(r, io->buffer);
    if (memchr(written, 1, count) != NULL) return REFUSE("%s: a buffer of another input or state", io->name);
    memset(written, 1, count);
    return true;
}

/* Check that an output is float32, and a state float32 or int64. */
static bool fits_kind(const reader *r, lstm_edge_kind kind, const le_io *io) {
    const lstm_edge_type type = r->program->spans[io->buffer].type;
    if (kind == LSTM_EDGE_INPUT || type == LSTM_EDGE_FLOAT32) return true;
    if (kind == LSTM_EDGE_STATE && type == LSTM_EDGE_INT64) return true;
    return REFUSE("%s: an output that is not float32, or a state that is neither that nor int64", io->name);
}

/* Read the name and the buffer of an input, output or state, and the option of an output. */
static bool read_port(reader *r, lstm_edge_kind kind, const le_port *port, le_io *io) {
    if (!expect(r, port->name, LSTM_EDGE_UINT8, 1, 0, "a name")) return false;
    if (port->buffer >= r->program->buffers)
        return REFUSE("an input, output or state names a buffer that is not there");
    io->name = copy(r, port->name, 1);
    if (io->name == NULL) return false;
    io->buffer = port->buffer;
    io->next = port->next;
    if (!fits_kind(r, kind, io)) return false;
    if (kind != LSTM_EDGE_OUTPUT) return fill(r, io);
    if (port->option > 1) return REFUSE("%s: an unknown option", io->name);
    io->every_step = port->option == 1;
    return true;
}

/* Read the inputs, outputs and states; what the outputs and states end in is checked after the operations. */
static bool read_ports(reader *r) {
    lstm_edge_program *p = r->program;
    const char *from = r->ports;
    for (lstm_edge_kind kind = LSTM_EDGE_INPUT; kind <= LSTM_EDGE_STATE; kind++) {
        for (size_t i = 0; i < p->count[kind]; i++, from += sizeof(le_port)) {
            le_port port = {0};
            memcpy(&port, from, sizeof port);
            le_io *io = &p->io[kind][i];
            if (!read_port(r, kind, &port, io)) return false;
            if (kind == LSTM_EDGE_STATE && !read_state(r, &port, io)) return false;
            if (!read_pace(r, kind, &port, io) || !read_golden(r, kind, &port, io)) return false;
        }
        if (!names_differ(p, kind)) return false;
    }
    return true;
}

/* Place the buffers in working memory, and the pasts in a stream's. */
static bool place_buffers(reader *r) {
    lstm_edge_program *p = r->program;
    for (size_t b = 0; b < p->buffers; b++) {
        le_span *span = &p->spans[b];
        size_t *bytes = span->past != 0 ? &p->past_bytes : &p->row_bytes;
        span->offset = *bytes;
        *bytes += span->bytes;
        if (span->type != LSTM_EDGE_FLOAT32 && span->type != LSTM_EDGE_INT64 &&
            r->written[r->start[b]] == 0) {
            return REFUSE("buffer %zu: whole numbers that are not INT64 in a buffer that is no input", b);
        }
    }
    return true;
}

static bool recurs(const le_op *op) {
    return op->code == LE_LSTM || op->code == LE_GRU || op->code == LE_RNN;
}

/* Return whether a buffer is an input's or a state's, written before the step. */
static bool given(const lstm_edge_program *p, uint32_t buffer) {
    for (int kind = LSTM_EDGE_INPUT; kind <= LSTM_EDGE_STATE; kind++) {
        for (size_t i = 0; kind != LSTM_EDGE_OUTPUT && i < p->count[kind]; i++) {
            if (p->io[kind][i].buffer == buffer) return true;
        }
    }
    return false;
}

/* Return whether a step does nothing but add a constant to a state of one whole number, `more`. */
static bool counts(const lstm_edge_program *p, le_io *io) {
    for (size_t j = 0; p->spans[io->buffer].type == LSTM_EDGE_INT64 && j < p->ops; j++) {
        const le_op *op = &p->op[j];
        if (op->code != LE_BINARY || op->out != io->next) continue;
        if (op->size[0] != LE_ADD || op->in != io->buffer || op->h != LE_NONE ||
            p->spans[io->buffer].width != 1)
            return false;
        memcpy(&io->more, op->first, sizeof io->more);
        return true;
    }
    return false;
}

/* How operations and ports use the buffers. */
typedef struct {
    bool *needed;    /* whether a value is read after every step, not only after the last */
    size_t *readers; /* operations and outputs that read it */
} uses;

/* Check that an output, or a state's new value, is written, and by what may write it. */
static bool check_end(reader *r, lstm_edge_kind kind, const le_io *io, uint32_t end) {
    const lstm_edge_program *p = r->program;
    const bool is_output = kind == LSTM_EDGE_OUTPUT;
    if (memchr(r->written + r->start[end], 0, width(r, end)) != NULL) {
        return REFUSE("%s: no operation writes it", io->name);
    }
    const bool is_past = p->spans[end].past != 0;
    if (is_past && is_output) return REFUSE("%s: a past can't be an output", io->name);
    if (is_past && io->frames == 0) return REFUSE("%s: a past without a PUSH", io->name);
    if (!is_past && !is_output && given(p, end)) {
        return REFUSE("%s: its new value is an input or another old value; copy it", io->name);
    }
    return true;
}

/* Check where the outputs and states end, and note which of them every step needs. */
static bool check_ends(reader *r, uses *u) {
    lstm_edge_program *p = r->program;
    for (int kind = LSTM_EDGE_OUTPUT; kind <= LSTM_EDGE_STATE; kind++) {
        const bool is_output = kind == LSTM_EDGE_OUTPUT;
        for (size_t i = 0; i < p->count[kind]; i++) {
            le_io *io = &p->io[kind][i];
            const uint32_t end = is_output ? io->buffer : io->next;
            if (!check_end(r, (lstm_edge_kind)kind, io, end)) return false;
            if (p->spans[end].past != 0) continue;
            io->given = given(p, end);
            if (is_output && io->given) {
                p->port_bytes += p->spans[end].bytes;
                p->moves = true;
            }
            u->needed[end] = u->needed[end] || !is_output || io->every_step;
            if (is_output) u->readers[end]++;
        }
    }
    return true;
}

/* Find the operations whose results only the last step of a chunk needs, from the last one to the first. */
static void find_last_only(lstm_edge_program *p, uses *u) {
    for (size_t i = p->ops; i-- > 0;) {
        le_op *op = &p->op[i];
        op->last_only = !recurs(op) && op->code != LE_PUSH && !u->needed[op->out];
        const uint32_t read[] = {op->in, op->h, op->c};
        for (size_t j = 0; j < 3; j++) {
            if (read[j] == LE_NONE) continue;
            u->readers[read[j]]++;
            u->needed[read[j]] = u->needed[read[j]] || !op->last_only;
        }
    }
}

/* Return whether a recurrent operation gives a state's new value from its old one. */
static bool is_updated(const lstm_edge_program *p, const le_io *state) {
    for (size_t j = 0; j < p->ops; j++) {
        const le_op *op = &p->op[j];
        const bool is_h = op->h == state->buffer && op->out == state->next;
        const bool is_c = op->c == state->buffer && op->next_c == state->next;
        if (recurs(op) && (is_h || is_c)) return true;
    }
    return false;
}

static bool is_output(const lstm_edge_program *p, uint32_t buffer) {
    for (size_t j = 0; j < p->count[LSTM_EDGE_OUTPUT]; j++) {
        if (p->io[LSTM_EDGE_OUTPUT][j].buffer == buffer) return true;
    }
    return false;
}

/* Find counters and states that are updated in place; return whether every state is one of these or a past.
 */
static bool find_in_place(lstm_edge_program *p, const uses *u) {
    bool all = true;
    for (size_t i = 0; i < p->count[LSTM_EDGE_STATE]; i++) {
        le_io *io = &p->io[LSTM_EDGE_STATE][i];
        io->counts = counts(p, io);
        p->moves = p->moves || io->counts;
        if (io->frames != 0 || io->counts) continue;
        const bool is_own = is_updated(p, io) && u->readers[io->buffer] == 1;
        io->in_place = is_own && !is_output(p, io->next);
        all = all && is_own;
        p->moves = p->moves || !io->in_place;
    }
    return all;
}

static bool is_state(const lstm_edge_program *p, uint32_t buffer) {
    for (size_t i = 0; i < p->count[LSTM_EDGE_STATE]; i++) {
        if (p->io[LSTM_EDGE_STATE][i].buffer == buffer) return true;
    }
    return false;
}

/* Return whether every recurrent operation starts from states. */
static bool start_from_states(const lstm_edge_program *p) {
    for (size_t j = 0; j < p->ops; j++) {
        const le_op *op = &p->op[j];
        if (!recurs(op)) continue;
        if (!is_state(p, op->h) || (op->code == LE_LSTM && !is_state(p, op->c))) return false;
    }
    return true;
}

static void find_last_recurrent(lstm_edge_program *p) {
    for (size_t i = 0; i < p->ops; i++) {
        if (recurs(&p->op[i])) p->last_recurrent = given(p, p->op[i].h) ? &p->op[i] : NULL;
    }
}

/* Check where the outputs and states end; find what a chunk need not run at every step. */
static bool finish(reader *r) {
    lstm_edge_program *p = r->program;
    uses u = {calloc(p->buffers, sizeof *u.needed), calloc(p->buffers, sizeof *u.readers)};
    bool done = u.needed != NULL && u.readers != NULL;
    if (!done) no_memory();
    done = done && check_ends(r, &u);
    if (done) {
        find_last_only(p, &u);
        const bool in_place = find_in_place(p, &u);
        /* many steps of an operation at a time, before the next operation runs */
        p->chunked = in_place && start_from_states(p);
        find_last_recurrent(p);
    }
    free(u.needed);
    free(u.readers);
    return done;
}

static bool check_header(const reader *r) {
    const le_header *h = &r->header;
    const uint32_t counts[] = {h->constants, h->buffers, h->inputs, h->outputs, h->states, h->operations};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        if (counts[i] > LE_MAX_ITEMS)
            return REFUSE("a count of %u, at most %u are read", (unsigned)counts[i], LE_MAX_ITEMS);
    }
    if (h->unit == 0 || h->unit > LE_MAX_WIDTH) return REFUSE("a unit of %u steps", (unsigned)h->unit);
    if (h->golden_steps > r->size) return REFUSE("a golden case of more steps than the file has bytes");
    return true;
}

/* Check that the constants are within the file; how many blocks of one are stored is checked where it is
   taken. */
static bool check_constants(const reader *r) {
    for (uint32_t i = 0; i < r->header.constants; i++) {
        const le_constant c = constant(r, i);
        const size_t size = le_size_of(c.type);
        if (size == 0 || c.rows == 0 || c.columns == 0 || c.offset % 8 != 0 || c.offset > r->size ||
            (c.blocks == 0 && (uint64_t)c.rows * c.columns > (r->size - c.offset) / size)) {
            return REFUSE("constant %u: an unknown type, nothing in it, or beyond the end of the file",
                          (unsigned)i);
        }
    }
    return true;
}

/* Find the tables of the file. */
static bool read_tables(reader *r) {
    const le_header *h = &r->header;
    if (!check_header(r)) return false;
    const size_t ports = (size_t)h->inputs + h->outputs + h->states;
    const size_t sizes[] = {h->constants * sizeof(le_constant), h->buffers * sizeof(le_buffer),
                            ports * sizeof(le_port), h->operations * sizeof(le_operation)};
    const char **starts[] = {&r->constants, &r->buffers, &r->ports, &r->operations};
    size_t at = sizeof *h;
    for (size_t i = 0; i < 4; i++) {
        *starts[i] = r->data + at;
        at += sizes[i];
    }
    if (at > r->size) return REFUSE("the file ends within its tables");
    return check_constants(r);
}

static bool read_buffers(reader *r) {
    lstm_edge_program *p = r->program;
    size_t elements = 0;
    for (size_t i = 0; i < p->buffers; i++) {
        le_buffer b;
        memcpy(&b, r->buffers + i * sizeof b, sizeof b);
        const size_t size = le_size_of(b.type);
        if (size == 0 || b.width == 0 || b.width > LE_MAX_WIDTH - elements) {
            return REFUSE("buffer %zu: an unknown type, an empty row, or rows too wide", i);
        }
        r->start[i] = elements;
        elements += b.width;
        const size_t bytes = (b.width * size + LE_ALIGN - 1) / LE_ALIGN * LE_ALIGN;
        p->spans[i] = (le_span){.width = b.width, .bytes = bytes, .type = (lstm_edge_type)b.type};
    }
    r->written = calloc(elements + 1, 1);
    return r->written != NULL || no_memory();
}

/* Take the header's counts, and memory for as many. */
static bool take_counts(reader *r) {
    const le_header *h = &r->header;
    lstm_edge_program *p = r->program;
    p->buffers = h->buffers;
    p->ops = h->operations;
    p->count[LSTM_EDGE_INPUT] = h->inputs;
    p->count[LSTM_EDGE_OUTPUT] = h->outputs;
    p->count[LSTM_EDGE_STATE] = h->states;
    p->golden_steps = h->golden_steps;
    p->unit = h->unit;
    p->reset_every = h->reset_every == 0 ? UINT64_MAX : h->reset_every;
    p->spans = calloc(p->buffers + 1, sizeof *p->spans);
    p->op = calloc(p->ops + 1, sizeof *p->op);
    r->start = calloc(p->buffers + 1, sizeof *r->start);
    r->packed = calloc((size_t)h->constants + 1, sizeof *r->packed);
    bool complete = p->spans != NULL && p->op != NULL && r->start != NULL && r->packed != NULL;
    for (int kind = 0; kind < 3; kind++) {
        p->io[kind] = calloc(p->count[kind] + 1, sizeof *p->io[kind]);
        complete = complete && p->io[kind] != NULL;
    }
    return complete || no_memory();
}

static bool read_operations(reader *r) {
    for (r->at = 0; r->at < r->program->ops; r->at++) {
        if (!read_operation(r, &r->program->op[r->at])) return false;
    }
    return true;
}

static bool read_manifest(reader *r) {
    const uint32_t index = r->header.manifest;
    if (index == LE_NONE) return true;
    if (!expect(r, index, LSTM_EDGE_UINT8, 1, 0, "the manifest")) return false;
    r->program->manifest = copy(r, index, 1);
    return r->program->manifest != NULL;
}

static bool read_all(reader *r) {
    return read_tables(r) && take_counts(r) && read_buffers(r) && read_ports(r) && place_buffers(r) &&
           read_operations(r) && finish(r) && read_manifest(r);
}

void le_program_free(lstm_edge_program *p) {
    for (size_t i = 0; p->op != NULL && i < p->ops; i++) {
        if (p->op[i].shared) continue;
        free_matrix(&p->op[i].w);
        free_matrix(&p->op[i].r);
        free_matrix(&p->op[i].n);
        free(p->op[i].first);
        free(p->op[i].second);
    }
    for (int kind = 0; kind < 3; kind++) {
        for (size_t i = 0; p->io[kind] != NULL && i < p->count[kind]; i++) {
            free(p->io[kind][i].name);
            free(p->io[kind][i].reset);
            free(p->io[kind][i].golden);
            free(p->io[kind][i].tolerance);
        }
        free(p->io[kind]);
    }
    le_arena_free(&p->weights);
    le_pool_free(p->pool);
    free(p->spans);
    free(p->op);
    free(p->manifest);
    free(p);
}

lstm_edge_program *lstm_edge_load(const void *data, size_t size) {
    const le_kernels *kernels = le_choose();
    if (kernels == NULL) {
        le_fail(LSTM_EDGE_NO_ISA, "LSTM_EDGE_ISA=%s: this machine or this build has no such instruction set",
                getenv("LSTM_EDGE_ISA"));
        return NULL;
    }
    reader r = {.data = data, .size = size};
    if (data == NULL || size < sizeof r.header || memcmp(data, LE_MAGIC, sizeof r.header.magic) != 0) {
        le_fail(LSTM_EDGE_BAD_PROGRAM, "no program file: it does not start with " LE_MAGIC);
        return NULL;
    }
    memcpy(&r.header, data, sizeof r.header);
    if (r.header.version != LE_FORMAT) {
        le_fail(LSTM_EDGE_BAD_VERSION, "format version %u, this library reads %u", (unsigned)r.header.version,
                LE_FORMAT);
        return NULL;
    }
    if (r.header.size != size) {
        le_fail(LSTM_EDGE_BAD_PROGRAM, "%zu bytes, expected %llu: it is truncated, or something was added",
                size, (unsigned long long)r.header.size);
        return NULL;
    }
    if (r.header.crc != le_checksum((const unsigned char *)data + 16, size - 16)) {
        le_fail(LSTM_EDGE_BAD_PROGRAM, "its checksum differs: it is damaged; copy or convert it again");
        return NULL;
    }
    r.program = calloc(1, sizeof *r.program);
    if (r.program == NULL) {
        no_memory();
        return NULL;
    }
    r.program->kernels = kernels;
    r.program->weights = (le_arena){.size = size, .far = size >= LE_FAR};
    atomic_init(&r.program->users, 1);
    const bool done = read_all(&r);
    r.program->near = le_arena_bytes(&r.program->weights) <= LE_NEAR;
    free(r.packed);
    free(r.written);
    free(r.start);
    if (done) return r.program;
    le_program_free(r.program);
    return NULL;
}

#if defined(_WIN32) || defined(__wasi__)
static lstm_edge_program *open_file(const char *path) {
    FILE *file = fopen(path, "rb");
    const bool sized = file != NULL && fseek(file, 0, SEEK_END) == 0;
    const long size = sized ? ftell(file) : -1;
    void *data = size > 0 && fseek(file, 0, SEEK_SET) == 0 ? le_zeros((size_t)size, 1) : NULL;
    const bool all = data != NULL && fread(data, 1, (size_t)size, file) == (size_t)size;
    if (file != NULL) fclose(file);
    lstm_edge_program *program = all ? lstm_edge_load(data, (size_t)size) : NULL;
    if (!all) le_fail(LSTM_EDGE_BAD_FILE, "%s: empty, or can't be read, expected a program file", path);
    free(data);
    return program;
}
#else
static lstm_edge_program *open_file(const char *path) {
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat facts;
    if (file < 0 || fstat(file, &facts) != 0 || !S_ISREG(facts.st_mode)) {
        le_fail(LSTM_EDGE_BAD_FILE, "%s: can't be read, expected a program file", path);
        if (file >= 0) close(file);
        return NULL;
    }
    const size_t size = (size_t)facts.st_size;
    void *data = size == 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (data == MAP_FAILED) {
        le_fail(LSTM_EDGE_BAD_FILE, "%s: empty, or can't be mapped", path);
        return NULL;
    }
    lstm_edge_program *program = lstm_edge_load(data, size);
    munmap(data, size);
    return program;
}
#endif

lstm_edge_program *lstm_edge_open(const char *path) {
    if (path == NULL) {
        le_fail(LSTM_EDGE_BAD_ARGUMENT, "a null pointer");
        return NULL;
    }
    return open_file(path);
}
