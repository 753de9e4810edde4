"""The modules that ``exporters.py`` exports: of public packages, with inputs of any size, and a matrix.

A package is imported inside the function that describes its modules, so that a group runs in an environment
that only has its own packages.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.strangers import matrix

__all__ = ["GROUPS", "Call", "calls_of"]

_LOOP = "a loop over time in Python"
_FRAMES = "a loop over as many frames as the length makes, in Python"
_DATA = "a decision on data"
_KEPT = "a state of the example's batch, kept in an attribute"


@dataclass(frozen=True)
class Call:
    """One module and its inputs."""

    package: str
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int, int], Any]
    """The arguments of ``forward`` for N rows and a length in units of steps: a tuple, or a dict by name."""
    why: str = ""
    """Why no file can express what ``forward`` does, if that is so."""
    axes: Mapping[str, tuple[str | int, ...]] = field(default_factory=dict)
    """Axes by input, as ``--input`` takes them, if no recurrent layer of PyTorch shows them."""
    takes: int = 0
    """Number of inputs of a file that takes all states, of a cell of the matrix."""


Inputs = Callable[[int, int], tuple[Any, ...]]
Calls = dict[str, tuple[Any, ...]]
"""By name: the remaining fields of a ``Call``."""


def _shaped(*shape: int | str, unit: int = 4) -> Inputs:
    """Return one tensor, whose shape names the batch "N" and the time "L", in units of steps."""

    def inputs(n: int, length: int) -> tuple[Tensor, ...]:
        sizes = {"N": n, "L": unit * length}
        return (torch.randn([sizes.get(each, each) for each in shape]),)

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


_SAMPLE = _shaped("N", 5)


def _denoiser() -> Calls:
    from denoiser.demucs import BLSTM, Demucs

    demucs = partial(Demucs, hidden=4, depth=2)
    return {
        "Demucs": (lambda: demucs(resample=1), _channels(1, 400)),
        "Demucs resample": (lambda: demucs(resample=2), _channels(1, 400)),
        "Demucs causal False": (lambda: demucs(resample=1, causal=False), _channels(1, 400)),
        "BLSTM": (lambda: BLSTM(6), _shaped("L", "N", 6, unit=8)),
    }


def _demucs() -> Calls:
    from demucs.demucs import BLSTM, Demucs

    small = {"audio_channels": 1, "channels": 4, "depth": 2, "lstm_layers": 1, "resample": False}
    return {
        "BLSTM": (lambda: BLSTM(6), _channels(6)),
        "BLSTM max_steps": (lambda: BLSTM(6, max_steps=20), _channels(6), _FRAMES),
        "BLSTM skip": (lambda: BLSTM(6, 2, skip=True), _channels(6)),
        "Demucs": (lambda: Demucs(["a", "b"], **small), _channels(1, 600)),
    }


def _openunmix() -> Calls:
    from openunmix.model import OpenUnmix

    def inputs(n: int, length: int) -> tuple[Tensor, ...]:
        return (torch.rand(n, 2, 9, 4 * length),)

    return {
        "OpenUnmix": (lambda: OpenUnmix(9, 2, 8, 2), inputs),
        "OpenUnmix unidirectional": (lambda: OpenUnmix(9, 2, 8, 1, unidirectional=True), inputs),
    }


def _asteroid() -> Calls:
    from asteroid.masknn import recurrent as r

    return {
        "SingleRNN": (lambda: r.SingleRNN("LSTM", 5, 6), _frames(5)),
        "MulCatRNN": (lambda: r.MulCatRNN("GRU", 5, 6, bidirectional=True), _frames(5)),
        "StackedResidualRNN": (lambda: r.StackedResidualRNN("LSTM", 6, 3), _frames(6)),
        "StackedResidualBiRNN": (lambda: r.StackedResidualBiRNN("LSTM", 6, 2), _frames(6)),
        "DPRNNBlock": (lambda: r.DPRNNBlock(6, 5), _shaped("N", 6, "L", 3)),
        "DPRNN": (lambda: r.DPRNN(8, 2, bn_chan=6, hid_size=5, chunk_size=6, n_repeats=1), _channels(8)),
        "LSTMMasker": (lambda: r.LSTMMasker(8, 2, n_layers=1, hid_size=6), _channels(8)),
    }


def _espnet_separation() -> Calls:
    from espnet2.enh.layers.dprnn import DPRNN, SingleRNN
    from espnet2.enh.layers.skim import SkiM

    return {
        "SingleRNN": (lambda: SingleRNN("LSTM", 5, 6, bidirectional=True), _frames(5)),
        "DPRNN": (lambda: DPRNN("lstm", 5, 6, 4, num_layers=1), _shaped("N", 5, "L", 3)),
        "SkiM": (lambda: SkiM(5, 6, 4, segment_size=8, num_blocks=1), _frames(5)),
    }


def _ncps() -> Calls:
    from ncps.torch import LTC, CfC
    from ncps.wirings import AutoNCP

    def with_state(n: int, length: int) -> tuple[Tensor, ...]:
        return torch.randn(n, 4 * length, 5), torch.randn(n, 6)

    return {
        "CfC": (lambda: CfC(5, 6), _frames(5), _LOOP),
        "CfC with its state": (lambda: CfC(5, 6), with_state, _LOOP),
        "LTC": (lambda: LTC(5, 6), _frames(5), _LOOP),
        "CfC of a wiring": (lambda: CfC(5, AutoNCP(12, 3)), _frames(5), _LOOP),
    }


def _torchrl() -> Calls:
    from torchrl.modules import GRU, LSTM, GRUCell, LSTMCell

    return {
        "LSTM": (lambda: LSTM(5, 6, batch_first=True), _frames(5), _LOOP),
        "GRU": (lambda: GRU(5, 6, batch_first=True), _frames(5), _LOOP),
        "LSTMCell": (lambda: LSTMCell(5, 6), _SAMPLE),
        "GRUCell": (lambda: GRUCell(5, 6), _SAMPLE),
    }


def _speechbrain() -> Calls:
    from speechbrain.lobes.models.CRDNN import CRDNN
    from speechbrain.lobes.models.dual_path import SBRNNBlock
    from speechbrain.nnet import RNN as rnn  # noqa: N811

    def with_fractions(n: int, length: int) -> tuple[Any, ...]:
        return torch.randn(n, 4 * length, 5), None, torch.tensor([1.0, *[0.5] * (n - 1)])

    cnn = {"input_size": 8, "cnn_blocks": 1, "cnn_channels": [4], "inter_layer_pooling_size": [2]}
    crdnn = partial(CRDNN, **cnn, rnn_layers=1, rnn_neurons=6, dnn_blocks=1, dnn_neurons=5)
    return {
        "LSTM": (lambda: rnn.LSTM(6, input_size=5), _frames(5)),
        "GRU bidirectional": (lambda: rnn.GRU(6, input_size=5, bidirectional=True), _frames(5)),
        "RNN": (lambda: rnn.RNN(6, input_size=5), _frames(5)),
        "LSTM of 4-D input": (lambda: rnn.LSTM(6, input_shape=(None, None, 5, 2)), _shaped("N", "L", 5, 2)),
        "GRU with lengths": (lambda: rnn.GRU(6, input_size=5), with_fractions),
        "LSTMCell": (lambda: rnn.LSTMCell(6, input_size=5), _SAMPLE),
        "GRUCell": (lambda: rnn.GRUCell(6, input_size=5, num_layers=2), _SAMPLE),
        "LiGRU": (lambda: rnn.LiGRU(6, (None, None, 5)), _frames(5), _LOOP),
        "SLiGRU": (lambda: rnn.SLiGRU(6, (None, None, 5)), _frames(5), _LOOP),
        "QuasiRNN": (lambda: rnn.QuasiRNN(6, input_size=5), _frames(5), _LOOP),
        "SBRNNBlock": (lambda: SBRNNBlock(5, 6, 1), _frames(5)),
        "CRDNN": (lambda: crdnn(rnn_class=rnn.LSTM), _frames(8)),
        "CRDNN time pooling": (lambda: crdnn(rnn_class=rnn.GRU, time_pooling=True), _frames(8)),
    }


def _espnet() -> Calls:
    from espnet2.asr.encoder.rnn_encoder import RNNEncoder
    from espnet2.asr.encoder.vgg_rnn_encoder import VGGRNNEncoder
    from espnet2.lm.seq_rnn_lm import SequentialRNNLM

    def words(n: int, length: int) -> tuple[Any, ...]:
        return torch.randint(1, 9, (n, 4 * length)), (torch.zeros(2, n, 6), torch.zeros(2, n, 6))

    encoder = partial(RNNEncoder, 5, num_layers=2, hidden_size=6, output_size=4)
    vgg = partial(VGGRNNEncoder, 8, num_layers=1, hidden_size=6, output_size=4)
    return {
        "SequentialRNNLM": (lambda: SequentialRNNLM(9, 6), words),
        "RNNEncoder": (lambda: encoder(use_projection=False, subsample=None), _with_lengths("N", "L", 5)),
        "RNNEncoder subsample": (lambda: encoder(subsample=(2, 1)), _with_lengths("N", "L", 5), _DATA),
        "VGGRNNEncoder": (vgg, _with_lengths("N", "L", 8), _DATA),
    }


def _easyocr() -> Calls:
    from easyocr.model.model import Model
    from easyocr.model.modules import BidirectionalLSTM
    from easyocr.model.vgg_model import Model as VggModel

    def line(n: int, length: int) -> tuple[Tensor, ...]:
        return torch.randn(n, 1, 32, 16 * length), torch.zeros(n, 1)

    return {
        "BidirectionalLSTM": (lambda: BidirectionalLSTM(5, 6, 4), _frames(5)),
        "VGG Model": (lambda: VggModel(1, 16, 6, 10), line),
        "ResNet Model": (lambda: Model(1, 16, 6, 10), line),
    }


def _doctr() -> Calls:
    from doctr.models.recognition.crnn import pytorch as crnn

    def line(n: int, length: int) -> tuple[Tensor, ...]:
        return (torch.rand(n, 3, 32, 16 * length),)

    options = {"pretrained": False, "exportable": True, "rnn_units": 8, "pretrained_backbone": False}
    return {
        "crnn_vgg16_bn": (lambda: crnn.crnn_vgg16_bn(**options), line),
        "crnn_mobilenet_v3_small": (lambda: crnn.crnn_mobilenet_v3_small(**options), line),
    }


def _torch_rechub() -> Calls:
    from torch_rechub.basic.features import SequenceFeature
    from torch_rechub.models.matching.narm import NARM

    def history(n: int, length: int) -> tuple[Any, ...]:
        tokens = torch.randint(1, 20, (n, 4 * length))
        tokens[1:, -1] = 0
        return ({"history": tokens},)

    return {"NARM": (lambda: NARM(SequenceFeature("history", 20, 6), 5, 0.0, 0.0), history)}


def _recbole() -> Calls:
    from recbole.model.sequential_recommender.gru4rec import GRU4Rec
    from recbole.model.sequential_recommender.narm import NARM

    class Items:
        def num(self, _: str) -> int:
            return 20

    config = {
        "USER_ID_FIELD": "user", "ITEM_ID_FIELD": "item", "NEG_PREFIX": "neg_", "LIST_SUFFIX": "_list",
        "ITEM_LIST_LENGTH_FIELD": "length", "MAX_ITEM_LIST_LENGTH": 50, "device": "cpu", "embedding_size": 6,
        "hidden_size": 5, "loss_type": "CE", "num_layers": 1, "n_layers": 1, "dropout_prob": 0.0,
        "dropout_probs": [0.0, 0.0],
    }  # fmt: skip

    def history(n: int, length: int) -> tuple[Tensor, ...]:
        return torch.randint(1, 20, (n, 4 * length)), _lengths(n, 4 * length)

    return {
        "GRU4Rec": (lambda: GRU4Rec(config, Items()), history),
        "NARM": (lambda: NARM(config, Items()), history),
    }


def _torch_geometric() -> Calls:
    from torch_geometric.nn import JumpingKnowledge

    def layers(_: int, length: int) -> tuple[list[Tensor]]:
        return ([torch.randn(4 * length, 6), torch.randn(4 * length, 6)],)

    return {"JumpingKnowledge lstm": (lambda: JumpingKnowledge("lstm", 6, 2), layers)}


def _torchrecurrent() -> Calls:
    import torchrecurrent as tr

    return {
        "MGU": (lambda: tr.MGU(5, 6), _shaped("L", "N", 5), _LOOP),
        "PeepholeLSTMCell": (lambda: tr.PeepholeLSTMCell(5, 6), _SAMPLE, "", {"inp": ("N", 5)}),
    }


def _tts() -> Calls:
    from TTS.encoder.models.lstm import LSTMSpeakerEncoder
    from TTS.tts.layers.tacotron.tacotron import CBHG
    from TTS.tts.layers.tacotron.tacotron2 import Encoder

    speaker = partial(LSTMSpeakerEncoder, 5, 4, 6, 2)
    return {
        "LSTMSpeakerEncoder": (speaker, _channels(5)),
        "LSTMSpeakerEncoder no projection": (lambda: speaker(use_lstm_with_projection=False), _channels(5)),
        "Tacotron2 Encoder": (lambda: Encoder(8), _with_lengths("N", 8, "L")),
        "CBHG": (lambda: CBHG(8, 4, 8, [8, 8], 6, 6, 2), _channels(8)),
    }


def _stanza() -> Calls:
    from stanza.models.common.packed_lstm import PackedLSTM

    packed, inputs = partial(PackedLSTM, 5, 6, 1, batch_first=True, pad=True), _with_lengths("N", "L", 5)
    return {
        "PackedLSTM": (packed, inputs),
        "PackedLSTM recurrent dropout": (lambda: packed(rec_dropout=0.3), inputs, _DATA),
    }


def _tracetorch() -> Calls:
    from tracetorch import rnn

    return {
        "LSTM": (lambda: rnn.LSTM(5, 6), _SAMPLE, _KEPT),
        "GRU": (lambda: rnn.GRU(5, 6), _SAMPLE, _KEPT),
    }


def _kraken() -> Calls:
    from kraken.lib.vgsl.layers import TransposedSummarizingRNN as Rnn

    maps = _shaped("N", 4, 1, "L")
    return {
        "TransposedSummarizingRNN": (lambda: Rnn(4, 6, "b", False, False), maps),
        "TransposedSummarizingRNN summary": (lambda: Rnn(4, 6, "f", False, True), maps),
        "TransposedSummarizingRNN of columns": (
            lambda: Rnn(4, 6, "b", True, False),
            _shaped("N", 4, 5, "L"),
        ),
    }


def _mingru() -> Calls:
    from minGRU_pytorch.minGRU import minGRU
    from minGRU_pytorch.minLSTM import minLSTM

    axes = {"x": ("N", "L", 6)}
    return {
        "minGRU": (lambda: minGRU(6), _frames(6), "", axes),
        "minLSTM": (lambda: minLSTM(6), _frames(6), "", axes),
    }


def _torchaudio() -> Calls:
    from torchaudio.models import DeepSpeech
    from torchaudio.models.rnnt import _Predictor

    def words(n: int, length: int) -> tuple[Any, ...]:
        return torch.randint(0, 9, (n, 4 * length)), _lengths(n, 4 * length), None

    return {
        "DeepSpeech": (lambda: DeepSpeech(5, 6, 4), _shaped("N", 1, "L", 5)),
        "RNN-T predictor": (lambda: _Predictor(9, 5, 6, 1, 5, False, 1e-3, 0.0), words, _LOOP),
    }


def _pytorch_forecasting() -> Calls:
    from pytorch_forecasting.models.nn.rnn import GRU, LSTM

    return {
        "LSTM": (lambda: LSTM(5, 6, batch_first=True), _frames(5)),
        "GRU": (lambda: GRU(5, 6, 2), _shaped("L", "N", 5)),
    }


def _recurrent_classifiers() -> Calls:
    from rnn_classifier import RNNClassifier

    kinds = ("lstm", "gru", "simple")
    return {
        f"RNNClassifier {kind}": (partial(RNNClassifier, 5, 8, 3, 1, 6, kind), _frames(5)) for kind in kinds
    }


def _xlstm() -> Calls:
    from torchxlstm import sLSTM

    return {"sLSTM": (lambda: sLSTM(8, 4, 2, batch_first=True), _frames(8), _LOOP)}


def _sb3() -> Calls:
    import gymnasium
    import numpy as np
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
    from sb3_contrib.common.recurrent.type_aliases import RNNStates

    def policy() -> nn.Module:
        box, actions = gymnasium.spaces.Box(-1, 1, (5,), np.float32), gymnasium.spaces.Discrete(3)
        return RecurrentActorCriticPolicy(box, actions, lambda _: 1e-3, lstm_hidden_size=6)

    def steps(n: int, _: int) -> tuple[Any, ...]:
        state = (torch.zeros(1, n, 6), torch.zeros(1, n, 6))
        return torch.randn(n, 5), RNNStates(state, state), torch.zeros(n), True

    return {"RecurrentActorCriticPolicy": (policy, steps, _DATA)}


def _conv_lstm() -> Calls:
    from conv_lstm import ConvLSTMCell

    def maps(n: int, length: int) -> tuple[Any, ...]:
        size = (n, 4, 2 * length, 5)
        return torch.randn(n, 3, 2 * length, 5), (torch.zeros(size), torch.zeros(size))

    return {"ConvLSTMCell": (lambda: ConvLSTMCell(3, 4, 3, True), maps)}


def _resemblyzer() -> Calls:
    from resemblyzer import VoiceEncoder

    return {"VoiceEncoder": (lambda: VoiceEncoder("cpu", verbose=False), _frames(40, 8))}


def _allennlp() -> Calls:
    from allennlp_light.modules.seq2seq_encoders import LstmSeq2SeqEncoder
    from allennlp_light.modules.seq2vec_encoders import LstmSeq2VecEncoder

    def masked(n: int, length: int) -> tuple[Tensor, ...]:
        longest = 4 * length
        return torch.randn(n, longest, 5), torch.arange(longest) < _lengths(n, longest).unsqueeze(1)

    return {
        "LstmSeq2SeqEncoder": (lambda: LstmSeq2SeqEncoder(5, 6), masked, _DATA),
        "LstmSeq2VecEncoder": (lambda: LstmSeq2VecEncoder(5, 6), masked, _DATA),
    }


def _matrix() -> Calls:
    """Every form of a recurrent layer in a small module; the inputs are drawn on from size to size."""
    found: Calls = {}
    for cell in matrix.cells():
        generator = torch.Generator().manual_seed(1)
        inputs = partial(matrix.draw, cell, generator=generator)
        signals = 1 if cell.lengths == "none" else 2
        found[str(cell)] = (partial(matrix.Recurrent, cell), inputs, "", {}, signals + len(cell.widths))
    return found


GROUPS: dict[str, dict[str, Callable[[], Calls]]] = {
    "matrix": {"matrix": _matrix},
    "separation": {
        "denoiser": _denoiser,
        "demucs": _demucs,
        "openunmix": _openunmix,
        "asteroid": _asteroid,
        "espnet": _espnet_separation,
    },
    "control": {"ncps": _ncps, "torchrl": _torchrl, "sb3-contrib": _sb3},
    "speech": {
        "speechbrain": _speechbrain,
        "espnet": _espnet,
        "coqui-tts": _tts,
        "torchaudio": _torchaudio,
        "Resemblyzer": _resemblyzer,
    },
    "language": {"stanza": _stanza, "allennlp-light": _allennlp, "rnn-classifiers": _recurrent_classifiers},
    "reading": {"easyocr": _easyocr, "python-doctr": _doctr, "kraken": _kraken},
    "recommendation": {"torch-rechub": _torch_rechub, "recbole": _recbole},
    "series": {"torch-geometric": _torch_geometric, "pytorch-forecasting": _pytorch_forecasting},
    "cells": {
        "torchrecurrent": _torchrecurrent,
        "minGRU-pytorch": _mingru,
        "tracetorch": _tracetorch,
        "torchxlstm": _xlstm,
        "conv-lstm": _conv_lstm,
    },
}
"""By group and package: what describes its modules."""


def calls_of(group: str) -> Iterator[Call]:
    """Yield the calls of a group; packages that are not installed are left out."""
    for package, describe in GROUPS[group].items():
        try:
            described = describe()
        except ImportError as error:
            print(f"{package} is left out: {error}", flush=True)
            continue
        for name, fields in described.items():
            yield Call(package, name, *fields)
