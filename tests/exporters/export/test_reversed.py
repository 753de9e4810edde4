"""The streaming check can fail: a network that reads time backwards is not declared streamable."""

import pytest
import torch
import torch.nn.functional as F
from beside import export_beside as export
from torch import nn

TOKENS = 12


class Tagger(nn.Module):
    def __init__(self, backwards):
        super().__init__()
        self.backwards = backwards
        self.table, self.gru = nn.Embedding(TOKENS, 4), nn.GRU(4, 5, batch_first=True)

    def embed(self, tokens):
        return self.table(tokens)

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.gru(x.flip(1) if self.backwards else x)[1][-1]


class OneHot(Tagger):
    def embed(self, tokens):
        return F.one_hot(tokens, TOKENS).float() @ self.table.weight


@pytest.mark.parametrize("kind", [Tagger, OneHot])
def test_tokens_in_another_order_are_another_sequence(kind):
    torch.manual_seed(0)
    example = (torch.zeros(2, 5, dtype=torch.int64),)  # the example itself shows no order
    assert export(kind(backwards=False).eval(), example).manifest.streamable
    assert not export(kind(backwards=True).eval(), example).manifest.streamable
