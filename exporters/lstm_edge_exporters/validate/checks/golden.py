"""Golden vectors: what was recorded at export or by hand, replayed here."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lstm_edge_runtime.errors import LstmEdgeError, first_line
from lstm_edge_runtime.tolerance import Comparison

from ..config import ValidateConfig
from ..reference import ModelFile
from ..report import Check

__all__ = ["check_golden"]


def check_golden(file: ModelFile, config: ValidateConfig) -> Iterator[Check]:
    """Replay the case in the file as a device's self-test does, and each set of the folder."""
    assert file.model is not None
    if file.manifest.golden is None and config.golden is None:
        yield Check("golden", "skipped", "the file carries no golden case, and no folder was given")
    if file.manifest.golden is not None:
        yield from _own_case(file, config)
    if config.golden is not None:
        yield from _folder(file, config)


def _own_case(file: ModelFile, config: ValidateConfig) -> Iterator[Check]:
    assert file.model is not None
    try:
        found = file.model.selftest()
    except LstmEdgeError as error:
        yield Check("the file's own case", "failed", first_line(error))
        return
    outputs = file.manifest.golden.outputs if file.manifest.golden else {}
    for name, records in (
        ("the file's own case", found.whole),
        ("the file's own case in chunks, states carried", found.chunked),
    ):
        if records:
            yield _judged(
                name, records, config, {each: config.own_limit(array) for each, array in outputs.items()}
            )


def _folder(file: ModelFile, config: ValidateConfig) -> Iterator[Check]:
    assert file.model is not None
    assert config.golden is not None
    from lstm_edge_runtime.golden import read_golden, replay

    folder = read_golden(config.golden)
    try:
        records = replay(file.model, folder)
    except LstmEdgeError as error:
        yield Check(folder.sets[0].name, "failed", first_line(error))
        return
    limits = {
        each.name: {name: config.own_limit(array) for name, array in each.golden.outputs.items()}
        for each in folder.sets
    }
    for name, carried in dict.fromkeys((each.set_name, each.carried) for each in records):
        found = [each.comparison for each in records if (each.set_name, each.carried) == (name, carried)]
        about = f"{name}, states carried from the set before" if carried else name
        yield _judged(about, found, config, limits[name])


def _judged(
    name: str, records: Sequence[Comparison], config: ValidateConfig, limits: dict[str, float]
) -> Check:
    if config.overridden:
        records = [replace(each, limit=limits[each.name], error=each.max_abs) for each in records]
    failed = "; ".join(str(each) for each in records if not each.ok)
    return Check(name, "failed" if failed else "passed", failed, max(records, key=lambda each: each.ratio))
