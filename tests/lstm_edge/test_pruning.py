"""Pruning in blocks: the schedule, masks that hold, and programs that leave blocks
out."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import lstm_edge
from lstm_edge.pruning import BLOCKS, density_after
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.targets.native.blocks import find_blocks
from lstm_edge_exporters.targets.native.compiler import compile_program
from lstm_edge_exporters.targets.native.convert import read
from lstm_edge_runtime.errors import InputError


class Tagger(nn.Module):
    def __init__(self, hidden=32, features=20):
        super().__init__()
        self.gru = nn.GRU(features, hidden, 2, batch_first=True)
        self.head = nn.Linear(hidden, 3)

    def forward(self, x):
        return self.head(self.gru(x)[0])


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tagger()


def stored(weight, block):
    """Fraction of the blocks of a weight that are not zero."""
    rows, columns = BLOCKS[block]
    blocks = weight.detach().reshape(len(weight) // rows, rows, -1, columns)
    return float(blocks.abs().amax((1, 3)).gt(0).float().mean())


def matrices(net):
    return [w for name, w in net.gru.named_parameters() if name.startswith("weight")]


def test_the_density_falls_from_the_first_fifth_to_the_last_two_fifths():
    densities = [density_after(0.2, epoch, 50) for epoch in range(1, 51)]
    assert densities[:10] == [1.0] * 10
    assert densities[29:] == [0.2] * 21
    falling = densities[9:30]
    steps = -np.diff(falling)
    assert (steps > 0).all()
    assert (np.diff(steps) < 0).all()  # fast at first, as a cube
    assert density_after(0.2, 20, 50) == pytest.approx(0.2 + 0.8 / 8)


@pytest.mark.parametrize("block", BLOCKS)
def test_pruned_blocks_are_the_smallest_and_stay_zero_in_training(net, block):
    rows, columns = BLOCKS[block]
    weight = net.gru.weight_hh_l0
    with torch.no_grad():
        weight[rows : 2 * rows, :columns] = 9.0
        weight[:rows, columns : 2 * columns] = 1e-4
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05)
    x = torch.randn(4, 6, 20, generator=torch.Generator().manual_seed(1))

    def update():
        loss = net(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    update()  # moments that go on to move weights
    with torch.no_grad():
        weight[:rows, columns : 2 * columns] = 1e-4
    assert lstm_edge.prune(net, 0.25, block=block) == 0.25
    pruned = [w == 0 for w in matrices(net)]
    assert all(stored(w, block) == pytest.approx(0.25, abs=0.02) for w in matrices(net))
    assert weight[rows, 0] != 0
    assert weight[0, columns] == 0
    for _ in range(3):
        update()
    lstm_edge.prune(net, 0.25, block=block)
    for before, now in zip(pruned, matrices(net), strict=True):
        assert torch.equal(before, now == 0)
    assert net.head.weight.ne(0).all()


def test_a_gradual_pruning_has_one_hook_and_ends_at_the_density(net):
    seen = [lstm_edge.prune(net, 0.1, epoch, 10) for epoch in range(1, 11)]
    assert seen[0] == 1.0
    assert seen[-1] == 0.1
    assert len(net.gru._forward_pre_hooks) == 1
    assert all(stored(w, "16x1") == pytest.approx(0.1, abs=0.01) for w in matrices(net))


REFUSALS = {
    "hidden_size 40 is not a multiple of 16.*use 32 or 48": (Tagger(40), {}),
    "density is 0, expected above 0": (Tagger(), {"density": 0}),
    "block is '4x4', expected 16x1 or 8x4": (Tagger(), {"block": "4x4"}),
    "epoch is 3 of 2": (Tagger(), {"epoch": 3, "epochs": 2}),
    "Linear has no nn.LSTM, nn.GRU or nn.RNN": (nn.Linear(3, 3), {}),
}


@pytest.mark.parametrize("message", REFUSALS)
def test_what_can_not_be_pruned_is_refused(message):
    module, options = REFUSALS[message]
    with pytest.raises(InputError, match=message):
        lstm_edge.prune(module, **{"density": 0.5} | options)


def program_of(net, path):
    """The writer of a network's program."""
    config = ExportConfig(inputs={"x": ("N", "L", 20)})
    export(net.eval(), torch.zeros(2, 5, 20), config).save(path)
    model, proto = read(path)
    with model:
        from onnx_ir import from_proto

        return compile_program(from_proto(proto), model.manifest).writer


def test_a_pruned_network_is_exported_without_its_zero_blocks(net, tmp_path):
    dense = len(program_of(net, tmp_path / "dense.onnx").to_bytes())
    lstm_edge.prune(net, 0.2)
    sparse = len(program_of(net, tmp_path / "sparse.onnx").to_bytes())
    weights = 4 * sum(w.numel() for w in matrices(net))
    assert 0.6 * weights < dense - sparse < 0.8 * weights


@pytest.mark.parametrize("removed", [True, False])
def test_masks_of_pytorch_are_exported_as_blocks(net, removed, tmp_path):
    weight = net.gru.weight_hh_l0
    mask = torch.zeros(len(weight) // 16, weight.shape[1])
    mask[:, ::5] = 1
    mask = mask.repeat_interleave(16, 0)
    torch_prune.custom_from_mask(net.gru, "weight_hh_l0", mask)
    if removed:
        torch_prune.remove(net.gru, "weight_hh_l0")
    writer = program_of(net, tmp_path / "masked.onnx")
    found = [find_blocks(array, quantized=False) for array in writer.constants]
    (blocks,) = [blocks for blocks in found if blocks is not None]
    assert set(blocks.columns.tolist()) == {*range(0, 32, 5)}
