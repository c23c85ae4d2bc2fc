"""``nn.Sequential`` that runs a norm and the activation after it in one pass."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ._adapted import Adapted
from ._norm import fusion
from ._norm.fusion import Activation


class Fusing(Adapted):
    """The forward pass of a Sequential that fuses. It keeps nothing: each run looks at the neighbours, hooks and
    classes of the parts."""

    def forward(self, input: Any) -> Any:
        return self._run(input, None, None)

    _forward_of_ours: Any = forward

    def _run(self, input: Any, residual: Tensor | None, after: Activation | None) -> Any:
        """Runs the parts. The last one takes ``residual`` and ``after``, if there are any."""
        parts = list(self)  # type: ignore[call-overload]
        if fusion.calls_are_watched():
            for part in parts:
                input = part(input)
            return fusion.finish(input, residual, after)
        i, last = 0, len(parts) - 1
        has_tail = residual is not None or after is not None
        while i <= last:
            part = parts[i]
            known = fusion.activation_of(parts[i + 1]) if i < last else None
            if known is not None and fusion.takes_activation(part):
                input = part._normalize_and(input, None, known)
                i += 2
            elif has_tail and i == last:
                return fusion.normalize(part, input, residual, after)
            else:
                input = part(input)
                i += 1
        return fusion.finish(input, residual, after) if has_tail else input

    def _ends_in_norm(self) -> bool:
        return len(self) > 0 and fusion.takes_activation(self[-1])  # type: ignore[arg-type, index]

    def _adds_after(self) -> bool:
        return fusion.takes_residual(self[-1])  # type: ignore[index]

    def _normalize_and(self, input: Any, residual: Tensor | None, after: Activation | None) -> Any:
        return self._run(input, residual, after)

    def pairs(self) -> list[tuple[str, str]]:
        """Returns the names of the parts that would run in one pass now."""
        named = list(self._modules.items())
        neighbours = pairwise(named)
        return [
            (a, b)
            for (a, norm), (b, act) in neighbours
            if norm is not None and act is not None
            if fusion.takes_activation(norm) and fusion.activation_of(act) is not None
        ]

    def extra_repr(self) -> str:
        return ", ".join(f"{norm} + {activation} as one" for norm, activation in self.pairs())


class Sequential(Fusing, torch.nn.Sequential):
    """A drop-in for ``torch.nn.Sequential`` that runs a norm of ours and the activation after it in one pass,
    forward and backward.

    Activations: ``ReLU``, ``ReLU6``, ``LeakyReLU``, ``ELU`` (alpha 1), ``SiLU``, ``GELU`` (exact), ``Hardswish``. Any
    other caller of the two modules finds them unchanged. They run one by one while either has hooks or its own
    ``forward``, is compiled by itself, or has become an instance of another class. ``print`` names the parts that run
    as one. ``fastopt.nn.convert`` turns torch's Sequentials into these.
    """
