"""Files, tables, comparisons and charts that the bench makes from figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich", reason="needs the extra 'bench'")
import bench.__main__ as program
from bench.compare import comparison
from bench.figures import Figures, Row, read
from bench.report import gain, losses, markdown


def row(case: str = "Adam, 1M", **more: Any) -> Row:
    rounds = {
        "fastopt": [1e-3, 1e-3, 1e-3],
        "torch default": [4e-3, 5e-3, 6e-3],
        "torch fused": [2e-3, 2e-3, 2.2e-3],
        "adabound default": [8e-3, 8e-3, 8e-3],
        "ceiling": [0.8e-3, 0.9e-3, 0.9e-3],
    }
    about = {"operation": "Adam", "input": "1M", "dtype": "float32", "tensors": 1, "elements": 1 << 20}
    given = {"family": "optimizers", "bytes": 28 << 20, "caches": "cold", "threads": 2, "rival": "torch.optim.Adam"}
    return Row(**{"case": case, **about, **given, "rounds": rounds, **more})


def figures(*rows: Row) -> Figures:
    about = {"commit": "0123456789", "date": "2026-11-22T00:00:00+00:00", "ceiling": "of ceiling: ..."}
    return Figures("a CPU", about, list(rows), ["adabound is not installed"])


def slowed(old: Row, factor: float) -> Row:
    return replace(old, rounds={**old.rounds, "fastopt": [factor * each for each in old.rounds["fastopt"]]})


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = figures(row(), row("SGD, 1M", differs={"torch fused": "its result differs"}))
    written.write(tmp_path / "figures.json")
    assert read(tmp_path / "figures.json") == written


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 2}'])
def test_another_file_is_an_error(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "figures.json").write_text(text)
    with pytest.raises(SystemExit):
        program.main(["--read", str(tmp_path / "figures.json")])
    assert "was not written by this version of the bench" in capsys.readouterr().err


def test_ratios_and_the_best() -> None:
    one = row()
    assert one.ratio("torch default") == (5, 4, 6)
    assert one.ratio("apex default") is None
    assert one.best(of_torch=True) == "torch fused"
    assert one.best(of_torch=False) == "adabound default"
    assert replace(one, differs={"torch fused": "its result differs"}).best(of_torch=True) == "torch default"


def test_markdown(tmp_path: Path) -> None:
    written = figures(row(), row("SGD, 1M", differs={"torch fused": "its result differs"}), row("x", family="dropout"))
    text = markdown(written).splitlines()
    assert text[0] == "a CPU, commit 0123456789, 2026-11-22."
    assert [line for line in text if line.startswith("#")] == [
        "### Optimizers",
        "### Dropout",
        "### Where another one is faster",
        "### Remarks",
    ]
    assert "- Nowhere." in text
    assert text[4] == "| case | us | GB/s | of ceiling | x torch | x default | x others |"
    adam = "| Adam, 1M | 1000.0 | 29.4 | 0.90 (0.80-0.90) | 2.00 (2.00-2.20) fused | 5.00 (4.00-6.00) | "
    assert text[6] == adam + "8.00 (8.00-8.00) adabound default |"
    assert "- SGD, 1M, torch fused: its result differs" in text
    assert "- adabound is not installed" in text


def test_what_is_gone_of_the_rest() -> None:
    """Of 5 ms, 3 are products; ours takes 1 less."""
    step = row("training step of a VAE, 9", family="training", products=0.6)
    rounds = {"fastopt": [4e-3] * 3, "torch default": [5e-3] * 3, "fastopt unconverted": [3e-3] * 3}
    step = replace(step, rounds=rounds)
    assert step.of_rest == pytest.approx(0.5)
    assert step.best(of_torch=False) is None
    assert losses([step]) == ["training step of a VAE, 9: 0.75 (0.75-0.75) fastopt unconverted"]
    run = figures(step, row("training step of another", family="training"))
    run.notes.append("training step of a third: skipped, timm is not installed")
    table = [line for line in gain(run).splitlines() if line]
    assert table[3:] == [
        "| a VAE, 9 | 4.0 | 1.25 (1.25-1.25) | - | 0.75 (0.75-0.75) | 60 % | 50 % |",
        "- training step of a third: skipped, timm is not installed",
    ]


def test_a_document_gets_the_part_of_its_marks(tmp_path: Path) -> None:
    figures(row("training step of a VAE", family="training", products=0.6)).write(tmp_path / "figures.json")
    document = tmp_path / "document.md"
    document.write_text("before\n<!-- gain -->\nold\n<!-- /gain -->\nafter\n")
    assert program.main(["--read", str(tmp_path / "figures.json"), "--markdown", str(document)]) == 0
    text = document.read_text()
    assert text.startswith("before\n<!-- gain -->\n\na CPU, commit")
    assert text.endswith("\n<!-- /gain -->\nafter\n")
    assert "| a VAE |" in text
    assert "### Remarks" not in text


def test_markdown_between_marks(tmp_path: Path) -> None:
    figures(row()).write(tmp_path / "figures.json")
    document = tmp_path / "document.md"
    document.write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    for _ in range(2):
        assert program.main(["--read", str(tmp_path / "figures.json"), "--markdown", str(document)]) == 0
    text = document.read_text()
    assert text.startswith("before\n<!-- bench -->\n\na CPU, commit")
    assert text.endswith("\n<!-- /bench -->\nafter\n")
    assert text.count("| Adam, 1M |") == 1
    assert "old" not in text


def test_machines_stand_side_by_side(tmp_path: Path) -> None:
    """A cell is cold / hot. A value that a machine lacks is a dash, a loss is bold."""
    cold, hot = row("Adam, one tensor of 1M"), row("Adam, one tensor of 1M, hot", caches="hot")
    large = row("Adam, one tensor of 16M", caches="")
    for name, rows in (("one", (slowed(cold, 3), hot, large)), ("two", (hot,))):
        run = figures(*rows)
        run.about["cpu"] = name
        run.write(tmp_path / f"{name}.json")
    files = [str(tmp_path / f"{name}.json") for name in ("one", "two")]
    document = tmp_path / "document.md"
    document.write_text("<!-- summary -->\n<!-- /summary -->\n")
    assert program.main(["--read", *files, "--markdown", str(document)]) == 0
    lines = document.read_text().splitlines()
    assert (
        "| times as fast as | one: torch's fastest | one: its default | one: other packages | two: torch's" in lines[4]
    )
    assert "| Adam, 16M elements | 2.00 | 5.00 | 8.00 | - | - | - |" in lines
    assert "| Adam, 1M | **0.67** / 2.00 | 1.67 / 5.00 | 2.67 / 8.00 | - / 2.00 | - / 5.00 | - / 8.00 |" in lines


def test_several_runs_are_shown_where_there_is_room_for_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures(row()).write(tmp_path / "figures.json")
    document = tmp_path / "document.md"
    document.write_text("<!-- bench -->\n<!-- /bench -->\n")
    twice = ["--read", *[str(tmp_path / "figures.json")] * 2]
    wrong = {
        "document.md shows one run, and there are 2": ["--markdown", str(document)],
        "--pictures: takes the figures of one file": ["--pictures", str(tmp_path)],
        "--json: takes the figures of one file": ["--json", str(tmp_path / "other.json")],
    }
    for message, option in wrong.items():
        with pytest.raises(SystemExit):
            program.main([*twice, *option])
        assert message in capsys.readouterr().err
    assert document.read_text() == "<!-- bench -->\n<!-- /bench -->\n"


def test_losses_are_listed() -> None:
    lost = losses([row(), slowed(row("NAdam, 1M"), 3), slowed(row("tie"), 2.1)])
    assert lost == ["NAdam, 1M: 0.67 (0.67-0.73) torch fused"]


def test_two_runs_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = figures(row("same"), row("slow"), row("fast"), row("gone"))
    new = figures(row("same"), slowed(row("slow"), 2), slowed(row("fast"), 0.5), row("new"))
    files = [tmp_path / "old.json", tmp_path / "new.json"]
    for each, file in zip((old, new), files, strict=True):
        each.write(file)
    assert program.main(["--compare", *map(str, files)]) == 0
    printed = capsys.readouterr().out
    assert "2.00 -> 1.00 (1.00-1.10) fused" in printed
    table = comparison(old, new)
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ["same", "slow", "fast", "gone", "new"]
    assert cells[-1] == ["", "slower", "faster", "only in the old run", "only in the new run"]


@pytest.mark.slow
def test_pictures_are_drawn(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image", reason="needs the extra 'bench'")
    curve = [row(f"by elements: {n}", family="scaling", curve="Adam, by elements", x=n) for n in (10, 100)]
    rows = [row("Adam, one tensor of 16M", caches=""), row("dropout, 1M", family="dropout"), *curve]
    rows.append(row("AdamW split master", family="precision", operation="AdamW split master", elements=1 << 24))
    figures(*rows).write(tmp_path / "figures.json")
    assert program.main(["--read", str(tmp_path / "figures.json"), "--pictures", str(tmp_path / "drawn")]) == 0
    names = {"summary", "roofline", "scaling", "optimizers", "dropout", "precision", "memory"}
    assert {file.stem for file in (tmp_path / "drawn").iterdir()} == names
    for name in names:
        assert image.imread(tmp_path / "drawn" / f"{name}.png").std() > 0.01


@pytest.mark.parametrize("earlier", [["--read", "old.json"], ["--compare", "old.json", "new.json"]], ids=lambda x: x[0])
def test_what_would_be_ignored_is_an_error(earlier: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """That includes an option given with its default value."""
    measuring = ["--device cpu", "--quick", "--family dropout", "--only Adam", "--seconds 0", "--threads 1"]
    writing = ["--json a.json", "--markdown a.md", "--pictures a"]
    for option in measuring + (writing if "--compare" in earlier else []):
        with pytest.raises(SystemExit):
            program.main([*earlier, *option.split()])
        flag = option.split()[0]
        assert f"argument {flag}: not allowed with argument {earlier[0]}" in capsys.readouterr().err
