"""What ``torch.compile`` is to make of functions of ours.

torch.compiler's decorators import the whole compiler, which takes a second. These leave that to whoever compiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def _skipping() -> Callable[[Any], None] | None:
    """Tells the interpreter to run a code object, and all that it calls, untraced; None before torch 2.7, and wherever
    torch, whose own affair this is, has it under other names."""
    try:
        frames: Any = torch._C._dynamo.eval_frame
        strategy = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.SKIP)
        mark = frames.set_code_exec_strategy
    except AttributeError:
        return None
    return lambda code: mark(code, strategy)


_skip = _skipping()


def constant(function: Function) -> Function:
    """``torch.compiler.assume_constant_result``: called while the program is traced, and its result is part of it."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def eager(function: Function) -> Function:
    """``torch.compiler.disable``: a graph break, called as it is, and so is all that it calls.

    Two marks instead of a wrapper, which would cost every step a microsecond: the first is for the compiler that
    traces a caller, the second for the interpreter. It is one of the code, so nobody else's may be given.
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
