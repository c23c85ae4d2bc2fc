"""Runs a ``forward``, traced by ``torch.fx``, that does a norm and what stands before and after it in one pass.

Only the module's own ``forward`` is traced: what it calls stays a call. The trace is valid while all numbers, flags and
names that ``forward`` read from the module, alone or in lists and dicts, are unchanged, and for arguments of which
``forward`` would do the same. Otherwise the module runs as it was written. Globals and attributes of other objects that
``forward`` reads are not compared.

- ``arguments``: what a trace may take for granted about the arguments of a call
- ``graph``: traces, and finds out what a trace depends on
- ``merge``: merges calls of a traced ``forward``
- ``module``: the class of traced modules
"""

from .module import Traced, trace, untrace

__all__ = ["Traced", "trace", "untrace"]
