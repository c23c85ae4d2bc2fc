from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from torch import Tensor

__version__: str
emulates_cuda: bool

def built() -> dict[str, Any]: ...
def refusal_of_driver(version: int) -> str: ...
def detected_isas() -> list[str]: ...
def isa_in_use() -> str: ...
def use_isa(name: str) -> None: ...
def find_openmp(libtorch: str) -> None: ...
def openmp_runtime() -> str: ...
def forked() -> bool: ...
def set_torch(
    torch: ModuleType,
    increment_version: Callable[[list[Tensor]], None],
    allocate: Callable[[int, int], Tensor],
    current_stream: Callable[[int], int],
) -> None: ...
def use_intake(name: str) -> None: ...
def intake_in_use() -> str: ...
def expect_first_write(tensor: Tensor) -> None: ...
def rules() -> dict[str, tuple[int, tuple[str, ...], bool, bool]]: ...
def prologue() -> tuple[str, ...]: ...
def evaluate_program(
    program: tuple[Any, ...], rule: str, inputs: Sequence[float]
) -> tuple[dict[str, float], dict[str, float], tuple[float, ...]]: ...

class Step:
    def __init__(self) -> None: ...
    def depend_on(self, loss_scale: Tensor | None, found_inf: Tensor | None) -> None: ...
    def add_group(
        self,
        update: tuple[Any, ...],
        prologue: dict[str, float],
        max_grad_norm: float,
        scalars: Callable[..., dict[str, float]] | tuple[Any, ...],
        params: list[Tensor],
        state: dict[Tensor, dict[str, Any]],
        learning_rate: Tensor | None,
        storage: tuple[Any, ...] | None = None,
    ) -> list[int]: ...
    def leave_statistics(self, table_of: Callable[[Tensor], Tensor], first: int, indices: list[int] | None) -> None: ...
    def share(self, numbers: Tensor) -> None: ...
    def add_prepared(
        self,
        index: int,
        owner: Tensor,
        param: Tensor,
        grad: Tensor | None,
        states: tuple[Tensor, ...],
        step: Tensor | None,
        carried: tuple[Tensor, ...],
        t: int,
        storage: tuple[Any, ...] | None = None,
    ) -> bool: ...
    def add_fresh(self, index: int, param: Tensor, entries: dict[str, Any]) -> bool: ...
    def check_overlap_and_bump_versions(self) -> tuple[Tensor, str, Tensor, str] | None: ...
    def norm(self, reduction: str, exponent: float, loss_scale: float, threads: int) -> float | Tensor: ...
    def clip(self, norm: float | Tensor) -> None: ...
    def run_some(self, owners: list[Tensor], threads: int) -> None: ...
    def run(self, threads: int) -> None: ...
    def clear(self) -> None: ...

def dropouts() -> dict[str, tuple[tuple[str, ...], bool, bool]]: ...
def drop(
    rule: str,
    out: Tensor,
    input: Tensor,
    residual: Tensor | None,
    bias: Tensor | None,
    mask_dims: int,
    seed: int | Tensor,
    offset: int,
    threshold: int,
    scalars: tuple[float, ...],
    threads: int,
) -> bool: ...
def drop_and_sum(
    grad_input: Tensor | None,
    grad_bias: Tensor,
    grad: Tensor,
    seed: int | Tensor,
    offset: int,
    threshold: int,
    scale: float,
    threads: int,
) -> bool: ...
def write_mask(
    out: Tensor, n: int, packed: bool, seed: int | Tensor, offset: int, threshold: int, threads: int
) -> None: ...
def philox_blocks(out: Tensor, key: int, first: int, counter_high: int) -> None: ...
def activations() -> tuple[str, ...]: ...
def tune(name: str, value: int) -> None: ...
def tuning() -> dict[str, int]: ...
def cpu_vendor() -> str: ...
def last_cache() -> int: ...
def count(counter: Tensor) -> bool: ...
def sum_rows(numbers: Tensor, values: Tensor, out_numbers: Tensor, out_values: Tensor, threads: int) -> int: ...
def copy_rows(tensor: Tensor, numbers: Tensor, rows: Tensor, back: bool, threads: int) -> bool: ...
def gather_vector(
    out: Tensor,
    tensors: list[Tensor | None],
    weights: list[float],
    numels: list[int],
    direction: Tensor | None,
    previous: Tensor | None,
    sums: Tensor | None,
    threads: int,
) -> int: ...
def scatter_vector(
    tensors: list[Tensor],
    weights: list[float],
    numels: list[int],
    base: Tensor,
    direction: Tensor | None,
    t: float,
    threads: int,
) -> int: ...
def history_products(
    products: Tensor,
    steps: list[Tensor],
    changes: list[Tensor],
    grad: Tensor,
    previous: Tensor | None,
    direction: Tensor | None,
    t: float,
    threads: int,
) -> None: ...
def history_coefficients(
    coefficients: Tensor,
    step_changes: Tensor,
    change_changes: Tensor,
    products: Tensor,
    count: int,
    first: int,
    adds: bool,
) -> None: ...
def combine_vectors(
    out: Tensor, sums: Tensor, grad: Tensor, rows: list[Tensor], coefficients: Tensor, threads: int
) -> None: ...
def batch_norm(
    out: Tensor,
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    statistics: Tensor,
    training: bool,
    momentum: float,
    eps: float,
    activation: str,
    negative_slope: float,
    threads: int,
) -> bool: ...
def batch_norm_backward(
    grad_input: Tensor | None,
    grad_residual: Tensor | None,
    grad_weight: Tensor | None,
    grad_bias: Tensor | None,
    grad: Tensor,
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    batch: bool,
    activation: str,
    negative_slope: float,
    threads: int,
) -> bool: ...
def batch_norm_moments(moments: Tensor, input: Tensor, threads: int) -> bool: ...
def batch_norm_gather_stats(
    statistics: Tensor,
    gathered: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
) -> bool: ...
def batch_norm_apply(
    out: Tensor,
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    activation: str,
    negative_slope: float,
    threads: int,
) -> bool: ...
def batch_norm_sums(
    sums: Tensor,
    grad: Tensor,
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    activation: str,
    negative_slope: float,
    threads: int,
) -> bool: ...
def batch_norm_gradient(
    grad_input: Tensor | None,
    grad_residual: Tensor | None,
    grad: Tensor,
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    sums: Tensor | None,
    activation: str,
    negative_slope: float,
    threads: int,
) -> bool: ...
def norm(
    out: Tensor,
    sum: Tensor | None,
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    kind: str,
    size: int,
    eps: float,
    activation: str,
    negative_slope: float,
    threads: int,
) -> bool: ...
def norm_backward(
    grad_input: Tensor | None,
    grad_weight: Tensor | None,
    grad_bias: Tensor | None,
    grad: Tensor,
    grad_sum: Tensor | None,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    kind: str,
    size: int,
    activation: str,
    negative_slope: float,
    threads: int,
) -> bool: ...
