/* Running a program: many rows, one stream, the golden case; and the rest of the public functions. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "mode.h"
#include "stream.h"
#include "workspace.h"

const char *lstm_edge_version(void) { return LSTM_EDGE_VERSION; }

const char *lstm_edge_isa(void) {
    const le_kernels *kernels = le_choose();
    return kernels == NULL ? NULL : kernels->name;
}

/* --- Running ---------------------------------------------------------------------------------------- */

typedef struct {
    const lstm_edge_program *program;
    size_t rows, steps, block;
    const size_t *slots;
    const lstm_edge_rows *inputs, *states, *outputs;
    const lstm_edge_rows *values; /* of lstm_edge_trace: one for each buffer; else NULL */
    le_workspace *workspace;      /* of a stream; NULL takes one of the program's */
    le_workspace **workspaces;    /* one a thread */
    atomic_size_t next;           /* the first row that no thread has taken */
} call;

static char *row_at(const lstm_edge_rows *rows, size_t row, size_t step) {
    return (char *)rows->data + row * rows->row_stride + step * rows->step_stride;
}

/* Return where the states of a row are among the caller's. */
static size_t slot_of(const call *c, size_t row) { return c->slots != NULL ? c->slots[row] : row; }

static size_t row_bytes(const le_span *span) { return span->width * le_size_of(span->type); }

/* Copy rows between the caller's memory, where they begin at `user` and lie `stride` bytes apart, and a
   buffer. A row is often a single number. */
static void copy_rows(const le_span *span, char *buffer, char *user, size_t stride, size_t rows, bool out) {
    const size_t bytes = row_bytes(span);
    for (size_t r = 0; r < rows; r++, buffer += span->bytes) {
        char *row = user + r * stride, *to = out ? row : buffer, *from = out ? buffer : row;
        if (bytes == sizeof(float)) memcpy(to, from, sizeof(float));
        else memcpy(to, from, bytes);
    }
}

/* Copy rows of `now` steps from step `step` on. The steps of a single row are copied as rows. */
static void copy_steps(const le_span *span, char *buffer, const lstm_edge_rows *view, size_t first,
                       size_t step, size_t rows, size_t now, bool out) {
    if (rows == 1) {
        copy_rows(span, buffer, row_at(view, first, step), view->step_stride, now, out);
        return;
    }
    for (size_t s = 0; s < now; s++, buffer += rows * span->bytes)
        copy_rows(span, buffer, row_at(view, first, step + s), view->row_stride, rows, out);
}

/* Copy the states of rows between the slots of the caller's memory and a buffer. */
static void copy_slots(const call *c, const le_span *span, char *buffer, const lstm_edge_rows *view,
                       size_t first, size_t rows, bool out) {
    for (size_t r = 0; r < rows; r++, buffer += span->bytes)
        copy_rows(span, buffer, row_at(view, slot_of(c, first + r), 0), 0, 1, out);
}

/* Give the rows of a counter's later steps their numbers, from those of the first step on. */
static void count(const lstm_edge_program *p, const le_io *counter, char *at, size_t rows, size_t later) {
    const size_t bytes = p->spans[counter->buffer].bytes;
    for (size_t i = 0; i < rows * later; i++, at += bytes) {
        uint64_t number;
        memcpy(&number, at, sizeof number);
        number += (uint64_t)counter->more;
        memcpy(at + rows * bytes, &number, sizeof number);
    }
}

/* Choose the order of the next `now` steps. */
static inline __attribute__((always_inline)) void turn(const lstm_edge_program *p, le_workspace *w,
                                                       size_t now) {
    w->backward = !p->near && !w->backward;
    w->far = p->weights.far && now == 1;
    w->is_ahead = w->backward && w->ahead != NULL;
    if (w->is_ahead) p->kernels->look_ahead(p, w);
}

/* Run every operation for `now` steps of some rows in working memory; `last` if a call ends with them. */
static inline __attribute__((always_inline)) void compute(const lstm_edge_program *p, le_workspace *w,
                                                          size_t rows, size_t now, bool last) {
    turn(p, w, now);
    for (size_t i = 0; i < p->ops; i++) {
        const le_op *op = &p->op[i];
        if (!op->last_only) p->kernels->run(p, op, w, 0, rows, now);
        else if (last) p->kernels->run(p, op, w, (now - 1) * rows, rows, 1);
    }
}

/* Run every operation for all of some rows and steps, and copy the buffers from step `step` on. */
static void compute_traced(const call *c, le_workspace *w, size_t first, size_t rows, size_t step,
                           size_t now) {
    const lstm_edge_program *p = c->program;
    turn(p, w, now);
    for (size_t i = 0; i < p->ops; i++) p->kernels->run(p, &p->op[i], w, 0, rows, now);
    for (size_t i = 0; i < p->buffers; i++) {
        const le_span *span = &p->spans[i];
        if (c->values[i].data == NULL || span->past != 0) continue;
        copy_steps(span, w->buffer[i], &c->values[i], first, step, rows, now, true);
    }
}

/* Copy the old states of some rows to working memory; of a past, say where each row lies. */
static void begin_states(const call *c, le_workspace *w, size_t first, size_t rows) {
    const lstm_edge_program *p = c->program;
    for (size_t i = 0; i < p->count[LSTM_EDGE_STATE]; i++) {
        const uint32_t buffer = p->io[LSTM_EDGE_STATE][i].buffer;
        const le_span *span = &p->spans[buffer];
        const lstm_edge_rows *state = &c->states[i];
        if (span->past == 0) {
            copy_slots(c, span, w->buffer[buffer], state, first, rows, false);
            continue;
        }
        for (size_t r = 0; r < rows; r++) {
            char *row = row_at(state, slot_of(c, first + r), 0);
            w->past[(span->past - 1) * w->capacity + r] = (float *)(void *)row;
        }
    }
}

