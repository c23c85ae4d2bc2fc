"""The published package: one version, its requirements, the contents of a wheel, and which wheels there are."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import torch

import fastopt
from fastopt import _core

PROJECT = Path(__file__).parents[2]


def _pyproject(pattern: str) -> list[str]:
    return re.findall(pattern, (PROJECT / "pyproject.toml").read_text(), flags=re.MULTILINE)


def test_one_version() -> None:
    """pyproject.toml, the package, the extension and the changelog have the same version."""
    (version,) = _pyproject(r'^version = "(.+)"$')
    heading = re.search(r"^## (\S+)", (PROJECT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert heading is not None
    assert {fastopt.__version__, _core.__version__, metadata.version("fastopt"), heading[1]} == {version}


def test_any_torch_from_the_first_on() -> None:
    needed = [requirement for requirement in metadata.requires("fastopt") or [] if "extra ==" not in requirement]
    assert needed == ["torch>=2.4", "numpy>=1.24"]


EXTENSION = Path(_core.__file__)
LIBTORCH = Path(torch.__file__).parent / "lib" / "libtorch.so"
INFO = f"fastopt-{fastopt.__version__}.dist-info"


def _wheel(path: Path, without: str = "", **more: Path) -> Path:
    """A file that looks like a wheel of this package: without the files whose names end in `without`, and with more."""
    sources = PROJECT / "python" / "fastopt"
    files = {
        f"fastopt/{p.relative_to(sources)}": p for p in sources.rglob("*") if p.suffix in {".py", ".pyi", ".typed"}
    }
    files[f"fastopt/{EXTENSION.name}"] = EXTENSION
    files[f"{INFO}/licenses/LICENSE"] = PROJECT / "LICENSE"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{INFO}/METADATA", "Requires-Python: >=3.10\nRequires-Dist: torch>=2.4\n")
        for name, file in {**files, **more}.items():
            if not (without and name.endswith(without)):
                wheel.write(file, name)
    return path


def _contents(wheel: Path) -> tuple[int, list[str]]:
    script = PROJECT / "scripts" / "wheel_contents.py"
    done = subprocess.run([sys.executable, str(script), str(wheel)], capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()[2:]


needs_elftools = pytest.mark.skipif(
    sys.platform != "linux" or importlib.util.find_spec("elftools") is None, reason="reads ELF files by pyelftools"
)


@needs_elftools
def test_this_extension_makes_a_good_wheel(tmp_path: Path) -> None:
    """The extension is not linked with an OpenMP runtime, torch or CUDA."""
    _, found = _contents(_wheel(tmp_path / "good.whl"))
    if fastopt.info()["built"]["cuda"]:  # wheels are built without, as it adds 8 MB
        assert "bytes, expected at most" in found.pop()
    assert found == []


@needs_elftools
@pytest.mark.parametrize(
    ("without", "more", "message"),
    [
        (
            "",
            {"tests/optim/test_bits.py": Path(__file__)},
            "python/fastopt: ['tests/optim/test_bits.py']",
        ),
        (
            "",
            {"fastopt.libs/notes": Path(__file__)},
            "python/fastopt: ['fastopt.libs/notes']",
        ),
        ("optim/adam.py", {}, "python/fastopt: ['fastopt/optim/adam.py']"),
        (".so", {}, "extensions: [], expected one: fastopt/_core"),
        ("LICENSE", {}, "no licence"),
        ("", {f"fastopt/{EXTENSION.name}": LIBTORCH}, "linked with ['libtorch_cpu.so']"),
    ],
)
def test_what_a_wheel_must_not_be(without: str, more: dict[str, Path], message: str, tmp_path: Path) -> None:
    status, found = _contents(_wheel(tmp_path / "bad.whl", without, **more))
    assert status == 1
    assert any(message in line for line in found), found


@pytest.mark.skipif(importlib.util.find_spec("cibuildwheel") is None, reason="there is no cibuildwheel")
@pytest.mark.parametrize(
    ("platform", "system", "machines"),
    [("linux", "manylinux", ["x86_64", "aarch64"]), ("macos", "macosx", ["x86_64", "arm64"])],
)
def test_a_wheel_for_every_python(platform: str, system: str, machines: list[str]) -> None:
    """cibuildwheel reads pyproject.toml: it builds for the classifiers' versions, not for musl and not without GIL."""
    options = ["--print-build-identifiers", "--platform", platform, "--archs", ",".join(machines)]
    command = [sys.executable, "-m", "cibuildwheel", *options, str(PROJECT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pythons = _pyproject(r'^  "Programming Language :: Python :: 3\.(\d+)"')
    assert set(done.stdout.split()) == {f"cp3{minor}-{system}_{machine}" for minor in pythons for machine in machines}


def test_the_same_versions_everywhere() -> None:
    """The workflow's matrix and the documents have the classifiers' versions; the matrix has the right torches."""
    yaml = pytest.importorskip("yaml")
    minors = [int(minor) for minor in _pyproject(r'^  "Programming Language :: Python :: 3\.(\d+)"')]
    assert minors == list(range(minors[0], minors[-1] + 1))
    jobs = yaml.safe_load((PROJECT / ".github" / "workflows" / "versions.yml").read_text())["jobs"]
    assert jobs["python"]["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in minors]
    for page in ("README.md", "CONTRIBUTING.md", "Makefile", "docs/install.md"):
        ranges = re.findall(r"3\.1\d to 3\.\d+", (PROJECT / page).read_text())
        assert set(ranges) == {f"3.{minors[0]} to 3.{minors[-1]}"}, page
    torches = jobs["torch"]["strategy"]["matrix"]["torch"]
    (ours,) = re.findall(r"^torch==(.+)$", (PROJECT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert torches[0].startswith("2.4.")
    assert ours in torches


def test_yaml_files_parse() -> None:
    yaml = pytest.importorskip("yaml")
    files = [*PROJECT.glob(".*.yaml"), *PROJECT.glob(".github/**/*.yml")]
    parsed = {path.name: yaml.safe_load(path.read_text()) for path in files}
    assert parsed.keys() >= {".pre-commit-config.yaml", "bug.yml", "feature.yml"}
    report = next(field for field in parsed["bug.yml"]["body"] if field["id"] == "report")
    assert "python -m fastopt" in report["attributes"]["label"]
    assert report["validations"]["required"]
