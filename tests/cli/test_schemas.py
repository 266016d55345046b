"""Every command publishes the schema of its --json objects; the commands' own tests check what they print."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import typer

from explora.cli import app

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
COMMANDS = sorted(
    name for name, command in typer.main.get_command(app).commands.items() if not command.hidden
)

FURTHER = [
    "eval-blind",
    "eval-comparison",
    "eval-decoding",
    "eval-ranking",
]  # what `eval` writes for other questions than the scores of one run


def test_there_is_one_schema_a_command_and_one_a_further_question():
    assert sorted(path.stem for path in SCHEMAS.iterdir()) == sorted([*COMMANDS, *FURTHER])


@pytest.mark.parametrize("command", [*COMMANDS, *FURTHER])
def test_the_schema_is_a_strict_one(command, check_schema):
    schema = json.loads((SCHEMAS / f"{command}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert sorted(schema["required"]) == sorted(schema["properties"])
    with pytest.raises(jsonschema.ValidationError, match="required property"):
        check_schema(command, {})