/* Copy the inputs of `now` steps from step `step` on, and number the counters' later steps. */
static void begin_steps(const call *c, le_workspace *w, size_t first, size_t rows, size_t step, size_t now) {
    const lstm_edge_program *p = c->program;
    for (size_t i = 0; i < p->count[LSTM_EDGE_INPUT]; i++) {
        const uint32_t buffer = p->io[LSTM_EDGE_INPUT][i].buffer;
        copy_steps(&p->spans[buffer], w->buffer[buffer], &c->inputs[i], first, step, rows, now, false);
    }
    for (size_t i = 0; i < p->count[LSTM_EDGE_STATE]; i++) {
        const le_io *state = &p->io[LSTM_EDGE_STATE][i];
        if (state->counts) count(p, state, w->buffer[state->buffer], rows, now - 1);
    }
}

/* Copy the outputs of `now` steps from step `step` on; of the call's last step alone where there is none for
   every step. */
static void end_steps(const call *c, le_workspace *w, size_t first, size_t rows, size_t step, size_t now) {
    const lstm_edge_program *p = c->program;
    const bool last = step + now == c->steps;
    for (size_t i = 0; i < p->count[LSTM_EDGE_OUTPUT]; i++) {
        const le_io *output = &p->io[LSTM_EDGE_OUTPUT][i];
        if (c->outputs[i].data == NULL || !(output->every_step || last)) continue;
        const le_span *span = &p->spans[output->buffer];
        const size_t skipped = output->every_step ? 0 : now - 1, at = output->every_step ? step : 0;
        char *from = w->buffer[output->buffer] + skipped * rows * span->bytes;
        copy_steps(span, from, &c->outputs[i], first, at, rows, now - skipped, true);
    }
}

/* Copy the new states of `now` steps: to the caller's memory after the `last` ones, else to the old states.
 */
static void end_states(const call *c, le_workspace *w, size_t first, size_t rows, size_t now, bool last) {
    const lstm_edge_program *p = c->program;
    for (size_t i = 0; i < p->count[LSTM_EDGE_STATE]; i++) {
        const le_io *state = &p->io[LSTM_EDGE_STATE][i];
        const le_span *span = &p->spans[state->next];
        if (span->past != 0) continue;
        char *from = w->buffer[state->next] + (now - 1) * rows * span->bytes;
        if (last) copy_slots(c, span, from, &c->states[i], first, rows, true);
        else memcpy(w->buffer[state->buffer], from, rows * span->bytes);
    }
}

/* Run rows `first` to `first + rows` for all steps. */
static void run_block(const call *c, le_workspace *w, size_t first, size_t rows) {
    const lstm_edge_program *p = c->program;
    const size_t most = p->chunked ? w->capacity / rows : 1;
    begin_states(c, w, first, rows);
    for (size_t step = 0, now; step < c->steps; step += now) {
        now = c->steps - step < most ? c->steps - step : most;
        const bool last = step + now == c->steps;
        begin_steps(c, w, first, rows, step, now);
        if (c->values == NULL) compute(p, w, rows, now, last);
        else compute_traced(c, w, first, rows, step, now);
        end_steps(c, w, first, rows, step, now);
        end_states(c, w, first, rows, now, last);
    }
}

lstm_edge_status le_check_elements(const lstm_edge_program *p, const le_io *input, const char *from,
                                   size_t count) {
    const le_span *span = &p->spans[input->buffer];
    const size_t size = le_size_of(span->type);
    for (size_t k = 0; k < count; k++, from += size) {
        int64_t index = 0;
        if (span->type == LSTM_EDGE_UINT8) index = (unsigned char)*from;
        else {
            memcpy(&index, from, size);
            const unsigned shift = 64u - 8u * (unsigned)size;
            index = (int64_t)((uint64_t)index << shift) >> shift;
        }
        const int64_t rows = (int64_t)input->table;
        if (index < -rows || index >= rows) {
            return le_fail(LSTM_EDGE_BAD_INDEX, "%s: index %lld, expected %lld to %lld", input->name,
                           (long long)index, (long long)-rows, (long long)rows - 1);
        }
    }
    return LSTM_EDGE_OK;
}

/* Check every index into a table before any state changes. */
static lstm_edge_status check_indices(const call *c) {
    const lstm_edge_program *p = c->program;
    for (size_t i = 0; i < p->count[LSTM_EDGE_INPUT]; i++) {
        const le_io *input = &p->io[LSTM_EDGE_INPUT][i];
        if (input->table == 0) continue;
        for (size_t r = 0; r < c->rows; r++) {
            for (size_t s = 0; s < c->steps; s++) {
                const char *from = row_at(&c->inputs[i], r, s);
                const lstm_edge_status status =
                    le_check_elements(p, input, from, p->spans[input->buffer].width);
                if (status != LSTM_EDGE_OK) return status;
            }
        }
    }
    return LSTM_EDGE_OK;
}

