"""The CUDA kernels as nvcc compiles them: no local memory, only IEEE arithmetic, accesses of 16 bytes.

Needs nvcc and CMake, but no GPU. Finds all .cu files and their kernels by itself. With nvdisasm it also compares what
limits each family of kernels with cuda_limits.py.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import building
import machine_code
import ptx
from cuda_limits import ARCHITECTURES, FAMILIES, LIMITS, RELEASE, SMALL
from fastopt import _core

pytestmark = pytest.mark.slow

CUDA = building.PROJECT / "csrc" / "cuda"
PATHS = {path.name: path for path in sorted(CUDA.rglob("*.cu"))}
Functions = list[ptx.Function]

# Kernels that may have defects, by file, and the reason. Those of scalars run once per step and parameter.
EXEMPT = {
    "row_columns.cu": {
        "sum_columns": "in float64, element by element, two registers are spilled around the calls of divisions",
    },
    "scalars.cu": {
        "evaluate_counted_sets": "interprets a program: its values are an array, indexed as the program says",
        "__internal_accurate_pow": "CUDA's pow, for scalars of a step (libm_pow in math/ieee.h)",
    },
}


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> list[building.Command]:
    """The commands that compile the kernels, for one architecture."""
    for tool in (building.CMAKE, shutil.which("c++filt")):
        if tool is None:
            pytest.skip("needs cmake and c++filt")
    folder = tmp_path_factory.mktemp("configured")
    done = building.configure(folder, FASTOPT_CUDA="ON", FASTOPT_WERROR="ON", CMAKE_CUDA_ARCHITECTURES="90-real")
    if building.NO_NVCC in done.words:
        pytest.skip(building.NO_NVCC)
    assert done.status == 0, done.report
    return [command for command in done.commands() if command.source.suffix == ".cu"]


def compiled(commands: list[building.Command], name: str, folder: Path) -> Functions:
    """All functions of a file, in however many parts it is compiled."""
    parts = [command for command in commands if command.source.name == name]
    folders = [folder / str(i) for i in range(len(parts))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [function for some in pool.map(ptx.compiled, parts, folders) for function in some]


@pytest.mark.parametrize("name", PATHS)
def test_kernels_are_sound(name: str, commands: list[building.Command], tmp_path: Path) -> None:
    functions = compiled(commands, name, tmp_path)
    assert functions or "__global__" not in PATHS[name].read_text(), "the build does not compile it"
    exempt = EXEMPT.get(name, {})
    found = {function: ptx.defects(function) for function in functions}
    assert not [what for function in found if function.plain_name not in exempt for what in found[function]]
    for exemption in exempt:
        assert any(found[f] for f in found if f.plain_name == exemption), f"{exemption} no longer needs an exemption"
    assert all(function.stack <= ptx.STACK for function in functions), "a launch would resize local memory"
    kernels = {function.plain_name for function in functions if ".entry" in function.body}
    assert kernels <= LIMITED | SMALL, "kernels without limits"
    if name == "rules.cu":
        assert_all_accesses_are_wide(functions)
    if name in ROWS:
        assert_rows_go_in_vectors(functions, *ROWS[name])
    if name in HISTORIES:
        assert_histories_go_in_vectors(functions, *HISTORIES[name])
    if NVDISASM:
        assert_no_figure_is_worse(name, tmp_path)


LIMITED = {family.kernel.partition("<")[0] for family in FAMILIES.values()}
NVDISASM = machine_code.tool("nvdisasm") and machine_code.tool("ptxas")


def assert_no_figure_is_worse(name: str, folder: Path) -> None:
    """The figures of the families in a file, on each architecture."""
    families = {family.kernel: label for label, family in FAMILIES.items() if Path(family.file).name == name}
    worse, found = [], set()
    for source in sorted(folder.glob("*/*.ptx")) if families else ():
        if f"release {RELEASE}," not in source.read_text():
            return  # another compiler has other figures
        for number, architecture in enumerate(ARCHITECTURES):
            kernels = machine_code.assembled(source, architecture, families.__contains__, folder)
            for kernel, (function, code) in kernels.items():
                label = families[kernel]
                loaded, needed = FAMILIES[label].loaded, FAMILIES[label].needed
                figures = machine_code.figures(architecture, function, code, loaded, needed)
                if what := figures.worse(machine_code.Figures(*LIMITS[label][number])):
                    worse.append(f"{label}, sm_{architecture}: {'; '.join(what)}; all: {figures}")
                found.add(label)
    assert found == set(families.values()), "kernels have other names"
    assert not worse, "\n".join(worse)


def test_figures_can_be_read() -> None:
    if not NVDISASM:
        pytest.skip("needs nvdisasm (pip install nvidia-cuda-nvdisasm)")
    assert FAMILIES.keys() == LIMITS.keys()


def test_documentation_has_the_figures() -> None:
    """Those of sm_90, after the arrow of a cell."""
    page = (building.PROJECT / "docs" / "cuda.md").read_text()
    _, *table = (row.split(" | ") for row in re.findall(r"^\| (.+) \|$", page, re.MULTILINE))
    written = {name: [cell.rpartition("→ ")[2] for cell in cells] for name, *cells in table}
    expected = {}
    for label, family in FAMILIES.items():
        figures = machine_code.Figures(*LIMITS[label][ARCHITECTURES.index(90)])
        cells = [str(figures.registers), str(figures.blocks), *"----"]
        if family.loaded:
            cells[2:5] = [str(figures.width), str(figures.instructions), str(figures.under_way)]
            cells[5] = f"{figures.share(family.moved):.0%}".replace("%", " %")
        expected[label] = cells
    assert written == expected


MADE_UP = """
        /*0000*/                   LDG.E R9, desc[UR4][R2.64] ;
