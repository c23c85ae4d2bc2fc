"""Prodigy, restated as in ``paper_optimizers.py``: its updates depend on sums over all parameters."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch

from paper_optimizers import Paper, _array, _tensor


class Prodigy(Paper):
    """Algorithm 4 of arXiv 2306.06101, with the bias correction, the limits of d and the exceptions of its authors'
    package."""

    options: ClassVar = dict(
        lr=1.0,
        betas=(0.9, 0.999),
        beta3=None,
        eps=1e-8,
        weight_decay=0,
        decouple=True,
        use_bias_correction=False,
        safeguard_warmup=False,
        d0=1e-6,
        d_coef=1.0,
        growth_rate=math.inf,
        maximize=False,
        capturable=False,
        d_numerator=0.0,
        k=0,
    )

    def __init__(self, params: Any, **options: Any) -> None:
        d0 = options.get("d0", self.options["d0"])
        super().__init__(params, **{"d": d0, "d_max": d0, **options})

    def _rate(self, group):
        beta1, beta2 = group["betas"]
        k = self.param_groups[0]["k"] + 1
        corrects = group["use_bias_correction"]
        return float(group["lr"]) * (math.sqrt(1 - beta2**k) / (1 - beta1**k) if corrects else 1.0)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        first = self.param_groups[0]
        d = float(first["d"])
        progress = path = 0.0
        moved = []
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            beta3 = math.sqrt(beta2) if group["beta3"] is None else group["beta3"]
            rate = d * self._rate(group)
            for param in (p for p in group["params"] if p.grad is not None):
                state = self.state[param]
                state["step"] = state.get("step", torch.tensor(0.0)) + 1
                p, g = _array(param), _array(param.grad) * (-1 if group["maximize"] else 1)
                if not group["decouple"]:
                    g = g + group["weight_decay"] * p
                if "p0" not in state:
                    state["p0"] = param.clone()
                    state.update({key: torch.zeros_like(param) for key in ("exp_avg", "exp_avg_sq", "s")})
                if rate == 0:
                    continue
                m, v, s, p0 = (_array(state[key]) for key in ("exp_avg", "exp_avg_sq", "s", "p0"))
                m = beta1 * m + d * (1 - beta1) * g
                v = beta2 * v + d**2 * (1 - beta2) * g**2
                s = beta3 * s + d / group["d0"] * (d if group["safeguard_warmup"] else rate) * g
                progress += d / group["d0"] * rate * np.sum(g * (p0 - p), dtype=np.float64)
                path += np.sum(np.abs(s), dtype=np.float64)
                moved.append((group, param, rate, p, dict(exp_avg=m, exp_avg_sq=v, s=s)))
        for _, param, _, _, arrays in moved:
            self.state[param].update({key: _tensor(array, param).to(param.dtype) for key, array in arrays.items()})
        if path == 0:
            return
        beta3 = math.sqrt(first["betas"][1]) if first["beta3"] is None else first["beta3"]
        numerator = beta3 * float(first["d_numerator"]) + progress
        d_hat = float(first["d_coef"] * numerator / path)
        grown = max(d, d_hat) if d == first["d0"] else d
        d_max = max(float(first["d_max"]), d_hat)
        grown = min(d_max, grown * first["growth_rate"])
        for group, param, rate, p, arrays in moved:
            decay = group["weight_decay"] if group["decouple"] else 0
            u = arrays["exp_avg"] / (np.sqrt(arrays["exp_avg_sq"]) + grown * group["eps"])
            param.copy_(_tensor(p - rate * (u + decay * p), param))
        steps, numerator = first["k"] + 1, float(numerator)
        for group in self.param_groups:
            group.update(d=grown, d_max=d_max, d_numerator=numerator, k=steps)
