"""Every command publishes the schema of its --json objects; the commands' own tests check what they print."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import typer

from explora.cli import app

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
COMMANDS = [name for name, command in typer.main.get_command(app).commands.items() if not command.hidden]
FURTHER = [  # objects of other questions than the command's own
    "bench-advice",
    "bench-check",
    "eval-blind",
    "eval-comparison",
    "eval-decoding",
    "eval-ranking",
    "train-sweep-cell",
    "train-sweep-summary",
]
OBJECTS = sorted([*COMMANDS, *FURTHER])


def test_there_is_one_schema_for_each_kind_of_object():
    assert sorted(path.stem for path in SCHEMAS.iterdir()) == OBJECTS


@pytest.mark.parametrize("command", OBJECTS)
def test_the_schema_is_a_strict_one(command, check_schema):
    schema = json.loads((SCHEMAS / f"{command}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert sorted(schema["required"]) == sorted(schema["properties"])
    with pytest.raises(jsonschema.ValidationError, match="required property"):
        check_schema(command, {})
