/* $name.c: the constants and operations of a recurrent network. SPDX-License-Identifier: Apache-2.0 */
#include "$name.h"

#include <math.h>
#include <stddef.h>

#include "lstm_edge_core.h"

$definitions
$operations

const char *const ${name}_labels[] = {$labels};

void ${name}_reset(${name}_state *state) {
    lc_reset((float *)state, $reset, $states);
   $counters
}

int ${name}_step_with(${name}_state *state, ${name}_work *work, $parameters) {
    const lc_base base[] = {$pools, {.to = work->memory}, {.to = work->quantized}, {.to = state}, $bases};
    return lc_run(operations, $count, base);
}

int ${name}_step(${name}_state *state, $parameters) {
    ${name}_work work;
    return ${name}_step_with(state, &work, $forward);
}
