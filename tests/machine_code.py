"""Reads the machine code of kernels as nvdisasm prints it: what a loop loads and computes, and how many bytes a
multiprocessor has under way in it. test_cuda_static.py compares it with limits.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import ptx

THREADS, BLOCKS = 2048, 32  # that a multiprocessor holds at most
SHARED = {80: 164 << 10, 90: 228 << 10}  # bytes of shared memory of a multiprocessor
RESERVED = 1 << 10  # bytes of it that each block takes in addition

LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*);")
LABEL = re.compile(r"^(\.L_\w+):", re.MULTILINE)
WIDTHS = {".128": 16, ".64": 8, ".U16": 2, ".S16": 2, ".U8": 1, ".S8": 1}
WIDE = 16
SEARCHED = 8  # bytes that a turn of a search loads at most


@dataclass(frozen=True)
class Instruction:
    name: str
    operands: str

    @property
    def bytes(self) -> int:
        """Bytes that it loads or stores."""
        return next((width for end, width in WIDTHS.items() if end in self.name), 4)

    @property
    def is_load(self) -> bool:
        return self.name.startswith(("LDG", "LD."))

    @property
    def is_store(self) -> bool:
        return self.name.startswith("STG")

    @cached_property
    def registers(self) -> set[int]:
        """Numbers of the registers that it names; of two or four in a row, the first."""
        return {int(number) for number in re.findall(r"\bR(\d+)\b", self.operands)}

    @property
    def loaded(self) -> set[int]:
        """Numbers of the registers that a load fills."""
        first = re.match(r"\s*R(\d+)", self.operands)
        return set(range(int(first[1]), int(first[1]) + max(1, self.bytes // 4))) if first else set()


@dataclass(frozen=True)
class Loop:
    """The instructions of a loop, in the order of memory."""

    instructions: Sequence[Instruction]

    @cached_property
    def loads(self) -> list[Instruction]:
        """Loads of operands: coefficients, which are narrower than vectors of operands, do not count."""
        found = [i for i in self.instructions if i.is_load]
        return [i for i in found if not self.is_wide or i.bytes == WIDE]

    @property
    def is_wide(self) -> bool:
        return any(i.is_load and i.bytes == WIDE for i in self.instructions)

    @property
    def bytes(self) -> int:
        return sum(i.bytes for i in self.loads)

    @property
    def width(self) -> int:
        """The width of the narrowest access to operands, or to results."""
        stores = [i.bytes for i in self.instructions if i.is_store]
        return min([i.bytes for i in self.loads] + ([max(stores)] if stores else []), default=0)

    @property
    def executed(self) -> float:
        """Instructions of a turn, with branches that are not taken. A loop within this one takes half types from shared
        memory, one by one."""
        taken = sum(i.name == "LDS.U16" for i in self.instructions)
        return len(self.instructions) * (max(1, self.bytes / 2 / taken) if taken else 1)

    @property
    def trips(self) -> int:
        """How many times in a turn a thread waits for memory: the first use of what was loaded ends a trip."""
        trips, under_way = 0, set()
        for i in self.instructions:
            if under_way & i.registers:
                under_way = set()
            if i.is_load and any(i is load for load in self.loads):
                trips += not under_way
                under_way |= i.loaded
        return trips


@dataclass(frozen=True)
class Figures:
    """What limits a kernel on one architecture."""

    registers: int
    blocks: int  # resident on a multiprocessor
    width: int  # bytes of the narrowest access in the main loop
    trips: int  # waits for memory per turn of the loop
    instructions: float  # per element
    under_way: int  # KB per multiprocessor, of operands that are always loaded

    def worse(self, limit: Figures) -> list[str]:
        """What is worse than a limit."""
        found = []
        for name in ("registers", "trips", "instructions"):
            if getattr(self, name) > getattr(limit, name) * 1.02:
                found.append(f"{name}: {getattr(self, name)}, at most {getattr(limit, name)}")
        for name in ("blocks", "width", "under_way"):
            if getattr(self, name) < getattr(limit, name):
                found.append(f"{name}: {getattr(self, name)}, at least {getattr(limit, name)}")
        return found

    def share(self, moved: float) -> float:
        """The share of a copy's speed that docs/cuda.md predicts for an H200, where an element moves so many bytes."""
        return min(1 - math.exp(-self.under_way / 24), 96 * moved / self.instructions / 18.6)


