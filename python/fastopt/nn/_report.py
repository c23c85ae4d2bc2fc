"""Reports which layers of a model run on our kernels."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn
from torch.nn.modules import normalization
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.lazy import LazyModuleMixin

from .._checks import check_module
from ._foreign import WithAct
from ._norm import fusion
from ._norm.modules import Activating
from ._rms_forms import KnownRMSNorm, has_name
from ._traced import Traced
from .sequential import Fusing

_TORCHS = (_NormBase, normalization.LayerNorm, normalization.GroupNorm, normalization.RMSNorm, _DropoutNd)
_UNKNOWN = (normalization.LocalResponseNorm, normalization.CrossMapLRN2d)


class Row(NamedTuple):
    """One layer: its name in the model, its class, its state, and a note on that state."""

    name: str
    layer: str
    state: str
    note: str


class Report:
    """Which layers of a model run on fastopt's kernels now. ``str()`` gives a table.

    Args:
        model: converted or not.
        reasons: why modules were not traced, by name; only ``convert`` knows.

    Attributes:
        rows: one :class:`Row` per norm and dropout: "taken" runs on fastopt's kernels, "as one" in the same pass as
            what is added before or after it and applied to it, "left" is torch's; ``note`` says with what, or why not.
    """

    def __init__(self, model: nn.Module, reasons: dict[str, str] | None = None) -> None:
        self._modules = dict(model.named_modules())
        self._reasons = reasons or {}
        self._joined = self._pairs()
        self.rows = [
            self._row(name, module)
            for name, module in self._modules.items()
            if isinstance(module, (Activating, *_TORCHS, *_UNKNOWN)) or _looks_like_norm(module)
        ]
        del self._modules

    def counts(self) -> dict[str, int]:
        """Returns the number of layers in each state."""
        return {state: sum(row.state == state for row in self.rows) for state in ("as one", "taken", "left")}

    def __str__(self) -> str:
        if not self.rows:
            return "no norm and no dropout in this model: convert has nothing to do"
        count = self.counts()
        total = len(self.rows)
        ours, joined = total - count["left"], count["as one"]
        head = f"{ours} of {total} norms and dropouts run on fastopt's kernels, "
        head += f"{joined} of them in one pass with what is next to them"
        widths = [max(len(row[column]) for row in self.rows) for column in range(3)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)) for row in self.rows]
        table = [f"  {line}  {row.note}".rstrip() for line, row in zip(lines, self.rows, strict=True)]
        return "\n".join([head, *table])

    def _pairs(self) -> dict[str, str]:
        """Returns what runs in one pass with a norm, by the norm's name."""
        joined: dict[str, str] = {}
        for name, module in self._modules.items():
            before = f"{name}." if name else ""
            found: list[tuple[str, str]] = []
            if isinstance(module, Fusing):
                found = [(a, f"{type(module._modules[b]).__name__}, {b}") for a, b in module.pairs()]
            elif isinstance(module, Traced):
                for graph in module._graphs:
                    found += [(text.split(" + ")[0], text.split(" + ", 1)[1]) for text in graph.found]
            for norm, rest in found:
                joined[self._last(f"{before}{norm}")] = rest
        return joined

    def _last(self, name: str) -> str:
        """Returns the name of the norm that a Sequential of this name ends in."""
        while isinstance(self._modules.get(name), Fusing):
            name = f"{name}.{list(self._modules[name]._modules)[-1]}"
        return name

    def _row(self, name: str, module: nn.Module) -> Row:
        layer = type(module).__name__
        if isinstance(module, Activating):
            if name in self._joined:
                return Row(name, layer, "as one", f"with {self._joined[name]}")
            own = getattr(module, "activation", None)
            if own is None and isinstance(module, WithAct):
                known = fusion.activation_of(module.act)
                own = known and known.name
            if own is not None:
                return Row(name, layer, "as one", f"with {own}")
            return Row(name, layer, "taken", self._why_alone(name))
        if isinstance(module, KnownRMSNorm):
            if name in self._joined:
                return Row(name, layer, "as one", f"with {self._joined[name]}")
            return Row(name, layer, "taken", self._caller(name))
        if type(module).__module__.startswith("fastopt."):
            return Row(name, layer, "taken", "")
        if isinstance(module, _UNKNOWN):
            return Row(name, layer, "left", "fastopt has no such norm")
        if has_name(module) and type(module).forward is not normalization.RMSNorm.forward:
            return Row(name, layer, "left", f"of {type(module).__module__}: its forward is none of the known ones")
        if type(module).__module__.startswith("torch.nn."):
            return Row(name, layer, "left", self._reasons.get(name, "torch's: convert has not seen it"))
        return Row(name, layer, "left", f"of {type(module).__module__}: its forward may be another than torch's")

    def _why_alone(self, name: str) -> str:
        """Says why a norm runs without what follows it."""
        above, _, own = name.rpartition(".")
        if not name:
            return ""
        parent = self._modules[above]
        if isinstance(self._modules[name], LazyModuleMixin):
            return "lazy: what it runs with is known after its first input"
        if why := fusion.does_more(self._modules[name]):
            return f"alone: it {why}"
        if isinstance(parent, Fusing):
            names = list(parent._modules)
            after = names.index(own) + 1
            if after == len(names):
                return "" if isinstance(self._modules.get(above.rpartition(".")[0]), Fusing) else self._caller(above)
            following = parent._modules[names[after]]
            return f"alone: {fusion.why_no_activation(following)}" if following is not None else ""
        if above in self._reasons:
            return f"alone: {self._reasons[above]}"
        return self._caller(name)

    def _caller(self, name: str) -> str:
        """Says what calls a norm, where its caller's ``forward`` is none of ours."""
        above = name.rpartition(".")[0]
        parent = self._modules.get(above)
        if not name or parent is None or isinstance(parent, (Traced, Fusing)):
            return ""
        if above in self._reasons:
            return f"alone: {self._reasons[above]}"
        return f'called by {type(parent).__name__}: fuse="trace" may take what is next to it'


def _looks_like_norm(module: nn.Module) -> bool:
    named = "norm" in type(module).__name__.lower()
    return named and any(hasattr(module, name) for name in ("running_mean", "eps", "epsilon", "variance_epsilon"))


def report(model: nn.Module) -> Report:
    """Reports which layers of ``model`` run on fastopt's kernels now.

    Args:
        model: converted or not.

    Returns:
        A :class:`Report`; print it, or read its ``rows``.

    Raises:
        TypeError: ``model`` is not a module.
    """
    check_module("model", model)
    return Report(model)
