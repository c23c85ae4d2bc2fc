"""Optimizers that torch lacks, restated in NumPy from the papers, in the parameter's own precision."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch


def _array(tensor: torch.Tensor) -> Any:
    tensor = tensor.detach()
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).numpy().copy()


def _tensor(array: Any, like: torch.Tensor) -> torch.Tensor:
    real = torch.from_numpy(np.asarray(array, dtype=_array(like).dtype))
    return torch.view_as_complex(real) if like.is_complex() else real


class Paper(torch.optim.Optimizer):
    """A torch optimizer around one function of NumPy arrays."""

    options: ClassVar[dict[str, Any]]
    counts = True  # its state has a 'step'

    def __init__(self, params: Any, **options: Any) -> None:
        options.pop("foreach", None)
        super().__init__(params, {**self.options, **options})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self.param_groups[-1]["base_lr"] = float(self.param_groups[-1]["lr"])  # for AdaBound

    def update(self, p: Any, g: Any, state: dict[str, Any], t: float, group: dict[str, Any]) -> Any:
        """Returns the new parameter, and keeps arrays in ``state``."""
        raise NotImplementedError

    def begin(self, group: dict[str, Any]) -> None:
        """Called once for each group in a step."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            self.begin(group)
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                p, g = _array(param), _array(param.grad)
                t = float(state.pop("step", 0)) + 1
                arrays = {key: _array(value) for key, value in state.items()}
                arrays = arrays or {key: p.copy() if key == "z" else np.zeros_like(p) for key in self.keys(group)}
                param.copy_(_tensor(self.update(p, -g if group["maximize"] else g, arrays, t, group), param))
                for key, array in arrays.items():
                    state[key] = torch.empty_like(param).copy_(_tensor(array, param))
                if self.counts:
                    state["step"] = torch.tensor(t)
                if not state:
                    del self.state[param]

    def keys(self, group: dict[str, Any]) -> tuple[str, ...]:
        raise NotImplementedError


class AdaBound(Paper):
    """Algorithm 2 of Luo et al. 2019, with the bias correction of its authors' code (eps uncorrected)."""

    options: ClassVar = dict(
        lr=1e-3,
        betas=(0.9, 0.999),
        final_lr=0.1,
        gamma=1e-3,
        eps=1e-8,
        weight_decay=0,
        amsbound=False,
        maximize=False,
        decoupled_weight_decay=False,
    )

    def keys(self, group):
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 2 + group["amsbound"]]

    def update(self, p, g, state, t, group):
        lr, (beta1, beta2), gamma = float(group["lr"]), group["betas"], group["gamma"]
        if group["decoupled_weight_decay"]:
            p = p * (1 - lr * group["weight_decay"])
        else:
            g = g + group["weight_decay"] * p
        m = state["exp_avg"] = beta1 * state["exp_avg"] + (1 - beta1) * g
        v = state["exp_avg_sq"] = beta2 * state["exp_avg_sq"] + (1 - beta2) * g**2
        if group["amsbound"]:
            v = state["max_exp_avg_sq"] = np.maximum(state["max_exp_avg_sq"], v)
        final_lr = group["final_lr"] * lr / group["base_lr"]
        lower = final_lr * (1 - 1 / (gamma * t + 1))
        upper = final_lr * (1 + 1 / (gamma * t))
        step_size = lr * np.sqrt(1 - beta2**t) / (1 - beta1**t)
        return p - np.clip(step_size / (np.sqrt(v) + group["eps"]), lower, upper) * m


class Lion(Paper):
    """Program 1 of arXiv 2302.06675."""

    counts = False
    options: ClassVar = dict(lr=1e-4, betas=(0.9, 0.99), weight_decay=0, maximize=False)

    def keys(self, group):
        return ("exp_avg",)

    def update(self, p, g, state, t, group):
        beta1, beta2 = group["betas"]
        update = np.sign(beta1 * state["exp_avg"] + (1 - beta1) * g)
        state["exp_avg"] = beta2 * state["exp_avg"] + (1 - beta2) * g
        return p - float(group["lr"]) * (update + group["weight_decay"] * p)


class AdEMAMix(Paper):
    """Algorithm 1 of arXiv 2409.03137, with its schedules: beta3 by its half-life, which grows linearly."""

    options: ClassVar = dict(
        lr=1e-3,
        betas=(0.9, 0.999, 0.9999),
        alpha=5.0,
        t_alpha=None,
        t_beta3=None,
        eps=1e-8,
        weight_decay=0,
        maximize=False,
        capturable=False,
    )

    def keys(self, group):
        return ("exp_avg_fast", "exp_avg_slow", "exp_avg_sq")

    def update(self, p, g, state, t, group):
        (beta1, beta2, beta3), alpha = group["betas"], group["alpha"]
        if group["t_alpha"] is not None:
            alpha = alpha * min(t / group["t_alpha"], 1)
        if group["t_beta3"] is not None:
            s = min(t / group["t_beta3"], 1)
            half_life = (1 - s) * np.log(0.5) / np.log(beta1) + s * np.log(0.5) / np.log(beta3)
            beta3 = 0.5 ** (1 / half_life)
        fast = state["exp_avg_fast"] = beta1 * state["exp_avg_fast"] + (1 - beta1) * g
        slow = state["exp_avg_slow"] = beta3 * state["exp_avg_slow"] + (1 - beta3) * g
        v = state["exp_avg_sq"] = beta2 * state["exp_avg_sq"] + (1 - beta2) * g**2
        root = np.sqrt(v / (1 - beta2**t)) + group["eps"]
        return p - float(group["lr"]) * ((fast / (1 - beta1**t) + alpha * slow) / root + group["weight_decay"] * p)


