"""Runs our functions instead of torch's, for models that call ``F.dropout`` and not a module."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as T
from torch.overrides import TorchFunctionMode

from .. import _runtime
from . import functional as F
from ._adapted import become
from ._norm.checks import HALF

Model = TypeVar("Model", bound=torch.nn.Module)

_REAL = (torch.float32, torch.float64, *HALF)
_COMPLEX = (torch.complex64, torch.complex128)


# Returns the hooks that replace what autograd keeps, if there are any.
_top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


def _check_torch() -> None:
    if _top_hooks is None:
        raise RuntimeError(
            f"functional_mode: torch {torch.__version__} does not tell what may be run again for its gradients, and a "
            "repetition would drop other elements; a later torch does"
        )


def functional_mode() -> TorchFunctionMode:
    """A context in which every call in this thread of these functions of ``torch.nn.functional`` runs ours:
    ``dropout``, ``dropout1d``, ``dropout2d``, ``dropout3d``, ``alpha_dropout``, ``feature_alpha_dropout`` and
    ``batch_norm``; ``scaled_dot_product_attention`` with dropout, on the CPU. This includes calls by torch's modules,
    such as ``MultiheadAttention`` and ``TransformerEncoderLayer``.

    torch's own functions run, with their results, errors and types, for:

    - arguments that ours do not take: integers, nested and sparse tensors, subclasses, other devices, parameters of
      ``batch_norm`` of other types;
    - ``torch.dropout``, ``torch.batch_norm`` and other functions of torch itself, dropout inside ``nn.LSTM``, scripted
      and traced programs;
    - code without gradients, and code that may run again for them: under ``torch.no_grad()``, in
      ``torch.utils.checkpoint``, in a backward pass. A repetition has to drop the same elements, and it may come after
      the context.

    Contexts may be nested, an error leaves them, and ``torch.compile`` knows them. Every torch function called inside,
    even ``x.shape`` and ``x + y``, takes a little longer.

    Returns:
        A context manager, which may be entered any number of times.

    Raises:
        RuntimeError: this torch cannot tell what runs again, such as torch 2.4.
    """
    _check_torch()
    return _MODE


def wrap_forward(model: Model) -> Model:
    """Makes calls of ``model`` run in :func:`functional_mode` while it is training.

    The module stays the object it is; its class becomes a subclass of what it was. Copies and pickles are wrapped as
    well. A model that is wrapped already does not change.

    Args:
        model: changed in place. Calls of its methods, ``forward`` among them, are left as they are.

    Returns:
        ``model``.

    Raises:
        TypeError: ``model`` is scripted.
        RuntimeError: this torch cannot tell what runs again, such as torch 2.4.
    """
    _check_torch()
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model is a ScriptModule: its functional calls are compiled already")
    if not is_wrapped(model):
        become(model, _wrapped_class(type(model)))
    return model


def unwrap_forward(model: Model) -> Model:
    """Undoes :func:`wrap_forward`, if it has wrapped the model.

    Args:
        model: changed in place; modules in it are left alone.

    Returns:
        ``model``.
    """
    if is_wrapped(model):
        become(model, _plain_class(type(model)))
    return model


def is_wrapped(model: torch.nn.Module) -> bool:
    """Whether :func:`wrap_forward` has changed it."""
    return FunctionalForward in type(model).__bases__


class FunctionalForward(torch.nn.Module):
    """Stands before a model's class in the bases of the class that :func:`wrap_forward` makes."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.training:
            return super().__call__(*args, **kwargs)
        with _MODE:
            return super().__call__(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles under the model's own class, which can be found by name; loading makes the other anew."""
        wrapped = type(self)
        if not is_wrapped(self):
            return super().__reduce_ex__(protocol)
        reduced: Any = super().__reduce_ex__(protocol)
        make, args, *state = reduced
        plain = _plain_class(wrapped)
        make, *args = (plain if part is wrapped else part for part in (make, *args))
        return _remade, (make, tuple(args)), *state


def _remade(make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    made = make(*args)
    return made if is_wrapped(made) else wrap_forward(made)


def _plain_class(wrapped: type[torch.nn.Module]) -> type[torch.nn.Module]:
    return wrapped.__bases__[1]


def _wrapped_class(cls: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """Finds the class among the subclasses of ``cls``, which keeps no class alive, or makes it."""
    bases = (FunctionalForward, cls)
    for known in cls.__subclasses__():
        if known.__bases__ == bases:
            return known
    names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    metaclass: Any = type(cls)
    made: type[torch.nn.Module] = metaclass(cls.__name__, bases, names)
    return made


class _FunctionalMode(TorchFunctionMode):
    """Has no state, so one object serves all threads and nestings."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        choose = _TAKEN.get(func)
        return ((choose and choose(*args, **kwargs)) or func)(*args, **kwargs)


_MODE = _FunctionalMode()


def _once() -> bool:
    """Whether this code runs only once. Code that runs again for its gradients may do so when the mode is off, and
    torch would then drop other elements than we did. Such code first runs without gradients (reentrant checkpoints,
    reversible layers) or under hooks that replace what autograd keeps (checkpoints)."""
    if torch.compiler.is_compiling():  # a repetition is part of the graph
        return True
    if not torch.is_grad_enabled() or torch._C._current_graph_task_id() != -1 or torch._C._is_tracing():
        return False
    return _top_hooks is not None and _top_hooks(True) is None


def _ours(tensor: Any, types: tuple[torch.dtype, ...]) -> bool:
    """Whether our kernels take the tensor."""
    if type(tensor) not in _runtime.PLAIN or tensor.dtype not in types:
        return False
    return tensor.layout == torch.strided and not tensor.is_nested and not _runtime.unsupported_reason(tensor.device)


def _dropping(function: Any, types: tuple[torch.dtype, ...]) -> Any:
    def choose(input: Any, *_: Any, **__: Any) -> Any:
        return function if _ours(input, types) and _once() else None

    return choose


def _batch_norm(
    input: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, *_: Any, **__: Any
) -> Any:
    if not _ours(input, _REAL):
        return None
    types = (input.dtype, torch.float32) if input.dtype in HALF else (input.dtype,)
    others = (running_mean, running_var, weight, bias)
    return F.batch_norm if all(t is None or _ours(t, types) for t in others) and _once() else None


def _attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, *_: Any, **__: Any
) -> Any:
    if dropout_p == 0 or not all(_ours(t, _REAL) and t.is_cpu for t in (query, key, value)):
        return None
    plain = attn_mask is None or type(attn_mask) in _runtime.PLAIN
    return F.scaled_dot_product_attention if plain and _once() else None


def _in_mode(func: Any) -> Any:
    """Returns ``func`` as the mode runs it, for use while the mode runs something and is therefore off."""
    return lambda *args, **kwargs: _MODE.__torch_function__(func, (), args, kwargs)


def _with_ours(theirs: Any, *names: str) -> Any:
    """Copies a Python function of torch's, whose calls of ``names`` the mode takes. The copy does not hand
    itself over to ``__torch_function__``."""
    found = theirs.__globals__ | {name: _in_mode(getattr(T, name)) for name in names}
    found["has_torch_function"] = lambda _: False
    del found["__name__"]  # torch's compiler would look it up and read torch's module
    copy = FunctionType(theirs.__code__, found, theirs.__name__, theirs.__defaults__)
    copy.__kwdefaults__ = theirs.__kwdefaults__
    return copy


_heads = _with_ours(T.multi_head_attention_forward, "dropout", "scaled_dot_product_attention")


def _multi_head_attention(*args: Any, **kwargs: Any) -> Any:
    tensors = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor)]
    return _heads if all(type(tensor) in _runtime.PLAIN for tensor in tensors) else None


# What the mode takes, and what chooses a function for a call, or None for torch's own.
_TAKEN: dict[Any, Any] = {
    T.dropout: _dropping(F.dropout, _REAL + _COMPLEX),
    T.dropout1d: _dropping(F.dropout1d, _REAL + _COMPLEX),
    T.dropout2d: _dropping(F.dropout2d, _REAL + _COMPLEX),
    T.dropout3d: _dropping(F.dropout3d, _REAL + _COMPLEX),
    T.alpha_dropout: _dropping(F.alpha_dropout, _REAL),
    T.feature_alpha_dropout: _dropping(F.feature_alpha_dropout, _REAL),
    T.batch_norm: _batch_norm,
    T.scaled_dot_product_attention: _attention,
    T.multi_head_attention_forward: _multi_head_attention,
}
