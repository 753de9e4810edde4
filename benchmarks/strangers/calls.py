"""The modules that ``exporters.py`` exports: of public packages, with inputs of any
size, and a matrix.

A package is only imported when its modules are asked for, so that a group runs in an
environment that only has its own packages.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.strangers import loops, matrix

_LOOP = "a loop over time in Python"
_FRAMES = "a loop over as many frames as the length makes, in Python"
_DATA = "a decision on data"
_KEPT = "a state of the example's batch, kept in an attribute"


class Name:
    """An attribute of a package, imported on first use."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self) -> Any:
        """Import it."""
        module, _, name = self.path.rpartition(".")
        return getattr(importlib.import_module(module), name)


class Build(Name):
    """An object of a package, made on first use; arguments may be such objects or
    names.
    """

    def __init__(self, path: str, *arguments: Any, **options: Any) -> None:
        super().__init__(path)
        self.arguments = arguments
        self.options = options

    def __call__(self) -> Any:
        """Import the class and make the object."""
        made = [item() if isinstance(item, Name) else item for item in self.arguments]
        named = {
            name: item() if isinstance(item, Name) else item
            for name, item in self.options.items()
        }
        return super().__call__()(*made, **named)


@dataclass(frozen=True)
class Call:
    """One module and its inputs."""

    package: str
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int, int], Any]
    """The arguments of ``forward`` for N rows and a length in units of steps: a tuple,
    or a dict by name."""
    why: str = ""
    """Why no file can express ``forward``; empty if one can."""
    axes: Mapping[str, tuple[str | int, ...]] = field(default_factory=dict)
    """Axes by input, as ``--input`` takes them, if no recurrent layer of PyTorch shows
    them."""
    takes: int = 0
    """Number of inputs of a file that takes all states, of a cell of the matrix."""


Inputs = Callable[[int, int], tuple[Any, ...]]


def _shaped(*shape: int | str, unit: int = 4) -> Inputs:
    """Return one tensor, whose shape names the batch "N" and the time "L", in units of
    steps.
    """

    def inputs(n: int, length: int) -> tuple[Tensor, ...]:
        sizes = {"N": n, "L": unit * length}
        return (torch.randn([sizes.get(axis, axis) for axis in shape]),)

    return inputs


def _frames(width: int, unit: int = 4) -> Inputs:
    return _shaped("N", "L", width, unit=unit)


def _channels(width: int, unit: int = 8) -> Inputs:
    return _shaped("N", width, "L", unit=unit)


def _lengths(n: int, longest: int) -> Tensor:
    """Return lengths from the longest down, as many packages want them."""
    return torch.tensor([max(1, longest - row) for row in range(n)])


def _with_lengths(*shape: int | str) -> Inputs:
    return lambda n, length: (*_shaped(*shape)(n, length), _lengths(n, 4 * length))


def _tokens(n: int, length: int, first: int = 1, classes: int = 20) -> Tensor:
    return torch.randint(first, classes, (n, 4 * length))


def _masked(n: int, length: int) -> tuple[Tensor, ...]:
    longest = 4 * length
    return torch.randn(n, longest, 5), torch.arange(longest) < _lengths(
        n, longest
    ).unsqueeze(1)


def _padded_history(n: int, length: int) -> tuple[Any, ...]:
    tokens = _tokens(n, length)
    tokens[1:, -1] = 0
    return ({"history": tokens},)


def _policy_inputs(n: int, _: int) -> tuple[Any, ...]:
    states = Name("sb3_contrib.common.recurrent.type_aliases.RNNStates")()
    state = (torch.zeros(1, n, 6), torch.zeros(1, n, 6))
    return torch.randn(n, 5), states(state, state), torch.zeros(n), True


