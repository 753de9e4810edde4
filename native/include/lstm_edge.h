/*
 * lstm_edge.h: run a recurrent network one time step at a time, without Python and without onnxruntime.
 *
 * A program is made from a file that `lstm-edge convert model.onnx --to native` writes (lstm_edge_format.h
 * says what is in it). A stream is one source of samples; it owns its states, the h and c of each layer.
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
 * Results. Within one instruction set a float32 program gives the same bits whether samples come as one
 * chunk or step by step, whatever the number of rows of a call, a row's place in it, and the number of
 * threads. A NaN or an infinity stays in its row. Numbers below 2^-126 count as zero: every call sets the
 * processor's flush-to-zero mode and restores the caller's, so that silence costs no more time than sound and
 * other libraries that switch the mode change no bit (RISC-V has no such mode).
 *
 * Real time. A stream owns its working memory. lstm_edge_step makes no allocation, takes no lock and makes no
 * system call, and neither does lstm_edge_chunk after lstm_edge_prepare; lstm_edge_run may do all of these.
 *
 * Threads. A program never changes once it is made: any number of threads may use it at a time. A stream
 * belongs to one thread at a time. No thread is started unless lstm_edge_set_threads asks for it.
 *
 * Errors. A function that returns lstm_edge_status returns LSTM_EDGE_OK or the reason; one that returns a
 * pointer returns NULL on failure. lstm_edge_last_error gives the reason in words. After an error every
 * state is as it was before the call.
 */
#ifndef LSTM_EDGE_H
#define LSTM_EDGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LSTM_EDGE_VERSION "0.1.0"

#if defined(__GNUC__)
#define LSTM_EDGE_API __attribute__((visibility("default")))
#else
#define LSTM_EDGE_API
#endif

typedef struct lstm_edge_program lstm_edge_program;
typedef struct lstm_edge_stream lstm_edge_stream;

typedef enum {
    LSTM_EDGE_OK = 0,
    LSTM_EDGE_BAD_FILE = 1,     /* the file can't be read */
    LSTM_EDGE_BAD_PROGRAM = 2,  /* truncated, damaged, or no program */
    LSTM_EDGE_BAD_VERSION = 3,  /* a program of a format version that this library does not read */
    LSTM_EDGE_NO_MEMORY = 4,
    LSTM_EDGE_BAD_ARGUMENT = 5, /* a null pointer, an index or a size out of range */
    LSTM_EDGE_BAD_INDEX = 6,    /* an input that is looked up in a table is outside the table */
    LSTM_EDGE_NO_ISA = 7,       /* LSTM_EDGE_ISA names an instruction set that this machine lacks */
    LSTM_EDGE_NO_GOLDEN = 8     /* the program carries no golden case */
} lstm_edge_status;

/* The type of an input's elements. Outputs and states are always float32. */
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
    size_t width;        /* elements of one row at one time step */
    lstm_edge_type type; /* of an element */
    int every_step;      /* for an output: 1 where a chunk gives it for each step, 0 where for the last step */
} lstm_edge_port;

/* --- The library ------------------------------------------------------------------------------------ */

/* Return the version of this library. */
LSTM_EDGE_API const char *lstm_edge_version(void);

/*
 * Return the instruction set in use: "avx512vnni", "avx512", "avx2", "sse2", "neon-dotprod", "neon" or
 * "generic". It is the best that the machine has, or the one that the environment variable LSTM_EDGE_ISA
 * names; NULL where it names one that the machine lacks.
 */
LSTM_EDGE_API const char *lstm_edge_isa(void);

/* Return why the last call on this thread failed; valid until the thread's next failure. */
LSTM_EDGE_API const char *lstm_edge_last_error(void);

/* Return the lstm_edge_status of the last failure on this thread. */
LSTM_EDGE_API lstm_edge_status lstm_edge_last_status(void);

/* --- Programs --------------------------------------------------------------------------------------- */

/* Make a program of the content of a program file. Nothing of `data` is needed afterwards. */
LSTM_EDGE_API lstm_edge_program *lstm_edge_load(const void *data, size_t size);

/* Make a program of a program file, which is mapped into memory while it is read. */
LSTM_EDGE_API lstm_edge_program *lstm_edge_open(const char *path);

/* Let a program go. Streams that are open keep what they need of it until they are freed. */
LSTM_EDGE_API void lstm_edge_free(lstm_edge_program *program);

/*
 * Let lstm_edge_run use up to `threads` threads, the caller's own among them (1 at the start). They sleep
 * between calls. Call it before the program is shared between threads.
 */
