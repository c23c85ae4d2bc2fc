"""The workflows of .github: they parse, run existing commands, and use the Python versions of pyproject.toml.

They only run at GitHub. After a change, check them with actionlint, and try their shell lines by hand.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

PROJECT = Path(__file__).parents[2]
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in sorted(PROJECT.glob(".github/workflows/*.yml"))}
SCRIPT = PROJECT / "scripts" / "release_notes.sh"
workflows = pytest.mark.parametrize("name", WORKFLOWS)


def jobs(name: str) -> dict[str, Any]:
    return WORKFLOWS[name]["jobs"]


def steps(name: str) -> Iterator[dict[str, Any]]:
    for job in jobs(name).values():
        yield from job.get("steps", [])


def pythons() -> list[str]:
    return re.findall(
        r'^  "Programming Language :: Python :: (3\.\d+)"', (PROJECT / "pyproject.toml").read_text(), re.MULTILINE
    )


def test_there_is_one_for_each_purpose() -> None:
    expected = {"docs", "lint", "release", "sanitizers", "tests", "versions", "wheels"}
    assert {Path(name).stem for name in WORKFLOWS} == expected
    assert {workflow["name"] for workflow in WORKFLOWS.values()} == expected


@workflows
def test_parts(name: str) -> None:
    """YAML reads the key `on` as True. The token may only read; a job that may do more says so itself."""
    workflow = WORKFLOWS[name]
    assert workflow.keys() <= {"name", True, "permissions", "concurrency", "jobs"}
    assert workflow[True]
    assert workflow["permissions"] == {"contents": "read"}
    known = {"if", "needs", "strategy", "runs-on", "timeout-minutes", "permissions", "environment", "env", "steps"}
    for job in jobs(name).values():
        assert job.keys() <= known if "steps" in job else job.keys() == {"needs", "uses"}
        assert {job["needs"]} <= jobs(name).keys() if "needs" in job else True
    for step in steps(name):
        assert step.keys() <= {"id", "if", "uses", "with", "run", "env"}
        assert ("uses" in step) != ("run" in step)


@workflows
def test_actions_are_pinned_to_a_major_version(name: str) -> None:
    for step in steps(name):
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/checkout@v4"))
    for job in jobs(name).values():
        if "uses" in job:
            assert Path(job["uses"]).name in WORKFLOWS
            assert "workflow_call" in WORKFLOWS[Path(job["uses"]).name][True]


@workflows
def test_what_is_run_exists(name: str) -> None:
    targets = re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    for step in steps(name):
        command = step.get("run", "")
        if command.startswith("make "):
            assert command.split()[1] in targets
        if command.startswith("scripts/"):
            assert (PROJECT / command.split()[0]).stat().st_mode & 0o100
    assert re.search("sed .*torch==", (PROJECT / ".github/workflows/tests.yml").read_text())
    assert re.search("^torch==", (PROJECT / "constraints.txt").read_text(), re.MULTILINE)  # the workflow replaces it


@workflows
def test_versions_of_python_are_those_of_the_classifiers(name: str) -> None:
    for step in steps(name):
        given = step.get("with", {}).get("python-version")
        assert given in {None, "${{ matrix.python }}", *pythons()}
        assert isinstance(given, str | None)  # without quotes, 3.10 is 3.1


def test_the_suite_has_both_ends_and_every_machine() -> None:
    rows = jobs("tests.yml")["suite"]["strategy"]["matrix"]["include"]
    assert {pythons()[0], pythons()[-1]} <= {row["python"] for row in rows} <= set(pythons())
    assert {(row["os"].split("-")[0], row["cxx"]) for row in rows} >= {
        ("ubuntu", "g++"),
        ("ubuntu", "clang++"),
        ("macos", "clang++"),
    }
    newest = jobs("versions.yml")["torch"]["strategy"]["matrix"]["torch"][-1]
    assert newest in {row.get("torch") for row in rows}
    machines = set(jobs("versions.yml")["python"]["strategy"]["matrix"]["os"])
    assert machines == {row["os"] for row in rows} <= set(jobs("wheels.yml")["wheels"]["strategy"]["matrix"]["os"])


def test_dependabot_looks_where_requirements_are() -> None:
    updates = yaml.safe_load((PROJECT / ".github" / "dependabot.yml").read_text())["updates"]
    (pip,) = [update for update in updates if update["package-ecosystem"] == "pip"]
    for folder in pip["directories"]:
        assert list((PROJECT / folder.strip("/")).glob("requirements.txt")) or folder == "/"
    assert {update["package-ecosystem"] for update in updates} == {"pip", "github-actions"}


def test_citation() -> None:
    """It has no version, as pyproject.toml is the only place for it."""
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    assert citation["license"] == "MIT"
    assert "version" not in citation


@pytest.fixture
def notes(tmp_path: Path) -> Any:
    """The script in a project whose version is 1.2.3."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text('version = "1.2.3"\n')

    def run(tag: str, heading: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n\n- new\n\n## 1.2.2 (then)\n\n- old\n")
        script = tmp_path / "scripts" / SCRIPT.name
        return subprocess.run([script, tag], capture_output=True, text=True, check=False)

    return run


def test_notes_of_a_release_are_those_of_its_version(notes: Any) -> None:
    assert notes("v1.2.3", "## 1.2.3 (today)").stdout == "\n- new\n\n"
    for tag, heading, message in (
        ("v1.2.4", "## 1.2.4 (today)", "pyproject.toml is not at version 1.2.4"),
        ("v1.2.3", "## 1.2.3 (unreleased)", "the changelog begins with '## 1.2.3 (unreleased)'"),
        ("v1.2.3", "## 1.2.2 (then)", "the changelog begins with '## 1.2.2 (then)'"),
    ):
        refused = notes(tag, heading)
        assert refused.returncode == 1
        assert message in refused.stderr
