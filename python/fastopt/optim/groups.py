from __future__ import annotations

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
