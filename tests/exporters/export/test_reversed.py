"""The streaming check can fail: a network that reads time backwards is not declared
streamable."""

import torch
from compared import export_and_compare as export
from torch import nn

TOKENS = 12


class Tagger(nn.Module):
    def __init__(self, backwards):
        super().__init__()
        self.backwards = backwards
        self.table = nn.Embedding(TOKENS, 4)
        self.gru = nn.GRU(4, 5, batch_first=True)

    def forward(self, tokens):
        x = self.table(tokens)
        return self.gru(x.flip(1) if self.backwards else x)[1][-1]


def test_tokens_in_another_order_are_another_sequence():
    torch.manual_seed(0)
    example = (
        torch.zeros(2, 5, dtype=torch.int64),
    )  # the example itself shows no order
    assert export(Tagger(backwards=False).eval(), example).manifest.streamable
    assert not export(Tagger(backwards=True).eval(), example).manifest.streamable
