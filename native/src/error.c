/* Why the last call on a thread failed. */
#include <stdarg.h>
#include <stdio.h>

#include "error.h"

static _Thread_local char last_error[256];
static _Thread_local lstm_edge_status last_status;

lstm_edge_status le_fail(lstm_edge_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_error, sizeof last_error, format, arguments);
    va_end(arguments);
    last_status = status;
    return status;
}

const char *lstm_edge_last_error(void) { return last_error; }
lstm_edge_status lstm_edge_last_status(void) { return last_status; }
