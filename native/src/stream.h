/* What other files of the library ask of a stream. */
#ifndef LE_STREAM_H
#define LE_STREAM_H

#include "lstm_edge.h"

/* Return the program that a stream runs. */
const lstm_edge_program *le_program_of(const lstm_edge_stream *stream);

#endif
