"""How parameters and states are kept: masters, copies, averages, narrow and coded states, random rounding."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from .._processes import any_others
from ._checks import check_range
from ._codes import CODE_BLOCK, Coding, encode, scale_key
from ._program import AVERAGE_WEIGHT, Number, Scalars, number, select, smaller
from ._sharded import any_distributed, first_element, refuse_flattened
from ._update import HALF, Group, Storage, Update

_CODED_TYPES = (torch.float32, *HALF)
_FEWEST_CODED = 4096  # elements from which on a state is coded
_MASTERS = {"float32": "master", "split": "remainder"}
KEYS = ("master", "remainder", "ema")


class Declares(Protocol):
    """What an optimizer says of its states."""

    _codings: ClassVar[dict[str, Coding]]

    def _name(self, param: Tensor) -> str: ...


def check_storage(group: Group) -> None:
    """Errors for options that are wrong, or make no sense together."""
    master, rounding, dtype = group.get("master"), group.get("rounding"), group.get("state_dtype")
    if master not in (None, *_MASTERS):
        raise ValueError(f"Invalid master: {master!r}, not None, 'float32' or 'split'")
    if rounding not in (None, "nearest", "stochastic"):
        raise ValueError(f"Invalid rounding: {rounding!r}, not None, 'nearest' or 'stochastic'")
    if master is not None and rounding == "stochastic":
        raise ValueError(
            "rounding='stochastic' with a master: the parameter is the nearest rounding of its master, which has not "
            "lost anything (states of state_dtype=torch.bfloat16 are rounded stochastically unless rounding='nearest')"
        )
    if dtype not in (None, torch.float32, torch.bfloat16, "int8"):
        raise ValueError(f"Invalid state_dtype: {dtype}, not None, torch.float32, torch.bfloat16 or 'int8'")
    seed = group.get("rounding_seed")
    if seed is not None and not (isinstance(seed, int) and 0 <= seed < 2**64):
        raise ValueError(f"Invalid rounding_seed: {seed!r}, not None or an integer of 64 bits")
    ema = group.get("ema")
    if ema is None and group.get("ema_warmup"):
        raise ValueError("ema_warmup without ema")
    if ema is not None:
        check_range("ema value", ema)
        if ema >= 1:
            raise ValueError(f"Invalid ema value: {ema}")
    copies = group.get("copies")
    if copies is not None and (not isinstance(copies, list) or len(copies) != len(list(group.get("params", copies)))):
        raise ValueError("copies has to be a list with a tensor for each parameter of the group")


def is_random(group: Group) -> bool:
    """Whether random numbers decide about a rounding."""
    rounding = group.get("rounding")
    return rounding == "stochastic" or (group.get("state_dtype") == torch.bfloat16 and rounding is None)


def draw_seed(group: Group) -> None:
    """Gives a group that rounds at random a seed, drawn from torch's generator."""
    if group.get("rounding_seed") is None and is_random(group):
        if any_others() and torch.distributed.get_world_size() > 1:
            raise ValueError("rounding_seed: give one, as each process would draw another (stochastic rounding)")
        group["rounding_seed"] = int(torch.randint(2**63 - 1, ()).item())


_KEYS_OF_OPTIONS = ("master", "ema", "copies", "rounding", "state_dtype")
_options = operator.itemgetter(*_KEYS_OF_OPTIONS)
_UNUSED = (None,) * len(_KEYS_OF_OPTIONS)


def is_used(group: Group) -> bool:
    """Whether a group has an option of this module; asked at every step."""
    try:
        given = _options(group)
    except KeyError:  # a group that the user made
        given = tuple(map(group.get, _KEYS_OF_OPTIONS))
    if given == _UNUSED:
        return False
    *others, rounding, dtype = given
    return others != [None] * len(others) or rounding not in (None, "nearest") or dtype not in (None, torch.float32)


