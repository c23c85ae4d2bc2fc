"""Configures the project with CMake in a separate folder, and reads the commands that it would compile with."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pybind11

PROJECT = Path(__file__).parent.parent
# Tools may be installed next to python.
SEARCHED = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
NO_NVCC = "no working nvcc of CUDA 12 or later was found"  # a message of cmake/cuda.cmake
MACHINE = platform.machine()


def _cmake() -> str | None:
    """The program itself. pip installs a script of the same name, which needs packages of the environment."""
    try:
        from cmake import CMAKE_BIN_DIR
    except ImportError:
        return shutil.which("cmake", path=SEARCHED)
    return shutil.which("cmake", path=CMAKE_BIN_DIR)


CMAKE = _cmake()


@dataclass(frozen=True)
class Command:
    """The command that compiles one file."""

    source: Path
    arguments: list[str]
    folder: Path  # the working directory


@dataclass(frozen=True)
class Configured:
    """The outcome of a configuration."""

    status: int
    report: str
    folder: Path

    @property
    def words(self) -> str:
        """The report, without the line breaks that CMake puts into errors."""
        return " ".join(self.report.split())

    def commands(self) -> list[Command]:
        entries = json.loads((self.folder / "compile_commands.json").read_text())
        return [Command(Path(e["file"]), shlex.split(e["command"]), Path(e["directory"])) for e in entries]


def configure(folder: Path, environment: dict[str, str] | None = None, **options: str | None) -> Configured:
    """Runs CMake's configuration, which compiles only its own checks. None leaves an option undefined."""
    assert CMAKE is not None
    defined = {
        "CMAKE_CXX_COMPILER_LAUNCHER": "",
        "CMAKE_EXPORT_COMPILE_COMMANDS": "ON",
        "SKBUILD_PROJECT_VERSION": "0.0",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
        **options,
    }
    given = [f"-D{name}={value}" for name, value in defined.items() if value is not None]
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=SEARCHED) else []
    done = subprocess.run(
        [CMAKE, "-S", str(PROJECT), "-B", str(folder), *generator, *given],
        env={**os.environ, "PATH": SEARCHED, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Configured(done.returncode, done.stdout, folder)
