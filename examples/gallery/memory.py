"""Where the bytes of an element are while a transformer trains with AdamW: parameters, gradients at their most, states,
on the device and on the host. Ren et al. 2021, "ZeRO-Offload: Democratizing Billion-Scale Model Training".
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import fastopt
import style

BF16 = torch.bfloat16


WAYS: dict[str, tuple[torch.dtype, dict[str, Any], Any]] = {  # what offload() gets; None: no offload
    "float32": (torch.float32, {}, None),
    "bfloat16,\nfloat32 master": (BF16, {"master": "float32"}, None),
    "split master": (BF16, {"master": "split"}, None),
    "split master,\n8-bit states": (BF16, {"master": "split", "state_dtype": "int8"}, None),
    "split master,\nstep in backward": (BF16, {"master": "split"}, None),
    "split master,\noffload": (BF16, {"master": "split"}, {}),
    "split master, offload,\nfree_grads": (BF16, {"master": "split"}, {"free_grads": True}),
}
PARTS = {"parameters": style.BLUE, "gradients": style.ORANGE, "states": style.GREEN}
Bytes = dict[str, float]  # of an element


def train(name: str) -> tuple[Bytes, Bytes]:
    """Takes two steps; returns what is on the device and on the host."""
    dtype, options, offload = WAYS[name]
    layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False).to(dtype)
    params, seen = list(model.parameters()), [0]
    optimizer = fastopt.AdamW(params, lr=1e-3, **options)
    for param in params:
        param.register_post_accumulate_grad_hook(
            lambda _: seen.append(sum(p.nbytes for p in params if p.grad is not None))
        )
    if "backward" in name:
        fastopt.step_in_backward(model, optimizer)
    elif offload is not None:
        fastopt.offload(optimizer, **offload)
    for _ in range(2):
        model(torch.randn(2, 16, 128, dtype=dtype)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    count = sum(p.numel() for p in params)
    states = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    device = {"parameters": sum(p.nbytes for p in params) / count, "gradients": max(seen) / count}
    if offload is None:
        return {**device, "states": sum(v.nbytes for v in states) / count}, {}
    return device, {part: size / count for part, size in optimizer.host_memory().items()}


def draw(measured: dict[str, tuple[Bytes, Bytes]]) -> Figure:
    figure, panels = plt.subplots(1, 2, sharey=True)
    for side, (axes, where) in enumerate(zip(panels, ("on the device", "on the host"), strict=True)):
        for place, both in enumerate(measured.values()):
            left = 0.0
            for part, colour in PARTS.items():
                size = both[side].get(part, 0.0)
                axes.barh(place, size, left=left, color=colour, label=None if place else part)
                left += size
            axes.text(left + 0.2, place, f"{left:.1f}" if left else "", va="center", fontsize=8)
        axes.set(title=where, xlabel="bytes of an element", xlim=(0, 18.5))
        axes.set_yticks(range(len(measured)), list(measured))
    panels[0].invert_yaxis()
    panels[1].legend(loc="upper right")
    figure.suptitle("Offload leaves two bytes of an element on the device, and the largest gradients")
    return figure


if __name__ == "__main__":
    measured = style.main(__file__, __doc__, lambda: {name: train(name) for name in WAYS}, draw)
