import pytest
import torch

from lstm_edge.checkpoint import Run, Scale
from lstm_edge.deploy import deployable
from lstm_edge.lstm1 import LSTM1
from lstm_edge_runtime.manifest import Signal, Task, Trained

SCALE = Scale((10.0, -2.0), (4.0, 0.5))
TARGETS = Scale((100.0, 0.0, 1.0), (10.0, 1.0, 3.0))


def run(inputs=SCALE, targets=None, **options):
    torch.manual_seed(0)
    sizes = {"num_classes": 3, "input_size": 2, "hidden_size": 4, "num_layers": 2, "seq_length": 9, **options}
    return Run(
        model=LSTM1(**sizes).eval(),
        task=Task("classification", "logits", labels=("a", "b", "c")),
        signal=Signal(("ax", "ay"), 10.0, 9),
        trained=Trained(True, 9, 0.5),
        inputs=inputs,
        targets=targets,
        sha256="ab" * 32,
    )


def test_raw_units_go_in_and_predicted_values_come_out_in_their_own_units():
    trained = run(targets=TARGETS)
    module, _, _ = deployable(trained)
    raw = 10 + 4 * torch.randn(4, 6, 2)
    state = (torch.randn(2, 4, 4), torch.randn(2, 4, 4))
    scaled = (raw - torch.tensor(SCALE.mean)) / torch.tensor(SCALE.std)
    expected, (h_n, c_n) = trained.model.forward_with_state(scaled, state)
    expected = expected * torch.tensor(TARGETS.std) + torch.tensor(TARGETS.mean)
    for got, wanted in zip(module(raw, *state), (expected, h_n, c_n), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize(
    "options",
    [{}, {"bidirectional": True}, {"proj_size": 3}, {"batch_first": False}, {"dtype": torch.float64}],
    ids=str,
)
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_the_example_has_the_axes_that_the_configuration_names(options, lengths):
    module, example, config = deployable(run(**options), lengths=lengths)
    assert list(config.inputs) == ["x", "h_0", "c_0", *(["lengths"] if lengths else [])]
    sizes = {"N": 3, "L": 5}
    for tensor, axes in zip(example, config.inputs.values(), strict=True):
        assert tuple(tensor.shape) == tuple(sizes.get(axis, axis) for axis in axes)
    results = module(*example)
    assert len(results) == len(config.outputs) == 3
    assert results[1].shape == example[1].shape
    assert results[2].shape == example[2].shape
    assert config.lengths == ("lengths" if lengths else None)


def test_x_is_batch_first_whatever_the_network_was():
    first, other = run(), run(batch_first=False)
    other.model.load_state_dict(first.model.state_dict())
    module, example, _ = deployable(first)
    for got, wanted in zip(deployable(other)[0](*example), module(*example), strict=True):
        torch.testing.assert_close(got, wanted)


def test_lengths_stop_each_row_at_its_own_last_step():
    module, (x, h_0, c_0, lengths), _ = deployable(run(), lengths=True)
    h_n = module(x, h_0, c_0, lengths)[1]
    for row, length in enumerate(lengths.tolist()):
        one = slice(row, row + 1)
        alone = module(x[one, :length], h_0[:, one], c_0[:, one], torch.tensor([length]))[1]
        torch.testing.assert_close(h_n[:, one], alone)


def test_a_bare_checkpoint_is_deployed_as_it_is():
    trained = Run(model=run().model)
    module, example, config = deployable(trained)
    assert torch.equal(module(*example)[0], trained.model(example[0]))
    assert config.task is None
    assert config.checkpoint_sha256 is None


def test_the_configuration_carries_task_signal_and_hash():
    trained = run()
    config = deployable(trained)[2]
    assert (config.task, config.signal, config.trained, config.checkpoint_sha256) == (
        trained.task,
        trained.signal,
        trained.trained,
        trained.sha256,
    )