class ADOPT(Paper):
    """Algorithm 2 of arXiv 2411.02853, whose t is ours minus 1; both decays are its authors'."""

    options: ClassVar = dict(
        lr=1e-3,
        betas=(0.9, 0.9999),
        eps=1e-6,
        clip_exp=0.25,
        weight_decay=0,
        decouple=False,
        maximize=False,
        capturable=False,
    )

    def keys(self, group):
        return ("exp_avg", "exp_avg_sq")

    def update(self, p, g, state, t, group):
        lr, (beta1, beta2), v = float(group["lr"]), group["betas"], state["exp_avg_sq"]
        if not group["decouple"]:
            g = g + group["weight_decay"] * p
        if t == 1:
            state["exp_avg_sq"] = g**2
            return p
        if group["decouple"]:
            p = p * (1 - lr * group["weight_decay"])
        normed = g / np.maximum(np.sqrt(v), group["eps"])
        if group["clip_exp"] is not None:
            bound = (t - 1) ** group["clip_exp"]
            normed = np.clip(normed, -bound, bound)
        m = state["exp_avg"] = beta1 * state["exp_avg"] + (1 - beta1) * normed
        state["exp_avg_sq"] = beta2 * v + (1 - beta2) * g**2
        return p - lr * m


class Adan(Paper):
    """Algorithm 1 of arXiv 2208.06677, whose betas are 1 minus these; bias corrections and eps are its authors'."""

    options: ClassVar = dict(
        lr=1e-3,
        betas=(0.98, 0.92, 0.99),
        eps=1e-8,
        weight_decay=0,
        no_prox=False,
        maximize=False,
        capturable=False,
    )

    def keys(self, group):
        return ("exp_avg", "exp_avg_diff", "exp_avg_sq", "neg_pre_grad")

    def update(self, p, g, state, t, group):
        lr, (beta1, beta2, beta3), decay = float(group["lr"]), group["betas"], group["weight_decay"]
        before = g if t == 1 else -state["neg_pre_grad"]
        m = state["exp_avg"] = beta1 * state["exp_avg"] + (1 - beta1) * g
        v = state["exp_avg_diff"] = beta2 * state["exp_avg_diff"] + (1 - beta2) * (g - before)
        n = state["exp_avg_sq"] = beta3 * state["exp_avg_sq"] + (1 - beta3) * (g + beta2 * (g - before)) ** 2
        state["neg_pre_grad"] = -g
        eta = lr / (np.sqrt(n / (1 - beta3**t)) + group["eps"])
        step = eta * (m / (1 - beta1**t) + beta2 * v / (1 - beta2**t))
        return (1 - lr * decay) * p - step if group["no_prox"] else (p - step) / (1 + lr * decay)


_NUMBERS: dict[str, Any] = dict(k=0, weight_sum=0.0, lr_max=-1.0, scheduled_lr=0.0, train_mode=True)


class ScheduleFreeSGD(Paper):
    """Equations 3 to 5 of arXiv 2405.15682 with x made explicit, and the weights of its authors' package."""

    counts = False
    options: ClassVar = dict(
        lr=1.0,
        momentum=0.9,
        weight_decay=0,
        warmup_steps=0,
        r=0.0,
        weight_lr_power=2.0,
        foreach=None,
        maximize=False,
        **_NUMBERS,
    )

    def keys(self, group):
        return ("z",)

    def begin(self, group):
        group["k"] += 1
        group["scheduled_lr"] = float(group["lr"]) * min(1, group["k"] / max(1, group["warmup_steps"]))
        group["lr_max"] = max(group["lr_max"], group["scheduled_lr"])
        weight = group["k"] ** group["r"] * group["lr_max"] ** group["weight_lr_power"]
        group["weight_sum"] += weight
        self.c = weight / group["weight_sum"] if group["weight_sum"] else 0.0

    def direction(self, y, g, state, group):
        return g + group["weight_decay"] * y

    def update(self, p, g, state, t, group):
        beta = group["momentum"] if "momentum" in group else group["betas"][0]
        x = (p - (1 - beta) * state["z"]) / beta
        z = state["z"] = state["z"] - group["scheduled_lr"] * self.direction(p, g, state, group)
        x = (1 - self.c) * x + self.c * z
        return (1 - beta) * z + beta * x


class ScheduleFreeAdamW(ScheduleFreeSGD):
    """Algorithm 1 of arXiv 2405.15682, without its correction of the learning rate, as in the package."""

    options: ClassVar = dict(
        lr=2.5e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0,
        warmup_steps=0,
        r=0.0,
        weight_lr_power=2.0,
        foreach=None,
        maximize=False,
        **_NUMBERS,
    )

    def keys(self, group):
        return ("z", "exp_avg_sq")

    def direction(self, y, g, state, group):
        beta2 = group["betas"][1]
        v = state["exp_avg_sq"] = beta2 * state["exp_avg_sq"] + (1 - beta2) * g**2
        return g / (np.sqrt(v / (1 - beta2 ** group["k"])) + group["eps"]) + group["weight_decay"] * y