_INPUTS: dict[str, Inputs] = {
    "words": lambda n, units: (
        _tokens(n, units, classes=9),
        (torch.zeros(2, n, 6), torch.zeros(2, n, 6)),
    ),
    "targets": lambda n, units: (_tokens(n, units, 0, 9), _lengths(n, 4 * units), None),
    "history": lambda n, units: (_tokens(n, units), _lengths(n, 4 * units)),
    "spectra": lambda n, units: (torch.rand(n, 2, 9, 4 * units),),
    "state": lambda n, units: (torch.randn(n, 4 * units, 5), torch.randn(n, 6)),
    "fractions": lambda n, units: (
        torch.randn(n, 4 * units, 5),
        None,
        torch.tensor([1.0, *[0.5] * (n - 1)]),
    ),
    "layers": lambda _, units: (
        [torch.randn(4 * units, 6), torch.randn(4 * units, 6)],
    ),
    "maps": lambda n, units: (
        torch.randn(n, 3, 2 * units, 5),
        (torch.zeros(n, 4, 2 * units, 5), torch.zeros(n, 4, 2 * units, 5)),
    ),
    "line": lambda n, units: (torch.randn(n, 1, 32, 16 * units), torch.zeros(n, 1)),
    "images": lambda n, units: (torch.rand(n, 3, 32, 16 * units),),
}
"""Arguments for N rows and a length of several units."""


class _Items:
    def num(self, _: str) -> int:
        return 20


def _matrix() -> Iterator[Call]:
    """Every form of a recurrent layer in a small module; the inputs are drawn on from
    size to size.
    """
    for cell in matrix.cells():
        generator = torch.Generator().manual_seed(1)
        takes = (1 if cell.lengths == "none" else 2) + len(cell.widths)
        inputs = partial(matrix.draw, cell, generator=generator)
        yield Call(
            "matrix", str(cell), partial(matrix.Recurrent, cell), inputs, takes=takes
        )


def _call(
    package: str,
    name: str,
    path: str,
    inputs: Inputs | str,
    *arguments: Any,
    why: str = "",
    axes: Any = None,
    **options: Any,
) -> Call:
    """Return the call of the class at ``path``, made with ``arguments`` and
    ``options``.
    """
    made = _INPUTS[inputs] if isinstance(inputs, str) else inputs
    return Call(
        package, name, Build(path, *arguments, **options), made, why, axes or {}
    )


_SAMPLE = _shaped("N", 5)
_STEPS = _frames(5)
_WITH_LENGTHS = _with_lengths("N", "L", 5)
_DENOISER = {"hidden": 4, "depth": 2}
_DEMUCS = {
    "audio_channels": 1,
    "channels": 4,
    "depth": 2,
    "lstm_layers": 1,
    "resample": False,
}
_CRDNN: dict[str, Any] = {
    "input_size": 8, "cnn_blocks": 1, "cnn_channels": [4], "inter_layer_pooling_size": [2],
    "rnn_layers": 1, "rnn_neurons": 6, "dnn_blocks": 1, "dnn_neurons": 5,
}  # fmt: skip
_ENCODER = {"num_layers": 2, "hidden_size": 6, "output_size": 4}
_CRNN = {
    "pretrained": False,
    "exportable": True,
    "rnn_units": 8,
    "pretrained_backbone": False,
}
_PACKED = {"batch_first": True, "pad": True}
_RECBOLE = {
    "USER_ID_FIELD": "user", "ITEM_ID_FIELD": "item", "NEG_PREFIX": "neg_", "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "length", "MAX_ITEM_LIST_LENGTH": 50, "device": "cpu", "embedding_size": 6,
    "hidden_size": 5, "loss_type": "CE", "num_layers": 1, "n_layers": 1, "dropout_prob": 0.0,
    "dropout_probs": [0.0, 0.0],
}  # fmt: skip
_ASTEROID = "asteroid.masknn.recurrent."
_RL = "torchrl.modules."
_SPEECH = "speechbrain.nnet.RNN."
_ESPNET = "espnet2.asr.encoder."
_TTS = "TTS.tts.layers.tacotron."


