"""Random groups, shapes, layouts, types and flags: the kernels equal the reference to the bit."""

from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optimizer_cases import ROWS, Row
from support import DTYPES, INTAKES, ISAS, assert_same_step, running, some_values

SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)


def _backwards(t: torch.Tensor) -> list[int]:
    return list(reversed(range(t.ndim)))


LAYOUTS = {
    "contiguous": lambda t: t,
    "reversed": lambda t: t.permute(_backwards(t)).contiguous().permute(_backwards(t)),
    "sliced": lambda t: torch.stack([t, t], -1)[..., 1],
    "offset": lambda t: torch.cat([torch.zeros(3, dtype=t.dtype), t.reshape(-1)])[3:].view(t.shape),
}
PARAMS = st.tuples(SHAPES, st.sampled_from(DTYPES), st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(LAYOUTS)))
COMMON = st.fixed_dictionaries(
    {
        "lr": st.sampled_from([0.0, 1e-3, 0.3]),
        "l1": st.sampled_from([0.0, 0.01]),
        "max_grad_norm": st.sampled_from([None, 0.5]),
        "max_grad_value": st.sampled_from([None, 0.7]),
        "state_dtype": st.sampled_from([None, torch.float32]),
    }
)


def _arguments(row: Row) -> st.SearchStrategy[dict[str, Any]]:
    flags = [*row.flags, row.plain, *({**kwargs, **extra} for kwargs, extra in row.own)]
    return st.builds(lambda flags, common: {**row.base, **flags, **common}, st.sampled_from(flags), COMMON)


OPTIMIZERS = st.sampled_from(ROWS).flatmap(lambda row: st.tuples(st.just(row.ours), _arguments(row)))
STEPS = st.lists(st.integers(0, 2**16), min_size=1, max_size=4)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    OPTIMIZERS,
    st.lists(st.lists(PARAMS, min_size=1, max_size=4), min_size=1, max_size=3),
    STEPS,
    st.sampled_from(ISAS),
    st.sampled_from(INTAKES),
    st.sampled_from([1.0, 3.0]),
)
def test_any_step_equals_reference(optimizer, groups, seeds, isa, intake, scale) -> None:
    make, kwargs = optimizer

    def run() -> tuple[torch.optim.Optimizer, list[torch.Tensor]]:
        params = [
            [
                LAYOUTS[layout](some_values(shape, dtype, seed=i)).requires_grad_()
                for i, (shape, dtype, layout, _) in enumerate(g)
            ]
            for g in groups
        ]
        ours = make([{"params": group, "lr": kwargs["lr"] / (1 + k)} for k, group in enumerate(params)], **kwargs)
        for seed in seeds:
            for group, described in zip(params, groups, strict=True):
                for i, (param, (shape, dtype, _, layout)) in enumerate(zip(group, described, strict=True)):
                    late = (seed + i) % 5 == 0
                    param.grad = None if late else LAYOUTS[layout](some_values(shape, dtype, seed + i))
            ours.grad_scale, ours.found_inf = torch.tensor(scale), torch.tensor(0.0)
            ours.step()
        return ours, [param for group in params for param in group]

    with running("reference"):
        reference, expected = run()
    with running("native", isa, intake=intake):
        native, params = run()
    assert_same_step(native, params, reference, expected)
