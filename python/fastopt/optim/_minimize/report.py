"""What a step did, and why it ended."""

from __future__ import annotations

from dataclasses import dataclass

# Reasons for the end of a step, and what each means.
GRADIENT = "gradient"  # max |g| is at most tolerance_grad
CHANGE = "change"  # the last step, or the change of the loss, was below tolerance_change
SLOPE = "slope"  # the loss falls by less than tolerance_change along the direction
MAX_ITER = "max_iter"
MAX_EVAL = "max_eval"
LINE_SEARCH = "line search"  # no point along the direction of steepest descent was better
NOT_FINITE = "not finite"  # loss or gradient are inf or NaN where the step had to start, or, without search, went
NOTHING_MOVES = "nothing moves"  # every learning rate is 0


@dataclass(frozen=True)
class Report:
    """What the last step of LBFGS or NonlinearCG did.

    Attributes:
        reason: why it ended: ``"gradient"`` (max |g| is at most ``tolerance_grad``), ``"change"`` (the parameters or
            the loss changed by less than ``tolerance_change``), ``"slope"`` (the direction promises less than that),
            ``"max_iter"``, ``"max_eval"``, ``"line search"`` (it found no better point, even along the gradient),
            ``"not finite"`` (loss or gradient were inf or NaN), ``"nothing moves"`` (every learning rate is 0).
        loss: at the parameters as they are now, if it was evaluated there; otherwise the last one evaluated.
        largest_grad: max \\|g\\| of that loss.
        evaluations: calls of the closure.
        iterations: directions taken.
        restarts: how many of them were the negative gradient because the history was dropped, or did not help.
        restored: whether the parameters were set back to the best point.
    """

    reason: str
    loss: float
    largest_grad: float
    evaluations: int
    iterations: int
    restarts: int
    restored: bool