/* One thread's share: blocks of rows, whichever are left, in its own working memory. */
static void run_share(void *context, size_t index) {
    call *c = context;
    for (;;) {
        const size_t first = atomic_fetch_add(&c->next, c->block);
        if (first >= c->rows) return;
        run_block(c, c->workspaces[index], first, c->rows - first < c->block ? c->rows - first : c->block);
    }
}

static lstm_edge_status run_rows(call *c) {
    const lstm_edge_program *p = c->program;
    if (c->workspace != NULL) {
        run_block(c, c->workspace, 0, 1);
        return LSTM_EDGE_OK;
    }
    if (c->rows == 1) {
        le_workspace *w = le_take(p, c->steps == 1 || !p->chunked);
        if (w == NULL) return le_fail(LSTM_EDGE_NO_MEMORY, "no memory for this call");
        run_block(c, w, 0, 1);
        le_give(p, w);
        return LSTM_EDGE_OK;
    }
    const size_t threads = le_pool_threads(p->pool);
    c->block = ((c->rows + threads - 1) / threads + 5) / 6 * 6; /* whole tiles of rows */
    if (c->block > LE_BLOCK) c->block = LE_BLOCK;
    const size_t blocks = (c->rows + c->block - 1) / c->block, wanted = blocks < threads ? blocks : threads;
    le_workspace *workspaces[LE_MAX_THREADS];
    size_t shares = 0;
    while (shares < wanted && (workspaces[shares] = le_take(p, false)) != NULL) shares++;
    if (shares == 0) return le_fail(LSTM_EDGE_NO_MEMORY, "no memory for this call");
    c->workspaces = workspaces;
    atomic_init(&c->next, 0);
    le_pool_run(p->pool, run_share, c, shares);
    for (size_t i = 0; i < shares; i++) le_give(p, workspaces[i]);
    return LSTM_EDGE_OK;
}

static lstm_edge_status run(call *c) {
    lstm_edge_status status = check_indices(c);
    if (status != LSTM_EDGE_OK) return status;
    const le_mode mode = le_enter();
    status = run_rows(c);
    le_leave(mode);
    return status;
}

static bool complete(const lstm_edge_rows *rows, size_t count) {
    if (rows == NULL) return count == 0;
    for (size_t i = 0; i < count; i++) {
        if (rows[i].data == NULL) return false;
    }
    return true;
}

/* Return whether rows and steps that are written lie apart; a stride in bytes of a narrower type does not.
 * Nothing is written where there are no data. */
static bool lies_apart(const lstm_edge_rows *at, const le_span *span, size_t rows, size_t steps) {
    const size_t bytes = span->width * le_size_of(span->type);
    const bool rows_apart = rows <= 1 || at->row_stride >= bytes;
    const bool steps_apart = steps <= 1 || at->step_stride >= bytes;
    return at->data == NULL || (rows_apart && steps_apart);
}

static bool apart(const lstm_edge_program *p, lstm_edge_kind kind, const lstm_edge_rows *at, size_t rows,
                  size_t steps) {
    for (size_t i = 0; i < p->count[kind]; i++) {
        const le_io *io = &p->io[kind][i];
        if (!lies_apart(&at[i], &p->spans[io->buffer], rows, io->every_step ? steps : 1)) return false;
    }
    return true;
}

/* Check a call's pointers and strides, and run it. */
static lstm_edge_status check_and_run(call *c) {
    const lstm_edge_program *program = c->program;
    const lstm_edge_rows *inputs = c->inputs, *states = c->states, *outputs = c->outputs;
    if (program == NULL || !complete(inputs, program->count[LSTM_EDGE_INPUT]) ||
        !complete(states, program->count[LSTM_EDGE_STATE]) ||
        (outputs == NULL && program->count[LSTM_EDGE_OUTPUT] > 0)) {
        return le_fail(LSTM_EDGE_BAD_ARGUMENT, "a null pointer");
    }
    if (!apart(program, LSTM_EDGE_STATE, states, c->rows, c->steps) ||
        !apart(program, LSTM_EDGE_OUTPUT, outputs, c->rows, c->steps)) {
        return le_fail(LSTM_EDGE_BAD_ARGUMENT, "a stride smaller than a row");
    }
    return c->rows == 0 || c->steps == 0 ? LSTM_EDGE_OK : run(c);
}

lstm_edge_status lstm_edge_run(const lstm_edge_program *program, size_t rows, size_t steps,
                               const size_t *slots, const lstm_edge_rows *inputs,
                               const lstm_edge_rows *states, const lstm_edge_rows *outputs) {
    call c = {.program = program,
              .rows = rows,
              .steps = steps,
              .slots = slots,
              .inputs = inputs,
              .states = states,
              .outputs = outputs};
    return check_and_run(&c);
}

lstm_edge_status lstm_edge_trace(const lstm_edge_program *program, size_t rows, size_t steps,
                                 const lstm_edge_rows *inputs, const lstm_edge_rows *states,
                                 const lstm_edge_rows *outputs, const lstm_edge_rows *values, size_t count) {
    if (program == NULL || values == NULL) return le_fail(LSTM_EDGE_BAD_ARGUMENT, "a null pointer");
    if (count != program->buffers)
        return le_fail(LSTM_EDGE_BAD_ARGUMENT, "%zu buffers, expected %zu", count, program->buffers);
    for (size_t i = 0; i < count; i++) {
        if (!lies_apart(&values[i], &program->spans[i], rows, steps))
            return le_fail(LSTM_EDGE_BAD_ARGUMENT, "a stride smaller than a row");
    }
    call c = {.program = program,
              .rows = rows,
              .steps = steps,
              .inputs = inputs,
              .states = states,
              .outputs = outputs,
              .values = values};
    return check_and_run(&c);
}

