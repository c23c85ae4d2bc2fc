"""A small GPT, trained by an ordinary loop and by steps inside backward: the same losses with less memory.

python examples/step_in_backward.py
"""

from __future__ import annotations

import time

import torch
from gpt import Gpt, Peak, loss_of, some_words

import fastopt

STEPS = 9


def train(inside: bool) -> tuple[list[float], int, float]:
    torch.manual_seed(0)
    model = Gpt()
    optimizer = fastopt.AdamW(model.parameters(), lr=3e-4)
    peak = Peak(model)
    if inside:
        fastopt.step_in_backward(model, optimizer)
    losses, times = [], []
    for _ in range(STEPS):
        words = some_words()
        begin = time.perf_counter()
        loss = loss_of(model, words)
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
        print(f"{name:>16}: at most {most / 1e6:6.2f} MB of gradients, {1e3 * seconds:6.0f} ms a step")
    print(f"the largest parameter's gradient has {largest / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
