/*
 * Load damaged programs and run those that load: fuzz SEED COUNT FILE... prints how many loaded.
 * Built with the sanitizers, so that a bad access ends it. Checksums are made good again, so that the damage
 * reaches the code after them.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lstm_edge.h"
#include "lstm_edge_format.h"

static uint64_t state;

static uint32_t draw(uint32_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

static uint32_t crc32_of(const unsigned char *p, size_t size) {
    uint32_t crc = 0xFFFFFFFFu;
    for (; size > 0; p++, size--) {
        crc ^= *p;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

/* Change some bits, or put a number that is likely to matter where a word lies. */
static size_t damage(unsigned char *data, size_t size, size_t tables, uint32_t version) {
    static const uint32_t odd[] = {0,     1,          2,           7,          255,       65535,
                                   65536, 0x7FFFFFFF, 0x80000000u, 0xFFFFFFFE, 0xFFFFFFFF};
    for (uint32_t i = draw(4) + 1; i > 0; i--) {
        const size_t range = draw(8) == 0 ? size : tables;
        if (draw(2) == 0) {
            data[draw((uint32_t)range)] ^= (unsigned char)(1u << draw(8));
        } else {
            const size_t word = draw((uint32_t)range / 4) * 4;
            uint32_t value;
            memcpy(&value, data + word, 4);
            value = draw(3) == 0 ? odd[draw(sizeof odd / sizeof *odd)] : value + draw(9) - 4;
            memcpy(data + word, &value, 4);
        }
    }
    if (draw(10) == 0) size = draw((uint32_t)size + 1);
    if (size >= sizeof(le_header)) {
        const uint64_t whole = size;
        if (draw(20) != 0) memcpy(data + 16, &whole, 8);
        if (draw(20) != 0) {
            memcpy(data, LE_MAGIC, 8);
            const uint32_t given = version, crc = crc32_of(data + 16, size - 16);
            memcpy(data + 8, &given, 4);
            memcpy(data + 12, &crc, 4);
        }
    }
    return size;
}

/* Numbers of a row of an input, output or state in one run of the operations. */
static size_t row_of(const lstm_edge_program *program, int kind, const lstm_edge_port *port) {
    const size_t unit = lstm_edge_unit(program);
    return port->width * (kind == LSTM_EDGE_INPUT                        ? unit
                          : kind == LSTM_EDGE_OUTPUT && port->frames > 0 ? port->frames
                                                                         : 1);
}

/* Save a stream and restore it, whole and damaged. */
static void use_saved(lstm_edge_stream *stream) {
    const size_t size = lstm_edge_save(stream, NULL, 0);
    unsigned char *saved = malloc(size), *damaged = malloc(size);
    if (saved == NULL || damaged == NULL || lstm_edge_save(stream, saved, size) != size) abort();
    for (int i = 0; i < 20; i++) {
        memcpy(damaged, saved, size);
        for (uint32_t changes = draw(4); changes > 0; changes--) {
            const uint32_t words = (uint32_t)(size / 4),
                           at = draw(2) ? draw(words) : draw(words < 64 ? words : 64);
            const uint32_t value = draw(3) == 0 ? draw(0x7FFFFFFF) * 2 : draw(9);
            memcpy(damaged + 4 * at, &value, 4);
        }
        const size_t cut = draw(4) == 0 ? draw((uint32_t)size + 1) : size;
        if (cut >= LE_SAVED_FRONT) {
            const uint32_t crc = crc32_of(damaged + LE_SAVED_FRONT, cut - LE_SAVED_FRONT);
            memcpy(damaged, LE_SAVED_MAGIC, 8);
            memcpy(damaged + 8, &crc, 4);
        }
        unsigned char *exact = malloc(cut > 0 ? cut : 1); /* a byte more would be seen */
        if (exact == NULL) abort();
        memcpy(exact, damaged, cut);
        lstm_edge_restore(stream, exact, cut);
        free(exact);
    }
    if (lstm_edge_restore(stream, saved, size) != LSTM_EDGE_OK) abort();
    free(saved);
    free(damaged);
}

enum { ROWS = 7, STEPS = 9, PORTS = 64 };

/* Arrays for the inputs, outputs and states of a program. */
typedef struct {
    void *arrays[3][PORTS];
    lstm_edge_rows rows[3][PORTS];
} memory;

/* Return whether arrays for all ports would be small. */
static bool is_small(const lstm_edge_program *program) {
    for (int kind = 0; kind < 3; kind++) {
        const size_t count = lstm_edge_count(program, (lstm_edge_kind)kind);
        if (count > PORTS) return false;
        for (size_t i = 0; i < count; i++) {
            lstm_edge_port port;
            if (lstm_edge_describe(program, (lstm_edge_kind)kind, i, &port) != LSTM_EDGE_OK) abort();
            if (row_of(program, kind, &port) > 100000) return false;
        }
    }
    return true;
}

