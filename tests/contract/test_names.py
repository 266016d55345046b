"""A task answers for itself: no module but its own and the registry decides anything by its name.

The syntax tree of every module is searched for a name in a comparison, a pattern of `match`, a subscript or a
key of a dictionary. A default (`task: str = "paraphrase"`) and the words of a message are no decisions.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from explora.core.config.registry import TASKS

PACKAGE = Path(__file__).parents[2] / "explora"
COMMON_WORDS = {"text"}  # also a column and a key of JSON: fine as a subscript and as a key


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Names of one kind, the table that holds them, and the folders and modules that may know them."""

    names: frozenset[str]
    table: str
    homes: tuple[str, ...]


KINDS = [
    Kind(names=frozenset(TASKS), table="TASKS", homes=("core/tasks", "core/config/registry.py")),
]


def found_in(source: str, kind: Kind) -> list[str]:
    """Return `line: name` for each name that something is decided by."""
    nodes = ast.walk(ast.parse(source))
    return [f"{line}: {name}" for node in nodes for line, name in _decided_by(node, kind)]


def _decided_by(node: ast.AST, kind: Kind) -> Iterator[tuple[int, str]]:
    match node:
        case ast.Compare():
            asked, exempt = [node.left, *node.comparators], set[str]()
        case ast.MatchValue():
            asked, exempt = [node.value], set[str]()
        case ast.Subscript(value=ast.Name(id=table) | ast.Attribute(attr=table)) if table == kind.table:
            asked, exempt = [node.slice], set[str]()
        case ast.Subscript():
            asked, exempt = [node.slice], COMMON_WORDS
        case ast.Dict():
            asked, exempt = [key for key in node.keys if key is not None], COMMON_WORDS
        case _:
            return
    for constant in _constants(asked):
        if constant.value in kind.names - exempt:
            yield constant.lineno, str(constant.value)


def _constants(asked: list[ast.expr]) -> Iterator[ast.Constant]:
    """Yield the constants of expressions, those of written-out tuples, lists and sets too."""
    for value in asked:
        if isinstance(value, ast.Constant):
            yield value
        elif isinstance(value, ast.Tuple | ast.List | ast.Set):
            yield from _constants(value.elts)


def strangers(kind: Kind) -> Iterator[Path]:
    """Yield the modules that may not know a name of this kind."""
    homes = [PACKAGE / home for home in kind.homes]
    for module in sorted(PACKAGE.rglob("*.py")):
        if not any(module.is_relative_to(home) for home in homes):
            yield module


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.table)
def test_nothing_is_decided_by_a_name(kind: Kind) -> None:
    found = [
        f"{module.relative_to(PACKAGE)}:{place}"
        for module in strangers(kind)
        for place in found_in(module.read_text(encoding="utf-8"), kind)
    ]
    assert found == []


PLANTED = {
    "if task == 'sonnet': pass": ["1: sonnet"],
    "wanted = task in ('text', 'sonnet')": ["1: text", "1: sonnet"],
    "wanted = task not in {'text'}": ["1: text"],
    "match task:\n    case 'text' | 'sonnet': pass": ["2: text", "2: sonnet"],
    "TITLES = {'sentiment': 'Sentiment'}": ["1: sentiment"],
    "row = TASKS['text']": ["1: text"],
    "row = registry.TASKS['text']": ["1: text"],
    "limit = limits['paraphrase']": ["1: paraphrase"],
}
HARMLESS = (
    "def params(task: str = 'paraphrase') -> None: ...",
    "value = {'text': row['text']}",
    "raise UsageError('choose a sonnet run', 'text')",
)


@pytest.mark.parametrize("source", PLANTED)
def test_a_planted_decision_is_found(source: str) -> None:
    assert found_in(source, KINDS[0]) == PLANTED[source]


@pytest.mark.parametrize("source", HARMLESS)
def test_a_default_a_column_and_a_message_are_no_decisions(source: str) -> None:
    assert found_in(source, KINDS[0]) == []


def test_the_homes_exist_and_everything_else_is_searched() -> None:
    for kind in KINDS:
        assert all((PACKAGE / home).exists() for home in kind.homes)
        assert len(list(strangers(kind))) > 80
