"""Prints the versions of python's torch and of its CUDA (``none`` for a build without); prints nothing without torch.

Importing torch would be slow, and may fail for a missing library.
"""

import importlib.util
import runpy
from pathlib import Path

spec = importlib.util.find_spec("torch")
if spec is not None and spec.origin is not None:
    version = runpy.run_path(str(Path(spec.origin).parent / "version.py"))
    print(version["__version__"], version["cuda"] or "none")
