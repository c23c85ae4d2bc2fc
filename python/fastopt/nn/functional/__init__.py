"""Functional twins of ``fastopt.nn``: drop-in for their namesakes in ``torch.nn.functional``.

Common to all functions that drop:

- ``seed`` and ``offset`` (ints from 0 to 2**64 - 1) choose the mask: the same ones give the same mask on every
  machine (docs/dropout_mask.md). Without ``seed``, one is drawn from ``generator``, or from torch's own generator of
  the CPU, which ``torch.manual_seed`` governs. In a CUDA graph and in compiled or traced programs, the seed for a CUDA
  tensor comes from its device's generator, anew at each replay. No seed is drawn when the mask is trivial (``p`` is 0
  or 1) or in evaluation.
- Nothing but seed and offset is kept for the backward pass, which makes the mask again.
- Dropped elements become 0, even infinite and NaN ones, and so do their gradients.
- Tensors are float32, float64, bfloat16, float16 or, unless a function excludes it, complex. They may have any strides
  and be on the CPU or a CUDA device.
- The expectation of the result is exact: kept elements are scaled for the probability that is really drawn, which is
  ``p`` rounded to a multiple of 2**-48.
"""

from ._added import bias_dropout_add, dropout_add
from ._alpha import alpha_dropout, feature_alpha_dropout
from ._attention import scaled_dot_product_attention
from ._batch_norm import batch_norm
from ._channels import dropout1d, dropout2d, dropout3d
from ._elements import drop_connect, dropout, dropout_mask
from ._groups import group_norm, instance_norm
from ._rows import layer_norm, rms_norm

__all__ = [
    "alpha_dropout",
    "batch_norm",
    "bias_dropout_add",
    "drop_connect",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_add",
    "dropout_mask",
    "feature_alpha_dropout",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "rms_norm",
    "scaled_dot_product_attention",
]
