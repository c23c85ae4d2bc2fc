"""The optimizers that torch does not have, a row each of the table in ``optimizer_cases.py``."""

from __future__ import annotations

import torch

import fastopt
import paper_optimizers
import paper_prodigy
import paper_scaled
from optimizer_row import ADAM, ADAM_ERRORS, BETA_ERRORS, BOTH, DECAY, DECOUPLED, Row

_SCHEDULE_FREE = [{"warmup_steps": 3, "r": 1.0}, {"warmup_steps": 5, "weight_lr_power": 0.0, **BOTH}]
_SCHEDULE_FREE_ERRORS = [dict(warmup_steps=-1), dict(r=-1.0), dict(weight_lr_power=-2.0)]

BEYOND_TORCH = [
    Row(
        fastopt.AdaBound,
        paper_optimizers.AdaBound,
        lr=0.05,
        rates=(0.01, 0.03, {"final_lr": 3e-3}),
        flags=[
            *ADAM,
            {"amsbound": True},
            {"final_lr": 0.02, "gamma": 0.1},
            {"amsbound": True, "gamma": 0.1, **BOTH},
            *DECOUPLED,
        ],
        errors=[*ADAM_ERRORS, dict(final_lr=-1.0), dict(gamma=1.0), dict(gamma=-0.1)],
        plain={"amsbound": True},
    ),
    Row(
        fastopt.Lion,
        paper_optimizers.Lion,
        lr=0.01,
        rates=(0.03, 3e-3, {}),
        flags=[*DECAY, {"betas": (0.5, 0.9)}, BOTH],
        errors=[*BETA_ERRORS, dict(weight_decay=-1.0)],
        by_sign=True,
    ),
    Row(
        fastopt.LAMB,
        paper_scaled.LAMB,
        lr=0.05,
        rates=(0.1, 0.03, {}),
        flags=[
            {},
            {"weight_decay": 0.0},
            {"weight_decay": 0.0, "always_adapt": True},
            {"maximize": True},
            {"betas": (0.5, 0.9), "eps": 1e-4},
            BOTH,
        ],
        errors=ADAM_ERRORS,
        scaled=True,
    ),
    Row(
        fastopt.LARS,
        paper_scaled.LARS,
        lr=0.1,
        base={"trust_coefficient": 0.3},  # steps that a half type sees
        rates=(10.0, 3.0, {}),
        flags=[
            {},
            {"weight_decay": 0.0},
            {"weight_decay": 0.0, "always_adapt": True},
            {"maximize": True, "trust_coefficient": 0.5, "eps": 0.1},
            {"momentum": 0.0},
            {"dampening": 0.5},
            {"nesterov": True, **BOTH},
            {"lr_in_momentum": True},
            {"lr_in_momentum": True, "nesterov": True},
            {"lr_in_momentum": True, "momentum": 0.0},
        ],
        errors=[
            dict(momentum=-1.0),
            dict(momentum=0.0, nesterov=True),
            dict(nesterov=True, dampening=0.1),
            dict(weight_decay=-1.0),
            dict(trust_coefficient=-1.0),
            dict(eps=-1.0),
        ],
        scaled=True,
    ),
    Row(
        fastopt.StableAdamW,
        paper_scaled.StableAdamW,
        lr=0.05,
        rates=(0.3, 0.1, {}),
        flags=[{}, {"weight_decay": 0.0}, {"maximize": True}, {"betas": (0.5, 0.9), "eps": 1e-4}, BOTH],
        errors=ADAM_ERRORS,
        scaled=True,
    ),
    Row(
        fastopt.AdEMAMix,
        paper_optimizers.AdEMAMix,
        lr=0.05,
        rates=(0.3, 0.3, {}),
        flags=[
            *DECAY,
            {"betas": (0.5, 0.9, 0.99), "eps": 1e-4},
            {"alpha": 2.0, "t_alpha": 20},
            {"t_beta3": 30},
            {"betas": (0.8, 0.9, 0.99), "t_alpha": 30, "t_beta3": 20, **BOTH},
        ],
        errors=[
            *(dict(betas=(*two, 0.9)) for two in ((1.0, 0.9), (0.9, -0.1))),
            dict(betas=(0.9, 0.9, 1.0)),
            dict(betas=(0.9, 0.9)),
            dict(betas=(0.0, 0.9, 0.99), t_beta3=10),
            dict(alpha=-1.0),
            dict(t_alpha=0),
            dict(t_beta3=-1),
            dict(eps=-1.0),
            dict(weight_decay=-1.0),
        ],
    ),
    Row(
        fastopt.ADOPT,
        paper_optimizers.ADOPT,
        lr=0.5,
        rates=(0.3, 0.3, {}),
        flags=[
            *ADAM,
            {"clip_exp": None, "eps": 0.1},
            {"clip_exp": 0.5, **BOTH},
            {"weight_decay": 0.02, "decouple": True},
        ],
        errors=[*ADAM_ERRORS, dict(clip_exp=-1.0)],
        moved_after=2,
    ),
    Row(
        fastopt.Adan,
        paper_optimizers.Adan,
        lr=0.05,
        rates=(0.1, 0.1, {}),
        flags=[
            *DECAY,
            {"betas": (0.5, 0.8, 0.9), "eps": 1e-4},
            {"no_prox": True},
            {"no_prox": True, **BOTH},
        ],
        errors=[
            *(dict(betas=(*two, 0.9)) for two in ((1.0, 0.9), (0.9, -0.1))),
            dict(betas=(0.9, 0.9, 1.0)),
            dict(betas=(0.9, 0.9)),
            dict(eps=-1.0),
            dict(weight_decay=-1.0),
        ],
        moved_after=2,
    ),
    Row(
        fastopt.Prodigy,
        paper_prodigy.Prodigy,
        lr=1.0,
        base={"d0": 1e-2},  # steps that a half type sees
        rates=(1.0, 0.5, {"use_bias_correction": True}),
        flags=[
            {},
            {"weight_decay": 0.1},
            {"maximize": True, "growth_rate": 1.02},  # the parameters of the tests fly away otherwise
            {"betas": (0.5, 0.9), "eps": 1e-4},
            {"beta3": 0.9, "d_coef": 0.5},
            {"use_bias_correction": True, "growth_rate": 1.02},
            {"safeguard_warmup": True, "growth_rate": 1.02, **BOTH},
            {"weight_decay": 0.1, "decouple": False},
        ],
        errors=[
            *ADAM_ERRORS,
            dict(eps=0.0),
            dict(beta3=1.0),
            dict(beta3=-0.1),
            dict(d0=0.0),
            dict(d_coef=-1.0),
            dict(growth_rate=0.9),
        ],
        scaled=True,
        counts_by_group=True,
        wide={torch.bfloat16: ("s",), torch.float16: ("exp_avg", "exp_avg_sq", "s")},
        grouped=True,
    ),
    Row(
        fastopt.ScheduleFreeAdamW,
        paper_optimizers.ScheduleFreeAdamW,
        lr=0.05,
        rates=(0.3, 0.3, {}),
        flags=[*ADAM, *_SCHEDULE_FREE],
        errors=[*ADAM_ERRORS, dict(betas=(0.0, 0.9)), *_SCHEDULE_FREE_ERRORS],
        counts_by_group=True,
    ),
    Row(
        fastopt.ScheduleFreeSGD,
        paper_optimizers.ScheduleFreeSGD,
        lr=0.1,
        rates=(0.3, 0.004, {"r": 2.0}),
        flags=[*DECAY, {"momentum": 0.5}, *_SCHEDULE_FREE],
        errors=[dict(momentum=0.0), dict(momentum=1.0), dict(weight_decay=-1.0), *_SCHEDULE_FREE_ERRORS],
        counts_by_group=True,
    ),
]