LSTM_EDGE_API lstm_edge_status lstm_edge_set_threads(lstm_edge_program *program, size_t threads);

/* Return how many inputs, outputs or states the program has. */
LSTM_EDGE_API size_t lstm_edge_count(const lstm_edge_program *program, lstm_edge_kind kind);

/* Describe one of them. The name lives as long as the program. */
LSTM_EDGE_API lstm_edge_status lstm_edge_describe(const lstm_edge_program *program, lstm_edge_kind kind,
                                                  size_t index, lstm_edge_port *port);

/* Return the manifest of the ONNX file (JSON, UTF-8, with a closing NUL), or NULL where it has none. */
LSTM_EDGE_API const char *lstm_edge_manifest(const lstm_edge_program *program);

/*
 * Replay the golden case in the program from the reset state. `worst` (may be NULL) gets the largest
 * difference as a fraction of what the case allows: at most 1 where this machine computes as it should.
 */
LSTM_EDGE_API lstm_edge_status lstm_edge_selftest(const lstm_edge_program *program, double *worst);

/* --- Streams ---------------------------------------------------------------------------------------- */

/* Open a stream at the reset state. */
LSTM_EDGE_API lstm_edge_stream *lstm_edge_stream_new(lstm_edge_program *program);
LSTM_EDGE_API void lstm_edge_stream_free(lstm_edge_stream *stream);

/*
 * Make room for chunks, so that lstm_edge_chunk allocates nothing: for up to `max_steps` steps at a time, or as
 * many as run together at most; longer chunks are taken in parts. Without it, the first chunk makes room.
 */
LSTM_EDGE_API lstm_edge_status lstm_edge_prepare(lstm_edge_stream *stream, size_t max_steps);

/* Return where the sample of the next step goes, one row of the input's type; NULL where there is none. */
LSTM_EDGE_API void *lstm_edge_input(lstm_edge_stream *stream, size_t index);

/* Return where lstm_edge_step leaves an output: one row of float32; NULL where there is none. */
LSTM_EDGE_API float *lstm_edge_output(lstm_edge_stream *stream, size_t index);

/* Return where a state lies: one row of float32, to read or write between calls; NULL where there is none. */
LSTM_EDGE_API float *lstm_edge_state(lstm_edge_stream *stream, size_t index);

/* Take one time step: from the inputs' places to the outputs' places. */
LSTM_EDGE_API lstm_edge_status lstm_edge_step(lstm_edge_stream *stream);

/*
 * Take `steps` time steps.
 *
 * inputs:  an array a program input, (steps, width) elements of its type, row after row.
 * outputs: an array a program output, (steps, width) float32 where the port says every_step, else (width);
 *          an entry may be NULL where it is not wanted.
 */
LSTM_EDGE_API lstm_edge_status lstm_edge_chunk(lstm_edge_stream *stream, const void *const *inputs,
                                               size_t steps, float *const *outputs);

/* Put every state back to its reset value. */
LSTM_EDGE_API void lstm_edge_reset(lstm_edge_stream *stream);

/* --- Many rows in one call -------------------------------------------------------------------------- */

/*
 * Where the rows of one array lie. Row r at step t starts at data + (r * row_stride + t * step_stride)
 * bytes; for a state it is data + slot * row_stride, where slot is slots[r].
 */
typedef struct {
    void *data;
    size_t row_stride;  /* bytes from one row to the next */
    size_t step_stride; /* bytes from one step to the next; unused for states and last-step outputs */
} lstm_edge_rows;

/*
 * Take `steps` time steps of `rows` sources, whose states lie in the caller's pool and are read and written
 * there.
 *
 * slots:   the place in the pool of each row's states, no two alike; NULL for 0, 1, 2, ...
 * inputs, states, outputs: one entry a program input, state and output; an output's data may be NULL where it
 *          is not wanted. What is written is float32, so that the strides of states and outputs are at least
 *          4 * width (BAD_ARGUMENT else). The caller answers for the memory behind them.
 */
LSTM_EDGE_API lstm_edge_status lstm_edge_run(const lstm_edge_program *program, size_t rows, size_t steps,
                                             const size_t *slots, const lstm_edge_rows *inputs,
                                             const lstm_edge_rows *states, const lstm_edge_rows *outputs);

/* Copy the reset value of a state, one row of float32, to `row`. */
LSTM_EDGE_API lstm_edge_status lstm_edge_reset_value(const lstm_edge_program *program, size_t index,
                                                     float *row);

#ifdef __cplusplus
}
#endif
#endif
