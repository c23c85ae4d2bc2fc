"""README.md and docs: code runs, commands exist, links work, and tables agree with the code.

`make docs` builds the pages, and finds wrong references between pages and to docstrings.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fastopt
from bench.__main__ import _parser
from doc_pages import ECOSYSTEM_PAGES, PAGES, ROOT, blocks, prose, run, table
from fastopt import _core, _runtime
from fastopt.optim._update import COMMON

LANGUAGES = {"bash", "cpp", "math", "python", "text", "toml", "yaml"}

# Commands of ```bash blocks, and what provides them.
COMMANDS = {
    "pip install .": "every stamp of the Makefile",
    "FASTOPT_CUDA=ON pip install .": "tests/tooling/test_cuda_build.py",
    "python -m fastopt": "tests/tooling/test_runtime.py",
    "python -m fastopt --model torchvision.models:resnet18 --input 2,3,64,64": "tests/interop/test_convert_report.py",
    "torchrun --nproc-per-node 2 examples/train_distributed.py": "tests/distributed/test_threads.py",
    "torchrun --nproc-per-node 2 examples/train_distributed.py --sharded": "tests/distributed/test_threads.py",
    "torchrun --nproc-per-node 2 examples/fsdp_offload.py": "tests/distributed/test_threads.py",
    "scripts/gpu_check.sh": "tests/tooling/test_gpu_check.py",
    "scripts/gpu_check.sh short bench": "tests/tooling/test_gpu_check.py",
    "scripts/gpu_check.sh first": "tests/tooling/test_gpu_check.py",
    "scripts/gpu_check.sh second": "tests/tooling/test_gpu_check.py",
    "CUDAARCHS=90-real PYTHON=python3.12 scripts/gpu_check.sh prebuild": "tests/tooling/test_gpu_check.py",
}

OPTIMIZERS = {
    name.lower(): getattr(fastopt.optim, name)
    for name in fastopt.optim.__all__
    if isinstance(getattr(fastopt.optim, name), type) and name not in ("CommonOptions", "Optimizer")
}


@pytest.mark.parametrize("page", sorted(PAGES.keys() - ECOSYSTEM_PAGES))
def test_code_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(page, tmp_path, monkeypatch)


@pytest.mark.parametrize("page", PAGES)
def test_blocks_have_a_language(page: str) -> None:
    unknown = {(block.line, block.language) for block in blocks(page) if block.language not in LANGUAGES}
    assert not unknown


def known(command: str) -> bool:
    if command.startswith("make "):
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return command.split()[1] in targets
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


def _value(text: str) -> Any:
    return math.inf if text == "inf" else ast.literal_eval(text)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_defaults_are_those_of_the_signature(name: str) -> None:
    parameters = list(inspect.signature(OPTIMIZERS[name]).parameters.values())
    own = table(f"optimizers/{name}.md", "Defaults")
    common = {key: row for key, row in table("optimizers/index.md", "Common options").items() if key not in own}
    shown = {key: _value(row[0].strip("`")) for key, row in {**common, **own}.items() if row[0]}
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
    """They name all arguments; docstrings of modules name those that torch's modules lack."""
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


def test_the_report_shown_has_the_lines_of_the_command() -> None:
    (shown,) = [block.code for block in blocks("install.md") if block.language == "text"]
    names = [line.split(":")[0] for line in shown.splitlines()]

    def lines(values: dict[str, Any], indent: str = "") -> Iterator[str]:
        for name, value in values.items():
            yield indent + name
            if isinstance(value, dict):
                yield from lines(value, indent + "  ")

    assert names == [*lines(fastopt.info()), "self-test"]


def shown_messages() -> list[str]:
    """The messages that no block of errors.md provokes itself."""
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
        assert str(error.value).split(", built")[0] == message  # the rest depends on this machine

    built = {"cuda": False, "cuda_reason": "FASTOPT_CUDA=AUTO, and no torch was found where fastopt was built"}
    monkeypatch.setattr(_runtime, "kernels", SimpleNamespace(built=lambda: built))
    assert _runtime.unsupported_reason(torch.device("cuda")) == no_cuda

    monkeypatch.setattr(_runtime, "_missing", "...")
    monkeypatch.delenv("FASTOPT_BACKEND", raising=False)
    with pytest.warns(RuntimeWarning) as warned:
        _runtime._start()
    assert str(warned[0].message) == missing


def test_no_merge_was_left_half_done() -> None:
    marks = ("<" * 7 + " ", ">" * 7 + " ")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    written = [
        name for name in tracked if name.endswith((".md", ".py", ".h", ".cpp", ".cu", ".cmake", ".toml", ".yml"))
    ]
    assert [name for name in written if any(f"\n{mark}" in (ROOT / name).read_text() for mark in marks)] == []
