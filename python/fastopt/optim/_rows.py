"""The rows of a parameter and its states that a sparse gradient touches."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _runtime

_SUMMED = (torch.float32, torch.float64)  # torch sums half types


class Rows:
    """The elements or rows of a sparse gradient, each once.

    Args:
        grad: sparse, coalesced or not.
        name: the name of its parameter in errors.
    """

    values: Tensor

    def __init__(self, grad: Tensor, name: str) -> None:
        self._name = name
        self._threads = torch.get_num_threads()
        self._by_rows = grad.is_cpu and grad.sparse_dim() == 1
        self._copies = getattr(_runtime.kernels, "copy_rows", None) if self._by_rows else None
        if not self._sum(grad):
            grad = grad.coalesce()
            indices = grad._indices()
            self._places = tuple(indices)
            self._numbers = indices.select(0, 0).contiguous()
            self.values = grad._values().contiguous()

    def _sum(self, grad: Tensor) -> bool:
        """Does what coalesce() does, but quicker, and in the order of the rows, which torch leaves open."""
        if not self._by_rows or grad.is_coalesced() or grad.dtype not in _SUMMED:
            return False
        numbers, values = grad._indices().select(0, 0).contiguous(), grad._values().contiguous()
        if values.is_neg():
            return False
        found, sums = torch.empty_like(numbers), torch.empty_like(values)
        count = _runtime.kernels.sum_rows(numbers, values, found, sums, self._threads)
        if count < 0:
            return False
        self._numbers, self.values = found[:count], sums[:count]
        self._places = (self._numbers,)
        return True

    def of(self, tensor: Tensor) -> Tensor:
        """Copies these rows of a tensor."""
        if tensor.is_contiguous():
            rows = tensor.new_empty(self.values.shape)
            if self._copy(tensor, rows, back=False):
                return rows
        try:
            return tensor[self._places].contiguous()
        except IndexError as error:
            raise RuntimeError(f"the gradient of {self._name} has an index outside of its parameter: {error}") from None

    def put_back(self, tensor: Tensor, rows: Tensor) -> None:
        if not self._copy(tensor, rows, back=True):
            tensor[self._places] = rows

    def _copy(self, tensor: Tensor, rows: Tensor, back: bool) -> bool:
        if self._copies is None or tensor.is_neg():
            return False
        return bool(self._copies(tensor, self._numbers, rows, back, self._threads))
