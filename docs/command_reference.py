"""Write the command reference, docs/commands.md, to stdout: `make reference`.

Names, help and defaults are those of the application, as `--help` shows them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from explora.cli import app
from explora.commands._synonyms import SYNONYMS

PREFACE = """\
# Command reference

This page lists every command and option, as `--help` shows them. `make reference` generates it.

The result goes to stdout, progress and messages go to stderr. Every command has `--json`; the
[schemas](schemas) describe its objects. `NO_COLOR`, `TERM=dumb` and pipes get plain lines.

| exit code | meaning |
|---|---|
| 0 | success |
| 1 | an expected failure, such as a bad row: a message and a hint |
| 2 | a usage error, such as an unknown option |
| 70 | a bug in explora |
| 130, 143 | interrupted by Ctrl-C or SIGTERM; `train` saves the run first |
| 141 | the pipe that reads the result was closed |
"""

OTHER_NAMES = """\
## Options under other names

Option names of other tools work as well. All long options take `_` for `-`.
"""


def command_reference() -> str:
    """Return the page as Markdown."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    commands = {"explora": root} | {
        f"explora {name}": command for name, command in root.commands.items() if not command.hidden
    }
    sections = [_section(name, command) for name, command in commands.items()]
    return "\n".join([PREFACE, *sections, OTHER_NAMES, _table("option", "other names", _other_names())])


def _section(name: str, command: TyperCommand | TyperGroup) -> str:
    usage = " ".join(command.collect_usage_pieces(typer.Context(command)))
    parts = [f"## {name}\n", inspect.cleandoc(command.help or "") + "\n", f"Usage: `{name} {usage}`\n"]
    arguments = [each for each in command.params if isinstance(each, TyperArgument)]
    if arguments:
        rows = [(f"`{argument.metavar}`", _help(argument)) for argument in arguments]
        parts.append(_table("Arguments", "", rows))
    for panel, options in _panels(command).items():
        parts.append(_table(panel, "", [(_spelled(option), _help(option)) for option in options]))
    return "\n".join(parts)


def _panels(command: TyperCommand | TyperGroup) -> dict[str, list[TyperOption]]:
    """Return the options under the panels of `--help`, in the order of `--help`."""
    panels: dict[str, list[TyperOption]] = {}
    for option in command.params:
        if isinstance(option, TyperOption):
            panels.setdefault(str(option.rich_help_panel or "Options"), []).append(option)
    return panels


def _spelled(option: TyperOption) -> str:
    names = ", ".join(sorted([*option.opts, *option.secondary_opts], key=len))
    return f"`{names} {_value(option)}".rstrip() + "`"


def _value(option: TyperOption) -> str:
    if option.is_flag or option.metavar is not None:
        return option.metavar or ""
    choices = getattr(option.type, "choices", ())
    return "|".join(choices) or f"<{option.type.name.split()[0]}>"


def _help(parameter: TyperArgument | TyperOption) -> str:
    text = " ".join((parameter.help or "").split())
    if parameter.required:
        return f"{text} Required."
    if not parameter.show_default or not parameter.default or "default:" in text:
        return text
    return f"{text.removesuffix('.')} (default: {parameter.default})."


def _other_names() -> Iterator[tuple[str, str]]:
    for option in sorted(set(SYNONYMS.values())):
        names = [f"`{name}`" for name, ours in SYNONYMS.items() if ours == option]
        yield f"`{option.replace('=', ' ')}`", ", ".join(names)


def _table(first: str, second: str, rows: Iterable[tuple[str, str]]) -> str:
    cells = [(left.replace("|", r"\|"), right.replace("|", r"\|")) for left, right in rows]
    return "".join(
        [f"| {first} | {second} |\n|---|---|\n", *(f"| {left} | {right} |\n" for left, right in cells)]
    )


if __name__ == "__main__":
    print(command_reference(), end="")
