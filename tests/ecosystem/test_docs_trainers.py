"""Runs the blocks of docs/trainers.md, in order, in one namespace. Other pages: tests/tooling/test_docs.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ecosystem
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "trainers.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in BLOCK.finditer(text):
        assert block[1] == "python"
        line = text.count("\n", 0, block.start(2))
        exec(compile("\n" * line + block[2], str(PAGE), "exec"), namespace)  # errors name the page's line


def test_examples_that_are_named_exist() -> None:
    named = re.findall(r"`(examples/\w+\.py)`", PAGE.read_text())
    assert len(named) == 3
    assert all((ROOT / name).is_file() for name in named)