/* --- Programs --------------------------------------------------------------------------------------- */

void lstm_edge_free(lstm_edge_program *program) {
    if (program != NULL) le_release(program);
}

lstm_edge_status lstm_edge_set_threads(lstm_edge_program *program, size_t threads) {
    if (program == NULL || threads == 0 || threads > LE_MAX_THREADS) {
        return le_fail(LSTM_EDGE_BAD_ARGUMENT, "%zu threads, expected 1 to %u", threads, LE_MAX_THREADS);
    }
    le_pool *pool = threads == 1 ? NULL : le_pool_new(threads);
    if (threads > 1 && pool == NULL)
        return le_fail(LSTM_EDGE_NO_MEMORY, "no memory for %zu threads", threads);
    le_pool_free(program->pool);
    program->pool = pool;
    return LSTM_EDGE_OK;
}

size_t lstm_edge_count(const lstm_edge_program *program, lstm_edge_kind kind) {
    return program == NULL || (unsigned)kind > LSTM_EDGE_STATE ? 0 : program->count[kind];
}

lstm_edge_status lstm_edge_describe(const lstm_edge_program *program, lstm_edge_kind kind, size_t index,
                                    lstm_edge_port *port) {
    if (port == NULL || index >= lstm_edge_count(program, kind)) {
        return le_fail(LSTM_EDGE_BAD_ARGUMENT, "no input, output or state %zu", index);
    }
    const le_io *io = &program->io[kind][index];
    const le_span *span = &program->spans[io->buffer];
    *port = (lstm_edge_port){
        io->name,       io->per_unit > 1 ? span->width / io->per_unit : span->width, span->type,
        io->every_step, kind == LSTM_EDGE_OUTPUT ? io->per_unit : io->frames,        io->groups,
        io->delay};
    return LSTM_EDGE_OK;
}

size_t lstm_edge_unit(const lstm_edge_program *program) { return program == NULL ? 0 : program->unit; }

size_t lstm_edge_delay(const lstm_edge_program *program) {
    size_t most = 0;
    for (size_t i = 0; program != NULL && i < program->count[LSTM_EDGE_OUTPUT]; i++) {
        const le_io *output = &program->io[LSTM_EDGE_OUTPUT][i];
        const size_t frames = output->per_unit == 0 ? 1 : output->per_unit,
                     steps = (output->delay * program->unit + frames - 1) / frames;
        if (most < steps) most = steps;
    }
    return most;
}

const char *lstm_edge_manifest(const lstm_edge_program *program) {
    return program == NULL ? NULL : program->manifest;
}

/* --- Streams ---------------------------------------------------------------------------------------- */

struct lstm_edge_stream {
    lstm_edge_program *program;
    uint64_t age;              /* steps since the reset */
    uint64_t plain;            /* the age from which on each step gives a frame of every output */
    uint64_t interval;         /* the age at which it is reset before the next step; UINT64_MAX for never */
    lstm_edge_rows *rows[3];   /* inputs, outputs, states: where one row of each lies */
    lstm_edge_rows *chunk;     /* the same for a chunk's inputs and outputs */
    float **targets;           /* of each output of a chunk: where its first frame goes */
    size_t *frames;            /* of each output, written by the last call that went unit by unit */
    size_t last;               /* steps of the last call, where each gave a frame; else 0 */
    le_workspace *step, *many; /* of steps, where the rows above lie; of chunks, NULL before there is one */
    bool begun;                /* whether the caller is between lstm_edge_begin and lstm_edge_end */
    le_mode mode;              /* the mode before lstm_edge_begin */
};

lstm_edge_stream *lstm_edge_stream_new(lstm_edge_program *program) {
    if (program == NULL) {
        le_fail(LSTM_EDGE_BAD_ARGUMENT, "a null pointer");
        return NULL;
    }
    size_t ports = 0;
    for (int kind = 0; kind < 3; kind++) ports += program->count[kind];
    const size_t chunk = program->count[LSTM_EDGE_INPUT] + program->count[LSTM_EDGE_OUTPUT];
    const size_t views = (ports + chunk) * sizeof(lstm_edge_rows) +
                         program->count[LSTM_EDGE_OUTPUT] * (sizeof(float *) + sizeof(size_t));
    lstm_edge_stream *stream = calloc(1, sizeof *stream + views);
    if (stream == NULL || (stream->step = le_workspace_new(program, 1, true)) == NULL) {
        le_fail(LSTM_EDGE_NO_MEMORY, "no memory for a stream");
        free(stream);
        return NULL;
    }
    stream->program = program;
    stream->plain = program->unit == 1 ? program->settled : UINT64_MAX;
    stream->interval = program->reset_every;
    lstm_edge_rows *view = (lstm_edge_rows *)(stream + 1);
    char *more = stream->step->base + program->row_bytes + program->past_bytes;
    for (int kind = 0; kind < 3; kind++) {
        stream->rows[kind] = view;
        for (size_t i = 0; i < program->count[kind]; i++, view++) {
            const le_io *io = &program->io[kind][i];
            const le_span *span = &program->spans[io->buffer];
            *view =
                (lstm_edge_rows){stream->step->buffer[io->buffer], 0, span->width * le_size_of(span->type)};
            if (io->given && kind == LSTM_EDGE_OUTPUT) {
                view->data = more;
                more += span->bytes;
            }
            if (kind == LSTM_EDGE_INPUT && program->unit > 1) {
                view->data = more;
                more += le_sample_bytes(program, io);
            }
        }
    }
    stream->chunk = view;
    stream->targets = (float **)(view + chunk);
    stream->frames = (size_t *)(stream->targets + program->count[LSTM_EDGE_OUTPUT]);
    atomic_fetch_add(&program->users, 1);
    lstm_edge_reset(stream);
    return stream;
}

