/* The working memory of calls. */
#include "workspace.h"

void le_drop(le_workspace *w) {
    if (w == NULL) return;
    free(w->base);
    free(w->buffer);
    free(w->past);
    free(w->gates);
    free(w->more_gates);
    free(w->hidden);
    free(w->ahead);
    free(w->quantized);
    free(w->row_scale);
    free(w->row_zero);
    free(w);
}

/* Allocate the areas of working memory. */
static bool take_areas(const lstm_edge_program *p, le_workspace *w, size_t bytes) {
    const size_t capacity = w->capacity;
    const bool looks_ahead = capacity == 1 && p->last_recurrent != NULL;
    w->base = le_zeros(1, bytes);
    w->buffer = calloc(p->buffers + 1, sizeof *w->buffer);
    w->past = calloc(capacity * p->pasts + 1, sizeof *w->past);
    w->gates = le_zeros(capacity * p->gates, sizeof(float));
    w->more_gates = le_zeros(capacity * p->more_gates, sizeof(float));
    w->hidden = le_zeros(capacity * p->hidden, sizeof(float));
    if (looks_ahead) w->ahead = le_zeros(p->last_recurrent->r.padded, sizeof(float));
    w->quantized = le_zeros(capacity * p->quantized + LE_ALIGN, sizeof(int16_t));
    w->row_scale = le_zeros(capacity, sizeof(float));
    w->row_zero = le_zeros(capacity, sizeof(int32_t));
    return w->base != NULL && w->buffer != NULL && w->past != NULL && w->gates != NULL &&
           w->more_gates != NULL && w->hidden != NULL && (w->ahead != NULL || !looks_ahead) &&
           w->quantized != NULL && w->row_scale != NULL && w->row_zero != NULL;
}

/* Say where each buffer lies; the pasts, if they belong to this memory, behind the rows. */
static void place_buffers(const lstm_edge_program *p, le_workspace *w, bool with_pasts) {
    char *pasts = w->base + w->capacity * p->row_bytes;
    for (size_t i = 0; i < p->buffers; i++) {
        const le_span *span = &p->spans[i];
        if (span->past == 0) w->buffer[i] = w->base + span->offset * w->capacity;
        else if (with_pasts) w->past[span->past - 1] = (float *)(w->buffer[i] = pasts + span->offset);
    }
    for (size_t i = 0; with_pasts && i < p->count[LSTM_EDGE_STATE]; i++) {
        const le_io *state = &p->io[LSTM_EDGE_STATE][i];
        if (state->in_place) w->buffer[state->next] = w->buffer[state->buffer];
    }
}

le_workspace *le_workspace_new(const lstm_edge_program *p, size_t capacity, bool with_pasts) {
    le_workspace *w = calloc(1, sizeof *w);
    if (w == NULL) return NULL;
    w->capacity = capacity;
    const size_t more = with_pasts ? p->past_bytes + p->port_bytes : 0;
    if (!take_areas(p, w, capacity * p->row_bytes + more)) {
        le_drop(w);
        return NULL;
    }
    place_buffers(p, w, with_pasts);
    return w;
}

le_workspace *le_take(const lstm_edge_program *program, bool single) {
    lstm_edge_program *p = (lstm_edge_program *)program; /* the spares are its only part that changes */
    for (size_t i = 0; i < LE_SPARES; i++) {
        le_workspace *w = atomic_exchange(&p->spare[single][i], NULL);
        if (w != NULL) return w;
    }
    return le_workspace_new(program, single ? 1 : LE_BLOCK, false);
}

void le_give(const lstm_edge_program *program, le_workspace *workspace) {
    lstm_edge_program *p = (lstm_edge_program *)program;
    const bool single = workspace->capacity == 1;
    for (size_t i = 0; i < LE_SPARES; i++) {
        le_workspace *none = NULL;
        if (atomic_compare_exchange_strong(&p->spare[single][i], &none, workspace)) return;
    }
    le_drop(workspace);
}

void le_release(lstm_edge_program *program) {
    if (atomic_fetch_sub(&program->users, 1) != 1) return;
    for (size_t size = 0; size < 2; size++) {
        for (size_t i = 0; i < LE_SPARES; i++) le_drop(atomic_load(&program->spare[size][i]));
    }
    le_program_free(program);
}
