"""The report of convert about a model."""

from __future__ import annotations

import pytest
import torch

import fastopt.__main__ as program
from fastopt import nn

T = torch.nn


class Own(T.BatchNorm1d):
    pass


def model() -> T.Module:
    return T.Sequential(
        T.Sequential(T.Linear(3, 3), T.BatchNorm1d(3), T.ReLU()),
        T.Sequential(T.BatchNorm1d(3), T.Tanh()),
        Own(3),
        T.Dropout(),
        nn.BatchNorm1d(3, activation="silu"),
    )


def states(report: nn.Report) -> dict[str, str]:
    return {row.name: row.state for row in report.rows}


def test_rows() -> None:
    report = nn.report(nn.convert(model()))
    assert states(report) == {"0.1": "as one", "1.0": "taken", "2": "left", "3": "taken", "4": "as one"}
    notes = {row.name: row.note for row in report.rows}
    assert notes["0.1"] == "with ReLU, 2"
    assert notes["1.0"] == "alone: Tanh is no activation of the kernels"
    assert "forward may be another" in notes["2"]
    assert report.counts() == {"as one": 2, "taken": 2, "left": 1}
    lines = str(report).splitlines()
    assert lines[0].startswith("4 of 5 norms and dropouts run on fastopt's kernels, 2 of them in one pass")
    assert len(lines) == 6


def test_before_convert_all_are_left() -> None:
    assert set(states(nn.report(T.Sequential(T.BatchNorm1d(3), T.Dropout()))).values()) == {"left"}


def test_it_tells_what_is_true_now() -> None:
    """The report shows the present state, not the state when convert ran."""
    converted = nn.convert(model())
    converted[0][2].register_forward_hook(lambda *_: None)
    row = nn.report(converted).rows[0]
    assert (row.state, row.note) == ("taken", "alone: ReLU has hooks")


def test_printed(capsys: pytest.CaptureFixture[str]) -> None:
    converted = nn.convert(model(), report=True)
    assert capsys.readouterr().out == f"{nn.report(converted)}\n"


def test_a_lazy_norm_is_told_as_lazy() -> None:
    """Its hook is torch's, which makes it a BatchNorm at its first input."""
    converted = nn.convert(T.Sequential(T.LazyBatchNorm1d(), T.ReLU()))
    assert nn.report(converted).rows[0].note.startswith("lazy: ")
    converted(torch.randn(4, 3))
    assert states(nn.report(converted)) == {"0": "as one"}


def test_nothing_to_do() -> None:
    assert "nothing to do" in str(nn.report(T.Linear(2, 2)))


def test_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--model", f"{__name__}:model"]) == 0
    assert "4 of 5 norms" in capsys.readouterr().out
    assert program.main(["--model", f"{__name__}:model", "--input", "4,3"]) == 0
    assert "4 of 5 norms" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "torch"], "module:factory"),
        (["--model", "no_such_module:f"], "No module named"),
        (["--model", "torch.nn:NoSuch"], "has no attribute"),
        (["--model", "torch:get_num_threads"], "not a torch.nn.Module"),
        (["--model", "torch.nn:Identity", "--input", "a,b"], "sizes with commas"),
        (["--model", "torch.nn:Identity", "--input", "3,-1"], "sizes with commas"),
        (["--model", "torch.nn:Linear"], "called without arguments, but missing a required argument: 'in_features'"),
        (["--model", f"{__name__}:model", "--input", "4,7"], "the model cannot take it: mat1 and mat2 shapes"),
        (["--input", "3,3"], "give --model"),
    ],
)
def test_program_refuses(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(arguments)
    assert says in " ".join(capsys.readouterr().err.split())