def main_loop(code: str) -> Loop:
    """Of the loops with loads and without another such loop in them, the one that loads most in a turn, with those that
    load vectors first; without loops, the whole kernel. A loop goes from the target of a jump back to the jump. A
    search, which loads a number in a turn, is no loop."""
    instructions, places, jumps = [], {}, []
    for line in code.splitlines():
        if label := LABEL.match(line):
            places[label[1]] = len(instructions)
        elif found := LINE.search(line):
            if found[2].startswith("BRA") and (target := re.search(r"\.L_\w+", found[3])) and target[0] in places:
                jumps.append((places[target[0]], len(instructions) + 1))
            instructions.append(Instruction(found[2], found[3]))
    loads = [(begin, end) for begin, end in set(jumps) if Loop(instructions[begin:end]).bytes > SEARCHED]
    inner = [
        Loop(instructions[begin:end])
        for begin, end in sorted(loads)
        if not any((b, e) != (begin, end) and begin <= b and e <= end for b, e in loads)
    ]
    return max(inner, key=lambda loop: (loop.is_wide, loop.bytes), default=Loop(instructions))


def resident_blocks(architecture: int, function: ptx.Function) -> int:
    """Blocks that a multiprocessor holds. Warps get registers by 256, and a block of `threads` is assumed."""
    warps = -(-function.threads // 32)
    of_warp = -(-function.registers * 32 // 256) * 256
    of_block = function.shared + RESERVED
    return min(BLOCKS, THREADS // function.threads, ptx.REGISTERS // of_warp // warps, SHARED[architecture] // of_block)


def figures(architecture: int, function: ptx.Function, code: str, loaded: float, needed: float) -> Figures:
    """`loaded`, `needed`: bytes per element of all operands, and of those that are not optional. If `loaded` is 0, no
    loop stands for the kernel."""
    loop, blocks = main_loop(code), resident_blocks(architecture, function)
    if not loaded:
        return Figures(function.registers, blocks, 0, 0, 0, 0)
    elements = loop.bytes / loaded
    of_thread = min(loop.bytes / max(loop.trips, 1), elements * needed)
    return Figures(
        function.registers,
        blocks,
        loop.width,
        loop.trips,
        round(loop.executed / elements, 1),
        int(of_thread * blocks * function.threads / 1024),
    )


def tool(name: str) -> str | None:
    """A program of CUDA's toolkit, which NVIDIA's wheels put elsewhere."""
    return shutil.which(name) or next(
        (str(path) for path in Path(sysconfig.get_path("purelib")).glob(f"nvidia/*/bin/{name}")), None
    )


def without_other_kernels(text: str, wanted: set[str]) -> str:
    """PTX without the kernels whose names are not wanted."""
    kept, end = [], 0
    for match in ptx.BEGINNING.finditer(text):
        if match[1] and match[1] not in wanted and match.start() >= end:
            kept.append(text[end : match.start()])
            end = text.index("\n}", match.end()) + 2
    return "".join([*kept, text[end:]])


def assembled(
    source: Path, architecture: int, is_wanted: Callable[[str], bool], folder: Path
) -> dict[str, tuple[ptx.Function, str]]:
    """The kernels of a PTX file whose names are wanted, and their machine code for an architecture."""
    text = source.read_text()
    mangled = [match[1] for match in ptx.BEGINNING.finditer(text) if match[1]]
    names = dict(zip(mangled, ptx.demangled(mangled), strict=True))
    wanted = {symbol for symbol, name in names.items() if is_wanted(name)}
    if not wanted:
        return {}
    text = without_other_kernels(text, wanted)
    cut, cubin = folder / f"cut_{architecture}.ptx", folder / f"cut_{architecture}.cubin"
    cut.write_text(re.sub(r"^\.target sm_\d+", f".target sm_{architecture}", text, flags=re.MULTILINE))
    command = [tool("ptxas"), "-v", "-O3", f"-arch=sm_{architecture}", "-o", str(cubin), str(cut)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = subprocess.run([tool("nvdisasm"), "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    _, *sections = re.split(r"^\.text\.(\w+):$", printed, flags=re.MULTILINE)
    code = dict(zip(sections[::2], sections[1::2], strict=True))
    found = {f.mangled: f for f in ptx.functions(text, done.stdout + done.stderr)}
    return {names[symbol]: (found[symbol], code[symbol]) for symbol in wanted}
