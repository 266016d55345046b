"""The versions in docs/compatibility.md are those that pyproject.toml accepts and the tests run with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = re.findall(
    r"^\| (\w+).*? \| `(.*?)` \| (\S+)",
    (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


def test_the_accepted_versions_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [each for extra in project["optional-dependencies"].values() for each in extra]
    required = {f"Python{project['requires-python']}", *project["dependencies"], *extras}
    assert len(ROWS) > 4
    assert {f"{name}{accepted}" for name, accepted, _ in ROWS} <= required


def test_the_oldest_tested_versions_are_pinned():
    pinned = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8")
    for name, _, oldest in ROWS:
        assert name == "Python" or f"{name}=={oldest}." in pinned, name
