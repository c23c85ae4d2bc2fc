"""All that is measured."""

from __future__ import annotations

from .batch_norm import BATCH_NORMS
from .dropout import DROPOUTS
from .optimizers import OPTIMIZERS

CASES = [*OPTIMIZERS, *DROPOUTS, *BATCH_NORMS]
