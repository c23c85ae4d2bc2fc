"""All that is measured."""

from __future__ import annotations

from .dropout import DROPOUTS
from .optimizers import OPTIMIZERS

CASES = [*OPTIMIZERS, *DROPOUTS]