void lstm_edge_stream_free(lstm_edge_stream *stream) {
    if (stream == NULL) return;
    lstm_edge_end(stream);
    le_drop(stream->step);
    le_drop(stream->many);
    le_release(stream->program);
    free(stream);
}

lstm_edge_status lstm_edge_prepare(lstm_edge_stream *stream, size_t max_steps) {
    if (stream == NULL || max_steps == 0) return le_fail(LSTM_EDGE_BAD_ARGUMENT, "no stream, or no steps");
    const size_t most = stream->program->chunked ? LE_BLOCK : 1, units = max_steps / stream->program->unit;
    const size_t capacity = units < most ? units + (units == 0) : most;
    if (stream->many != NULL && stream->many->capacity >= capacity) return LSTM_EDGE_OK;
    le_workspace *many = le_workspace_new(stream->program, capacity, false);
    if (many == NULL) return le_fail(LSTM_EDGE_NO_MEMORY, "no memory for chunks of %zu steps", max_steps);
    le_drop(stream->many);
    stream->many = many;
    return LSTM_EDGE_OK;
}

const lstm_edge_program *le_program_of(const lstm_edge_stream *stream) { return stream->program; }

static void *place_of(lstm_edge_stream *stream, lstm_edge_kind kind, size_t index) {
    return stream == NULL || index >= stream->program->count[kind] ? NULL : stream->rows[kind][index].data;
}

void *lstm_edge_input(lstm_edge_stream *stream, size_t index) {
    return place_of(stream, LSTM_EDGE_INPUT, index);
}
float *lstm_edge_output(lstm_edge_stream *stream, size_t index) {
    return place_of(stream, LSTM_EDGE_OUTPUT, index);
}
float *lstm_edge_state(lstm_edge_stream *stream, size_t index) {
    return place_of(stream, LSTM_EDGE_STATE, index);
}

void *le_rest(const lstm_edge_stream *stream, size_t index) {
    return stream->step->buffer[stream->program->io[LSTM_EDGE_INPUT][index].buffer];
}

size_t lstm_edge_frames(const lstm_edge_stream *stream, size_t index) {
    if (stream == NULL || index >= stream->program->count[LSTM_EDGE_OUTPUT]) return 0;
    if (stream->last == 0) return stream->frames[index];
    const le_io *output = &stream->program->io[LSTM_EDGE_OUTPUT][index];
    return output->every_step ? stream->last * output->per_unit : 1;
}

uint64_t lstm_edge_age(const lstm_edge_stream *stream) { return stream == NULL ? 0 : stream->age; }

lstm_edge_status lstm_edge_set_age(lstm_edge_stream *stream, uint64_t age) {
    if (stream == NULL) return le_fail(LSTM_EDGE_BAD_ARGUMENT, "a null pointer");
    if (age > LSTM_EDGE_MAX_AGE) {
        return le_fail(LSTM_EDGE_BAD_ARGUMENT, "age %llu, expected at most %llu", (unsigned long long)age,
                       (unsigned long long)LSTM_EDGE_MAX_AGE);
    }
    stream->age = age;
    return LSTM_EDGE_OK;
}

uint64_t lstm_edge_reset_every(const lstm_edge_program *program) {
    return program == NULL || program->reset_every == UINT64_MAX ? 0 : program->reset_every;
}

lstm_edge_status lstm_edge_set_reset_every(lstm_edge_stream *stream, uint64_t steps) {
    if (stream == NULL) return le_fail(LSTM_EDGE_BAD_ARGUMENT, "a null pointer");
    stream->interval = steps == 0 ? UINT64_MAX : steps;
    return LSTM_EDGE_OK;
}

/* Return whether some steps are plain: each gives a frame of every output, and none comes after a reset. */
static inline bool is_plain(const lstm_edge_stream *stream, size_t steps) {
    const uint64_t age = stream->age, interval = stream->interval;
    return age >= stream->plain && age < interval && steps <= interval - age;
}

/* Make the new values of a step's states the old ones of the next, where they lie elsewhere. */
static inline void move_states(const lstm_edge_program *p, le_workspace *w) {
    for (size_t i = 0; i < p->count[LSTM_EDGE_STATE]; i++) {
        const le_io *state = &p->io[LSTM_EDGE_STATE][i];
        if (state->in_place || state->next == state->buffer) continue;
        memcpy(w->buffer[state->buffer], w->buffer[state->next], p->spans[state->buffer].bytes);
    }
}

/* Run the operations on the unit in the step's buffers, the one that ends at the stream's age; add its
 * frames. */
