"""Tells ``torch.compile`` how to treat our functions.

torch.compiler's decorators import the whole compiler, which is slow. These leave that import to code that compiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def _skipping() -> Callable[[Any], None] | None:
    """Returns a function that makes the interpreter run a code object, and all that it calls, untraced; None before
    torch 2.7 and where torch has renamed these private parts."""
    try:
        frames: Any = torch._C._dynamo.eval_frame
        strategy = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.SKIP)
        mark = frames.set_code_exec_strategy
    except AttributeError:
        return None
    return lambda code: mark(code, strategy)


_skip = _skipping()


def constant(function: Function) -> Function:
    """As ``torch.compiler.assume_constant_result``: calls the function while a program is traced, and makes the result
    a part of the program."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def eager(function: Function) -> Function:
    """As ``torch.compiler.disable``: breaks the graph, and runs the function and all that it calls untraced.

    It sets two marks, because a wrapper would slow down every step. The first is for the compiler that traces a caller,
    the second for the interpreter. The second is on the code object, so the function must be ours.
    """
    if _skip is None:
        disable = getattr(torch, "_disable_dynamo", None) or torch.compiler.disable
        return cast(Function, disable(function))
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    function._torchdynamo_disable_msg = (  # type: ignore[attr-defined]
        f"fastopt's {function.__name__} is native code, which runs between graphs; with fullgraph=True, use it outside "
        "of what is compiled"
    )
    _skip(function.__code__)
    return function
