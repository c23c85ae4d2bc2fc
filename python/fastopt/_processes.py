"""What several processes do together."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor


def gathered(own: Tensor, group: Any) -> Tensor:
    """What each process of the group has, in the order of the ranks: what all make of it has the same bits."""
    everybodys = own.new_empty((dist.get_world_size(group), *own.shape))
    dist.all_gather(list(everybodys), own, group=group)
    return everybodys
