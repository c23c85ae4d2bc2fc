"""Prints the version of python's torch and of its CUDA (``none``: a build without); nothing where there is no torch.

torch is not imported: that takes seconds, and libraries that may be missing.
"""

import importlib.util
import runpy
from pathlib import Path

spec = importlib.util.find_spec("torch")
if spec is not None and spec.origin is not None:
    version = runpy.run_path(str(Path(spec.origin).parent / "version.py"))
    print(version["__version__"], version["cuda"] or "none")
