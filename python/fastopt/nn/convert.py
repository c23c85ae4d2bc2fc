"""Lets models of torch's modules run on ours."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from .._checks import check_module
from . import _foreign, _rms_forms, _traced, batch_norm, dropout, norms, sequential, sync_batch_norm
from ._adapted import adapted, become, origin
from ._check import trace_alike
from ._norm import fusion
from ._report import Report
from .functional_mode import is_wrapped, unwrap_forward, wrap_forward

Model = TypeVar("Model", bound=nn.Module)

OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: batch_norm.BatchNorm1d,
    nn.BatchNorm2d: batch_norm.BatchNorm2d,
    nn.BatchNorm3d: batch_norm.BatchNorm3d,
    nn.LazyBatchNorm1d: batch_norm.LazyBatchNorm1d,
    nn.LazyBatchNorm2d: batch_norm.LazyBatchNorm2d,
    nn.LazyBatchNorm3d: batch_norm.LazyBatchNorm3d,
    nn.RMSNorm: norms.RMSNorm,
    nn.LayerNorm: norms.LayerNorm,
    nn.GroupNorm: norms.GroupNorm,
    nn.InstanceNorm1d: norms.InstanceNorm1d,
    nn.InstanceNorm2d: norms.InstanceNorm2d,
    nn.InstanceNorm3d: norms.InstanceNorm3d,
    nn.LazyInstanceNorm1d: norms.LazyInstanceNorm1d,
    nn.LazyInstanceNorm2d: norms.LazyInstanceNorm2d,
    nn.LazyInstanceNorm3d: norms.LazyInstanceNorm3d,
    nn.SyncBatchNorm: sync_batch_norm.SyncBatchNorm,
    nn.Dropout: dropout.Dropout,
    nn.Dropout1d: dropout.Dropout1d,
    nn.Dropout2d: dropout.Dropout2d,
    nn.Dropout3d: dropout.Dropout3d,
    nn.AlphaDropout: dropout.AlphaDropout,
    nn.FeatureAlphaDropout: dropout.FeatureAlphaDropout,
}
TORCHS: dict[type[nn.Module], type[nn.Module]] = {ours: torchs for torchs, ours in OURS.items()}
TORCHS[sequential.Sequential] = nn.Sequential


def convert(
    model: Model, *, fuse: bool | str = True, example: Any = None, functional: bool = False, report: bool = False
) -> Model:
    """Lets the norms and the Dropout modules of ``model`` run on our kernels.

    Modules stay the objects they are, with their parameters, buffers, hooks and places in the model; only their class
    changes. ``convert`` takes torch's BatchNorm, SyncBatchNorm, RMSNorm, LayerNorm, GroupNorm, InstanceNorm and
    Dropout, lazy ones included, the norms of torchvision and timm, and Hugging Face's RMSNorm classes, whose order of
    rounding is kept. It leaves other subclasses alone, because their ``forward`` may be another.

    Args:
        model: changed in place.
        fuse: a Sequential, or a subclass that runs as one, applies a norm and the activation after it in one pass:
            see :class:`~fastopt.nn.Sequential`. "trace" does the same in modules that call a norm in their ``forward``,
            where ``torch.fx`` can trace that ``forward``, and also takes additions: those after BatchNorm, as in
            residual blocks, and those before the other norms, as in transformers.
        example: for "trace": an input of the model, or a tuple of them. Each module is traced for what the example
            brings it, and runs on that, in training and in evaluation, traced and as written; where results differ, it
            is left as it was. Globals and objects other than its module that a traced ``forward`` reads keep their
            present values in it.
        functional: run calls of ``model``, while it is training, in :func:`functional_mode`: for models that call
            ``F.dropout``, ``F.batch_norm`` or attention with dropout themselves.
        report: print what was taken, fused and left: :func:`fastopt.nn.report`.

    Returns:
        ``model``.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: ``fuse`` is neither a bool nor "trace"; "trace" without an example, or an example without "trace".
    """
    check_module("model", model)
    if fuse not in (True, False, "trace"):
        raise ValueError(f'fuse has to be True, False or "trace", but got {fuse!r}')
    if (fuse == "trace") != (example is not None):
        raise ValueError('fuse="trace" and example belong together: traced modules are compared on an example input')
    functional = functional or is_wrapped(model)  # converted before
    for module in model.modules():
        unwrap_forward(module)
    known = {**OURS, **_foreign.norms()}
    for module in model.modules():
        if type(module) in known:
            become(module, known[type(module)])
        elif (cls := _rms_forms.our_class(module)) is not None:
            become(module, cls)
    reasons: dict[str, str] = {}
    if fuse:
        _fuse_sequentials(model)
    if fuse == "trace":
        reasons = _trace(model, example if isinstance(example, tuple) else (example,))
    if functional:
        wrap_forward(model)
    if report:
        print(Report(model, reasons))
    return model


def revert(model: Model) -> Model:
    """Undoes :func:`convert`; modules that were made as fastopt's become torch's as well.

    Args:
        model: changed in place.

    Returns:
        ``model``.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: a module applies an activation or rounds before its weight, which torch's cannot, or is a
            :class:`~fastopt.nn.DropConnect`; nothing is changed.
    """
    check_module("model", model)
    for name, module in model.named_modules():
        if type(module) in TORCHS and getattr(module, "activation", None) is not None:
            raise ValueError(f"module '{name}' applies {module.activation}: torch has no such module")
        if type(module) in TORCHS and getattr(module, "round_before_weight", False):
            raise ValueError(f"module '{name}' rounds before its weight: torch has no such module")
        if type(module) is dropout.DropConnect:
            raise ValueError(f"module '{name}' is a DropConnect: torch has no such module")
    for module in model.modules():
        unwrap_forward(module)
        _traced.untrace(module)
        before = origin(module) or TORCHS.get(type(module))
        if before is not None:
            become(module, before)
    return model


def _fuse_sequentials(model: nn.Module) -> None:
    """Converts each Sequential that holds a norm or a converted Sequential."""
    for module in reversed(list(model.modules())):  # parts before wholes
        cls: Any = type(module)
        runs_parts = isinstance(module, nn.Sequential) and cls.forward is nn.Sequential.forward
        if not runs_parts or "forward" in vars(module):
            continue
        if any(getattr(part, "_ends_in_norm", None) is not None for part in module.children()):
            become(module, sequential.Sequential if cls is nn.Sequential else adapted(sequential.Fusing, cls))


def _trace(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, str]:
    """Traces modules with norms. Returns why others were not traced, by name."""
    candidates: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        norms = any(fusion.takes_activation(child) or fusion.adds_before(child) for child in module.children())
        if norms and not isinstance(module, (sequential.Fusing, nn.ModuleList, nn.ModuleDict)) and not origin(module):
            candidates[name] = module
    return trace_alike(model, inputs, candidates)
