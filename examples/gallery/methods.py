"""Every optimizer of fastopt, by its name in the gallery, and the colour of its family."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import fastopt
import style

METHODS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    **{each.__name__: each for each in fastopt.optim.ALL},
    "momentum 0.9": partial(fastopt.SGD, momentum=0.9),
    "Nesterov 0.9": partial(fastopt.SGD, momentum=0.9, nesterov=True),
    "AMSGrad": partial(fastopt.Adam, amsgrad=True),
    "Lookahead(SGD)": lambda params, **options: fastopt.Lookahead(fastopt.SGD(params, **options)),
}
FAMILIES: dict[str, tuple[str, ...]] = {
    style.BLUE: ("SGD", "ASGD", "LARS", "ScheduleFreeSGD", "momentum 0.9", "Nesterov 0.9", "Lookahead(SGD)"),
    style.GREEN: ("Adagrad", "Adadelta", "RMSprop"),
    style.PINK: ("Lion", "Rprop"),
}
# All others are of Adam's family.
COLOURS: dict[str, Any] = dict.fromkeys(METHODS, style.ORANGE) | {
    name: colour for colour, names in FAMILIES.items() for name in names
}
