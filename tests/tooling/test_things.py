"""The tests about one thing (things.py), and the table of CONTRIBUTING.md that says which tests to run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import things
from dropout_cases import FAMILY
from optimizer_cases import ROWS

TESTS = Path(__file__).parents[1]
CONTRIBUTING = TESTS.parent / "CONTRIBUTING.md"


@pytest.mark.parametrize(
    ("nodeid", "about"),
    [
        ("test_bits.py::test_equals_reference[Adam(lr=0.05)-float32]", {"Adam"}),
        ("test_convert.py::test_switch[AdamW-SGD]", {"AdamW", "SGD"}),
        ("test_traps.py::test_trap_1_eps_of_radam", {"RAdam"}),
        ("test_docs.py::test_code_runs[optimizers/lion.md]", {"Lion"}),
        ("test_lookahead.py::test_rule", {"Lookahead"}),
        ("test_dropout_bits.py::test_rules[feature_alpha_dropout]", {"dropout", "feature_alpha_dropout"}),
        ("test_convert.py::test_modules[AlphaDropout]", {"alpha_dropout"}),
        ("test_dropconnect.py::test_weights", {"drop_connect"}),
        ("test_batch_norm_state.py::test_copies[BatchNorm2d]", {"batch_norm", "BatchNorm2d"}),
        ("test_sync_batch_norm.py::test_alone", {"SyncBatchNorm"}),
        ("test_clip.py::test_norm_of_million_asgdx", set()),
    ],
)
def test_what_a_test_is_about(nodeid: str, about: set[str]) -> None:
    assert things.things_of(nodeid) == about


def test_everything_of_the_tables_is_a_thing() -> None:
    for name in [row.ours.__name__ for row in ROWS] + [family.name for family in FAMILY]:
        assert things.thing(name) == name


def test_marks_of_this_very_run(request: pytest.FixtureRequest) -> None:
    for item in request.session.items:
        marks = {mark.name for mark in item.iter_markers()} & set(things.THINGS.values())
        assert marks == things.things_of(item.nodeid)


def test_any_spelling_and_no_unknown_name() -> None:
    assert things.thing("lion") == "Lion"
    assert things.thing("BatchNorm") == "batch_norm"
    with pytest.raises(ValueError, match=r"no tests are about 'Adagard'; there are: AdaBound, .*SyncBatchNorm$"):
        things.thing("Adagard")


def test_every_file_is_in_the_table_of_what_to_run() -> None:
    table = CONTRIBUTING.read_text().split("\n## What to run\n")[1].split("\n## ")[0]
    folders = re.findall(r"`tests/(\w+)`", table)
    files = [path.relative_to(TESTS) for path in TESTS.rglob("test_*.py")]
    assert sorted({path.name for path in files if path.parts[0] not in folders}) == sorted(
        set(re.findall(r"`(test_\w+\.py)`", table))
    )
    assert {path.parts[0] for path in files if len(path.parts) > 1} >= set(folders)
