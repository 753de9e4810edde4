"""Data that would be read, split or resampled into wrong results in silence."""

import re

import numpy as np
import pytest

from lstm_edge.data.config import DataConfig, ReadConfig
from lstm_edge.data.read import read_data
from lstm_edge.data.split import split_series
from lstm_edge_runtime.errors import InputError


def write(folder, **files):
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def times(seconds):
    return [
        np.datetime_as_string(np.datetime64(int(s * 1000), "ms"), unit="ms")
        for s in seconds
    ]


def rows(order, label=None):
    """Return CSV text with a column of times or numbers."""
    lines = ["t,a,label"]
    for index, t in enumerate(order):
        lines.append(f"{t},{index % 7},{label or 'uv'[index % 2]}")
    return "\n".join(lines) + "\n"


def subjects(count):
    """Return CSV text with ten series, and their subjects."""
    lines = ["series,group,a,label"]
    for series in range(10):
        subject = series % count
        lines += [f"{series},{subject},{step},{'uv'[step % 2]}" for step in (1, 3, 2)]
    return "\n".join(lines) + "\n"


def test_hidden_folders_are_no_classes(tmp_path):
    copy = ".ipynb_checkpoints__01-checkpoint"
    write(tmp_path / "d", walk__01="a\n1\n2\n", rest__01="a\n3\n4\n")
    write(tmp_path / "d" / "walk", **{copy: "a\n1\n2\n"})
    data = read_data(tmp_path / "d")
    assert (data.classes, len(data.series)) == (("rest", "walk"), 2)


@pytest.mark.parametrize("options", [{"forecast": ("a",)}, {"targets": ("b",)}])
def test_a_label_is_no_feature_next_to_other_targets(tmp_path, options):
    write(tmp_path, d="a,b,label\n1,3,0\n2,4,1\n5,1,0\n")
    data = read_data(tmp_path / "d.csv", ReadConfig(**options))
    assert "label" not in data.signal.features


def test_milliseconds_do_not_change_the_rate(tmp_path):
    for rate in (30, 60, 64, 90, 120):
        write(tmp_path, d=rows(times(np.arange(360) / rate)))
        data = read_data(tmp_path / "d.csv", ReadConfig(order="t"))
        assert data.signal.sampling_rate == pytest.approx(rate, rel=1e-3)


def test_a_subject_is_in_one_set_or_refused(tmp_path):
    write(tmp_path, few=subjects(2), enough=subjects(5))
    with pytest.raises(InputError, match="2 groups can't fill 3 sets"):
        split_series(read_data(tmp_path / "few.csv"), DataConfig(), 0)
    split = split_series(read_data(tmp_path / "enough.csv"), DataConfig(), 0)
    sets = {record.group: record.split for record in split.data.series}
    assert all(sets[record.group] == record.split for record in split.data.series)
    data = read_data(tmp_path / "few.csv", sets={"test": tmp_path / "enough.csv"})
    with pytest.raises(InputError, match="'0' is in several sets"):
        split_series(data, DataConfig(), 0)


def test_the_daily_files_of_a_device_are_in_one_set(tmp_path):
    day = subjects(2).replace("group", "other")
    write(tmp_path / "days", **{f"day{number}": day for number in range(6)})
    split = split_series(
        read_data(tmp_path / "days", ReadConfig(features=("a",))), DataConfig(), 0
    )
    sets = {}
    for record in split.data.series:
        device = record.name.rpartition(": ")[2]
        assert sets.setdefault(device, record.split) == record.split
    assert len(set(sets.values())) == 3


REFUSED = {
    "a rate of numbers": (
        {"d": rows(np.arange(20) / 100)},
        {"order": "t", "sampling_rate": 50.0},
        "'t' holds numbers in steps of 0.01, whose unit is unknown",
    ),
    "numbers of two rates": (
        {"d__x": rows(np.arange(20) / 100), "d__y": rows(np.arange(20) / 25)},
        {"order": "t"},
        "in steps of 0.01 .* and 0.04",
    ),
    "samples across a gap": (
        {"d": rows(times([*np.arange(100) / 10, *(600 + np.arange(100) / 10)]))},
        {"order": "t", "sampling_rate": 10.0},
        "a gap of 590.1 seconds",
    ),
    "the hour that comes twice": (
        {"d": rows(times([7200, 9000, 10799, 7201, 9001, 10800, 11000]))},
        {"order": "t"},
        "times go back by 3598 seconds",
    ),
    "a forecast of filled values": (
        {"d": "a,b\n1,2\n,3\n4,5\n"},
        {"forecast": ("a",), "missing": "interpolate"},
        "fills a gap from the value after it, which forecast predicts",
    ),
    "two names of one number": (
        {"d": "a,label\n1,1\n2,01\n3,2\n"},
        {},
        "classes '01' and '1' are the same number",
    ),
    "nested folders": (
        {"d__s1__walk__x": "a\n1\n2\n", "d__s2__rest__x": "a\n1\n2\n"},
        {},
        "one level of folders",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_wrong_in_silence_is_refused(tmp_path, case):
    files, options, message = REFUSED[case]
    write(tmp_path, **files)
    path = next(tmp_path.glob("d*"))
    with pytest.raises(InputError, match=message) as caught:
        read_data(path, ReadConfig(**options))
    assert not re.search("\n", str(caught.value))


def test_a_rate_names_the_steps_of_a_counter(tmp_path):
    write(tmp_path, d=rows(range(20)))
    data = read_data(tmp_path / "d.csv", ReadConfig(order="t", sampling_rate=50.0))
    assert (data.signal.sampling_rate, len(data.series[0])) == (50.0, 20)


@pytest.mark.parametrize(("tone", "amplitude"), [(5, 1), (18, 0)])
def test_a_lower_rate_keeps_low_tones_and_no_images_of_high_ones(
    tmp_path, tone, amplitude
):
    at = np.arange(2000) / 100
    lines = [
        f"{t},{np.sin(2 * np.pi * tone * s)},u"
        for t, s in zip(times(at), at, strict=True)
    ]
    write(tmp_path, d="t,a,label\n" + "\n".join(lines))
    data = read_data(tmp_path / "d.csv", ReadConfig(order="t", sampling_rate=25.0))
    inner = data.series[0].x[50:-50, 0]
    assert len(data.series[0]) == 500
    assert np.sqrt(2) * inner.std() == pytest.approx(amplitude, abs=0.03)