.L_x_1:
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
.L_x_3:
        /*0018*/                   LDG.E.64 R24, desc[UR4][R26.64] ;
        /*001c*/              @P1 BRA `(.L_x_3) ;
        /*0020*/              @P0 LDG.E.128 R8, desc[UR4][R12.64] ;
        /*0030*/                   FADD R3, R4, R5 ;
        /*0040*/                   LDG.E.128 R16, desc[UR4][R12.64] ;
        /*0050*/                   LDG.E R20, desc[UR4][R12.64] ;
        /*0060*/                   FADD R3, R3, R19 ;
        /*0070*/                   STG.E.128 desc[UR4][R2.64], R4 ;
        /*0080*/              @!P0 BRA `(.L_x_1) ;
.L_x_2:
        /*0090*/                   BRA `(.L_x_2);
"""


def test_loops_are_read() -> None:
    loop = machine_code.main_loop(MADE_UP)
    assert (len(loop.instructions), loop.bytes, loop.width, loop.trips) == (10, 48, 16, 2)
    function = ptx.Function("f", "", threads=256, registers=40, stack=0, spilled=0, shared=30 << 10, mangled="f")
    figures = {a: machine_code.figures(a, function, MADE_UP, loaded=12, needed=8) for a in ARCHITECTURES}
    assert figures[80] == machine_code.Figures(40, 5, 16, 2, 2.5, 30)
    assert figures[90] == dataclasses.replace(figures[80], blocks=6, under_way=36)
    assert not figures[90].worse(figures[80])
    assert len(figures[80].worse(figures[90])) == 2


VECTORS = re.compile(
    r"update_vectors<(?:(?:OnePass|StateOnly|GradOnly|ScaledApply|GroupedApply)<(.+)>|(Clip)), \w+<(\w+)>, \w+<(\w+)>>"
)
LISTED = re.compile(r'(?:RULE|STATE_ONLY|GRAD_ONLY|SCALED|GROUPED)\("(\w+)", (.+)\) *\\')
BYTES = {"double": 8, "float": 4, "BFloat16": 2, "Float16": 2}


def assert_all_accesses_are_wide(functions: Functions) -> None:
    """Every rule accesses 16 bytes of every operand at a time, in every type. A step that unscales also writes
    gradients; GradOnly leaves the parameter. The compiler may unroll the loop over vectors."""
    listed = (CUDA.parent / "rules" / "list.h").read_text()
    names = {
        rule: name
        for name, rule in re.findall(r'(?:RULE|STATE_ONLY|GRAD_ONLY|SCALED|GROUPED)\("(\w+)", (.+)\) *\\', listed)
    }
    known = _core.rules()
    seen = set()
    for function in functions:
        if function.plain_name == "update_vectors":
            rule, _, own, of_states = VECTORS.fullmatch(function.name).groups()
            name = names.get(rule, "clip")
            states, _, reads_grad, _ = known[name]
            states -= "GroupedApply" in function.name  # the last one is not in this pass
            expected = 1 + reads_grad + states * BYTES[of_states] // BYTES[own]
            assert function.wide("ld") >= expected, function.name
            written = expected - ("GradOnly" in function.name)
            assert function.wide("st") >= written, function.name
            assert function.wide("st") % written == 0, function.name
            assert "ld.global.u8" not in function.instructions(), f"{function.name} reads scalars byte by byte"
            seen.add(name)
    assert seen == {*names.values(), "clip"}


# Files of kernels for rows: the kernel, and how many operands it loads at least, and stores, in vectors of 16 bytes.
ROWS = {
    "rows.cu": ("normalize_rows", 1, 1),
    "row_gradient.cu": ("row_gradients", 2, 1),
    "row_columns.cu": ("sum_columns", 2, 0),
}


def assert_rows_go_in_vectors(functions: Functions, name: str, loaded: int, stored: int) -> None:
    widths = set()
    for function in functions:
        if function.plain_name == name:
            *_, width = function.name.removesuffix(">").split(", ")
            widths.add(int(width))
            if int(width) > 1:
                assert function.wide("ld") >= loaded, function.name
                assert function.wide("st") >= stored, function.name
    assert widths == {1, 2, 4, 8}


# Files of kernels that read a history: those for much work and aligned memory, and their accesses of 16 bytes at least.
# Products load four rows, the gradient and the one before it, and write the newest pair; a combination loads eight rows
# and the gradient.
HISTORIES = {
    "history.cu": (["multiply_rows<float, 4, 4>", "multiply_rows<double, 2, 4>"], 6, 2),
    "combination.cu": (["combine_vectors<float, 4>", "combine_vectors<double, 2>"], 9, 1),
}


def assert_histories_go_in_vectors(functions: Functions, names: list[str], loaded: int, stored: int) -> None:
    wide = [function for function in functions if function.name in names]
    assert len(wide) == len(names)
    for function in wide:
        assert function.wide("ld") >= loaded, function.name
        assert function.wide("st") >= stored, function.name


DEFECTS = {
    "sound": "",
    "contracted": "fma.rn.f32",
    "contracted_half": "fma.rn.f16",
    "approximate": "ex2.approx",
    "added_in_any_order": "(atom|red)",
    "in_local_memory": "256 bytes of local memory",
    "unbounded": "no __launch_bounds__",
    "alone_on_a_multiprocessor": "no room for 2 blocks",
}


def spoiled(commands: list[building.Command], folder: Path, *flags: str) -> dict[str, ptx.Function]:
    """The functions of defects.cu, compiled as the kernels are, with some more flags."""
    like = next(command for command in commands if command.source.name == "device.cu")
    arguments = [a for a in like.arguments if not (flags and a.startswith("-fmad"))]
    arguments[arguments.index(str(like.source))] = str(Path(__file__).parents[1] / "data" / "defects.cu")
    command = dataclasses.replace(like, arguments=[*arguments, *flags])
    return {function.name: function for function in ptx.compiled(command, folder)}


def test_defects_are_found(commands: list[building.Command], tmp_path: Path) -> None:
    functions = spoiled(commands, tmp_path)
    assert functions.keys() == DEFECTS.keys()
    for name, pattern in DEFECTS.items():
        found = ptx.defects(functions[name])
        assert len(found) == bool(pattern), found
        assert re.search(pattern, "".join(found))
    assert (functions["sound"].wide("ld"), functions["sound"].wide("st")) == (1, 1)
    assert (functions["contracted"].wide("ld"), functions["contracted"].wide("st")) == (0, 0)


FLAGS = {
    "-fmad=true": "fma.rn.f32",
    "-prec-sqrt=false": "sqrt.approx",
    "-prec-div=false": "div.full",
    "-ftz=true": ".ftz",
}


def test_flags_that_spoil_arithmetic_are_found(commands: list[building.Command], tmp_path: Path) -> None:
    for flag, expected in FLAGS.items():
        found = ptx.defects(spoiled(commands, tmp_path / flag, flag)["sound"])
        assert expected in "".join(found), flag
