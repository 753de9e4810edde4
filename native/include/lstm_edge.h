/*
 * lstm_edge.h: run a recurrent network one time step at a time, without Python and without onnxruntime.
 *
 * A program is loaded from a file written by `lstm-edge convert model.onnx -o model.lep` (see
 * lstm_edge_format.h for the format). A stream is one source of samples; it owns its states, the h and c of
 * each layer.
 *
 *     lstm_edge_program *program = lstm_edge_open("har.lep");
 *     lstm_edge_stream *stream = lstm_edge_stream_new(program);
 *     float *x = lstm_edge_input(stream, 0), *logits = lstm_edge_output(stream, 0);
 *     for (;;) {
 *         read_sensor(x);
 *         lstm_edge_step(stream);
 *         use(logits);
 *     }
 *
 * Results. Within one instruction set a float32 program gives the same bits for one chunk and for single
 * steps, for any number and order of rows in a call, and for any number of threads. NaN and infinity stay in
 * their row. Numbers below 2^-126 are flushed to zero: every call sets the processor's flush-to-zero mode and
 * restores the caller's mode, so that silence takes no more time than sound, and libraries that change the
 * mode do not affect results (RISC-V has its rounding alone). The flags of floating-point exceptions are
 * raised as by any arithmetic.
 *
 * Delay and unit. Where frames need later steps, the results of a stream have a delay; with strides there is
 * one frame for several steps, the unit. lstm_edge_step and lstm_edge_chunk take any number of steps, keep
 * those that don't fill a unit, and write the frames that are complete, the first one of the network first:
 * none, one or several, as lstm_edge_frames tells. Programs without delay and unit give a frame with every
 * step.
 *
 * Resets. A network that was trained on windows from reset says after how many steps its state is reset, and
 * every stream of it does so before the next step: delay and unit then begin anew. lstm_edge_set_reset_every
 * changes that.
 *
 * Real time. A stream owns its working memory. lstm_edge_step makes no allocation, takes no lock and makes no
 * system call, and neither does lstm_edge_chunk after lstm_edge_prepare; lstm_edge_run may do all of these.
 *
 * Threads. A program is immutable: any number of threads may use it at the same time. A stream may be used by
 * one thread at a time. No thread is started unless requested with lstm_edge_set_threads.
 *
 * Errors. A function that returns lstm_edge_status returns LSTM_EDGE_OK or the reason; one that returns a
 * pointer returns NULL on failure. lstm_edge_last_error returns the reason as text. After an error all
 * states are unchanged.
 */
#ifndef LSTM_EDGE_H
#define LSTM_EDGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LSTM_EDGE_VERSION "0.1.0"
#define LSTM_EDGE_MAX_AGE (UINT64_MAX / 4) /* the largest age that a stream can be restored at */

#if defined(__GNUC__)
#define LSTM_EDGE_API __attribute__((visibility("default")))
#else
#define LSTM_EDGE_API
#endif

typedef struct lstm_edge_program lstm_edge_program;
typedef struct lstm_edge_stream lstm_edge_stream;

typedef enum {
    LSTM_EDGE_OK = 0,
    LSTM_EDGE_BAD_FILE = 1,    /* the file can't be read */
    LSTM_EDGE_BAD_PROGRAM = 2, /* truncated, damaged, or not a program */
    LSTM_EDGE_BAD_VERSION = 3, /* a format version that this library does not support */
    LSTM_EDGE_NO_MEMORY = 4,
    LSTM_EDGE_BAD_ARGUMENT = 5, /* a null pointer, an index or a size out of range */
    LSTM_EDGE_BAD_INDEX = 6,    /* an input that indexes a table is outside the table */
    LSTM_EDGE_NO_ISA = 7,       /* LSTM_EDGE_ISA is an instruction set that this machine does not have */
    LSTM_EDGE_NO_GOLDEN = 8,    /* the program has no golden case */
    LSTM_EDGE_BAD_STATE = 9     /* a saved stream is damaged, or of another model */
} lstm_edge_status;

/* The type of an element. Inputs may be of any, outputs are float32, states are float32 or int64 (counters of
 * steps). */
typedef enum {
    LSTM_EDGE_FLOAT32 = 0,
    LSTM_EDGE_INT64 = 1,
    LSTM_EDGE_INT32 = 2,
    LSTM_EDGE_INT16 = 3,
    LSTM_EDGE_INT8 = 4,
    LSTM_EDGE_UINT8 = 5
} lstm_edge_type;

typedef enum { LSTM_EDGE_INPUT = 0, LSTM_EDGE_OUTPUT = 1, LSTM_EDGE_STATE = 2 } lstm_edge_kind;

/* One input, output or state of a program. */
typedef struct {
    const char *name;    /* as in the ONNX file */
    size_t width;        /* elements of one row at one time step, of an output of one frame */
    lstm_edge_type type; /* of an element */
    int every_step;      /* for an output: 1 if a chunk returns it for each step, 0 if for the last */
    size_t frames; /* for a state that is a ring of the last frames of a value: how many; for an output of
                      every step: its frames in a unit, 1 without strides; otherwise 0 */
    size_t groups; /* of such a state: in the ONNX file it is (groups, frames, the rest of a frame) */
    size_t delay;  /* for an output: its delay in frames (in units if it has no frames); otherwise 0 */
} lstm_edge_port;

