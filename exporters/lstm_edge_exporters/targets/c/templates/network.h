/* $name: a recurrent network. No malloc, no stdio, nothing kept outside ${name}_state. */
#ifndef ${upper}_H
#define ${upper}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

$macros
extern const char *const ${name}_labels[];

/* The state of one source of samples: copy it, keep as many as there are sources. */
typedef struct {
$members
} ${name}_state;

/* Working memory of a call. Nothing stays in it: calls that do not run at the same time may share one. */
typedef struct {
    float memory[$memory];
    int16_t quantized[$quantized];
} ${name}_work;

/* Put a state at its start. Call this before the first step. */
void ${name}_reset(${name}_state *state);

/* Take one call's samples and give its outputs; the arrays must not overlap. Returns 0; 1 where an index is outside its table: the state is as before. */
int ${name}_step(${name}_state *state, $parameters);

/* The same with the caller's working memory, where ${name}_step takes it from the stack. */
int ${name}_step_with(${name}_state *state, ${name}_work *work, $parameters);

/* Replay the golden case ($calls calls). Returns the largest difference; *passed, unless NULL, becomes 1 where all are in limits. */
float ${name}_selftest(int *passed);

#ifdef __cplusplus
}
#endif

#endif