def storage_of(
    optimizer: Declares, group: Group, update: Update, indices: Iterable[int], numbers: list[int]
) -> tuple[Update, Storage]:
    """How the engine keeps the parameters at some indices of a group, and the update, which counts where random numbers
    or the average need the count. ``numbers`` are those of the parameters in the optimizer."""
    check_storage(group)
    draw_seed(group)
    indices, copies = list(indices), group.get("copies")
    for option, depends in (
        ("stochastic rounding", is_random(group)),
        ("8-bit states", group.get("state_dtype") == "int8"),
    ):
        if depends:  # on which elements of the whole a process has
            refuse_flattened((group["params"][i] for i in indices), option, "use fully_shard")
    codes, narrow = (group.get("state_dtype") == wanted for wanted in ("int8", torch.bfloat16))
    coded = [key in optimizer._codings and codes for key in update.states]
    storage = Storage(
        master=_MASTERS[group["master"]] if group.get("master") else None,
        average=None if group.get("ema") is None else "ema",
        scales=tuple(scale_key(key) if one else None for key, one in zip(update.states, coded, strict=True)),
        narrow=tuple(key in optimizer._codings and narrow for key in update.states),
        copies=None if copies is None else [copies[i] for i in indices],
        numbers=numbers,
        firsts=_firsts(optimizer, group, indices) if is_random(group) and not update.sums else [0] * len(indices),
        seed=group.get("rounding_seed") or 0,
        random_param=group.get("rounding") == "stochastic",
        random_states=is_random(group),
    )
    # Without a count, only the host knows whether a step is a parameter's first.
    averages = bool(group.get("ema_warmup") or (group.get("capturable") and group.get("ema") is not None))
    counts = update.counts or is_random(group) or averages
    return update._replace(counts=counts), storage


def _firsts(optimizer: Declares, group: Group, indices: list[int]) -> list[int]:
    params = [group["params"][i] for i in indices]
    if not any_distributed(params):
        return [0] * len(params)
    return [first_element(param, optimizer._name) for param in params]


def with_average(group: Group, scalars: Callable[..., Scalars]) -> Callable[..., Scalars]:
    """The scalars of a rule, and the weight of the new parameter in its average."""
    return scalars if group.get("ema") is None else functools.partial(_weighted, group, scalars)


def _weighted(group: Group, scalars: Callable[..., Scalars], t: Number, *carried: Number) -> Scalars:
    decay = number(group["ema"])
    if group.get("ema_warmup"):
        decay = smaller(decay, (1.0 + t) / (10.0 + t))
    weight = select(t == 1, lambda: 1.0, lambda: 1.0 - decay)
    return {**scalars(t, *carried), AVERAGE_WEIGHT: weight}


def code(optimizer: Declares, entries: dict[str, Any], param: Tensor, update: Update, storage: Storage) -> None:
    """Codes a parameter's first states."""
    for key, scales in zip(update.states, storage.scales, strict=True):
        if scales is not None and is_coded(param):
            refuse_parts(optimizer, param)
            entries[key], entries[scales] = encode(entries[key], optimizer._codings[key])


def first_value(optimizer: Declares, param: Tensor, key: str) -> Tensor:
    """A state that the options add, before the parameter's first update."""
    if key == "remainder":
        if param.dtype != torch.bfloat16:
            raise RuntimeError(f"{optimizer._name(param)} has dtype {param.dtype}; master='split' is for bfloat16")
        return torch.zeros_like(param, dtype=torch.int16)
    return param.detach().to(torch.float32) if param.dtype in HALF else param.detach().clone()


def is_coded(param: Tensor) -> bool:
    return param.numel() >= _FEWEST_CODED


def refuse_parts(optimizer: Declares, param: Tensor) -> None:
    """An error for a DTensor: its blocks would begin anew in each process, and the results would be others."""
    if hasattr(param, "placements"):
        raise RuntimeError(
            f"{optimizer._name(param)} is a DTensor; state_dtype='int8' has one scale for {CODE_BLOCK} elements of "
            "the whole"
        )


def state_type(optimizer: Declares, param: Tensor, group: Group, key: str) -> torch.dtype:
    """The type of a state that is not coded."""
    wanted = group.get("state_dtype")
    if wanted is None and group.get("master") is not None:
        wanted = torch.float32  # as for the parameter that is updated
    if wanted is None:
        return param.dtype
    if wanted not in (torch.bfloat16, "int8"):
        return torch.promote_types(param.dtype, wanted)
    if param.dtype not in _CODED_TYPES:
        raise RuntimeError(
            f"{optimizer._name(param)} has dtype {param.dtype}; state_dtype={wanted!r} is for float32, bfloat16 and "
            "float16"
        )
    narrow = wanted == torch.bfloat16 and key in optimizer._codings
    return torch.bfloat16 if narrow else torch.float32
