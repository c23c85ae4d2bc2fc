"""Optimizers whose updates depend on norms of the whole tensor, restated as in ``paper_optimizers.py``."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from paper_optimizers import Paper


def _norm(x: Any) -> Any:
    return np.sqrt(np.sum(np.square(x, dtype=np.float64)))


class LAMB(Paper):
    """Algorithm 2 of arXiv 1904.00962, phi the identity; the exceptions for the ratio are timm's."""

    options: ClassVar = dict(
        lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01, always_adapt=False, maximize=False, capturable=False
    )

    def keys(self, group):
        return ("exp_avg", "exp_avg_sq")

    def update(self, p, g, state, t, group):
        beta1, beta2 = group["betas"]
        m = state["exp_avg"] = beta1 * state["exp_avg"] + (1 - beta1) * g
        v = state["exp_avg_sq"] = beta2 * state["exp_avg_sq"] + (1 - beta2) * g**2
        u = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + group["eps"]) + group["weight_decay"] * p
        trust = 1.0
        if group["weight_decay"] or group["always_adapt"]:
            norms = [_norm(x) for x in (p, u)]
            trust = norms[0] / norms[1] if all(norms) else 1.0
        return p - float(group["lr"]) * trust * u


class LARS(Paper):
    """Algorithm 1 of arXiv 1708.03888 in SGD's terms, with its learning rate inside the velocity or outside; the
    exceptions for the local rate are timm's."""

    counts = False
    options: ClassVar = dict(
        lr=1.0,
        momentum=0.9,
        dampening=0,
        weight_decay=5e-4,
        nesterov=False,
        trust_coefficient=1e-3,
        eps=1e-8,
        always_adapt=False,
        maximize=False,
        lr_in_momentum=False,
    )

    def keys(self, group):
        return ()  # the first update makes the velocity

    def update(self, p, g, state, t, group):
        lr, momentum, decay = float(group["lr"]), group["momentum"], group["weight_decay"]
        rate = 1.0
        if decay or group["always_adapt"]:
            of_p, of_g = (_norm(x) for x in (p, g))
            if of_p and of_g:
                rate = group["trust_coefficient"] * of_p / (of_g + decay * of_p + group["eps"])
        u = rate * (g + decay * p)
        inside, outside = (lr, 1.0) if group["lr_in_momentum"] and momentum else (1.0, lr)
        if not momentum:
            return p - outside * u
        if "momentum_buffer" in state:
            v = momentum * state["momentum_buffer"] + (1 - group["dampening"]) * inside * u
        else:
            v = inside * u
        state["momentum_buffer"] = v
        return p - outside * (inside * u + momentum * v if group["nesterov"] else v)


class StableAdamW(Paper):
    """Algorithm 2 of arXiv 2304.13013."""

    options: ClassVar = dict(lr=1e-3, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.01, maximize=False, capturable=False)

    def keys(self, group):
        return ("exp_avg_sq", "exp_avg")

    def update(self, p, g, state, t, group):
        beta1, beta2 = (beta * (1 - beta ** (t - 1)) / (1 - beta**t) for beta in group["betas"])
        m = state["exp_avg"] = beta1 * state["exp_avg"] + (1 - beta1) * g
        v = state["exp_avg_sq"] = beta2 * state["exp_avg_sq"] + (1 - beta2) * g**2
        rms = _norm(g / np.maximum(np.sqrt(v), group["eps"])) / np.sqrt(max(g.size, 1))
        eta = float(group["lr"]) / max(1.0, rms)
        return (1 - eta * group["weight_decay"]) * p - eta * m / (np.sqrt(v) + group["eps"])
