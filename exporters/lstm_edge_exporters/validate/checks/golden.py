"""Golden vectors: what was recorded at export or by hand, replayed here."""

from collections.abc import Iterator
from dataclasses import replace

from lstm_edge_runtime.errors import LstmEdgeError, first_line
from lstm_edge_runtime.golden import GoldenFolder, GoldenSet, read_golden, replay

from .._file import ModelFile
from ..config import ValidateConfig
from ..report import Check

__all__ = ["TITLE", "check"]

TITLE = "Golden vectors"


def check(file: ModelFile, config: ValidateConfig) -> Iterator[Check]:
    """Replay the case in the file, and each set of the folder, also with states carried."""
    folders = []
    golden = file.contract.golden
    if golden is not None:
        inside = GoldenSet("the file's own case", "recorded at export", golden)
        folders.append(GoldenFolder(file.sha256, (inside,)))
    if config.golden is not None:
        folders.append(read_golden(config.golden))
    if not folders:
        yield Check("golden", "skipped", "the file carries no golden case, and no folder was given")
    for folder in folders:
        yield from _replayed(file, _overridden(folder, config))


def _overridden(folder: GoldenFolder, config: ValidateConfig) -> GoldenFolder:
    if not config.overridden:
        return folder
    sets = []
    for each in folder.sets:
        limit = {name: config.own_limit(array) for name, array in each.golden.outputs.items()}
        sets.append(replace(each, golden=each.golden._replace(limit=limit)))
    return replace(folder, sets=tuple(sets))


def _replayed(file: ModelFile, folder: GoldenFolder) -> Iterator[Check]:
    assert file.model is not None
    try:
        records = replay(file.model, folder)
    except LstmEdgeError as error:
        yield Check(folder.sets[0].name, "failed", first_line(error))
        return
    for name, carried in dict.fromkeys((each.set_name, each.carried) for each in records):
        found = [each.comparison for each in records if (each.set_name, each.carried) == (name, carried)]
        failed = "; ".join(str(each) for each in found if not each.ok)
        worst = max(found, key=lambda each: each.ratio)
        about = f"{name}, states carried from the set before" if carried else name
        yield Check(about, "failed" if failed else "passed", failed, worst)