static void finish_unit(lstm_edge_stream *stream) {
    const lstm_edge_program *p = stream->program;
    le_workspace *w = stream->step;
    const uint64_t before = stream->age / p->unit - 1;
    compute(p, w, 1, 1, true);
    for (size_t i = 0; i < p->count[LSTM_EDGE_OUTPUT]; i++) {
        const le_io *output = &p->io[LSTM_EDGE_OUTPUT][i];
        const size_t new = output->per_unit == 0 ? 1 : output->per_unit,
                     width = p->spans[output->buffer].width / new;
        const size_t past = before < p->settled ? (size_t)before * new : output->delay;
        const size_t skipped = output->delay > past ? output->delay - past : 0;
        if (skipped >= new) continue;
        const size_t at = output->per_unit == 0 ? 0 : stream->frames[i];
        stream->frames[i] = at + new - skipped;
        if (stream->targets[i] == NULL) continue;
        const float *from = (const float *)(void *)w->buffer[output->buffer] + skipped * width;
        memmove(stream->targets[i] + at * width, from, (new - skipped) * width * sizeof(float));
    }
    move_states(p, w);
}

/* Check the indices among some samples of a chunk. */
static lstm_edge_status check_chunk(const lstm_edge_stream *stream, size_t steps) {
    const lstm_edge_program *p = stream->program;
    for (size_t i = 0; i < p->count[LSTM_EDGE_INPUT]; i++) {
        const le_io *input = &p->io[LSTM_EDGE_INPUT][i];
        if (input->table == 0) continue;
        const size_t count = steps * (p->spans[input->buffer].width / p->unit);
        const lstm_edge_status status = le_check_elements(p, input, stream->chunk[i].data, count);
        if (status != LSTM_EDGE_OK) return status;
    }
    return LSTM_EDGE_OK;
}

/* Run whole units of a chunk at once, of which every frame counts. */
static void take_units(lstm_edge_stream *stream, size_t units) {
    const lstm_edge_program *p = stream->program;
    lstm_edge_rows *to = stream->chunk + p->count[LSTM_EDGE_INPUT];
    for (size_t i = 0; i < p->count[LSTM_EDGE_OUTPUT]; i++) {
        const le_io *output = &p->io[LSTM_EDGE_OUTPUT][i];
        if (!output->every_step) {
            stream->frames[i] = 1;
            continue;
        }
        const size_t width = p->spans[output->buffer].width / output->per_unit;
        if (to[i].data != NULL) to[i].data = stream->targets[i] + stream->frames[i] * width;
        stream->frames[i] += units * output->per_unit;
    }
    const call c = {.program = p,
                    .rows = 1,
                    .steps = units,
                    .inputs = stream->chunk,
                    .states = stream->rows[LSTM_EDGE_STATE],
                    .outputs = to};
    run_block(&c, stream->many, 0, 1);
}

/* Keep `count` samples of a chunk after the `kept` ones of their unit. */
static void keep(lstm_edge_stream *stream, size_t kept, size_t count) {
    const lstm_edge_program *p = stream->program;
    for (size_t i = 0; i < p->count[LSTM_EDGE_INPUT]; i++) {
        const size_t row = le_row_bytes(p, &p->io[LSTM_EDGE_INPUT][i]);
        char *rest = (char *)le_rest(stream, i) + kept * row;
        if (rest != stream->chunk[i].data) memcpy(rest, stream->chunk[i].data, count * row);
    }
}

/* Take as many steps of a chunk as run at once: whole units where every frame counts, else samples up to the
   end of a unit, and none from a reset on. Return how many these are. */
static size_t take_some(lstm_edge_stream *stream, size_t steps) {
    if (stream->age >= stream->interval) lstm_edge_reset(stream);
    if (steps > stream->interval - stream->age) steps = (size_t)(stream->interval - stream->age);
    const size_t unit = stream->program->unit, kept = (size_t)(stream->age % unit), units = steps / unit;
    const bool settled = stream->age / unit >= stream->program->settled;
    if (kept == 0 && units > 1 && stream->many != NULL && settled) {
        take_units(stream, units);
        stream->age += units * unit;
        return units * unit;
    }
    const size_t taken = unit - kept < steps ? unit - kept : steps;
    keep(stream, kept, taken);
    stream->age += taken;
    if (kept + taken == unit) finish_unit(stream);
    return taken;
}

/* Take the steps of a chunk after the kept ones. */
static lstm_edge_status take(lstm_edge_stream *stream, size_t steps) {
    const lstm_edge_program *p = stream->program;
    const lstm_edge_status status = check_chunk(stream, steps);
    if (status != LSTM_EDGE_OK) return status;
    const lstm_edge_rows *to = stream->chunk + p->count[LSTM_EDGE_INPUT];
    for (size_t i = 0; i < p->count[LSTM_EDGE_OUTPUT]; i++) {
        stream->frames[i] = 0;
        stream->targets[i] = to[i].data;
    }
    stream->last = 0;
    const le_mode mode = le_enter();
    while (steps > 0) {
        const size_t taken = take_some(stream, steps);
        for (size_t i = 0; i < p->count[LSTM_EDGE_INPUT]; i++) {
            lstm_edge_rows *from = &stream->chunk[i];
            from->data = (char *)from->data + taken * le_row_bytes(p, &p->io[LSTM_EDGE_INPUT][i]);
        }
        steps -= taken;
    }
    le_leave(mode);
    return LSTM_EDGE_OK;
}

