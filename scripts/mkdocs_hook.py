"""Adds to mkdocs.yml: formulas become MathML at build time, and docstrings may use Sphinx's roles.

Pages write formulas as on GitHub, with ```math fences and $`...`$; docstrings as in torch, with ``.. math::`` and
``:math:``.
"""

from __future__ import annotations

import html
import re
import textwrap
from typing import Any

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from pymdownx.superfences import SuperFencesException

_SOURCE = re.compile(r"\[([^]]+)\]\(\.\./examples/[^)]+\)")  # GitHub links to the file, the site shows its name
_BLOCK = re.compile(r"^\.\. math::\n((?:(?:[ \t]+.*)?\n)+)", re.MULTILINE)
_FORMULA = re.compile(r":math:`([^`]+)`")
_LINK = re.compile(r":(?:class|func|meth):`~?(fastopt\.[\w.]+)`")
_NAME = re.compile(r":(?:class|func|meth):`~?([\w.]+)`")


def _mathml(latex: str, display: str) -> str:
    result = convert(latex.strip(), display=display).replace(r"\_", "_")
    if unknown := re.search(r"\\\w*|>&<", result):
        raise ValueError(f"a formula has something that cannot be converted, {html.unescape(unknown[0])}: {latex}")
    return str(result)


def _fence(source: str, *_: Any, **__: Any) -> str:
    try:
        return f'<div class="formula">{_mathml(source, "block")}</div>'
    except Exception as error:  # superfences would take any other error for a block of code
        raise SuperFencesException(str(error)) from error


class _Docstrings(Preprocessor):
    """Translates Sphinx's roles to the syntax of the pages."""

    def run(self, lines: list[str]) -> list[str]:
        text = "\n".join(lines) + "\n"
        text = _BLOCK.sub(lambda found: f"```math\n{textwrap.dedent(found[1]).strip()}\n```\n\n", text)
        text = _FORMULA.sub(r"$`\1`$", text)
        text = _LINK.sub(r"[`\1`][\1]", text)
        text = _NAME.sub(r"`\1`", text)
        return re.sub(r"::$", ":", text, flags=re.MULTILINE).split("\n")


class _Inline(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str, int, int]:  # type: ignore[override]
        return self.md.htmlStash.store(_mathml(m[1], "inline")), m.start(0), m.end(0)


class _Formulas(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.register(_Docstrings(md), "docstrings", 40)  # before fences (25) are removed
        md.inlinePatterns.register(_Inline(r"\$`([^`]+)`\$", md), "formula", 200)  # before code (190)


def on_page_markdown(markdown: str, **_: Any) -> str:
    return _SOURCE.sub(r"`\1`", markdown)


@event_priority(100)  # before mkdocstrings, which takes the extensions over
def on_config(config: MkDocsConfig) -> None:
    config.markdown_extensions.append(_Formulas())  # type: ignore[arg-type]
    fence = {"name": "math", "class": "formula", "format": _fence}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
