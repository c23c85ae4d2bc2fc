"""README.md and docs as tests see them: code blocks, and how to run them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(DOCS)): path for path in sorted(DOCS.rglob("*.md"))} | {"README.md": ROOT / "README.md"}
ECOSYSTEM_PAGES = {"engines.md", "trainers.md"}  # they need other packages: tests/ecosystem runs them


class Block(NamedTuple):
    language: str
    line: int  # where its code begins
    code: str


def blocks(page: str) -> Iterator[Block]:
    found: list[str] | None = None
    for number, line in enumerate(PAGES[page].read_text().splitlines(), 1):
        if not line.lstrip().startswith("```"):
            if found is not None:
                found.append(line)
        elif found is None:
            found, language, begin = [], line.strip().strip("`"), number + 1
        else:
            yield Block(language, begin, "\n".join(found))
            found = None
    assert found is None, f"{page}: a block is not closed"


def prose(page: str) -> str:
    """The page without code blocks and inline code."""
    text = re.sub(r"^\s*```.*?^\s*```$", "", PAGES[page].read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`]*`", "code", text)


def table(page: str, heading: str) -> dict[str, list[str]]:
    """The rows of the table after a heading, by the code in their first cells."""
    text = PAGES[page].read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    return {row[0].strip("`"): row[1:] for row in rows[1:]}


def run(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the Python blocks of a page, in order, as one module, in a folder."""
    monkeypatch.chdir(folder)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    for block in blocks(page):
        if block.language == "python":  # keeps the line numbers of the page, for tracebacks
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, str(PAGES[page]), "exec", dont_inherit=True), vars(module))