/* --- The library ------------------------------------------------------------------------------------ */

/* Return the version of this library. */
LSTM_EDGE_API const char *lstm_edge_version(void);

/*
 * Return the instruction set in use: "avx512vnni", "avx512", "avxvnni", "avx2", "sse2", "neon-i8mm",
 * "neon-dotprod", "neon" or "generic". It is the best one that the machine supports, or the value of the
 * environment variable LSTM_EDGE_ISA; NULL if the machine does not support that one.
 */
LSTM_EDGE_API const char *lstm_edge_isa(void);

/* Return why the last call on this thread failed; valid until the thread's next failure. */
LSTM_EDGE_API const char *lstm_edge_last_error(void);

/* Return the lstm_edge_status of the last failure on this thread. */
LSTM_EDGE_API lstm_edge_status lstm_edge_last_status(void);

/* --- Programs --------------------------------------------------------------------------------------- */

/* Load a program from the content of a program file. `data` is not needed afterwards. */
LSTM_EDGE_API lstm_edge_program *lstm_edge_load(const void *data, size_t size);

/* Load a program from a file, which is mapped into memory while it is read. */
LSTM_EDGE_API lstm_edge_program *lstm_edge_open(const char *path);

/* Free a program. Open streams keep the parts that they need until they are freed. */
LSTM_EDGE_API void lstm_edge_free(lstm_edge_program *program);

/*
 * Let lstm_edge_run use up to `threads` threads, including the caller's (1 by default). They sleep
 * between calls. Call this before the program is shared between threads.
 */
LSTM_EDGE_API lstm_edge_status lstm_edge_set_threads(lstm_edge_program *program, size_t threads);

/* Return the number of inputs, outputs or states. */
LSTM_EDGE_API size_t lstm_edge_count(const lstm_edge_program *program, lstm_edge_kind kind);

/* Describe one of them. The name is valid as long as the program. */
LSTM_EDGE_API lstm_edge_status lstm_edge_describe(const lstm_edge_program *program, lstm_edge_kind kind,
                                                  size_t index, lstm_edge_port *port);

/* Return the index of the input, output or state of this name; the count if there is none. */
LSTM_EDGE_API size_t lstm_edge_find(const lstm_edge_program *program, lstm_edge_kind kind, const char *name);

/* Return the number of steps per result: 1 without strides. */
LSTM_EDGE_API size_t lstm_edge_unit(const lstm_edge_program *program);

/* Return the delay of a stream's results in samples, rounded up: its latency. */
LSTM_EDGE_API size_t lstm_edge_delay(const lstm_edge_program *program);

/* Return the number of steps after which a stream of this program is reset, as in training; 0 for never. */
LSTM_EDGE_API uint64_t lstm_edge_reset_every(const lstm_edge_program *program);

/* Return the manifest of the ONNX file (JSON, UTF-8, with a closing NUL), or NULL if it has none. */
LSTM_EDGE_API const char *lstm_edge_manifest(const lstm_edge_program *program);

/*
 * Replay all rows of the golden case in the program, each from the reset state in two chunks. `worst` (may be
 * NULL) receives the largest difference as a fraction of the limit: at most 1 if the results on this machine
 * are right.
 */
LSTM_EDGE_API lstm_edge_status lstm_edge_selftest(const lstm_edge_program *program, double *worst);

/* --- Streams ---------------------------------------------------------------------------------------- */

/* Open a stream at the reset state. */
LSTM_EDGE_API lstm_edge_stream *lstm_edge_stream_new(lstm_edge_program *program);
LSTM_EDGE_API void lstm_edge_stream_free(lstm_edge_stream *stream);

/*
 * Allocate memory for chunks of up to `max_steps` steps, so that lstm_edge_chunk allocates nothing for them.
 * Without this call, a chunk that is longer than all before it allocates. Above an internal maximum, chunks
 * are split.
 */
LSTM_EDGE_API lstm_edge_status lstm_edge_prepare(lstm_edge_stream *stream, size_t max_steps);

/* Return the buffer for the sample of the next step, one row of the input's type; NULL for a bad index. */
LSTM_EDGE_API void *lstm_edge_input(lstm_edge_stream *stream, size_t index);

/* Return the buffer to which lstm_edge_step writes an output, one row of float32; NULL for a bad index. */
LSTM_EDGE_API float *lstm_edge_output(lstm_edge_stream *stream, size_t index);

/*
 * Return the buffer of a state, one row of its type, to read or write between calls; NULL for a bad index.
 * Cast it to int64_t * if its type is INT64. A ring of frames (see lstm_edge_port) is the frames one after
 * another, then the index of the oldest one, from which they go on to the last index and then from the first.
 */
LSTM_EDGE_API float *lstm_edge_state(lstm_edge_stream *stream, size_t index);

