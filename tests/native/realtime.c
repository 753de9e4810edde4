/*
 * Steps and prepared chunks of streams, in real time: realtime STEPS PROGRAM... fails at the first
 * allocation, lock or system call, where a result depends on the caller's floating-point mode, or where that
 * mode is not restored. With 0 steps the modes alone are tested, as an emulator has system calls of its own.
 */
#include <fenv.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "counted.h"
#include "lstm_edge.h"

enum { THREADS = 2, CHUNK = 64, COMPARED = 300 };

static const char *failure;
static void expect(int ok, const char *what) {
    if (!ok && failure == NULL) failure = what;
}

typedef struct {
    lstm_edge_program *program;
    size_t steps;
    pid_t thread;
    atomic_int state; /* 1 once it runs, 2 when it is done */
    lstm_edge_status status;
} job;

/* Fill the inputs with numbers that are valid in any type: small bit patterns for floats, indices else. */
static void fill(lstm_edge_program *program, size_t input, void *to, size_t steps, size_t seed) {
    lstm_edge_port port;
    lstm_edge_describe(program, LSTM_EDGE_INPUT, input, &port);
    if (port.type != LSTM_EDGE_FLOAT32) return; /* zeros are valid indices */
    for (size_t i = 0; i < steps * port.width; i++)
        ((float *)to)[i] = (float)((seed + i * 37) % 101) / 64.f - 1.f; /* exact in any mode */
}

static void *walk(void *argument) {
    job *j = argument;
    const size_t inputs = lstm_edge_count(j->program, LSTM_EDGE_INPUT);
    const size_t outputs = lstm_edge_count(j->program, LSTM_EDGE_OUTPUT);
    lstm_edge_stream *stream = lstm_edge_stream_new(j->program);
    const void **from = calloc(inputs + 1, sizeof *from);
    float **to = calloc(outputs + 1, sizeof *to);
    for (size_t i = 0; i < inputs; i++) {
        void *chunk = calloc(CHUNK * 4096, 8);
        fill(j->program, i, lstm_edge_input(stream, i), 1, i);
        fill(j->program, i, chunk, CHUNK, i);
        from[i] = chunk;
    }
    for (size_t i = 0; i < outputs; i++) to[i] = calloc(CHUNK * 4096, sizeof(float));
    lstm_edge_prepare(stream, CHUNK);
    j->thread = (pid_t)syscall(SYS_gettid);
    j->state = 1;
    if (prctl(PR_SET_SECCOMP, 1) != 0)
        j->status = LSTM_EDGE_NO_MEMORY; /* strict: any system call ends the thread */
    armed = 1;
    for (size_t step = 0; step < j->steps && j->status == LSTM_EDGE_OK; step++) {
        j->status = step % 1000 == 999 ? lstm_edge_chunk(stream, from, CHUNK, to) : lstm_edge_step(stream);
    }
    armed = 0;
    j->state = 2;
    syscall(SYS_exit, 0);
    return NULL;
}

static void take_steps(lstm_edge_program *program, size_t steps) {
    job jobs[THREADS] = {{0}};
    const struct timespec pause = {0, 2000000};
    for (int i = 0; i < THREADS; i++) {
        pthread_t thread;
        jobs[i].program = program;
        jobs[i].steps = steps;
        expect(pthread_create(&thread, NULL, walk, &jobs[i]) == 0, "no thread");
    }
    for (int i = 0; i < THREADS; i++) {
        while (jobs[i].state == 0) nanosleep(&pause, NULL);
        while (jobs[i].state == 1 && syscall(SYS_tgkill, getpid(), jobs[i].thread, 0) == 0)
            nanosleep(&pause, NULL);
        expect(jobs[i].state == 2, "a system call ended the thread");
        expect(jobs[i].status == LSTM_EDGE_OK, "a step failed");
    }
    expect(calls == 0, "an allocation or a lock");
}

