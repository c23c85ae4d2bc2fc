"""The plan of the house holds: which files of csrc may include which, the wall around the files compiled once per ISA,
and in Python no circular imports.

docs/design/house.md draws the plan, and csrc/README.md says what each folder is for.
"""

from __future__ import annotations

import ast
import re
import shutil
import statistics
import subprocess
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import building

CSRC = building.PROJECT / "csrc"
SUFFIXES = {".h", ".cpp", ".cu"}
FILES = {str(path.relative_to(CSRC)): path.read_text() for path in sorted(CSRC.rglob("*")) if path.suffix in SUFFIXES}
INCLUDE = re.compile(r'^#include (?:"([^"]+)"|<([^>]+)>)', re.MULTILINE)

# Folders that a folder may include, in addition to itself and common.h. A subject's folder may include the one around
# it.
BELOW: dict[str, set[str]] = {
    "math": set(),
    "rules": {"math"},
    "norm": {"math"},
    "random": set(),
    "vectors": set(),
    "cpu": {"math", "rules", "norm", "random", "vectors"},
    "cuda": {"math", "rules", "norm", "random", "vectors"},
    "engine": {"math", "rules", "norm", "random", "vectors", "cpu", "cuda"},
}
SUBJECTS = {"optim", "dropout", "norm", "vectors"}  # folders in cpu/, cuda/ and engine/ that do not include each other
ASSEMBLED = {"cpu/kernels.cpp"}  # lists the kernels of all subjects
# Compiled for every ISA: an inline function of the standard library could be linked into the file of another ISA.
WALLED = ("math", "rules", "norm", "random", "vectors", "cpu")
NOT_LIBRARY = {"stdint.h", "stddef.h", "immintrin.h", "cuda_bf16.h", "cuda_fp16.h"}


def own(file: str) -> list[str]:
    return [quoted for quoted, _ in INCLUDE.findall(FILES[file]) if quoted]


def room(file: str) -> tuple[str, str]:
    """The folder in csrc, and the folder in that."""
    parts = file.split("/")[:-1]
    return parts[0] if parts else "", "/".join(parts[1:])


def test_there_is_something_to_look_at() -> None:
    assert len(FILES) > 100
    assert sum(len(own(file)) for file in FILES) > 250


def test_includes_name_files_from_the_root() -> None:
    for file in FILES:
        missing = [name for name in own(file) if name not in FILES]
        assert not missing, f"{file} includes {missing}"


def test_there_is_no_circle() -> None:
    try:
        list(TopologicalSorter({file: own(file) for file in FILES}).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("file", FILES)
def test_arrows_point_downwards(file: str) -> None:
    here, subject = room(file)
    for name in own(file):
        there, other = room(name)
        if there == "" or here == "":
            assert name == "common.h" or here == "", f"{file} includes {name}"
        elif there != here:
            assert there in BELOW[here], f"{file} includes {name}"
        elif other in SUBJECTS and other != subject and file not in ASSEMBLED:
            pytest.fail(f"{file} includes {name}, of another subject")


@pytest.mark.parametrize("file", [file for file in FILES if room(file)[0] in WALLED or file == "common.h"])
def test_the_wall(file: str) -> None:
    """These files use no standard library, and define everything in an anonymous namespace."""
    library = {name for _, name in INCLUDE.findall(FILES[file]) if name} - NOT_LIBRARY
    assert not library, f"{file} includes {library}"
    if re.search(r"^(inline|template|FASTOPT_HD)\b", FILES[file], re.MULTILINE) and file != "common.h":
        assert "\nnamespace {\n" in FILES[file], f"{file} defines something with external linkage"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nm") is None or shutil.which("c++") is None, reason="needs a compiler and nm")
def test_an_isa_shares_nothing_with_another(tmp_path: Path) -> None:
    """The linker sees one symbol of an ISA's kernels: the function that returns their table."""
    object_file = tmp_path / "kernels.o"
    flags = ["-std=c++17", "-O1", "-w", f"-I{CSRC}", "-DFASTOPT_ISA=baseline"]
    subprocess.run(["c++", *flags, "-c", str(CSRC / "cpu/kernels.cpp"), "-o", str(object_file)], check=True)
    printed = subprocess.run(
        ["nm", "--defined-only", "--extern-only", str(object_file)], capture_output=True, text=True, check=True
    )
    assert [line.split()[-1] for line in printed.stdout.splitlines()] == ["fastopt_kernels_baseline"]


def test_files_are_short() -> None:
    lengths = {file: text.count("\n") for file, text in FILES.items()}
    assert max(lengths.values()) <= 300, max(lengths, key=lambda file: lengths[file])
    assert statistics.median(lengths.values()) < 90
    assert len([file for file in FILES if "/" not in file]) <= 4


def test_every_folder_says_what_it_is_for() -> None:
    readme = (CSRC / "README.md").read_text()
    for folder in {str(Path(file).parent) for file in FILES} - {"."}:
        assert f"`{folder}/`" in readme, folder


PACKAGE = building.PROJECT / "python/fastopt"


def module_name(path: Path) -> str:
    parts = (PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py*")) if path.suffix in {".py", ".pyi"}}
DISPATCHER = "fastopt._runtime"  # selects the kernels or the reference


def imported(name: str) -> set[str]:
    """The modules of the package that a module imports, also in functions and under TYPE_CHECKING.

    Python itself imports a module's own package first; that does not count.
    """
    path = MODULES[name]
    here = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = here[: len(here) + 1 - node.level] if node.level else []
            source = ".".join([*package, *([node.module] if node.module else [])])
            for alias in node.names:
                module = f"{source}.{alias.name}"
                found.add(module if module in MODULES else source)
    return found & MODULES.keys()


IMPORTS = {name: imported(name) for name in MODULES}


def test_all_imports_are_seen() -> None:
    assert len(MODULES) > 90
    assert sum(map(len, IMPORTS.values())) > 300
    assert IMPORTS["fastopt.optim._declared"] >= {"fastopt.optim._update", "fastopt.optim._options"}
    assert "fastopt.reference" in IMPORTS[DISPATCHER]


def test_no_imports_make_a_circle() -> None:
    try:
        list(TopologicalSorter(IMPORTS).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("name", MODULES)
def test_the_reference_is_reached_through_the_dispatcher(name: str) -> None:
    """Running natively does not need the reference."""
    if name != DISPATCHER and not name.startswith("fastopt.reference"):
        used = {other for other in IMPORTS[name] if other.startswith("fastopt.reference")}
        assert not used, f"{name} imports {used}"
