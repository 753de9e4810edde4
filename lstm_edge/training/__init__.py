"""Training an LSTM1 from a data file into a run folder."""

from ..data.config import DataConfig
from .config import TrainConfig
from .loop import Epoch
from .resume import read_configs
from .train import train

__all__ = ["DataConfig", "Epoch", "TrainConfig", "read_configs", "train"]
