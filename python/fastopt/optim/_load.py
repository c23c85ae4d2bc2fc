"""Keeps the precision of checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ._codes import scale_key
from ._declared import Declared
from ._storage import KEYS


@contextlib.contextmanager
def uncast(optimizer: Declared) -> Iterator[None]:
    """Undoes the casts of torch's ``load_state_dict`` before any post hook sees them."""
    loaded: list[dict[str, Any]] = []
    # The last pre hook sees what is loaded after all changes, and the first post hook mends it.
    before = optimizer.register_load_state_dict_pre_hook(
        lambda _, state_dict: loaded.append(_own(optimizer, state_dict))
    )
    after = optimizer.register_load_state_dict_post_hook(lambda _: _mend(optimizer, loaded[-1]), prepend=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


def _own(optimizer: Declared, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Refuses states of another of our optimizers. Unknown states that are none of ours are accepted."""
    found = {key for state in state_dict["state"].values() for key, value in state.items() if value is not None}
    known = optimizer._state_keys()
    foreign = set() if known is None else found - known
    if foreign:
        makes: Any = optimizer._family
        others = [cls.__name__ for cls in makes if foreign <= (cls([torch.empty(0, 0)])._state_keys() or set())]
        if others:
            names = ", ".join(f"'{key}'" for key in sorted(foreign))
            raise ValueError(
                f"the state dict is not {type(optimizer).__name__}'s: it has {names}, as {' or '.join(others)} has"
            )
    return state_dict


def _mend(optimizer: Declared, state_dict: dict[str, Any]) -> None:
    saved_ids = [i for group in state_dict["param_groups"] for i in group["params"]]
    params = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    counters: set[int] = set()
    for saved_id, (param, group) in zip(saved_ids, params, strict=True):
        saved = state_dict["state"].get(saved_id, {})
        scales = {scale_key(key) for key in saved}
        for key, value in optimizer.state.get(param, {}).items():
            if isinstance(value, Tensor):
                number = key == "step" or key in optimizer._carried
                as_saved = number or key in KEYS or key in scales or not saved[key].is_floating_point()
                wanted = None if as_saved else optimizer._state_type(param, group, key)
                exact = _exact(saved[key], value, wanted)
                if number and exact.data_ptr() in counters:
                    exact = exact.clone()
                elif number:
                    counters.add(exact.data_ptr())
                optimizer.state[param][key] = exact


def _exact(saved: Any, cast: Tensor, wanted: torch.dtype | None) -> Tensor:
    """Returns a state as it was saved, in the type ``wanted``; None, for numbers, keeps the saved type."""
    if not isinstance(saved, Tensor):
        return cast
    wanted = wanted or saved.dtype
    return cast if cast.dtype == wanted else saved.to(device=cast.device, dtype=wanted)
