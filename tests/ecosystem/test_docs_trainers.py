"""Runs the pages that need other packages. Other pages: tests/tooling/test_docs.py."""

from __future__ import annotations

import os
import re
import unittest.mock
from pathlib import Path

import pytest

from doc_pages import PAGES, ROOT, run

pytestmark = pytest.mark.ecosystem


def test_trainers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("trainers.md", tmp_path, monkeypatch)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")  # DeepSpeed's
def test_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with unittest.mock.patch.dict(os.environ):
        run("engines.md", tmp_path, monkeypatch)


def test_examples_that_are_named_exist() -> None:
    named = re.findall(r"`(examples/\w+\.py)`", PAGES["trainers.md"].read_text())
    assert len(named) == 3
    assert all((ROOT / name).is_file() for name in named)
