/* What other files of the library ask of a stream. */
#ifndef LE_STREAM_H
#define LE_STREAM_H

#include "lstm_edge.h"
#include "program.h"

/* Return the program that a stream runs. */
const lstm_edge_program *le_program_of(const lstm_edge_stream *stream);

/* Check `count` elements of an input that index a table. */
lstm_edge_status le_check_elements(const lstm_edge_program *p, const le_io *input, const char *from,
                                   size_t count);

/* Return the samples of an input that don't fill a unit yet. */
void *le_rest(const lstm_edge_stream *stream, size_t index);

#endif
