"""The calls of ``modules.py``: modules of public packages, small, and inputs of any size for them.

A package is imported inside the function that builds its calls, so that a group runs in an environment that
has its own packages only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["GROUPS", "Call"]

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
    inputs: Callable[[int, int], tuple[Any, ...]]
    """The positional arguments of ``forward`` for N rows and a length of so many units."""
    why: str = ""
    """Why no file can hold what ``forward`` does, where that is so."""
    axes: Mapping[str, tuple[str | int, ...]] = field(default_factory=dict)
    """Axes by input, as ``--input`` takes them, where no recurrent layer of PyTorch shows them."""


def _frames(width: int, unit: int = 4) -> Callable[[int, int], tuple[Tensor, ...]]:
    return lambda n, length: (torch.randn(n, unit * length, width),)


def _channels(width: int, unit: int = 8) -> Callable[[int, int], tuple[Tensor, ...]]:
    return lambda n, length: (torch.randn(n, width, unit * length),)


def _wave(unit: int, channels: int = 1) -> Callable[[int, int], tuple[Tensor, ...]]:
    return lambda n, length: (torch.randn(n, channels, unit * length),)


def _tokens(count: int, unit: int = 4) -> Callable[[int, int], tuple[Tensor, ...]]:
    return lambda n, length: (torch.randint(1, count, (n, unit * length)),)


def _lengths(n: int, longest: int) -> Tensor:
    """Return lengths from the longest down, as many packages want them."""
    return torch.tensor([max(1, longest - row) for row in range(n)])


def _with_lengths(width: int, unit: int = 4) -> Callable[[int, int], tuple[Tensor, ...]]:
    return lambda n, length: (torch.randn(n, unit * length, width), _lengths(n, unit * length))


def _denoiser() -> list[Call]:
    from denoiser.demucs import BLSTM, Demucs

    def demucs(**options: Any) -> Callable[[], nn.Module]:
        return lambda: Demucs(hidden=4, depth=2, **options)

    return [
        Call("denoiser", "Demucs", demucs(resample=1), _wave(400)),
        Call("denoiser", "Demucs resample", demucs(resample=2), _wave(400)),
        Call("denoiser", "Demucs causal False", demucs(resample=1, causal=False), _wave(400)),
        Call("denoiser", "BLSTM", lambda: BLSTM(6), lambda n, length: (torch.randn(8 * length, n, 6),)),
    ]


def _demucs() -> list[Call]:
    from demucs.demucs import BLSTM, Demucs

    return [
        Call("demucs", "BLSTM", lambda: BLSTM(6), _channels(6)),
        Call("demucs", "BLSTM max_steps", lambda: BLSTM(6, max_steps=20), _channels(6), _FRAMES),
        Call("demucs", "BLSTM skip", lambda: BLSTM(6, 2, skip=True), _channels(6)),
        Call(
            "demucs",
            "Demucs",
            lambda: Demucs(["a", "b"], audio_channels=1, channels=4, depth=2, lstm_layers=1, resample=False),
            _wave(600),
        ),
    ]


def _openunmix() -> list[Call]:
    from openunmix.model import OpenUnmix

    def inputs(n: int, length: int) -> tuple[Tensor, ...]:
        return (torch.rand(n, 2, 9, 4 * length),)

    return [
        Call("openunmix", "OpenUnmix", lambda: OpenUnmix(9, 2, 8, 2), inputs),
        Call(
            "openunmix",
            "OpenUnmix unidirectional",
            lambda: OpenUnmix(9, 2, 8, 1, unidirectional=True),
            inputs,
        ),
    ]


def _asteroid() -> list[Call]:
    from asteroid.masknn.recurrent import (
        DPRNN,
        DPRNNBlock,
        LSTMMasker,
        MulCatRNN,
        SingleRNN,
        StackedResidualBiRNN,
        StackedResidualRNN,
    )

    return [
        Call("asteroid", "SingleRNN", lambda: SingleRNN("LSTM", 5, 6), _frames(5)),
        Call("asteroid", "MulCatRNN", lambda: MulCatRNN("GRU", 5, 6, bidirectional=True), _frames(5)),
        Call("asteroid", "StackedResidualRNN", lambda: StackedResidualRNN("LSTM", 6, 3), _frames(6)),
        Call("asteroid", "StackedResidualBiRNN", lambda: StackedResidualBiRNN("LSTM", 6, 2), _frames(6)),
        Call(
            "asteroid",
            "DPRNNBlock",
            lambda: DPRNNBlock(6, 5),
            lambda n, length: (torch.randn(n, 6, 4 * length, 3),),
        ),
        Call(
            "asteroid",
            "DPRNN",
            lambda: DPRNN(8, 2, bn_chan=6, hid_size=5, chunk_size=6, n_repeats=1),
            _channels(8),
        ),
        Call("asteroid", "LSTMMasker", lambda: LSTMMasker(8, 2, n_layers=1, hid_size=6), _channels(8)),
    ]


def _espnet_separation() -> list[Call]:
    from espnet2.enh.layers.dprnn import DPRNN, SingleRNN
    from espnet2.enh.layers.skim import SkiM

    return [
        Call("espnet", "SingleRNN", lambda: SingleRNN("LSTM", 5, 6, bidirectional=True), _frames(5)),
        Call(
            "espnet",
            "DPRNN",
            lambda: DPRNN("lstm", 5, 6, 4, num_layers=1),
            lambda n, length: (torch.randn(n, 5, 4 * length, 3),),
        ),
        Call("espnet", "SkiM", lambda: SkiM(5, 6, 4, segment_size=8, num_blocks=1), _frames(5)),
    ]


def _ncps() -> list[Call]:
    from ncps.torch import LTC, CfC
    from ncps.wirings import AutoNCP

    def with_state(n: int, length: int) -> tuple[Tensor, ...]:
        return torch.randn(n, 4 * length, 5), torch.randn(n, 6)

    return [
        Call("ncps", "CfC", lambda: CfC(5, 6), _frames(5), _LOOP),
        Call("ncps", "CfC with its state", lambda: CfC(5, 6), with_state, _LOOP),
        Call("ncps", "LTC", lambda: LTC(5, 6), _frames(5), _LOOP),
        Call("ncps", "CfC of a wiring", lambda: CfC(5, AutoNCP(12, 3)), _frames(5), _LOOP),
    ]


def _torchrl() -> list[Call]:
    from torchrl.modules import GRU, LSTM, GRUCell, LSTMCell

    return [
        Call("torchrl", "LSTM", lambda: LSTM(5, 6, batch_first=True), _frames(5), _LOOP),
        Call("torchrl", "GRU", lambda: GRU(5, 6, batch_first=True), _frames(5), _LOOP),
        Call("torchrl", "LSTMCell", lambda: LSTMCell(5, 6), lambda n, _: (torch.randn(n, 5),)),
        Call("torchrl", "GRUCell", lambda: GRUCell(5, 6), lambda n, _: (torch.randn(n, 5),)),
    ]


def _speechbrain() -> list[Call]:
    from speechbrain.lobes.models.CRDNN import CRDNN
    from speechbrain.lobes.models.dual_path import SBRNNBlock
    from speechbrain.nnet.RNN import GRU, LSTM, RNN, GRUCell, LiGRU, LSTMCell, QuasiRNN, SLiGRU

    def with_fractions(n: int, length: int) -> tuple[Any, ...]:
        return torch.randn(n, 4 * length, 5), None, torch.tensor([1.0, *[0.5] * (n - 1)])

    crdnn = partial(
        CRDNN,
        input_size=8,
        cnn_blocks=1,
        cnn_channels=[4],
        inter_layer_pooling_size=[2],
        rnn_layers=1,
        rnn_neurons=6,
        dnn_blocks=1,
        dnn_neurons=5,
    )
    return [
        Call("speechbrain", "LSTM", lambda: LSTM(6, input_size=5), _frames(5)),
        Call(
            "speechbrain", "GRU bidirectional", lambda: GRU(6, input_size=5, bidirectional=True), _frames(5)
        ),
        Call("speechbrain", "RNN", lambda: RNN(6, input_size=5), _frames(5)),
        Call(
            "speechbrain",
            "LSTM of 4-D input",
            lambda: LSTM(6, input_shape=(None, None, 5, 2)),
            lambda n, length: (torch.randn(n, 4 * length, 5, 2),),
        ),
        Call("speechbrain", "GRU with lengths", lambda: GRU(6, input_size=5), with_fractions),
        Call("speechbrain", "LSTMCell", lambda: LSTMCell(6, input_size=5), lambda n, _: (torch.randn(n, 5),)),
        Call(
            "speechbrain",
            "GRUCell",
            lambda: GRUCell(6, input_size=5, num_layers=2),
            lambda n, _: (torch.randn(n, 5),),
        ),
        Call("speechbrain", "LiGRU", lambda: LiGRU(6, (None, None, 5)), _frames(5), _LOOP),
        Call("speechbrain", "SLiGRU", lambda: SLiGRU(6, (None, None, 5)), _frames(5), _LOOP),
        Call("speechbrain", "QuasiRNN", lambda: QuasiRNN(6, input_size=5), _frames(5), _LOOP),
        Call("speechbrain", "SBRNNBlock", lambda: SBRNNBlock(5, 6, 1), _frames(5)),
        Call("speechbrain", "CRDNN", lambda: crdnn(rnn_class=LSTM), _frames(8)),
        Call(
            "speechbrain",
            "CRDNN time pooling",
            lambda: crdnn(rnn_class=GRU, time_pooling=True),
            _frames(8),
        ),
    ]


def _espnet() -> list[Call]:
    from espnet2.asr.encoder.rnn_encoder import RNNEncoder
    from espnet2.asr.encoder.vgg_rnn_encoder import VGGRNNEncoder
    from espnet2.lm.seq_rnn_lm import SequentialRNNLM

    def words(n: int, length: int) -> tuple[Any, ...]:
        return torch.randint(1, 9, (n, 4 * length)), (torch.zeros(2, n, 6), torch.zeros(2, n, 6))

    return [
        Call("espnet", "SequentialRNNLM", lambda: SequentialRNNLM(9, 6), words),
        Call(
            "espnet",
            "RNNEncoder",
            lambda: RNNEncoder(
                5, num_layers=2, hidden_size=6, output_size=4, use_projection=False, subsample=None
            ),
            _with_lengths(5),
        ),
        Call(
            "espnet",
            "RNNEncoder subsample",
            lambda: RNNEncoder(5, num_layers=2, hidden_size=6, output_size=4, subsample=(2, 1)),
            _with_lengths(5),
            _DATA,
        ),
        Call(
            "espnet",
            "VGGRNNEncoder",
            lambda: VGGRNNEncoder(8, num_layers=1, hidden_size=6, output_size=4),
            _with_lengths(8),
            _DATA,
        ),
    ]


def _easyocr() -> list[Call]:
    from easyocr.model.model import Model
    from easyocr.model.modules import BidirectionalLSTM
    from easyocr.model.vgg_model import Model as VggModel

    def line(n: int, length: int) -> tuple[Tensor, ...]:
        return torch.randn(n, 1, 32, 16 * length), torch.zeros(n, 1)

    return [
        Call("easyocr", "BidirectionalLSTM", lambda: BidirectionalLSTM(5, 6, 4), _frames(5)),
        Call("easyocr", "VGG Model", lambda: VggModel(1, 16, 6, 10), line),
        Call("easyocr", "ResNet Model", lambda: Model(1, 16, 6, 10), line),
    ]


def _doctr() -> list[Call]:
    from doctr.models.recognition.crnn.pytorch import crnn_mobilenet_v3_small, crnn_vgg16_bn

    def line(n: int, length: int) -> tuple[Tensor, ...]:
        return (torch.rand(n, 3, 32, 16 * length),)

    return [
        Call(
            "python-doctr",
            "crnn_vgg16_bn",
            lambda: crnn_vgg16_bn(pretrained=False, exportable=True, rnn_units=8, pretrained_backbone=False),
            line,
        ),
        Call(
            "python-doctr",
            "crnn_mobilenet_v3_small",
            lambda: crnn_mobilenet_v3_small(
                pretrained=False, exportable=True, rnn_units=8, pretrained_backbone=False
            ),
            line,
        ),
    ]


def _torch_rechub() -> list[Call]:
    from torch_rechub.basic.features import SequenceFeature
    from torch_rechub.models.matching.narm import NARM

    def history(n: int, length: int) -> tuple[Any, ...]:
        tokens = torch.randint(1, 20, (n, 4 * length))
        tokens[1:, -1] = 0
        return ({"history": tokens},)

    return [
        Call(
            "torch-rechub",
            "NARM",
            lambda: NARM(SequenceFeature("history", 20, 6), 5, 0.0, 0.0),
            history,
        ),
    ]


def _recbole() -> list[Call]:
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

    return [
        Call("recbole", "GRU4Rec", lambda: GRU4Rec(config, Items()), history),
        Call("recbole", "NARM", lambda: NARM(config, Items()), history),
    ]


def _torch_geometric() -> list[Call]:
    from torch_geometric.nn import JumpingKnowledge

    return [
        Call(
            "torch-geometric",
            "JumpingKnowledge lstm",
            lambda: JumpingKnowledge("lstm", 6, 2),
            lambda _, length: ([torch.randn(4 * length, 6), torch.randn(4 * length, 6)],),
        ),
    ]


def _torch_geometric_temporal() -> list[Call]:
    from torch_geometric_temporal.nn.recurrent.mpnn_lstm import MPNNLSTM

    def graph(n: int, length: int) -> tuple[Tensor, ...]:
        edges = torch.stack([torch.randint(0, 6 * n, (4 * length,)), torch.randint(0, 6 * n, (4 * length,))])
        return torch.randn(6 * n, 3), edges, torch.rand(4 * length)

    return [Call("torch-geometric-temporal", "MPNNLSTM", lambda: MPNNLSTM(3, 5, 2, 3, 0.0), graph)]


def _pypots() -> list[Call]:
    from pypots.nn.modules.grud import BackboneGRUD
    from pypots.nn.modules.segrnn import BackboneSegRNN

    def grud(n: int, _: int) -> tuple[Tensor, ...]:
        return *(torch.rand(n, 8, 3) for _ in range(3)), torch.rand(3), torch.rand(n, 8, 3)

    return [
        Call(
            "pypots",
            "BackboneSegRNN",
            lambda: BackboneSegRNN(12, 3, 8, 4, 6, 0.0),
            lambda n, _: (torch.randn(n, 12, 3),),
        ),
        Call("pypots", "BackboneGRUD", lambda: BackboneGRUD(8, 3, 5), grud, _LOOP),
    ]


def _braindecode() -> list[Call]:
    from braindecode.models import DeepSleepNet

    return [
        Call(
            "braindecode",
            "DeepSleepNet",
            lambda: DeepSleepNet(n_outputs=5, n_chans=1, n_times=3000, sfreq=100, bilstm_hidden_size=6),
            lambda n, _: (torch.randn(n, 1, 3000),),
        ),
    ]


def _torchrecurrent() -> list[Call]:
    import torchrecurrent as tr

    return [
        Call(
            "torchrecurrent",
            "MGU",
            lambda: tr.MGU(5, 6),
            lambda n, length: (torch.randn(4 * length, n, 5),),
            _LOOP,
        ),
        Call(
            "torchrecurrent",
            "PeepholeLSTMCell",
            lambda: tr.PeepholeLSTMCell(5, 6),
            lambda n, _: (torch.randn(n, 5),),
            axes={"inp": ("N", 5)},
        ),
    ]


def _tts() -> list[Call]:
    from TTS.encoder.models.lstm import LSTMSpeakerEncoder
    from TTS.tts.layers.tacotron.tacotron import CBHG
    from TTS.tts.layers.tacotron.tacotron2 import Encoder

    def speaker(**options: Any) -> Callable[[], nn.Module]:
        return lambda: LSTMSpeakerEncoder(5, 4, 6, 2, **options)

    return [
        Call("coqui-tts", "LSTMSpeakerEncoder", speaker(), _channels(5)),
        Call(
            "coqui-tts",
            "LSTMSpeakerEncoder no projection",
            speaker(use_lstm_with_projection=False),
            _channels(5),
        ),
        Call(
            "coqui-tts",
            "Tacotron2 Encoder",
            lambda: Encoder(8),
            lambda n, length: (torch.randn(n, 8, 4 * length), _lengths(n, 4 * length)),
        ),
        Call("coqui-tts", "CBHG", lambda: CBHG(8, 4, 8, [8, 8], 6, 6, 2), _channels(8)),
    ]


def _stanza() -> list[Call]:
    from stanza.models.common.packed_lstm import PackedLSTM

    return [
        Call(
            "stanza", "PackedLSTM", lambda: PackedLSTM(5, 6, 1, batch_first=True, pad=True), _with_lengths(5)
        ),
        Call(
            "stanza",
            "PackedLSTM recurrent dropout",
            lambda: PackedLSTM(5, 6, 1, batch_first=True, pad=True, rec_dropout=0.3),
            _with_lengths(5),
            _DATA,
        ),
    ]


def _flair() -> list[Call]:
    from flair.nn.recurrent import create_recurrent_layer

    return [
        Call(
            "flair",
            "lstm",
            lambda: create_recurrent_layer("lstm", 5, 6, 2, bidirectional=True)[0],
            _frames(5),
        ),
    ]


def _tracetorch() -> list[Call]:
    import tracetorch

    return [
        Call(
            "tracetorch", "LSTM", lambda: tracetorch.rnn.LSTM(5, 6), lambda n, _: (torch.randn(n, 5),), _KEPT
        ),
        Call("tracetorch", "GRU", lambda: tracetorch.rnn.GRU(5, 6), lambda n, _: (torch.randn(n, 5),), _KEPT),
    ]


def _tsai() -> list[Call]:
    from tsai.models.RNN import GRU, LSTM
    from tsai.models.RNN_FCN import LSTM_FCN, MLSTM_FCN
    from tsai.models.RNNPlus import LSTMPlus

    return [
        Call("tsai", "LSTM", lambda: LSTM(3, 2, 6, bidirectional=True), _channels(3)),
        Call("tsai", "GRU", lambda: GRU(3, 2, 6, n_layers=2), _channels(3)),
        Call("tsai", "LSTMPlus", lambda: LSTMPlus(3, 2, hidden_size=6), _channels(3)),
        Call(
            "tsai",
            "LSTM_FCN",
            lambda: LSTM_FCN(3, 2, 12, hidden_size=6, conv_layers=[4, 4, 4]),
            lambda n, _: (torch.randn(n, 3, 12),),
        ),
        Call(
            "tsai",
            "MLSTM_FCN",
            lambda: MLSTM_FCN(3, 2, 12, hidden_size=6, conv_layers=[16, 16, 16]),
            lambda n, _: (torch.randn(n, 3, 12),),
        ),
    ]


def _kraken() -> list[Call]:
    from kraken.lib.vgsl.layers import TransposedSummarizingRNN

    def maps(n: int, length: int) -> tuple[Any, ...]:
        return (torch.randn(n, 4, 1, 4 * length),)

    return [
        Call(
            "kraken",
            "TransposedSummarizingRNN",
            lambda: TransposedSummarizingRNN(4, 6, "b", False, False),
            maps,
        ),
        Call(
            "kraken",
            "TransposedSummarizingRNN summary",
            lambda: TransposedSummarizingRNN(4, 6, "f", False, True),
            maps,
        ),
        Call(
            "kraken",
            "TransposedSummarizingRNN of columns",
            lambda: TransposedSummarizingRNN(4, 6, "b", True, False),
            lambda n, length: (torch.randn(n, 4, 5, 4 * length),),
        ),
    ]


def _mingru() -> list[Call]:
    from minGRU_pytorch.minGRU import minGRU
    from minGRU_pytorch.minLSTM import minLSTM

    return [
        Call("minGRU-pytorch", "minGRU", lambda: minGRU(6), _frames(6), axes={"x": ("N", "L", 6)}),
        Call("minGRU-pytorch", "minLSTM", lambda: minLSTM(6), _frames(6), axes={"x": ("N", "L", 6)}),
    ]


def _torchaudio() -> list[Call]:
    from torchaudio.models import DeepSpeech
    from torchaudio.models.rnnt import _Predictor

    return [
        Call(
            "torchaudio",
            "DeepSpeech",
            lambda: DeepSpeech(5, 6, 4),
            lambda n, length: (torch.randn(n, 1, 4 * length, 5),),
        ),
        Call(
            "torchaudio",
            "RNN-T predictor",
            lambda: _Predictor(9, 5, 6, 1, 5, False, 1e-3, 0.0),
            lambda n, length: (torch.randint(0, 9, (n, 4 * length)), _lengths(n, 4 * length), None),
            _LOOP,
        ),
    ]


def _pytorch_forecasting() -> list[Call]:
    from pytorch_forecasting.models.nn.rnn import GRU, LSTM

    return [
        Call("pytorch-forecasting", "LSTM", lambda: LSTM(5, 6, batch_first=True), _frames(5)),
        Call(
            "pytorch-forecasting",
            "GRU",
            lambda: GRU(5, 6, 2),
            lambda n, length: (torch.randn(4 * length, n, 5),),
        ),
    ]


def _recurrent_classifiers() -> list[Call]:
    from rnn_classifier import RNNClassifier

    return [
        Call(
            "rnn-classifiers",
            f"RNNClassifier {kind}",
            lambda kind=kind: RNNClassifier(5, 8, 3, 1, 6, kind),
            _frames(5),
        )
        for kind in ("lstm", "gru", "simple")
    ]


def _widedeep() -> list[Call]:
    from pytorch_widedeep.models import AttentiveRNN, BasicRNN

    return [
        Call("pytorch-widedeep", "BasicRNN", lambda: BasicRNN(20, 5, hidden_dim=6, n_layers=1), _tokens(20)),
        Call(
            "pytorch-widedeep",
            "AttentiveRNN",
            lambda: AttentiveRNN(20, 5, hidden_dim=6, n_layers=1),
            _tokens(20),
        ),
    ]


def _neuralforecast() -> list[Call]:
    from neuralforecast.models import GRU, LSTM

    def windows(n: int, length: int) -> tuple[Any, ...]:
        return (
            {
                "insample_y": torch.randn(n, 4 * length, 1),
                "futr_exog": None,
                "hist_exog": None,
                "stat_exog": None,
            },
        )

    def network(kind: Any) -> Callable[[], nn.Module]:
        return lambda: kind(2, 4, encoder_hidden_size=6, encoder_n_layers=1, decoder_hidden_size=5)

    return [
        Call("neuralforecast", "LSTM", network(LSTM), windows),
        Call("neuralforecast", "GRU", network(GRU), windows),
    ]


def _xlstm() -> list[Call]:
    from torchxlstm import sLSTM

    return [Call("torchxlstm", "sLSTM", lambda: sLSTM(8, 4, 2, batch_first=True), _frames(8), _LOOP)]


def _sb3() -> list[Call]:
    import gymnasium
    import numpy as np
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
    from sb3_contrib.common.recurrent.type_aliases import RNNStates

    def policy() -> nn.Module:
        return RecurrentActorCriticPolicy(
            gymnasium.spaces.Box(-1, 1, (5,), np.float32),
            gymnasium.spaces.Discrete(3),
            lambda _: 1e-3,
            lstm_hidden_size=6,
        )

    def steps(n: int, _: int) -> tuple[Any, ...]:
        state = (torch.zeros(1, n, 6), torch.zeros(1, n, 6))
        return torch.randn(n, 5), RNNStates(state, state), torch.zeros(n), True

    return [Call("sb3-contrib", "RecurrentActorCriticPolicy", policy, steps, _DATA)]


def _conv_lstm() -> list[Call]:
    from conv_lstm import ConvLSTMCell

    def maps(n: int, length: int) -> tuple[Any, ...]:
        size = (n, 4, 2 * length, 5)
        return torch.randn(n, 3, 2 * length, 5), (torch.zeros(size), torch.zeros(size))

    return [Call("conv-lstm", "ConvLSTMCell", lambda: ConvLSTMCell(3, 4, 3, True), maps)]


def _resemblyzer() -> list[Call]:
    from resemblyzer import VoiceEncoder

    return [Call("Resemblyzer", "VoiceEncoder", lambda: VoiceEncoder("cpu", verbose=False), _frames(40, 8))]


def _allennlp() -> list[Call]:
    from allennlp_light.modules.seq2seq_encoders import LstmSeq2SeqEncoder
    from allennlp_light.modules.seq2vec_encoders import LstmSeq2VecEncoder

    def masked(n: int, length: int) -> tuple[Tensor, ...]:
        longest = 4 * length
        return torch.randn(n, longest, 5), torch.arange(longest) < _lengths(n, longest).unsqueeze(1)

    return [
        Call("allennlp-light", "LstmSeq2SeqEncoder", lambda: LstmSeq2SeqEncoder(5, 6), masked, _DATA),
        Call("allennlp-light", "LstmSeq2VecEncoder", lambda: LstmSeq2VecEncoder(5, 6), masked, _DATA),
    ]


GROUPS: dict[str, tuple[Callable[[], list[Call]], ...]] = {
    "separation": (_denoiser, _demucs, _openunmix, _asteroid, _espnet_separation),
    "control": (_ncps, _torchrl, _sb3),
    "speech": (_speechbrain, _espnet, _tts, _torchaudio, _resemblyzer),
    "language": (_stanza, _flair, _allennlp, _widedeep, _recurrent_classifiers),
    "reading": (_easyocr, _doctr, _kraken),
    "recommendation": (_torch_rechub, _recbole),
    "graphs": (_torch_geometric, _torch_geometric_temporal),
    "series": (_pypots, _braindecode, _tsai, _pytorch_forecasting, _neuralforecast),
    "cells": (_torchrecurrent, _mingru, _tracetorch, _xlstm, _conv_lstm),
}
