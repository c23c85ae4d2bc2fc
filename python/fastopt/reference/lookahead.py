"""Lookahead (arXiv 1907.08610)."""

from __future__ import annotations

from typing import Any

from .half import Array
from .math import lerp
from .pipeline import rule


@rule("lookahead", reads_grad=False)
def lookahead(param: Array, slow_param: Array, *, alpha: Any) -> tuple[Array, ...]:
    slow_param = lerp(slow_param, param, alpha)
    return slow_param, slow_param
