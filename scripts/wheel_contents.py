"""Checks the contents of a wheel: ``python scripts/wheel_contents.py WHEEL`` names what is wrong.

It holds the package and nothing else. A library next to it (``fastopt.libs``) would be a second OpenMP runtime or a
torch.
"""

from __future__ import annotations

import io
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

PROJECT = Path(__file__).parent.parent
MAX_BYTES = 4 << 20
# Libraries that every Linux with torch has. OpenMP's functions are looked up in the process, torch is called in Python.
SYSTEM = ("libc.so.", "libdl.so.", "libgcc_s.so.", "libm.so.", "libpthread.so.", "libstdc++.so.", "ld-linux")


def needed(extension: bytes) -> list[str]:
    """The libraries that an extension is linked with."""
    sections = ELFFile(io.BytesIO(extension)).iter_sections()
    dynamic = [section for section in sections if isinstance(section, DynamicSection)]
    return [tag.needed for section in dynamic for tag in section.iter_tags("DT_NEEDED")]


def wrong(path: Path) -> list[str]:
    """Everything that is wrong with the wheel, a line each."""
    found = []
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
        info = next(name.split("/")[0] for name in names if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
        extensions = {name for name in names if name.endswith(".so")}
        linked = sorted({library for name in extensions for library in needed(wheel.read(name))})
    sources = {
        path.relative_to(PROJECT / "python").as_posix()
        for path in (PROJECT / "python" / "fastopt").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    package = {name for name in names if not name.startswith(f"{info}/")}
    if package - extensions != sources:
        found.append(f"other files than those of python/fastopt: {sorted((package - extensions) ^ sources)}")
    if [name.split(".")[0] for name in extensions] != ["fastopt/_core"]:
        found.append(f"extensions: {sorted(extensions)}, expected one: fastopt/_core")
    if strangers := [library for library in linked if not library.startswith(SYSTEM)]:
        found.append(f"linked with {strangers}")
    if f"{info}/licenses/LICENSE" not in names:
        found.append("no licence")
    if path.stat().st_size > MAX_BYTES:
        found.append(f"{path.stat().st_size} bytes, expected at most {MAX_BYTES}")
    print(f"{path.name}: {path.stat().st_size / 2**20:.2f} MiB, {len(package)} files, linked with {', '.join(linked)}")
    print(f"requires Python {metadata['Requires-Python']}; {'; '.join(metadata.get_all('Requires-Dist')[:2])}")
    return found


def main() -> int:
    found = wrong(Path(sys.argv[1]))
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
