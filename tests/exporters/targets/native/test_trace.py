"""The first operation of a program that is wrong on a machine, and the list of its
operations."""

import struct
import zlib

import pytest
import torch
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.targets.native.convert import to_native
from lstm_edge_exporters.targets.native.listing import ProgramFile
from lstm_edge_exporters.targets.native.trace import trace
from lstm_edge_runtime.errors import InputError, UnsupportedError
from lstm_edge_runtime.native import installed

pytestmark = pytest.mark.skipif(not installed(), reason="lstm-edge-native is missing")


class Front(nn.Module):
    """A convolution with look-ahead and a stride, two layers, a norm and a head."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 5, stride=2, padding=2)
        self.rnn = nn.LSTM(4, 16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        frames = torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        return self.head(self.norm(self.rnn(frames)[0]))


class LastFrame(nn.Module):
    """A vocabulary, a layer over rows of their own length, and a head of the end."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.rnn = nn.GRU(6, 16, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(
            self.table(x), lengths, batch_first=True, enforce_sorted=False
        )
        return self.head(self.rnn(packed)[1][-1])


class Leaky(nn.Module):
    """A loop over time."""

    def forward(self, x):
        level = torch.zeros(x.shape[0], 3)
        levels = []
        for t in range(x.shape[1]):
            level = 0.9 * level + torch.tanh(x[:, t])
            levels.append(level)
        return torch.stack(levels, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The networks as ``.onnx`` and ``.lep``."""
    folder = tmp_path_factory.mktemp("trace")
    torch.manual_seed(0)
    stream = ExportConfig(outputs=("logits",), stream=True)
    lengths = ExportConfig(inputs={"x": ("N", "L"), "lengths": ("N",)})
    words = torch.randint(0, 11, (3, 9)), torch.tensor([4, 9, 7])
    made = {
        "front": export(Front().eval(), torch.randn(2, 24, 3), stream),
        "words": export(LastFrame().eval(), words, lengths),
        "loop": export(Leaky().eval(), torch.randn(2, 6, 3)),
    }
    for name, artifact in made.items():
        artifact.save(folder / f"{name}.onnx")
        program = to_native(folder / f"{name}.onnx")
        (folder / f"{name}.lep").write_bytes(program)
    return folder


def sealed(data: bytearray) -> bytes:
    struct.pack_into("<I", data, 12, zlib.crc32(bytes(data[16:])))
    return bytes(data)


def with_changed_constant(content: bytes, number: int) -> bytes:
    """Return the program with the first number of a constant changed by a quarter."""
    (offset,) = struct.unpack_from("<Q", content, 64 + 24 * number)
    data = bytearray(content)
    at = offset
    (value,) = struct.unpack_from("<f", data, at)
    struct.pack_into("<f", data, at, value + 0.25)
    return sealed(data)


@pytest.mark.parametrize("name", ["front", "words", "loop"])
def test_a_machine_that_is_right_differs_nowhere(folder, name):
    traced = trace(folder / f"{name}.lep", folder / f"{name}.onnx")
    assert traced.first is None
    assert traced.worst < 0.5
    programs = ProgramFile((folder / f"{name}.lep").read_bytes()).operations
    writing = sum(bool(operation.writes) for operation in programs)
    assert writing - traced.compared <= 2
    assert traced.operations == len(programs)


@pytest.mark.parametrize("name", ["front", "words"])
def test_the_operation_of_a_changed_constant_is_named(folder, tmp_path, name):
    content = (folder / f"{name}.lep").read_bytes()
    changed = 0
    for number, operation in enumerate(ProgramFile(content).operations):
        for field in ("weights", "w", "r", "bias", "scale", "table", "values"):
            constant = operation.named.get(field, 0xFFFFFFFF)
            if constant == 0xFFFFFFFF:
                continue
            (tmp_path / "bad.lep").write_bytes(with_changed_constant(content, constant))
            first = trace(tmp_path / "bad.lep", folder / f"{name}.onnx").first
            if field == "table" and first is None:
                continue  # no word of the golden cases is in this row
            assert first is not None, (number, operation.code.name, field)
            assert number in (first.number, *first.unknown), (field, str(first))
            changed += 1
    assert changed >= 4


def test_a_difference_says_where_it_is(folder, tmp_path):
    content = (folder / "front.lep").read_bytes()
    operations = ProgramFile(content).operations
    number = [operation.code.name for operation in operations].index("NORMALIZE")
    bias = operations[number].argument("bias")
    (tmp_path / "bad.lep").write_bytes(with_changed_constant(content, bias))
    first = trace(tmp_path / "bad.lep", folder / "front.onnx").first
    assert (first.case, first.row, first.step) == (1, 0, 0)
    assert first.operation == "NORMALIZE"
    assert first.computed - first.expected == pytest.approx(0.25, abs=1e-4)
    assert f"operation {number} (NORMALIZE) is the first that differs" in str(first)
    assert "LayerNormalization" in str(first)


def test_another_file_is_refused(folder):
    with pytest.raises(InputError, match="is not the file that"):
        trace(folder / "loop.lep", folder / "front.onnx")
    with pytest.raises(InputError, match="is not a program"):
        trace(folder / "loop.onnx", folder / "loop.onnx")


def test_a_program_of_another_compiler_is_refused(folder, tmp_path):
    content = (folder / "front.lep").read_bytes()
    file = ProgramFile(content)
    names = [operation.code.name for operation in file.operations]
    counts = struct.unpack_from("<5I", content, 24)
    at = 64 + 24 * counts[0] + 8 * counts[1] + 32 * sum(counts[2:])
    data = bytearray(content)
    struct.pack_into("<I", data, at + 128 * names.index("UNARY") + 12, 3)  # tanh
    (tmp_path / "tanh.lep").write_bytes(sealed(data))
    with pytest.raises(InputError, match="another version of lstm-edge"):
        trace(tmp_path / "tanh.lep", folder / "front.onnx")


def test_int8_is_refused(folder, tmp_path):
    from lstm_edge_exporters import quantize

    quantize(folder / "front.onnx").save(tmp_path / "int8.onnx")
    (tmp_path / "int8.lep").write_bytes(to_native(tmp_path / "int8.onnx"))
    with pytest.raises(UnsupportedError, match="trace the float32 file"):
        trace(tmp_path / "int8.lep", tmp_path / "int8.onnx")


def test_operations_are_listed_with_weights_and_names(folder):
    listed = ProgramFile((folder / "front.lep").read_bytes()).listed()
    layers = [row for row in listed if row.operation == "LSTM"]
    assert [row.macs for row in layers] == [64 * (6 + 16), 64 * (18 + 16)]
    assert layers[0].bytes == 4 * (layers[0].macs + 64)
    assert layers[0].writes == ("new h_0[0] (16)", "new c_0[0] (16)")
    assert listed[0].reads[0] == "x (6)"
    assert [row.writes for row in listed if row.operation == "LINEAR"][-1] == (
        "logits (2)",
    )
    assert sum(row.share for row in listed) == pytest.approx(1)
    assert [row.number for row in listed] == list(range(len(listed)))


def test_blocks_of_zeros_count_as_what_is_stored(tmp_path):
    torch.manual_seed(0)
    layer = nn.GRU(32, 32, batch_first=True)
    with torch.no_grad():
        for weights in (layer.weight_ih_l0, layer.weight_hh_l0):
            kept = torch.arange(weights.shape[1]) % 4 == 0
            weights *= kept
    export(layer.eval(), torch.randn(2, 5, 32)).save(tmp_path / "gru.onnx")
    (row,) = [
        row
        for row in ProgramFile(to_native(tmp_path / "gru.onnx")).listed()
        if row.operation == "GRU"
    ]
    assert row.macs == 96 * (32 + 32) // 4
    assert all("density 0.25" in text for text in row.weights)
    assert row.bytes < 4 * 96 * (32 + 32) // 2