/*
 * Run one time step, from the input buffers to the output buffers. Where a step completes several frames,
 * they stand one after another in the output buffer; where it completes none, the buffer means nothing.
 */
LSTM_EDGE_API lstm_edge_status lstm_edge_step(lstm_edge_stream *stream);

/*
 * Keep the flush-to-zero mode of this thread set until lstm_edge_end, on the same thread: a loop of steps in
 * between does not set and restore it at every step, which takes about 10 ns. The results are the same.
 */
LSTM_EDGE_API void lstm_edge_begin(lstm_edge_stream *stream);
LSTM_EDGE_API void lstm_edge_end(lstm_edge_stream *stream);

/*
 * Return how many frames of an output the last lstm_edge_step or lstm_edge_chunk wrote: 0 if none is complete
 * yet. Of an output whose every_step is 0 it is 1 or 0. Without delay and unit every step writes one.
 */
LSTM_EDGE_API size_t lstm_edge_frames(const lstm_edge_stream *stream, size_t index);

/*
 * Run `steps` time steps.
 *
 * inputs:  one array per program input, (steps, width) elements of its type, row-major.
 * outputs: one array per program output, float32, (steps, width) if every_step is set in its port, otherwise
 *          (width); an entry may be NULL if it is not needed. With a unit the array has room for the frames
 * of steps / unit + 1 units, (that * frames, width); lstm_edge_frames tells how many were written.
 */
LSTM_EDGE_API lstm_edge_status lstm_edge_chunk(lstm_edge_stream *stream, const void *const *inputs,
                                               size_t steps, float *const *outputs);

/* Reset all states; samples that don't fill a unit are dropped. */
LSTM_EDGE_API void lstm_edge_reset(lstm_edge_stream *stream);

/* Let a stream be reset when it is `steps` steps old, instead of as its program says; 0 for never. */
LSTM_EDGE_API lstm_edge_status lstm_edge_set_reset_every(lstm_edge_stream *stream, uint64_t steps);

/*
 * Write everything that a stream continues from (states, age, samples that don't fill a unit) to `buffer`, if
 * `size` is large enough; return the bytes that it takes, 0 for a null stream. Python and JavaScript read and
 * write the same bytes.
 */
LSTM_EDGE_API size_t lstm_edge_save(const lstm_edge_stream *stream, void *buffer, size_t size);

/* Continue from a saved stream of the same model. After an error (BAD_STATE) the stream is unchanged. */
LSTM_EDGE_API lstm_edge_status lstm_edge_restore(lstm_edge_stream *stream, const void *data, size_t size);

/* Return the number of steps since the reset, or set it for states that were written. */
LSTM_EDGE_API uint64_t lstm_edge_age(const lstm_edge_stream *stream);
LSTM_EDGE_API lstm_edge_status lstm_edge_set_age(lstm_edge_stream *stream, uint64_t age);

/* --- Many rows in one call -------------------------------------------------------------------------- */

/*
 * The layout of the rows of one array. Row r at step t starts at data + (r * row_stride + t * step_stride)
 * bytes; for a state it is data + slot * row_stride, where slot is slots[r].
 */
typedef struct {
    void *data;
    size_t row_stride;  /* bytes from one row to the next */
    size_t step_stride; /* bytes from one step to the next; unused for states and last-step outputs */
} lstm_edge_rows;

/*
 * Run `steps` time steps of `rows` sources, whose states are updated in place in the caller's pool.
 *
 * slots:   the index in the pool of each row's states, all different; NULL for 0, 1, 2, ... At reset, a row
 *          is what lstm_edge_state returns for a new stream.
 * inputs, states, outputs: one entry per program input, state and output; an output's data may be NULL if it
 *          is not needed. Rows of states and outputs must not overlap: their strides must be at least width
 *          elements of the port's type (otherwise BAD_ARGUMENT). The caller is responsible for the memory.
 *
 * With delay or unit, `steps` are units: a row of an input is (unit, width) elements, one of an output
 * (frames, width). The call knows no ages: it resets nothing and gives the first `delay` frames of an output
 * too, which the caller drops.
 */
LSTM_EDGE_API lstm_edge_status lstm_edge_run(const lstm_edge_program *program, size_t rows, size_t steps,
                                             const size_t *slots, const lstm_edge_rows *inputs,
                                             const lstm_edge_rows *states, const lstm_edge_rows *outputs);

/*
 * As lstm_edge_run for rows in slots 0, 1, 2, ..., and copy what each operation computed: for finding the
 * operation that is wrong on a machine. All operations run for all steps, also those that only the last step
 * needs.
 *
 * values: one entry per buffer of the program file, `count` of them; data may be NULL. A buffer receives a
 * row per step, elements of its type; that of a ring of frames is left out.
 */
LSTM_EDGE_API lstm_edge_status lstm_edge_trace(const lstm_edge_program *program, size_t rows, size_t steps,
                                               const lstm_edge_rows *inputs, const lstm_edge_rows *states,
                                               const lstm_edge_rows *outputs, const lstm_edge_rows *values,
                                               size_t count);

#ifdef __cplusplus
}
#endif
#endif
