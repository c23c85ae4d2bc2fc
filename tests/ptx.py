"""Reads what nvcc made of a .cu file, and finds defects: registers, local memory, instructions, narrow accesses."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from building import Command

REGISTERS = 65536  # per multiprocessor
STACK = 1024  # bytes of local memory that CUDA gives each thread; a kernel that asks for more makes the device wait
BLOCKS = 2  # resident on a multiprocessor at the same time: while one waits, the other computes

# All instructions for floating-point numbers: IEEE operations, rounded to nearest, and those that do not round. Without
# ".rn", ptxas may contract an operation with the next one.
ROUNDED = r"(add|sub|mul|div|sqrt|rcp)\.rn"
EXACT = r"(abs|neg|min|max|copysign|selp|mov|testp\.\w+|setp?(\.\w+)+)"
MOVED = r"(ld|st)(\.[\w.]+)?"
CONVERTED = r"cvt\.(rn\.|r[nzmp]i\.)?\w+\.\w+"
ALLOWED = re.compile(rf"({ROUNDED}|{EXACT}|{MOVED})\.(f16|f32|f64)|{CONVERTED}")
FLOATING = re.compile(r"\.(b?f16|f32|f64)(x2)?\b")
FAST = re.compile(r"\.(approx|full|ftz)\b")

WIDE = r"\.global[\w.]*\.(v4\.[ubsf]32|v2\.[ubsf]64)"

# Matches the beginning of a definition, up to its parameters and bounds.
BEGINNING = re.compile(r"^(?:\.\w+\s+)*\.(?:entry\s+(\w+)|func\s+(?:\([^)]*\)\s*)?(\w+))[^{;]*\{", re.MULTILINE)


@dataclass(frozen=True)
class Function:
    """A kernel, or a function that was not inlined."""

    name: str  # as in the source, with template arguments
    body: str  # PTX
    threads: int  # per thread block at most; 0: unknown
    registers: int
    stack: int  # bytes of local memory
    spilled: int  # bytes of registers, stored and loaded
    shared: int  # bytes of static shared memory
    mangled: str

    @property
    def plain_name(self) -> str:
        return self.name.partition("<")[0]

    def instructions(self) -> list[str]:
        """The names of its instructions, without guards and operands."""
        return re.findall(r"(?:^|[;{}])\s*(?:@!?%\w+\s+)?([a-z][\w.:]*)\s", self.body, re.MULTILINE)

    def wide(self, access: str) -> int:
        """Number of 16-byte accesses to global memory: ``"ld"`` or ``"st"``."""
        return sum(re.fullmatch(access + WIDE, name) is not None for name in self.instructions())


def demangled(names: Sequence[str]) -> list[str]:
    """Names as in the source, without namespaces, results and parameters."""
    printed = subprocess.run(["c++filt", *names], capture_output=True, text=True, check=True).stdout.splitlines()
    found = []
    for name in printed:
        name = name.replace("(anonymous namespace)::", "").replace("fastopt::", "").replace("cuda::", "")
        found.append(name.removeprefix("void ").partition("(")[0].replace(" >", ">"))
    return found


def functions(ptx: str, usage: str) -> list[Function]:
    """All functions of a file, from its PTX and the report of ``ptxas -v``."""
    beginnings = list(BEGINNING.finditer(ptx))
    cuts = itertools.pairwise([*(match.start() for match in beginnings), len(ptx)])
    bodies = {match[1] or match[2]: ptx[begin:end] for match, (begin, end) in zip(beginnings, cuts, strict=True)}
    used = {}
    for report in usage.split("Function properties for ")[1:]:
        name, _, rest = report.partition("\n")
        numbers = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", rest)
        registers = re.search(r"Used (\d+) registers", rest)  # a kernel's, including the functions that it calls
        shared = re.search(r"(\d+) bytes smem", rest)
        assert numbers
        used[name.strip()] = (
            [int(number) for number in numbers.groups()],
            int(registers[1]) if registers else 0,
            int(shared[1]) if shared else 0,
        )
    found = []
    for mangled, name in zip(bodies, demangled(list(bodies)), strict=True):
        (stack, stores, loads), registers, shared = used[mangled]
        bound = re.search(r"\.maxntid (\d+)", bodies[mangled])
        threads = int(bound[1]) if bound else 0
        found.append(Function(name, bodies[mangled], threads, registers, stack, stores + loads, shared, mangled))
    return found


def compiled(command: Command, folder: Path) -> list[Function]:
    """Compiles a file for the GPU only, for one architecture; outputs go to ``folder``."""
    folder.mkdir(exist_ok=True)
    arguments = ["-cubin" if argument == "-c" else argument for argument in command.arguments]
    arguments[arguments.index("-o") + 1] = str(folder / "out.cubin")
    kept = ["--keep", f"--keep-dir={folder}", "--ptxas-options=-v"]
    done = subprocess.run([*arguments, *kept], cwd=command.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (ptx,) = folder.glob("*.ptx")
    return functions(ptx.read_text(), done.stdout + done.stderr)


def defects(function: Function) -> list[str]:
    """Lists defects that our kernels must not have."""
    found = []
    if function.stack or function.spilled:
        found.append(f"{function.stack} bytes of local memory, {function.spilled} bytes spilled")
    if ".entry" in function.body:
        each = -(-function.registers // 8) * 8  # as registers are allocated
        if not function.threads:
            found.append("no __launch_bounds__")
        elif BLOCKS * function.threads * each > REGISTERS:
            found.append(f"{function.registers} registers in {function.threads} threads: no room for {BLOCKS} blocks")
    for name in sorted(set(function.instructions())):
        if FAST.search(name) or (FLOATING.search(name) and not ALLOWED.fullmatch(name)):
            found.append(name)
    return [f"{function.name}: {what}" for what in found]
