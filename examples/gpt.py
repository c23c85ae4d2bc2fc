"""A small GPT for the examples, and what counts the bytes of its gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH, LAYERS, WORDS, LENGTH, BATCH = 256, 12, 1000, 64, 4


class Gpt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        nn.init.normal_(self.embed.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.out = nn.Linear(WIDTH, WORDS, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        embedded = self.embed(words)
        mask = nn.Transformer.generate_square_subsequent_mask(words.shape[1], words.device, embedded.dtype)
        scores: Tensor = self.out(self.layers(embedded, mask=mask, is_causal=True))
        return scores


def some_words() -> Tensor:
    """A batch of sequences that count upwards."""
    return (torch.randint(0, WORDS, (BATCH, 1)) + torch.arange(LENGTH + 1)) % WORDS


def loss_of(model: Gpt, words: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(words[:, :-1]).flatten(0, 1).float(), words[:, 1:].flatten())


class Peak:
    """The most bytes of gradients at one time, seen whenever one is complete."""

    def __init__(self, model: nn.Module) -> None:
        self.bytes = 0
        self._params = list(model.parameters())
        for param in self._params:
            param.register_post_accumulate_grad_hook(self._look)

    def _look(self, _: Tensor) -> None:
        self.bytes = max(self.bytes, sum(p.grad.nbytes for p in self._params if p.grad is not None))
