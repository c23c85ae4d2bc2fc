"""README.md and docs: code runs, commands exist, links lead somewhere, tables say what the code says.

`make docs` builds the pages, and finds what is wrong with references from page to page and to docstrings.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

import fastopt
from bench.__main__ import _parser
from fastopt import _core, _runtime
from fastopt.optim._update import COMMON

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(DOCS)): path for path in sorted(DOCS.rglob("*.md"))} | {"README.md": ROOT / "README.md"}
ECOSYSTEM_PAGES = {"trainers.md"}  # tests/ecosystem runs them: they need packages of others
LANGUAGES = {"bash", "cpp", "math", "python", "text", "toml", "yaml"}

# Commands of ```bash blocks, and what runs them.
COMMANDS = {
    "pip install .": "every stamp of the Makefile",
    "pip install . --config-settings=cmake.define.FASTOPT_CUDA=ON": "scripts/gpu_check.sh build",
    "python -m fastopt": "tests/test_runtime.py",
    "scripts/gpu_check.sh": "tests/test_gpu_check.py",
    "scripts/gpu_check.sh bench": "tests/test_gpu_check.py",
}

OPTIMIZERS = {
    name.lower(): getattr(fastopt.optim, name)
    for name in fastopt.optim.__all__
    if isinstance(getattr(fastopt.optim, name), type) and name != "Common"
}


class Block(NamedTuple):
    language: str
    line: int  # of its first line of code
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
    """A page without its blocks and code."""
    text = re.sub(r"^\s*```.*?^\s*```$", "", PAGES[page].read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`]*`", "code", text)


def table(page: str, heading: str) -> dict[str, list[str]]:
    """The rows of the table behind a heading, by the code in their first cells."""
    text = PAGES[page].read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    return {row[0].strip("`"): row[1:] for row in rows[1:]}


@pytest.mark.parametrize("page", sorted(PAGES.keys() - ECOSYSTEM_PAGES))
def test_code_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "page"}
    with contextlib.redirect_stdout(None):
        for block in blocks(page):
            if block.language == "python":  # on the lines of the page, for tracebacks
                exec(compile("\n" * (block.line - 1) + block.code, str(PAGES[page]), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_have_a_language(page: str) -> None:
    unknown = {(block.line, block.language) for block in blocks(page) if block.language not in LANGUAGES}
    assert not unknown


def known(command: str) -> bool:
    if command.startswith("make "):
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return command.removeprefix("make ") in targets
    if command.startswith("python -m bench"):
        return _parser().parse_args(command.split()[3:]) is not None
    return command in COMMANDS


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: str) -> None:
    lines = [line for block in blocks(page) if block.language == "bash" for line in block.code.splitlines()]
    commands = [line.split(" #")[0].strip() for line in lines]
    assert [command for command in commands if command and not command.startswith("#") and not known(command)] == []


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = PAGES[page].parent / name if name else PAGES[page]
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = re.search(r"^nav:\n((?: .*\n)+)", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert navigation is not None
    assert sorted(re.findall(r"\S+\.md", navigation[1])) == sorted(PAGES.keys() - {"README.md"})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_its_page_with_its_paper(name: str) -> None:
    cls = OPTIMIZERS[name]
    page = " ".join(PAGES[f"optimizers/{name}.md"].read_text().split())
    reference = " ".join(inspect.getdoc(cls).split("Reference: ")[1].split())
    papers = re.findall(r"arXiv [\d.]*\d|\*[^*]+\*", reference)
    assert papers
    assert [paper for paper in papers if paper not in page] == []
    assert f"::: fastopt.{cls.__name__}\n" in PAGES[f"optimizers/{name}.md"].read_text()
    assert f"({name}.md)" in PAGES["optimizers/index.md"].read_text()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_defaults_are_those_of_the_signature(name: str) -> None:
    parameters = list(inspect.signature(OPTIMIZERS[name]).parameters.values())
    own = table(f"optimizers/{name}.md", "Defaults")
    common = {key: row for key, row in table("optimizers/index.md", "Common options").items() if key not in own}
    shown = {key: ast.literal_eval(row[0].strip("`")) for key, row in {**common, **own}.items() if row[0]}
    actual = {p.name: p.default for p in parameters if p.default is not p.empty}
    assert {key: shown.get(key) for key in actual} == actual
    assert own.keys() <= {p.name for p in parameters}
    assert COMMON.keys() <= common.keys() | own.keys()


PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (fastopt, fastopt.nn, fastopt.nn.functional)
    for name in module.__all__
    if callable(getattr(module, name))
}


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_name_the_arguments(name: str) -> None:
    """All of them; of modules those that torch's do not have."""
    documented = inspect.getdoc(PUBLIC[name]) or ""
    parameters = set(inspect.signature(PUBLIC[name]).parameters)
    section = re.search(r"^Args:\n((?: .*\n|\n)+)", f"{documented}\n", re.MULTILINE)
    lines = re.findall(r"^    ([\w*][\w*, ]*):", section[1], re.MULTILINE) if section else []
    names = {one.strip() for line in lines for one in line.split(",")}
    if "**common" in names:
        names = names - {"**common"} | COMMON.keys()
    names = {one.strip("*") for one in names}
    assert names <= parameters
    refers = re.search(r"torch\.nn\.|See\s:class:", documented) and isinstance(PUBLIC[name], type)
    assert names == parameters or refers


def shown_messages() -> list[str]:
    """Those that no block of errors.md provokes itself."""
    return [line for block in blocks("errors.md") if block.language == "text" for line in block.code.splitlines()]


def test_messages_of_cuda_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    param = torch.nn.Parameter(torch.zeros(3))
    param.grad = torch.ones(3)
    optimizers = (fastopt.Adam([param]), fastopt.SGD([param], momentum=0.9), fastopt.Lookahead(fastopt.SGD([param])))
    monkeypatch.setattr(_runtime, "capturing", lambda: True)
    for optimizer, message in zip(optimizers, shown_messages()[:3], strict=True):
        with pytest.raises(RuntimeError) as error:
            optimizer.step()
        assert str(error.value) == message


def test_messages_of_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    missing, no_cuda, isa, intake, backend = shown_messages()[3:]
    for ask, value, message in (
        (_core.use_isa, "neon", isa.split(", built")[0]),
        (_core.use_intake, "dlpack", intake),
        (_runtime.use_backend, "cuda", backend),
    ):
        with pytest.raises((ValueError, ImportError)) as error:
            ask(value)
        assert str(error.value).split(", built")[0] == message  # and then this machine's

    monkeypatch.setattr(_runtime, "kernels", SimpleNamespace(built=lambda: {"cuda": False}))
    assert _runtime.why_not(torch.device("cuda")) == no_cuda

    monkeypatch.setattr(_runtime, "_missing", "...")
    monkeypatch.delenv("FASTOPT_BACKEND", raising=False)
    with pytest.warns(RuntimeWarning) as warned:
        _runtime._start()
    assert str(warned[0].message) == missing