static void take_memory(const lstm_edge_program *program, memory *m) {
    for (int kind = 0; kind < 3; kind++) {
        const size_t count = lstm_edge_count(program, (lstm_edge_kind)kind);
        for (size_t i = 0; i < count; i++) {
            lstm_edge_port port;
            lstm_edge_describe(program, (lstm_edge_kind)kind, i, &port);
            const size_t size = row_of(program, kind, &port) * (port.type == LSTM_EDGE_INT64 ? 8 : 4);
            m->arrays[kind][i] = calloc(ROWS * STEPS, size);
            m->rows[kind][i] = (lstm_edge_rows){m->arrays[kind][i], STEPS * size, size};
            (void)strlen(port.name);
        }
    }
}

static void check_frames(const lstm_edge_program *program, const lstm_edge_stream *stream) {
    for (size_t i = 0; i < lstm_edge_count(program, LSTM_EDGE_OUTPUT); i++) {
        lstm_edge_port port;
        lstm_edge_describe(program, LSTM_EDGE_OUTPUT, i, &port);
        const size_t per_unit = port.frames > 0 ? port.frames : 1;
        if (lstm_edge_frames(stream, i) > (STEPS / lstm_edge_unit(program) + 1) * per_unit) abort();
    }
}

/* Write any values to the states of whole numbers. */
static void set_counters(const lstm_edge_program *program, lstm_edge_stream *stream) {
    for (size_t i = 0; i < lstm_edge_count(program, LSTM_EDGE_STATE); i++) {
        lstm_edge_port port;
        lstm_edge_describe(program, LSTM_EDGE_STATE, i, &port);
        if (port.type == LSTM_EDGE_INT64)
            *(int64_t *)(void *)lstm_edge_state(stream, i) =
                (int64_t)((uint64_t)((int64_t)draw(100) - 50) << draw(57));
    }
}

static void use_stream(lstm_edge_program *program, memory *m) {
    lstm_edge_stream *stream = lstm_edge_stream_new(program);
    if (stream == NULL) return;
    const void *const *inputs = (const void *const *)m->arrays[LSTM_EDGE_INPUT];
    float *const *outputs = (float *const *)m->arrays[LSTM_EDGE_OUTPUT];
    for (int i = 0; i < STEPS; i++) {
        lstm_edge_step(stream);
        lstm_edge_chunk(stream, inputs, STEPS, outputs);
    }
    check_frames(program, stream);
    lstm_edge_set_age(stream, (uint64_t)draw(100) << draw(50));
    set_counters(program, stream);
    lstm_edge_chunk(stream, inputs, STEPS, outputs);
    use_saved(stream);
    lstm_edge_reset(stream);
    lstm_edge_chunk(stream, inputs, ROWS * STEPS, outputs);
    lstm_edge_stream_free(stream);
}

/* Use a program in every way. Memory is made to fit what the program says of itself. */
static void use(lstm_edge_program *program) {
    if (!is_small(program)) return;
    memory m;
    take_memory(program, &m);
    lstm_edge_run(program, ROWS, STEPS, NULL, m.rows[LSTM_EDGE_INPUT], m.rows[LSTM_EDGE_STATE],
                  m.rows[LSTM_EDGE_OUTPUT]);
    use_stream(program, &m);
    double worst;
    lstm_edge_selftest(program, &worst);
    const char *manifest = lstm_edge_manifest(program);
    if (manifest != NULL) (void)strlen(manifest);
    for (int kind = 0; kind < 3; kind++) {
        for (size_t i = 0; i < lstm_edge_count(program, (lstm_edge_kind)kind); i++) free(m.arrays[kind][i]);
    }
}

int main(int argc, char **argv) {
    size_t loaded = 0, tried = 0;
    if (argc < 4) return 2;
    state = strtoull(argv[1], NULL, 10);
    const unsigned long count = strtoul(argv[2], NULL, 10);
    for (int file = 3; file < argc; file++) {
        FILE *in = fopen(argv[file], "rb");
        if (in == NULL) return 2;
        static unsigned char original[1 << 20];
        const size_t size = fread(original, 1, sizeof original, in);
        fclose(in);
        le_header header;
        memcpy(&header, original, sizeof header);
        const size_t tables = sizeof header + header.constants * sizeof(le_constant) +
                              header.buffers * sizeof(le_buffer) +
                              (header.inputs + header.outputs + header.states) * sizeof(le_port) +
                              header.operations * sizeof(le_operation);
        for (unsigned long i = 0; i < count; i++, tried++) {
            unsigned char *data =
                malloc(size + 1); /* allocated apart, so that a read beyond its end is seen */
            memcpy(data, original, size);
            const size_t now = i == 0 ? size : damage(data, size, tables, header.version);
            unsigned char *exact = malloc(now == 0 ? 1 : now);
            memcpy(exact, data, now);
            free(data);
            lstm_edge_program *program = lstm_edge_load(exact, now);
            free(exact);
            if (program == NULL) {
                if (i == 0 || lstm_edge_last_status() == LSTM_EDGE_OK || *lstm_edge_last_error() == '\0')
                    return 3;
                continue;
            }
            loaded++;
            use(program);
            lstm_edge_free(program);
        }
    }
    printf("%zu of %zu loaded\n", loaded, tried);
    return 0;
}
