/* Saving a stream and restoring it; the layout of a saved stream is in lstm_edge_format.h. */
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "lstm_edge_format.h"
#include "program.h"
#include "stream.h"

#define PADDED(size) (((size) + 7) / 8 * 8)

/* An array of a saved stream: a state or the samples of an input, as the ports of a program describe it. */
typedef struct {
    lstm_edge_kind kind; /* LSTM_EDGE_STATE, or LSTM_EDGE_INPUT for samples */
    size_t first, ports; /* the states that are its layers; else one port */
    const char *name;    /* not closed by a NUL */
    size_t name_size;
    lstm_edge_type type;
    size_t count; /* elements */
} array;

/* Return the length of a state's name in the ONNX file: `h_0` of layer `h_0[1]`. */
static size_t name_size(const char *name) {
    const size_t size = strlen(name);
    const char *bracket = strrchr(name, '[');
    if (bracket == NULL) return size;
    const size_t digits = strspn(bracket + 1, "0123456789");
    return digits > 0 && strcmp(bracket + 1 + digits, "]") == 0 ? (size_t)(bracket - name) : size;
}

static size_t width_of(const lstm_edge_port *port) {
    return port->frames > 0 ? port->width - 1 : port->width;
}

/* Describe the array that begins with a port; return the ports in it, 0 behind the last one. */
static size_t array_at(const lstm_edge_stream *stream, lstm_edge_kind kind, size_t index, array *found) {
    const lstm_edge_program *program = le_program_of(stream);
    lstm_edge_port port, next;
    if (index >= lstm_edge_count(program, kind)) return 0;
    lstm_edge_describe(program, kind, index, &port);
    *found = (array){kind, index, 1, port.name, strlen(port.name), port.type, port.width};
    if (kind == LSTM_EDGE_INPUT) {
        found->count *= (size_t)(lstm_edge_age(stream) % lstm_edge_unit(program));
        return 1;
    }
    found->name_size = name_size(port.name);
    found->count = width_of(&port);
    if (found->name_size == strlen(port.name)) return 1;
    while (index + found->ports < lstm_edge_count(program, kind)) {
        lstm_edge_describe(program, kind, index + found->ports, &next);
        const bool same = name_size(next.name) == found->name_size && next.name[found->name_size] == '[';
        if (!same || memcmp(next.name, port.name, found->name_size) != 0) break;
        found->count += width_of(&next);
        found->ports++;
    }
    return found->ports;
}

/* --- Identity --------------------------------------------------------------------------------------- */

/* Return the end of a JSON string that begins behind its quote. */
static const char *string_end(const char *text) {
    while (*text != '\0' && *text != '"') text += *text == '\\' && text[1] != '\0' ? 2 : 1;
    return text;
}

/* Return the string of LE_IDENTITY_SIZE characters that a field's value is, `at` the end of its key; NULL if
   it is not one. */
static const char *identity_after(const char *at) {
    do at++;
    while (*at == ':' || *at == ' ');
    if (*at != '"') return NULL;
    return string_end(at + 1) - at - 1 == LE_IDENTITY_SIZE ? at + 1 : NULL;
}

/* Return the value of the manifest's own field "identity"; NULL if it has none. */
static const char *identity_of(const char *manifest) {
    static const char key[] = "identity";
    size_t depth = 0;
    for (const char *at = manifest; at != NULL && *at != '\0'; at++) {
        if (*at == '{' || *at == '[') depth++;
        if (*at == '}' || *at == ']') depth--;
        if (*at != '"') continue;
        const char *end = string_end(at + 1);
        if (*end == '\0') return NULL;
        const bool is_key =
            depth == 1 && (size_t)(end - at) == sizeof key && memcmp(at + 1, key, sizeof key - 1) == 0;
        if (is_key) return identity_after(end);
        at = end;
    }
    return NULL;
}

/* --- Saving ----------------------------------------------------------------------------------------- */

/* Copy a ring of frames to the order of the ONNX file, (groups, frames, the rest of a frame), the oldest
 * first. */
static void unroll(const lstm_edge_port *port, const float *ring, char *to) {
    const size_t frames = port->frames, groups = port->groups, inner = (port->width - 1) / frames / groups;
    const size_t bytes = inner * sizeof *ring;
    const float oldest = ring[port->width - 1];
    const size_t first = oldest >= 0 && oldest < (float)frames ? (size_t)oldest : 0;
    for (size_t g = 0; g < groups; g++) {
        for (size_t f = 0; f < frames; f++, to += bytes) {
            memcpy(to, ring + ((first + f) % frames * groups + g) * inner, bytes);
        }
    }
}

static void roll(const lstm_edge_port *port, const char *from, float *ring) {
    const size_t frames = port->frames, groups = port->groups, inner = (port->width - 1) / frames / groups;
    const size_t bytes = inner * sizeof *ring;
    for (size_t g = 0; g < groups; g++) {
        for (size_t f = 0; f < frames; f++, from += bytes) {
            memcpy(ring + (f * groups + g) * inner, from, bytes);
        }
    }
    ring[port->width - 1] = 0;
}

