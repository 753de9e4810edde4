/* The working memory of calls. */
#ifndef LE_WORKSPACE_H
#define LE_WORKSPACE_H

#include "program.h"

/* `with_pasts`: with memory for the pasts and `port_bytes`, after the memory of `capacity` rows. */
le_workspace *le_workspace_new(const lstm_edge_program *program, size_t capacity, bool with_pasts);
le_workspace *le_take(const lstm_edge_program *program, bool single);
void le_give(const lstm_edge_program *program, le_workspace *workspace);
void le_drop(le_workspace *workspace);
/* Give up one use of a program; the last one frees it. */
void le_release(lstm_edge_program *program);

#endif