lstm_edge_status lstm_edge_step(lstm_edge_stream *stream) {
    if (stream == NULL) return le_fail(LSTM_EDGE_BAD_ARGUMENT, "a null pointer");
    const lstm_edge_program *p = stream->program;
    le_workspace *w = stream->step;
    if (!is_plain(stream, 1)) {
        const size_t inputs = p->count[LSTM_EDGE_INPUT];
        memcpy(stream->chunk, stream->rows[LSTM_EDGE_INPUT], inputs * sizeof(lstm_edge_rows));
        memcpy(stream->chunk + inputs, stream->rows[LSTM_EDGE_OUTPUT],
               p->count[LSTM_EDGE_OUTPUT] * sizeof(lstm_edge_rows));
        return take(stream, 1);
    }
    if (p->indexed) {
        const call c = {.program = p, .rows = 1, .steps = 1, .inputs = stream->rows[LSTM_EDGE_INPUT]};
        const lstm_edge_status status = check_indices(&c);
        if (status != LSTM_EDGE_OK) return status;
    }
    const bool alone = !stream->begun;
    const le_mode mode = alone ? le_enter() : 0;
    compute(p, w, 1, 1, true);
    for (size_t i = 0; p->moves && i < p->count[LSTM_EDGE_OUTPUT]; i++) {
        const le_io *output = &p->io[LSTM_EDGE_OUTPUT][i];
        const size_t bytes = p->spans[output->buffer].bytes;
        if (output->given) memcpy(stream->rows[LSTM_EDGE_OUTPUT][i].data, w->buffer[output->buffer], bytes);
    }
    if (p->moves) move_states(p, w);
    if (alone) le_leave(mode);
    stream->age++;
    stream->last = 1;
    return LSTM_EDGE_OK;
}

void lstm_edge_begin(lstm_edge_stream *stream) {
    if (stream == NULL || stream->begun) return;
    stream->mode = le_enter();
    stream->begun = true;
}

void lstm_edge_end(lstm_edge_stream *stream) {
    if (stream == NULL || !stream->begun) return;
    le_leave(stream->mode);
    stream->begun = false;
}

lstm_edge_status lstm_edge_chunk(lstm_edge_stream *stream, const void *const *inputs, size_t steps,
                                 float *const *outputs) {
    if (stream == NULL) return le_fail(LSTM_EDGE_BAD_ARGUMENT, "a null pointer");
    const lstm_edge_program *p = stream->program;
    const size_t inputs_there = p->count[LSTM_EDGE_INPUT], outputs_there = p->count[LSTM_EDGE_OUTPUT];
    if ((inputs == NULL && inputs_there > 0) || (outputs == NULL && outputs_there > 0)) {
        return le_fail(LSTM_EDGE_BAD_ARGUMENT, "a null pointer");
    }
    lstm_edge_rows *from = stream->chunk, *to = stream->chunk + inputs_there;
    for (size_t i = 0; i < inputs_there; i++) {
        const size_t step = stream->rows[LSTM_EDGE_INPUT][i].step_stride;
        from[i] = (lstm_edge_rows){(void *)(uintptr_t)inputs[i], 0, step};
    }
    for (size_t i = 0; i < outputs_there; i++) {
        to[i] = (lstm_edge_rows){outputs[i], 0, stream->rows[LSTM_EDGE_OUTPUT][i].step_stride};
    }
    if (steps == 0) {
        stream->last = 0;
        for (size_t i = 0; i < outputs_there; i++) stream->frames[i] = 0;
        return LSTM_EDGE_OK;
    }
    if (!complete(from, inputs_there)) return le_fail(LSTM_EDGE_BAD_ARGUMENT, "a null pointer");
    if (lstm_edge_prepare(stream, steps) != LSTM_EDGE_OK) return LSTM_EDGE_NO_MEMORY;
    if (!is_plain(stream, steps)) return take(stream, steps);
    call c = {.program = p,
              .rows = 1,
              .steps = steps,
              .inputs = from,
              .states = stream->rows[LSTM_EDGE_STATE],
              .outputs = to,
              .workspace = stream->many};
    const lstm_edge_status status = run(&c);
    if (status == LSTM_EDGE_OK) {
        stream->age += steps;
        stream->last = steps;
    }
    return status;
}

void lstm_edge_reset(lstm_edge_stream *stream) {
    if (stream == NULL) return;
    stream->age = 0;
    const lstm_edge_program *program = stream->program;
    for (size_t i = 0; i < program->count[LSTM_EDGE_STATE]; i++) {
        const le_io *state = &program->io[LSTM_EDGE_STATE][i];
        const le_span *span = &program->spans[state->buffer];
        const size_t bytes = span->width * le_size_of(span->type);
        void *row = stream->rows[LSTM_EDGE_STATE][i].data;
        if (state->reset == NULL) memset(row, 0, bytes);
        else memcpy(row, state->reset, bytes);
    }
}

/* --- The golden case -------------------------------------------------------------------------------- */

/* Compare `count` numbers with those of the golden case from number `first` on. Equal infinities agree, and
   so does NaN in both places. */
static double compare(const le_io *io, const float *got, size_t first, size_t count, double worst) {
    const float *expected = io->golden;
    for (size_t i = 0; i < count && io->tolerance != NULL; i++) {
        const float a = got[i], b = expected[first + i];
        if (a == b || (isnan(a) && isnan(b))) continue;
        const double share = fabs((double)a - b) / io->tolerance[first + i];
        if (!(share <= worst)) worst = share != share ? INFINITY : share;
    }
    return worst;
}

/* A row of the golden case, with the pointers of lstm_edge_chunk. */
typedef struct {
    const lstm_edge_program *program;
    lstm_edge_stream *stream;
    const void **inputs;
    float **outputs; /* NULL for those that are not compared, so may be of any size */
    float **at;      /* where the frames of a chunk go */
    size_t *frames;  /* of each output, so far */
} golden_case;