# fmt: off
GROUPS: dict[str, list[Call]] = {
    "matrix": list(_matrix()),
    "loops": list(loops.calls(_call, Build, _frames)),
    "separation": [
        _call("denoiser", "Demucs", "denoiser.demucs.Demucs", _channels(1, 400), resample=1, **_DENOISER),
        _call("denoiser", "Demucs resample", "denoiser.demucs.Demucs", _channels(1, 400), resample=2,
            **_DENOISER),
        _call("denoiser", "Demucs causal False", "denoiser.demucs.Demucs", _channels(1, 400), resample=1,
            causal=False, **_DENOISER),
        _call("denoiser", "BLSTM", "denoiser.demucs.BLSTM", _shaped("L", "N", 6, unit=8), 6),
        _call("demucs", "BLSTM", "demucs.demucs.BLSTM", _channels(6), 6),
        _call("demucs", "BLSTM max_steps", "demucs.demucs.BLSTM", _channels(6), 6, max_steps=20, why=_FRAMES),
        _call("demucs", "BLSTM skip", "demucs.demucs.BLSTM", _channels(6), 6, 2, skip=True),
        _call("demucs", "Demucs", "demucs.demucs.Demucs", _channels(1, 600), ["a", "b"], **_DEMUCS),
        _call("openunmix", "OpenUnmix", "openunmix.model.OpenUnmix", "spectra", 9, 2, 8, 2),
        _call("openunmix", "OpenUnmix unidirectional", "openunmix.model.OpenUnmix", "spectra", 9, 2, 8, 1,
            unidirectional=True),
        _call("asteroid", "SingleRNN", f"{_ASTEROID}SingleRNN", _STEPS, "LSTM", 5, 6),
        _call("asteroid", "MulCatRNN", f"{_ASTEROID}MulCatRNN", _STEPS, "GRU", 5, 6, bidirectional=True),
        _call("asteroid", "StackedResidualRNN", f"{_ASTEROID}StackedResidualRNN", _frames(6), "LSTM", 6, 3),
        _call("asteroid", "StackedResidualBiRNN", f"{_ASTEROID}StackedResidualBiRNN", _frames(6), "LSTM", 6,
            2),
        _call("asteroid", "DPRNNBlock", f"{_ASTEROID}DPRNNBlock", _shaped("N", 6, "L", 3), 6, 5),
        _call("asteroid", "DPRNN", f"{_ASTEROID}DPRNN", _channels(8), 8, 2, bn_chan=6, hid_size=5,
            chunk_size=6, n_repeats=1),
        _call("asteroid", "LSTMMasker", f"{_ASTEROID}LSTMMasker", _channels(8), 8, 2, n_layers=1, hid_size=6),
        _call("espnet", "SingleRNN", "espnet2.enh.layers.dprnn.SingleRNN", _STEPS, "LSTM", 5, 6,
            bidirectional=True),
        _call("espnet", "DPRNN", "espnet2.enh.layers.dprnn.DPRNN", _shaped("N", 5, "L", 3), "lstm", 5, 6, 4,
            num_layers=1),
        _call("espnet", "SkiM", "espnet2.enh.layers.skim.SkiM", _STEPS, 5, 6, 4, segment_size=8,
            num_blocks=1),
    ],
    "control": [
        _call("ncps", "CfC", "ncps.torch.CfC", _STEPS, 5, 6, why=_LOOP),
        _call("ncps", "CfC with its state", "ncps.torch.CfC", "state", 5, 6, why=_LOOP),
        _call("ncps", "LTC", "ncps.torch.LTC", _STEPS, 5, 6, why=_LOOP),
        _call("ncps", "CfC of a wiring", "ncps.torch.CfC", _STEPS, 5, Build("ncps.wirings.AutoNCP", 12, 3),
            why=_LOOP),
        _call("torchrl", "LSTM", f"{_RL}LSTM", _STEPS, 5, 6, batch_first=True, why=_LOOP),
        _call("torchrl", "GRU", f"{_RL}GRU", _STEPS, 5, 6, batch_first=True, why=_LOOP),
        _call("torchrl", "LSTMCell", f"{_RL}LSTMCell", _SAMPLE, 5, 6),
        _call("torchrl", "GRUCell", f"{_RL}GRUCell", _SAMPLE, 5, 6),
        _call(
            *("sb3-contrib", "RecurrentActorCriticPolicy"),
            *("sb3_contrib.common.recurrent.policies.RecurrentActorCriticPolicy", _policy_inputs),
            Build("gymnasium.spaces.Box", -1, 1, (5,), np.float32),
            Build("gymnasium.spaces.Discrete", 3),
            lambda _: 1e-3,
            lstm_hidden_size=6,
            why=_DATA,
        ),
    ],
    "speech": [
        _call("speechbrain", "LSTM", f"{_SPEECH}LSTM", _STEPS, 6, input_size=5),
        _call("speechbrain", "GRU bidirectional", f"{_SPEECH}GRU", _STEPS, 6, input_size=5,
            bidirectional=True),
        _call("speechbrain", "RNN", f"{_SPEECH}RNN", _STEPS, 6, input_size=5),
        _call("speechbrain", "LSTM of 4-D input", f"{_SPEECH}LSTM", _shaped("N", "L", 5, 2), 6,
            input_shape=(None, None, 5, 2)),
        _call("speechbrain", "GRU with lengths", f"{_SPEECH}GRU", "fractions", 6, input_size=5),
        _call("speechbrain", "LSTMCell", f"{_SPEECH}LSTMCell", _SAMPLE, 6, input_size=5),
        _call("speechbrain", "GRUCell", f"{_SPEECH}GRUCell", _SAMPLE, 6, input_size=5, num_layers=2),
        _call("speechbrain", "LiGRU", f"{_SPEECH}LiGRU", _STEPS, 6, (None, None, 5), why=_LOOP),
        _call("speechbrain", "SLiGRU", f"{_SPEECH}SLiGRU", _STEPS, 6, (None, None, 5), why=_LOOP),
        _call("speechbrain", "QuasiRNN", f"{_SPEECH}QuasiRNN", _STEPS, 6, input_size=5, why=_LOOP),
        _call("speechbrain", "SBRNNBlock", "speechbrain.lobes.models.dual_path.SBRNNBlock", _STEPS, 5, 6, 1),
        _call("speechbrain", "CRDNN", "speechbrain.lobes.models.CRDNN.CRDNN", _frames(8),
            rnn_class=Name(f"{_SPEECH}LSTM"), **_CRDNN),
        _call("speechbrain", "CRDNN time pooling", "speechbrain.lobes.models.CRDNN.CRDNN", _frames(8),
            rnn_class=Name(f"{_SPEECH}GRU"), time_pooling=True, **_CRDNN),
        _call("espnet", "SequentialRNNLM", "espnet2.lm.seq_rnn_lm.SequentialRNNLM", "words", 9, 6),
        _call("espnet", "RNNEncoder", f"{_ESPNET}rnn_encoder.RNNEncoder", _WITH_LENGTHS, 5,
            use_projection=False, subsample=None, **_ENCODER),
        _call("espnet", "RNNEncoder subsample", f"{_ESPNET}rnn_encoder.RNNEncoder", _WITH_LENGTHS, 5,
            subsample=(2, 1), why=_DATA, **_ENCODER),
        _call("espnet", "VGGRNNEncoder", f"{_ESPNET}vgg_rnn_encoder.VGGRNNEncoder",
            _with_lengths("N", "L", 8), 8, why=_DATA, **{**_ENCODER, "num_layers": 1}),
        _call("coqui-tts", "LSTMSpeakerEncoder", "TTS.encoder.models.lstm.LSTMSpeakerEncoder", _channels(5),
            5, 4, 6, 2),
        _call("coqui-tts", "LSTMSpeakerEncoder no projection", "TTS.encoder.models.lstm.LSTMSpeakerEncoder",
            _channels(5), 5, 4, 6, 2, use_lstm_with_projection=False),
        _call("coqui-tts", "Tacotron2 Encoder", f"{_TTS}tacotron2.Encoder", _with_lengths("N", 8, "L"), 8),
        _call("coqui-tts", "CBHG", f"{_TTS}tacotron.CBHG", _channels(8), 8, 4, 8, [8, 8], 6, 6, 2),
        _call("torchaudio", "DeepSpeech", "torchaudio.models.DeepSpeech", _shaped("N", 1, "L", 5), 5, 6, 4),
        _call("torchaudio", "RNN-T predictor", "torchaudio.models.rnnt._Predictor", "targets", 9, 5, 6, 1, 5,
            False, 1e-3, 0.0, why=_LOOP),
        _call("Resemblyzer", "VoiceEncoder", "resemblyzer.VoiceEncoder", _frames(40, 8), "cpu",
            verbose=False),
    ],
    "language": [
        _call("stanza", "PackedLSTM", "stanza.models.common.packed_lstm.PackedLSTM", _WITH_LENGTHS, 5, 6, 1,
            **_PACKED),
        _call("stanza", "PackedLSTM recurrent dropout", "stanza.models.common.packed_lstm.PackedLSTM",
            _WITH_LENGTHS, 5, 6, 1, rec_dropout=0.3, why=_DATA, **_PACKED),
        _call("allennlp-light", "LstmSeq2SeqEncoder",
            "allennlp_light.modules.seq2seq_encoders.LstmSeq2SeqEncoder", _masked, 5, 6, why=_DATA),
        _call("allennlp-light", "LstmSeq2VecEncoder",
            "allennlp_light.modules.seq2vec_encoders.LstmSeq2VecEncoder", _masked, 5, 6, why=_DATA),
        *(_call("rnn-classifiers", f"RNNClassifier {kind}", "rnn_classifier.RNNClassifier", _STEPS, 5, 8, 3,
            1, 6, kind) for kind in ("lstm", "gru", "simple")),
    ],
    "reading": [
        _call("easyocr", "BidirectionalLSTM", "easyocr.model.modules.BidirectionalLSTM", _STEPS, 5, 6, 4),
        _call("easyocr", "VGG Model", "easyocr.model.vgg_model.Model", "line", 1, 16, 6, 10),
        _call("easyocr", "ResNet Model", "easyocr.model.model.Model", "line", 1, 16, 6, 10),
        *(_call("python-doctr", name, f"doctr.models.recognition.crnn.pytorch.{name}", "images",
            **_CRNN) for name in ("crnn_vgg16_bn", "crnn_mobilenet_v3_small")),
        *(_call("kraken", f"TransposedSummarizingRNN{words}",
            "kraken.lib.vgsl.layers.TransposedSummarizingRNN", _shaped("N", 4, height, "L"), 4, 6,
            *options) for words, height, options in (("", 1, ("b", False, False)), (" summary", 1,
            ("f", False, True)), (" of columns", 5, ("b", True, False)))),
    ],
    "recommendation": [
        _call("torch-rechub", "NARM", "torch_rechub.models.matching.narm.NARM", _padded_history,
            Build("torch_rechub.basic.features.SequenceFeature", "history", 20, 6), 5, 0.0, 0.0),
        *(_call("recbole", name, f"recbole.model.sequential_recommender.{name.lower()}.{name}", "history",
            _RECBOLE, _Items()) for name in ("GRU4Rec", "NARM")),
    ],
    "series": [
        _call("torch-geometric", "JumpingKnowledge lstm", "torch_geometric.nn.JumpingKnowledge", "layers",
            "lstm", 6, 2, axes={"xs_0": ("N", 6), "xs_1": ("N", 6)}),
        _call("pytorch-forecasting", "LSTM", "pytorch_forecasting.models.nn.rnn.LSTM", _STEPS, 5, 6,
            batch_first=True),
        _call("pytorch-forecasting", "GRU", "pytorch_forecasting.models.nn.rnn.GRU", _shaped("L", "N", 5), 5,
            6, 2),
    ],
    "cells": [
        _call("torchrecurrent", "MGU", "torchrecurrent.MGU", _shaped("L", "N", 5), 5, 6, why=_LOOP),
        _call("torchrecurrent", "PeepholeLSTMCell", "torchrecurrent.PeepholeLSTMCell", _SAMPLE, 5, 6,
            axes={"inp": ("N", 5)}),
        *(_call("minGRU-pytorch", name, f"minGRU_pytorch.{name}.{name}", _frames(6), 6,
            axes={"x": ("N", "L", 6)}) for name in ("minGRU", "minLSTM")),
        *(_call("tracetorch", name, f"tracetorch.rnn.{name}", _SAMPLE, 5, 6, why=_KEPT) for name in ("LSTM",
            "GRU")),
        _call("torchxlstm", "sLSTM", "torchxlstm.sLSTM", _frames(8), 8, 4, 2, batch_first=True, why=_LOOP),
        _call("conv-lstm", "ConvLSTMCell", "conv_lstm.ConvLSTMCell", "maps", 3, 4, 3, True,
            axes={"input_tensor": ("N", 3, "H", 5)}),
    ],
}
# fmt: on


def calls_of(group: str) -> Iterator[Call]:
    """Yield the calls of a group; packages that are not installed are left out."""
    missing = set[str]()
    for call in GROUPS[group]:
        try:
            if isinstance(call.build, Build):
                for argument in (
                    call.build,
                    *call.build.arguments,
                    *call.build.options.values(),
                ):
                    if isinstance(argument, Name):
                        importlib.import_module(argument.path.rpartition(".")[0])
        except ImportError as error:
            if call.package not in missing:
                print(f"{call.package} is left out: {error}", flush=True)
            missing.add(call.package)
        if call.package not in missing:
            yield call
