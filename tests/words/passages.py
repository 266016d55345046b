"""Find the words for people: pages, descriptions in schemas, docstrings, messages, help texts."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Any

import typer.main

from explora.cli import app
from tests.words.sentences import without_code

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "benchmarks", "explora")


@dataclass(frozen=True)
class Passage:
    """Some words, without code, and where they begin. `line` is 0 where there is no file."""

    kind: str
    path: str
    line: int
    text: str


def passages() -> Iterator[Passage]:
    """Yield every passage of the project, folder by folder."""
    for page in pages():
        yield Passage("page", name_of(page), 1, without_code(page.read_text("utf-8")))
    for schema in sorted((ROOT / "docs" / "schemas").glob("*.json")):
        yield Passage("schema", name_of(schema), 1, schema.read_text("utf-8"))
    for module in sorted((ROOT / "explora").rglob("*.py")):
        yield from in_module(name_of(module), module.read_text("utf-8"))
    yield from in_help()


def pages() -> list[Path]:
    """Return the Markdown pages, without built ones."""
    found = [ROOT / each for each in PAGES if (ROOT / each).is_file()]
    for folder in PAGES:
        found += sorted((ROOT / folder).rglob("*.md"))
    return [page for page in found if not any(part.startswith("_") for part in page.relative_to(ROOT).parts)]


def name_of(path: Path) -> str:
    """Return the path from the root of the project, with slashes."""
    return path.relative_to(ROOT).as_posix()


def in_module(path: str, source: str) -> Iterator[Passage]:
    """Yield the docstrings and every other string of several words; `{...}` becomes one word."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if node.body and isinstance(node.body[0], ast.Expr)
    }
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        text = _words(node)
        if " " in text and id(node) not in inside:
            is_docstring = id(node) in docstrings
            text = without_code(cleandoc(text) if is_docstring else text)
            yield Passage("docstring" if is_docstring else "message", path, getattr(node, "lineno", 0), text)


def _words(node: ast.AST) -> str:
    """Return the text of a string or an f-string, else an empty one."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_words(part) or "{}" for part in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return ""


def in_help() -> Iterator[Passage]:
    """Yield the description of each command, and of its options, as `--help` shows them."""
    yield from _in_command("help: explora", typer.main.get_command(app))


def _in_command(name: str, command: Any) -> Iterator[Passage]:
    yield Passage("help", name, 0, without_code(command.help or ""))
    for parameter in command.params:
        text = getattr(parameter, "help", None) or ""
        yield Passage("help", f"{name} {parameter.opts[0]}", 0, without_code(text))
    for child, subcommand in getattr(command, "commands", {}).items():
        yield from _in_command(f"{name} {child}", subcommand)
