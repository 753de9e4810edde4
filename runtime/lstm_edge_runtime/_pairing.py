"""Finding the states of a file that has no manifest: by well-known names, then by shape."""

import re
from collections.abc import Sequence

from .axes import describe, fits
from .errors import ContractError
from .manifest import TensorSpec

__all__ = ["pair_states"]

_STATE_WORD = (
    r"(^|[_./])(h|c|hx|cx|hidden|cell|state|states|cache|memory|mem|buffer|rnn|gru|lstm|carry)"
    r"([_./]?(\d+|n|t|in|out|init|prev|state|states))*$"
)
_BEFORE = (
    r"^(initial|init|prev|previous|past|old|in|input)[_./]",
    r"([_./](in|init|prev|previous)|[_./]?0)$",
)
_AFTER = (r"^(new|next|present|final|last|updated|out|output|y)[_./]", r"([_./](out|new|next)|[_./]?[n1])$")


def pair_states(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    example: str = "load(..., states={{{0!r}: {1!r}}})",
) -> list[tuple[TensorSpec, TensorSpec]]:
    """Pair each input that is called like a state with the output that continues it.

    ``h``/``hn``, ``h_0``/``h_n``, ``state``/``stateN``, ``state0``/``new_state0``, ``h_in``/``h_out``,
    ``past_c``/``present_c``, ``initial_h``/``Y_h`` and their like are known. Where names do not decide,
    the only output of the same dtype and shape does. An input whose like no output has is not a state.
    ``example`` shows how to name a pair where it is asked for.

    Raises:
        ContractError: several outputs could continue a state, or one could continue several.
    """
    named: dict[str, TensorSpec] = {}
    open_inputs: list[TensorSpec] = []
    for entering in (spec for spec in inputs if re.search(_STATE_WORD, spec.name, re.IGNORECASE)):
        matches = _best_named(entering, outputs)
        if len(matches) == 1 and matches[0] not in named.values():
            named[entering.name] = matches[0]
        else:
            open_inputs.append(entering)
    left = [spec for spec in outputs if spec not in named.values()]
    for entering in open_inputs:
        matches = [leaving for leaving in left if _alike(entering, leaving)]
        rivals = [other.name for other in open_inputs if any(_alike(other, leaving) for leaving in matches)]
        if matches and (len(matches) > 1 or len(rivals) > 1):
            first = matches[0].name
            raise ContractError(
                f"which output continues {', '.join(rivals)} {entering.dtype} {describe(entering.axes)}? "
                f"candidates: {', '.join(spec.name for spec in matches)}; "
                f"name them: {example.format(entering.name, first)}"
            )
        if matches:
            named[entering.name] = matches[0]
    return [(spec, named[spec.name]) for spec in inputs if spec.name in named]


def _best_named(entering: TensorSpec, outputs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Return the outputs that share the longest stem of their names with ``entering``'s."""
    shared = {
        leaving.name: max(map(len, _stems(entering.name, _BEFORE) & _stems(leaving.name, _AFTER)), default=0)
        for leaving in outputs
        if entering.dtype == leaving.dtype and fits(entering.axes, leaving.axes)
    }
    longest = max(shared.values(), default=0)
    return [leaving for leaving in outputs if longest and shared.get(leaving.name) == longest]


def _stems(name: str, marks: tuple[str, str]) -> set[str]:
    """Return ``name`` with and without its prefix and its suffix."""
    stems = {name.lower()}
    for mark in marks:
        stems |= {re.sub(mark, "", stem) for stem in stems}
    return stems - {""}


def _alike(entering: TensorSpec, leaving: TensorSpec) -> bool:
    """Tell whether shapes alone make a pair: equal axes, or ones that the output leaves without a name."""
    axes = zip(entering.axes, leaving.axes, strict=False)
    return (
        entering.dtype == leaving.dtype
        and len(entering.axes) == len(leaving.axes)
        and all(a == b or str(b).startswith(f"{leaving.name}.") for a, b in axes)
    )