/* Copy an array between a stream and a saved one. */
static void copy_array(lstm_edge_stream *stream, const array *a, char *saved, bool save) {
    for (size_t i = 0; i < a->ports; i++) {
        lstm_edge_port port;
        lstm_edge_describe(le_program_of(stream), a->kind, a->first + i, &port);
        const bool is_state = a->kind == LSTM_EDGE_STATE;
        const size_t bytes = (is_state ? width_of(&port) : a->count) * le_size_of(port.type);
        void *own = is_state ? (void *)lstm_edge_state(stream, a->first + i) : le_rest(stream, a->first + i);
        if (is_state && port.frames > 0) {
            if (save) unroll(&port, own, saved);
            else roll(&port, saved, own);
        } else {
            if (save) memcpy(saved, own, bytes);
            else memcpy(own, saved, bytes);
        }
        saved += bytes;
    }
}

static size_t entry_size(const array *a) {
    return sizeof(le_saved_array) + sizeof(uint64_t) + PADDED(a->name_size) +
           PADDED(a->count * le_size_of(a->type));
}

static const lstm_edge_kind saved_kinds[] = {LSTM_EDGE_STATE, LSTM_EDGE_INPUT};

size_t lstm_edge_save(const lstm_edge_stream *stream, void *buffer, size_t size) {
    if (stream == NULL) {
        le_fail(LSTM_EDGE_BAD_ARGUMENT, "a null pointer");
        return 0;
    }
    array a;
    size_t needed = sizeof(le_saved_stream);
    uint32_t arrays = 0;
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0, ports; (ports = array_at(stream, saved_kinds[k], i, &a)) > 0; i += ports) {
            if (a.count == 0) continue;
            needed += entry_size(&a);
            arrays++;
        }
    }
    if (buffer == NULL || size < needed) return needed;
    memset(buffer, 0, needed);
    char *at = (char *)buffer + sizeof(le_saved_stream);
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0, ports; (ports = array_at(stream, saved_kinds[k], i, &a)) > 0; i += ports) {
            if (a.count == 0) continue;
            const uint32_t kind = a.kind == LSTM_EDGE_STATE ? LE_SAVED_STATE : LE_SAVED_SAMPLES;
            const le_saved_array entry = {kind, a.type, (uint32_t)a.name_size, 1, a.count};
            const uint64_t shape = a.count;
            char *to = at + sizeof entry;
            memcpy(at, &entry, sizeof entry);
            memcpy(to, &shape, sizeof shape);
            memcpy(to + sizeof shape, a.name, a.name_size);
            copy_array((lstm_edge_stream *)(uintptr_t)stream, &a, to + sizeof shape + PADDED(a.name_size),
                       true);
            at += entry_size(&a);
        }
    }
    le_saved_stream header = {.arrays = arrays, .age = lstm_edge_age(stream)};
    memcpy(header.magic, LE_SAVED_MAGIC, sizeof header.magic);
    const char *identity = identity_of(lstm_edge_manifest(le_program_of(stream)));
    if (identity != NULL) memcpy(header.identity, identity, LE_IDENTITY_SIZE);
    memcpy(buffer, &header, sizeof header);
    header.crc = le_checksum((const unsigned char *)buffer + LE_SAVED_FRONT, needed - LE_SAVED_FRONT);
    memcpy(buffer, &header, sizeof header);
    return needed;
}

/* --- Restoring -------------------------------------------------------------------------------------- */

#define BAD_STATE(...) le_fail(LSTM_EDGE_BAD_STATE, __VA_ARGS__)

/* An array within the bytes of a saved stream. */
typedef struct {
    le_saved_array head;
    const char *name, *data;
    size_t size; /* bytes that it takes up, 0 if it is cut */
} saved_array;

/* Read the array at `at`, where `left` bytes are. */
static saved_array read_array(const char *at, size_t left) {
    static const size_t sizes[] = {4, 8, 4, 2, 1, 1, 8, 2, 1, 2, 4, 8};
    saved_array found = {.name = at, .data = at};
    le_saved_array *head = &found.head;
    if (left < sizeof *head) return found;
    memcpy(head, at, sizeof *head);
    if (head->type >= sizeof sizes / sizeof *sizes || head->dims > 64) return found;
    if (head->name_size > left || head->count > left / sizes[head->type]) return found;
    const size_t before_name = sizeof *head + head->dims * sizeof(uint64_t);
    const size_t front = before_name + PADDED((size_t)head->name_size);
    const size_t bytes = PADDED((size_t)head->count * sizes[head->type]);
    if (front > left || bytes > left - front) return found;
    found.name = at + before_name;
    found.data = at + front;
    found.size = front + bytes;
    return found;
}

