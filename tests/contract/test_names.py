"""A task answers for itself: no module but its own and the registry decides anything by its name.

The syntax tree of every module is searched for a name in a comparison, a pattern of `match`, a subscript or a
key of a dictionary, and for the import of an implementation. A default (`task: str = "paraphrase"`) and the
words of a message are no decisions.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from explora.core.config.registry import METHODS, TASKS

PACKAGE = Path(__file__).parents[2] / "explora"
COMMON_WORDS = {"text"}  # also a column and a key of JSON: fine as a subscript and as a key


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A table of the registry, the implementation of each name, and who may know the names.

    `homes` are folders and modules of the package.
    """

    table: str
    implementations: Mapping[str, str]
    homes: tuple[str, ...]

    @property
    def known(self) -> set[str]:
        """The names, and the modules of the implementations."""
        modules = {reference.partition(":")[0] for reference in self.implementations.values()}
        return modules | self.implementations.keys()


KINDS = [
    Kind(
        table="TASKS",
        implementations={name: row.implementation for name, row in TASKS.items()},
        homes=("core/tasks", "core/methods", "core/config/registry.py"),
    ),
    Kind(
        table="METHODS",
        implementations=METHODS,
        homes=("core/methods", "core/config/registry.py", "commands/_short_forms.py"),
    ),
]


def found_in(source: str, kind: Kind) -> list[str]:
    """Return `line: name` for each name that something is decided by."""
    nodes = ast.walk(ast.parse(source))
    return [
        f"{node.lineno}: {name}"  # type: ignore[attr-defined]
        for node in nodes
        for name in _asked_by(node, kind)
        if name in kind.known
    ]


def _asked_by(node: ast.AST, kind: Kind) -> Iterator[object]:
    """Yield what a node decides by: constants, and the modules that it imports."""
    match node:
        case ast.Compare():
            yield from _constants([node.left, *node.comparators])
        case ast.MatchValue():
            yield from _constants([node.value])
        case ast.Subscript(value=ast.Name(id=table) | ast.Attribute(attr=table)) if table == kind.table:
            yield from _constants([node.slice])
        case ast.Subscript():
            yield from _constants([node.slice]) - COMMON_WORDS
        case ast.Dict():
            yield from _constants(filter(None, node.keys)) - COMMON_WORDS
        case ast.ImportFrom():
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _constants(asked: Iterable[ast.expr]) -> set[object]:
    """Return the constants of expressions, those of written-out tuples, lists and sets too."""
    return {part.value for value in asked for part in _parts(value) if isinstance(part, ast.Constant)}


def _parts(value: ast.expr) -> list[ast.expr]:
    return value.elts if isinstance(value, ast.Tuple | ast.List | ast.Set) else [value]


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
    "from explora.core.tasks.sonnet import Sonnet": ["1: explora.core.tasks.sonnet"],
    "from explora.core.tasks import sonnet": ["1: explora.core.tasks.sonnet"],
}
HARMLESS = (
    "def params(task: str = 'paraphrase') -> None: ...",
    "value = {'text': row['text']}",
    "raise UsageError('choose a sonnet run', 'text')",
    "from explora.core.tasks.contract import Task",
)


@pytest.mark.parametrize("source", PLANTED)
def test_a_planted_decision_is_found(source: str) -> None:
    assert sorted(found_in(source, KINDS[0])) == sorted(PLANTED[source])


@pytest.mark.parametrize("source", HARMLESS)
def test_a_default_a_column_and_a_message_are_no_decisions(source: str) -> None:
    assert found_in(source, KINDS[0]) == []


def test_the_homes_exist_and_everything_else_is_searched() -> None:
    for kind in KINDS:
        assert all((PACKAGE / home).exists() for home in kind.homes)
        assert len(list(strangers(kind))) > 80
