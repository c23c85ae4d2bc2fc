"""What ``torch.compile`` is to make of functions of ours.

torch.compiler's decorators import the whole compiler, which takes a second. These leave that to whoever compiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])

_frames = torch._C._dynamo.eval_frame


def constant(function: Function) -> Function:
    """``torch.compiler.assume_constant_result``: called while the program is traced, and its result is part of it."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def eager(function: Function) -> Function:
    """``torch.compiler.disable``: a graph break, called as it is, and so is all that it calls.

    Two marks instead of a wrapper, which would cost every step a microsecond: the first is for the compiler that
    traces a caller, the second for the interpreter. It is one of the code, so nobody else's may be given.
    """
    if not hasattr(_frames, "set_code_exec_strategy"):  # torch before 2.7
        return cast(Function, torch._disable_dynamo(function))  # type: ignore[attr-defined]
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    function._torchdynamo_disable_msg = (  # type: ignore[attr-defined]
        f"fastopt's {function.__name__} is native code, which runs between graphs; with fullgraph=True, use it outside "
        "of what is compiled"
    )
    skip = _frames._FrameAction.SKIP
    _frames.set_code_exec_strategy(function.__code__, _frames._FrameExecStrategy(skip, skip))
    return function
