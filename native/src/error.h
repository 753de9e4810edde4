/* Why the last call on a thread failed. */
#ifndef LE_ERROR_H
#define LE_ERROR_H

#include "lstm_edge.h"

#ifdef _WIN32
#define LE_PRINTF gnu_printf
#else
#define LE_PRINTF printf
#endif

/* Note why a call fails, and return `status`. */
lstm_edge_status le_fail(lstm_edge_status status, const char *format, ...)
    __attribute__((format(LE_PRINTF, 2, 3)));

#endif
