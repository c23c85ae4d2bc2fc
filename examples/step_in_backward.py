"""A small GPT, trained by an ordinary loop and by steps inside backward: the same losses with less memory.

python examples/step_in_backward.py
"""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

import fastopt

WIDTH, LAYERS, WORDS, LENGTH, BATCH, STEPS = 256, 12, 1000, 64, 4, 5


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
        mask = nn.Transformer.generate_square_subsequent_mask(words.shape[1])
        scores: Tensor = self.out(self.layers(self.embed(words), mask=mask, is_causal=True))
        return scores


class Peak:
    """The most bytes of gradients at one time, seen whenever one is complete."""

    def __init__(self, model: nn.Module) -> None:
        self.bytes = 0
        self._params = list(model.parameters())
        for param in self._params:
            param.register_post_accumulate_grad_hook(self._look)

    def _look(self, _: Tensor) -> None:
        self.bytes = max(self.bytes, sum(p.grad.nbytes for p in self._params if p.grad is not None))


def train(inside: bool) -> tuple[list[float], int, float]:
    torch.manual_seed(0)
    model = Gpt()
    optimizer = fastopt.AdamW(model.parameters(), lr=1e-3)
    peak = Peak(model)
    if inside:
        fastopt.step_in_backward(model, optimizer)
    losses, times = [], []
    for _ in range(STEPS):
        words = torch.randint(0, WORDS, (BATCH, LENGTH + 1))
        begin = time.perf_counter()
        loss = nn.functional.cross_entropy(model(words[:, :-1]).flatten(0, 1), words[:, 1:].flatten())
        loss.backward()
        if not inside:
            optimizer.step()
            optimizer.zero_grad()
        times.append(time.perf_counter() - begin)
        losses.append(loss.item())
    return losses, peak.bytes, sorted(times)[len(times) // 2]


def main() -> None:
    ordinary, inside = train(False), train(True)
    assert ordinary[0] == inside[0]
    largest = max(p.nbytes for p in Gpt().parameters())
    print(f"losses, of both: {ordinary[0][0]:.4f} ... {ordinary[0][-1]:.4f}")
    for name, (_, most, seconds) in {"ordinary loop": ordinary, "inside backward": inside}.items():
        print(f"{name:>16}: at most {most / 1e6:6.1f} MB of gradients, {1e3 * seconds:6.0f} ms a step")
    print(f"the largest parameter's gradient has {largest / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
