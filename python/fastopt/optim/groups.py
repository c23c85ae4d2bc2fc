from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from .._checks import check_module
from ._checks import check_range

_NORMS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    *((nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()),
)


def param_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Makes two parameter groups: matrices and kernels with weight decay, everything else without.

    The second group has biases (parameters called ``bias...`` or ``...bias``), the parameters of normalisation
    layers, and all other vectors and scalars, such as the scales of home-made normalisations. Parameters that do not
    require a gradient are left out; shared ones appear once.

    Args:
        model: the module whose parameters are grouped.
        weight_decay: the weight decay of the first group.

    Returns:
        Two group dicts, with ``weight_decay`` and with 0, for any optimizer.

    Raises:
        TypeError: ``model`` is not a module, or ``weight_decay`` not a number.
        ValueError: ``weight_decay`` is negative.

    Examples:
        >>> optimizer = fastopt.AdamW(fastopt.param_groups(model, weight_decay=0.05), lr=1e-3)
    """
    check_module("model", model)
    check_range("weight_decay value", weight_decay)
    normalising = {id(p) for m in model.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)}
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        leaf = name.rsplit(".", 1)[-1]
        free = leaf.startswith("bias") or leaf.endswith("bias") or param.ndim <= 1 or id(param) in normalising
        (others if free else decayed).append(param)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def muon_groups(
    model: nn.Module,
    lr: float = 3e-4,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    *,
    head: Iterable[str] | None = None,
) -> list[dict[str, Any]]:
    """Makes the two parameter groups of :class:`fastopt.Muon`: the matrices and kernels of hidden layers; everything
    else, for AdamW.

    AdamW gets biases, normalisation layers and other vectors, embeddings, and the output layer. Kernels of convolutions
    are matrices of their output channels (``flatten``). Parameters that do not require a gradient are left out; shared
    ones appear once, and where one of them is an embedding or the output layer's, AdamW gets them.

    Args:
        model: the module whose parameters are grouped.
        lr: AdamW's learning rate; Muon's is that of its constructor.
        betas: AdamW's.
        eps: AdamW's.
        weight_decay: AdamW's; Muon's is that of its constructor.
        head: names of the output layers, as in ``model.named_modules()``; by default the ``nn.Linear`` that comes last
            there.

    Returns:
        Two group dicts, with ``use_muon`` and without.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: ``head`` names no module of the model.

    Examples:
        >>> optimizer = fastopt.Muon(fastopt.muon_groups(model), lr=0.02)
    """
    check_module("model", model)
    modules = dict(model.named_modules())
    if head is None:
        head = [name for name, module in modules.items() if isinstance(module, nn.Linear)][-1:]
    elif isinstance(head, str):
        head = [head]
    outer = [module for module in modules.values() if isinstance(module, (nn.Embedding, nn.EmbeddingBag))]
    for name in head:
        if name not in modules:
            raise ValueError(f"head: the model has no module '{name}'")
        outer.append(modules[name])
    outside = {id(param) for module in outer for param in module.parameters()}
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for param in model.parameters():
        if param.requires_grad:
            (others if param.ndim < 2 or id(param) in outside else matrices).append(param)
    adamw = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    return [{"params": matrices, "use_muon": True, "flatten": True}, {"params": others, "use_muon": False, **adamw}]