static void golden_free(golden_case *g) {
    for (size_t i = 0; g->outputs != NULL && i < g->program->count[LSTM_EDGE_OUTPUT]; i++)
        free(g->outputs[i]);
    free(g->outputs);
    free(g->at);
    free(g->frames);
    free(g->inputs);
    lstm_edge_stream_free(g->stream);
}

/* Open a stream that is never reset, and take memory for the outputs. False if there is none. */
static bool golden_take(golden_case *g) {
    const lstm_edge_program *program = g->program;
    const size_t outputs = program->count[LSTM_EDGE_OUTPUT];
    g->stream = lstm_edge_stream_new((lstm_edge_program *)program);
    g->inputs = calloc(program->count[LSTM_EDGE_INPUT] + 1, sizeof *g->inputs);
    g->outputs = calloc(outputs + 1, sizeof *g->outputs);
    g->at = calloc(outputs + 1, sizeof *g->at);
    g->frames = calloc(outputs + 1, sizeof *g->frames);
    if (g->stream == NULL || !g->inputs || !g->outputs || !g->at || !g->frames) return false;
    lstm_edge_set_reset_every(g->stream, 0);
    for (size_t i = 0; i < outputs; i++) {
        const le_io *output = &program->io[LSTM_EDGE_OUTPUT][i];
        if (output->tolerance == NULL) continue;
        const size_t rows = output->every_step ? program->golden_steps : 1;
        g->outputs[i] = le_zeros(rows, program->spans[output->buffer].width * sizeof(float));
        if (g->outputs[i] == NULL) return false;
    }
    return true;
}

/* Run units of a row from number `first` on. */
static lstm_edge_status golden_chunk(const golden_case *g, size_t row, size_t first, size_t units) {
    const lstm_edge_program *p = g->program;
    for (size_t i = 0; i < p->count[LSTM_EDGE_INPUT]; i++) {
        const le_io *input = &p->io[LSTM_EDGE_INPUT][i];
        const size_t bytes = p->unit * le_row_bytes(p, input);
        g->inputs[i] = (const char *)input->golden + (row * p->golden_steps + first) * bytes;
    }
    for (size_t i = 0; i < p->count[LSTM_EDGE_OUTPUT]; i++) {
        const le_io *output = &p->io[LSTM_EDGE_OUTPUT][i];
        const size_t width = output->every_step ? p->spans[output->buffer].width / output->per_unit : 0;
        g->at[i] = g->outputs[i] == NULL ? NULL : g->outputs[i] + g->frames[i] * width;
    }
    const lstm_edge_status status = lstm_edge_chunk(g->stream, g->inputs, units * p->unit, g->at);
    for (size_t i = 0; i < p->count[LSTM_EDGE_OUTPUT]; i++) g->frames[i] += lstm_edge_frames(g->stream, i);
    return status;
}

/* Compare the frames of all outputs and the states after the last step of a row. */
static double golden_compare(const golden_case *g, size_t row) {
    const lstm_edge_program *program = g->program;
    double most = 0;
    for (size_t i = 0; i < program->count[LSTM_EDGE_OUTPUT]; i++) {
        const le_io *output = &program->io[LSTM_EDGE_OUTPUT][i];
        const size_t width = program->spans[output->buffer].width;
        const size_t count = output->every_step ? program->golden_steps * width : width;
        const size_t delayed = output->every_step ? output->delay * (width / output->per_unit) : 0;
        most = compare(output, g->outputs[i], row * count + delayed, count - delayed, most);
    }
    for (size_t i = 0; i < program->count[LSTM_EDGE_STATE]; i++) {
        const le_io *state = &program->io[LSTM_EDGE_STATE][i];
        const size_t width = program->spans[state->buffer].width;
        most = compare(state, lstm_edge_state(g->stream, i), row * width, width, most);
    }
    return most;
}

/* Replay a row in two chunks, a unit and the others. */
static lstm_edge_status golden_replay(const golden_case *g, size_t row) {
    const size_t units = g->program->golden_steps;
    lstm_edge_reset(g->stream);
    memset(g->frames, 0, g->program->count[LSTM_EDGE_OUTPUT] * sizeof *g->frames);
    const lstm_edge_status status = golden_chunk(g, row, 0, 1);
    return status != LSTM_EDGE_OK || units == 1 ? status : golden_chunk(g, row, 1, units - 1);
}

lstm_edge_status lstm_edge_selftest(const lstm_edge_program *program, double *worst) {
    if (program == NULL) return le_fail(LSTM_EDGE_BAD_ARGUMENT, "a null pointer");
    if (program->golden_rows == 0) return le_fail(LSTM_EDGE_NO_GOLDEN, "the program carries no golden case");
    golden_case golden = {.program = program};
    lstm_edge_status status =
        golden_take(&golden) ? LSTM_EDGE_OK : le_fail(LSTM_EDGE_NO_MEMORY, "no memory for the golden case");
    double most = 0;
    for (size_t row = 0; status == LSTM_EDGE_OK && row < program->golden_rows; row++) {
        status = golden_replay(&golden, row);
        if (status != LSTM_EDGE_OK) break;
        const double share = golden_compare(&golden, row);
        if (share > most) most = share;
    }
    if (worst != NULL) *worst = most;
    golden_free(&golden);
    return status;
}
