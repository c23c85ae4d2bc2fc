"""``python -m fastopt`` shows what runs underneath, and compares every operation once with the reference."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from . import _report_model, _runtime
from .nn import functional as F
from .optim import ALL, SGD, Lookahead


def _show(values: dict[str, Any], indent: str = "") -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            print(f"{indent}{key}:")
            _show(value, indent + "  ")
        elif isinstance(value, list):
            print(f"{indent}{key}: {', '.join(map(str, value)) or '-'}")
        else:
            print(f"{indent}{key}: {'-' if value in ('', None) else value}")


def _lookahead(params: list[torch.Tensor], **options: Any) -> Lookahead:
    return Lookahead(SGD(params, **options), k=1)


TESTED: dict[str, Callable[..., torch.optim.Optimizer]] = {cls.__name__: cls for cls in ALL} | {"Lookahead": _lookahead}


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _one_step(make: Callable[..., torch.optim.Optimizer], like: torch.Tensor) -> torch.Tensor:
    param = _random(77, 13).to(like).requires_grad_()
    param.grad = _random(77, 13, seed=1).to(like)
    make([param], l1=1e-2, max_grad_norm=1.0).step()
    return param.detach()


DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

DROPPED: dict[str, Callable[..., torch.Tensor]] = {
    "dropout": lambda x: F.dropout(x, 0.3, seed=1),
    "dropout of channels": lambda x: F.dropout1d(x, 0.3, seed=1),
    "dropout, transposed": lambda x: F.dropout(x.T, 0.3, seed=1),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.3, True, seed=1),
    "bias_dropout_add": lambda x: F.bias_dropout_add(x, x[0], x, 0.3, seed=1),
}


def _dropped(function: Callable[..., torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    return function(_random(77, 130).to(like))


NORMALIZED: dict[str, Callable[..., torch.Tensor]] = {
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "batch_norm, images": lambda x: F.batch_norm(x.view(11, 7, 10, 13), None, None, training=True, activation="relu"),
    "batch_norm, channels-last": lambda x: F.batch_norm(
        x.view(11, 10, 13, 7).permute(0, 3, 1, 2), None, None, training=True, activation="gelu"
    ),
}


def _with_gradient(function: Callable[..., torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    x = _random(77, 130).to(like).requires_grad_()
    y = function(x)
    (grad,) = torch.autograd.grad(y, x, _random(*y.shape, seed=1).to(like))
    return torch.cat([y.detach().flatten(), grad.flatten()])


def _devices() -> list[str]:
    has_cuda = torch.cuda.is_available() and not _runtime.unsupported_reason(torch.device("cuda"))
    return ["cpu", "cuda"] if has_cuda else ["cpu"]


def self_test() -> bool:
    """Whether a step of every optimizer, and every kind of dropout and BatchNorm, in every type, on the CPU and on a
    GPU if there is one, equals the reference to the bit."""
    operations: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        **{name: partial(_one_step, make) for name, make in TESTED.items()},
        **{name: partial(_dropped, function) for name, function in DROPPED.items()},
        **{name: partial(_with_gradient, function) for name, function in NORMALIZED.items()},
    }
    chosen = _runtime.backend()
    devices = _devices()
    good = True
    try:
        for name, operation in operations.items():
            for dtype in DTYPES:
                _runtime.use_backend("reference")
                expected = operation(torch.empty(0, dtype=dtype))
                _runtime.use_backend(chosen)
                for device in devices:
                    if not torch.equal(operation(torch.empty(0, dtype=dtype, device=device)).cpu(), expected):
                        print(f"self-test: {name} {dtype} on {device} differs from the reference")
                        good = False
    finally:
        _runtime.use_backend(chosen)
    return good


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m fastopt", description=__doc__)
    parser.add_argument("--model", metavar="MODULE:FACTORY", help="show instead what nn.convert makes of this model")
    parser.add_argument("--input", metavar="SIZES", help='input sizes, as 8,3,224,224: also use fuse="trace"')
    options = parser.parse_args(arguments)
    if options.input is not None and options.model is None:
        parser.error("--input belongs to a model: give --model")
    if options.model is not None:
        try:
            _report_model.print_report(options.model, options.input)
        except ValueError as error:
            parser.error(str(error))
        return 0
    _show(_runtime.info())
    good = self_test()
    tested = f"{len(TESTED)} optimizers, {len(DROPPED)} dropouts, {len(NORMALIZED)} BatchNorms, {len(DTYPES)} types"
    tested += f", on {' and '.join(_devices())}"
    print(f"self-test: {'passed' if good else 'FAILED'} ({tested}, against the reference)")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
