"""Cautious updates (arXiv 2411.16085) and cautious weight decay (arXiv 2510.12402): see ``csrc/rules/caution.h``."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .half import Array


class Caution(NamedTuple):
    """What is cautious about the updates of a group."""

    masks: bool = False  # drops the elements of an update that do not point where the gradient does
    decays: bool = False  # the decay leaves out the elements that the update moves away from 0


def no_parameter(param: Array) -> Array:
    """Returns what stands for the parameter. A rule leaves minus its update there, with every sign of zero."""
    return np.full_like(param, -0.0)


def updated(caution: Caution, param: Array, negated: Array, grad: Array, decay: Any) -> Array:
    """Returns the new parameter. ``negated`` is minus the rule's update.

    The mask is divided by its mean, which is taken as 1e-3 if it is less. Signs are compared, because a product of
    small numbers would be 0. An update of 0 lets the parameter decay.
    """
    kept = _have_one_sign(negated, param) if caution.decays else np.zeros(param.shape, bool)
    if caution.masks:
        mask = _have_one_sign(-negated, grad)
        factor = 1.0 / max(np.count_nonzero(mask) / mask.size, 1e-3)
        negated = negated * np.where(mask, param.dtype.type(factor), param.dtype.type(0))
    return np.where(kept, param, param * decay) + negated


def _have_one_sign(a: Array, b: Array) -> Array:
    return ((a > 0) & (b > 0)) | ((a < 0) & (b < 0))
