"""What all optimizers share: options in addition to torch's, in groups and signatures."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from torch.optim import Optimizer

from ._checks import check_number, check_range
from ._sharded import made_by_zero_redundancy
from ._storage import check_storage, draw_seed, is_random
from ._update import COMMON, CommonOptions, Group


class Options(Optimizer):
    """The options that every optimizer takes, in addition to those of torch's class."""

    group_keys: ClassVar[frozenset[str]] = frozenset()
    """The options of a parameter group that the class knows. Others are left in the group and have no effect, as with
    torch's optimizers: a scheduler's, another class's, your own."""
    _has_partition = False  # whether ZeroRedundancyOptimizer gave the other parameters to other processes

    _no_numbers: ClassVar[frozenset[str]] = frozenset({"state_dtype", "master", "rounding", "copies"})
    _more_group_keys: ClassVar[frozenset[str]] = frozenset()  # keys that are no arguments, as "fused" in some classes

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Shows the common options in the signature, where a class takes them as ``**common``; notes all of them."""
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            own = list(inspect.signature(cls.__init__).parameters.values())[1:]
            shown = [p for p in own if p.name != "common"]
            if len(shown) < len(own):
                keyword_only = inspect.Parameter.KEYWORD_ONLY
                shown += [inspect.Parameter(key, keyword_only, default=value) for key, value in COMMON.items()]
                cls.group_keys = frozenset(p.name for p in shown) - {"params"} | {"fused"} | cls._more_group_keys
            cls.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]

    def _option(self, group: Group, key: str, otherwise: Any = None) -> Any:
        """Returns an option that not every class has."""
        return group.get(key, otherwise) if key in self.group_keys else otherwise

    def _extend(self, common: CommonOptions, **own: Any) -> None:
        """Adds options torch's class does not know to the defaults and to the groups it has made."""
        for key in common:
            if key not in COMMON:
                raise TypeError(f"{type(self).__name__}.__init__() got an unexpected keyword argument '{key}'")
        if made_by_zero_redundancy():
            self._has_partition = True
        options = {**own, **COMMON, **common}
        draw_seed(options)
        self.defaults.update(options)
        for group in self.param_groups:
            for key, value in options.items():
                group.setdefault(key, value)
            self._check_group(group)
            draw_seed(group)

    def _check_group(self, group: Group) -> None:
        """Checks what torch's constructor does not check."""
        self._check_flags(group)
        for option in self.defaults.keys() & group.keys() - self._no_numbers:
            value = group[option]
            for one in value if isinstance(value, (tuple, list)) and option != "lr" else (value,):
                if one is not None or option == "lr":
                    check_number(option, one)
        for option in ("l1", "max_grad_norm", "max_grad_value"):
            self._limit(group, option)
        if group.get("max_grad_norm") is not None:
            self._refuse_partition()
        check_storage(group)
        if self._has_partition and is_random(group):
            raise ValueError("rounding: ZeroRedundancyOptimizer numbers the parameters anew in each process")

    def _max_norm(self, group: Group) -> float | None:
        return self._limit(group, "max_grad_norm")

    def _limit(self, group: Group, option: str) -> float | None:
        """Returns a limit of the group. Groups may be edited, so every step checks it."""
        value = group.get(option)
        if value is None:
            return None
        check_number(option, value)
        check_range(f"{option} value", value)
        return float(value)

    def _refuse_partition(self) -> None:
        if self._has_partition:
            raise ValueError(
                "max_grad_norm: under ZeroRedundancyOptimizer each process would take the norm of its own parameters; "
                "call fastopt.clip_grad_norm_ on all parameters of the model before the step"
            )

    def _check_flags(self, group: Group) -> None:
        """Checks flags at every step, because groups may be edited and no flag is ignored."""
        check_number("lr", group.get("lr", 0.0))
        if group.get("differentiable"):
            raise RuntimeError(f"fastopt.{type(self).__name__} does not support differentiable=True")

    def add_param_group(self, param_group: Group) -> None:
        if isinstance(param_group, dict):  # torch has the error for other types
            whole = {**self.defaults, **param_group}
            self._check_group(whole)
            draw_seed(whole)
            if whole.get("rounding_seed") is not None:
                param_group["rounding_seed"] = whole["rounding_seed"]
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Options that a checkpoint of torch's optimizer does not have stay as they are in this optimizer's groups.
        defaults = state.get("defaults", self.__dict__.get("defaults", {}))
        before = self.__dict__.get("param_groups", [])
        for i, group in enumerate(state["param_groups"]):
            self._check_flags(group)
            for key, value in defaults.items():
                group.setdefault(key, before[i].get(key, value) if i < len(before) else value)
            if i < len(before) and "copies" in before[i]:
                group["copies"] = before[i]["copies"]  # the user's tensors, which are in no checkpoint
        super().__setstate__(state)