/* Find an array among those of a saved stream; NULL if it is not there, or of another type or size. */
static const char *find_array(const array *wanted, const char *at, size_t left, uint32_t arrays) {
    const uint32_t kind = wanted->kind == LSTM_EDGE_STATE ? LE_SAVED_STATE : LE_SAVED_SAMPLES;
    for (uint32_t i = 0; i < arrays; i++) {
        const saved_array found = read_array(at, left);
        const le_saved_array *head = &found.head;
        const bool is_named =
            head->name_size == wanted->name_size && memcmp(found.name, wanted->name, wanted->name_size) == 0;
        if (head->kind == kind && is_named) {
            return head->type == (uint32_t)wanted->type && head->count == wanted->count ? found.data : NULL;
        }
        at += found.size;
        left -= found.size;
    }
    return NULL;
}

/* Check the header, and that all arrays are within the data. */
static lstm_edge_status check_saved(const lstm_edge_stream *stream, const void *data, size_t size,
                                    le_saved_stream *header) {
    if (data == NULL || size < sizeof *header) return BAD_STATE("%zu bytes, which is no saved stream", size);
    memcpy(header, data, sizeof *header);
    if (memcmp(header->magic, LE_SAVED_MAGIC, sizeof header->magic) != 0) return BAD_STATE("no saved stream");
    if (header->crc != le_checksum((const unsigned char *)data + LE_SAVED_FRONT, size - LE_SAVED_FRONT)) {
        return BAD_STATE("a saved stream that is damaged or truncated");
    }
    if (header->age > LSTM_EDGE_MAX_AGE)
        return BAD_STATE("a saved stream of age %llu", (unsigned long long)header->age);
    const char *identity = identity_of(lstm_edge_manifest(le_program_of(stream)));
    if (identity != NULL && memcmp(header->identity, identity, LE_IDENTITY_SIZE) != 0) {
        return BAD_STATE("a state of model %.12s, expected %.12s", header->identity, identity);
    }
    const char *at = (const char *)data + sizeof *header;
    size_t left = size - sizeof *header;
    for (uint32_t i = 0; i < header->arrays; i++) {
        const size_t taken = read_array(at, left).size;
        if (taken == 0) return BAD_STATE("array %u of the saved stream is cut", (unsigned)i);
        at += taken;
        left -= taken;
    }
    return LSTM_EDGE_OK;
}

/* Check kept samples that index a table: the call that completes their unit reads them unchecked. */
static lstm_edge_status check_kept(const lstm_edge_stream *stream, const array *a, const char *samples) {
    if (a->kind != LSTM_EDGE_INPUT) return LSTM_EDGE_OK;
    const lstm_edge_program *p = le_program_of(stream);
    const le_io *input = &p->io[LSTM_EDGE_INPUT][a->first];
    if (input->table == 0) return LSTM_EDGE_OK;
    return le_check_elements(p, input, samples, a->count);
}

lstm_edge_status lstm_edge_restore(lstm_edge_stream *stream, const void *data, size_t size) {
    if (stream == NULL) return le_fail(LSTM_EDGE_BAD_ARGUMENT, "a null pointer");
    le_saved_stream header;
    const lstm_edge_status status = check_saved(stream, data, size, &header);
    if (status != LSTM_EDGE_OK) return status;
    const char *arrays = (const char *)data + sizeof header;
    const size_t left = size - sizeof header;
    const uint64_t age = lstm_edge_age(stream);
    array a;
    lstm_edge_set_age(stream, header.age);          /* which says how many samples are kept */
    for (int copying = 0; copying < 2; copying++) { /* check all of them before the first is changed */
        for (int k = 0; k < 2; k++) {
            for (size_t i = 0, ports; (ports = array_at(stream, saved_kinds[k], i, &a)) > 0; i += ports) {
                if (a.count == 0) continue;
                const char *found = find_array(&a, arrays, left, header.arrays);
                if (found == NULL) {
                    lstm_edge_set_age(stream, age);
                    return BAD_STATE("the saved stream has no %s %.*s of %zu elements",
                                     k == 0 ? "state" : "samples of", (int)a.name_size, a.name, a.count);
                }
                if (copying) {
                    copy_array(stream, &a, (char *)(uintptr_t)found, false);
                    continue;
                }
                const lstm_edge_status valid = check_kept(stream, &a, found);
                if (valid != LSTM_EDGE_OK) {
                    lstm_edge_set_age(stream, age);
                    return valid;
                }
            }
        }
    }
    return LSTM_EDGE_OK;
}

size_t lstm_edge_find(const lstm_edge_program *program, lstm_edge_kind kind, const char *name) {
    const size_t count = lstm_edge_count(program, kind);
    for (size_t i = 0; name != NULL && i < count; i++) {
        if (strcmp(program->io[kind][i].name, name) == 0) return i;
    }
    return count;
}