/* Return the first output's numbers of some steps, of which the later ones are silence. */
static float *outputs_of(lstm_edge_program *program) {
    lstm_edge_port port;
    lstm_edge_describe(program, LSTM_EDGE_OUTPUT, 0, &port);
    float *outputs = calloc(COMPARED * port.width, sizeof *outputs);
    lstm_edge_stream *stream = lstm_edge_stream_new(program);
    for (size_t step = 0; step < COMPARED; step++) {
        for (size_t i = 0; i < lstm_edge_count(program, LSTM_EDGE_INPUT); i++) {
            lstm_edge_port input;
            lstm_edge_describe(program, LSTM_EDGE_INPUT, i, &input);
            if (step < 20) fill(program, i, lstm_edge_input(stream, i), 1, step + i);
            else if (input.type == LSTM_EDGE_FLOAT32)
                memset(lstm_edge_input(stream, i), 0, input.width * sizeof(float));
        }
        if (step == COMPARED / 2) lstm_edge_begin(stream);
        lstm_edge_step(stream);
        memcpy(outputs + step * port.width, lstm_edge_output(stream, 0), port.width * sizeof *outputs);
    }
    lstm_edge_end(stream);
    lstm_edge_stream_free(stream);
    return outputs;
}

/* The control bits of the floating-point unit, without the flags of past exceptions; and those that flush to
 * zero. */
#if defined(__x86_64__)
enum { FLUSH = 0x8040 };
static unsigned get_mode(void) { return __builtin_ia32_stmxcsr() & ~0x3fu; }
static void set_mode(unsigned mode) { __builtin_ia32_ldmxcsr(mode); }
#elif defined(__aarch64__)
enum { FLUSH = 1 << 24 };
static unsigned get_mode(void) { return (unsigned)__builtin_aarch64_get_fpcr(); }
static void set_mode(unsigned mode) { __builtin_aarch64_set_fpcr(mode); }
#elif defined(__arm__)
enum { FLUSH = 1 << 24 };
static unsigned get_mode(void) { return __builtin_arm_get_fpscr() & 0x07f7ff60u; }
static void set_mode(unsigned mode) { __builtin_arm_set_fpscr(mode); }
#else
enum { FLUSH = 0 };
static unsigned get_mode(void) { return 0; }
static void set_mode(unsigned mode) { (void)mode; }
#endif

static void compare_modes(lstm_edge_program *program) {
    lstm_edge_port port;
    lstm_edge_describe(program, LSTM_EDGE_OUTPUT, 0, &port);
    float *normal = outputs_of(program);
    const unsigned usual = get_mode();
    fesetround(FE_UPWARD);
    const unsigned mode = get_mode() | FLUSH;
    set_mode(mode);
    feraiseexcept(FE_INVALID);
    float *other = outputs_of(program);
    expect(fegetround() == FE_UPWARD, "the rounding mode was not restored");
    expect(get_mode() == mode, "the floating-point mode was not restored");
    expect(fetestexcept(FE_INVALID), "a flag was lost");
    expect(fetestexcept(FE_INEXACT), "arithmetic raised no flag");
    set_mode(usual);
    expect(memcmp(normal, other, COMPARED * port.width * sizeof *normal) == 0,
           "results depend on the caller's mode");
    free(normal);
    free(other);
}

int main(int argc, char **argv) {
    const size_t steps = argc > 2 ? strtoul(argv[1], NULL, 10) : 0;
    for (int i = 2; i < argc; i++) {
        lstm_edge_program *program = lstm_edge_open(argv[i]);
        expect(program != NULL, "a program that can't be opened");
        if (program == NULL) break;
        compare_modes(program);
        if (steps > 0) take_steps(program, steps);
        if (failure != NULL) {
            fprintf(stderr, "%s: %s\n", argv[i], failure);
            return 1;
        }
    }
    printf("%d programs, %zu steps each on %d threads\n", argc - 2, steps, THREADS);
    return failure != NULL;
}
