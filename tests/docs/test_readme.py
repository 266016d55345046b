"""README is short, its links lead somewhere, and its Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MOST_BYTES = 7_000


def test_it_is_short():
    assert len(README.encode()) <= MOST_BYTES


def test_every_link_leads_to_a_file_and_a_heading():
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", README)
    assert links
    for path, heading in links:
        target = ROOT / path
        assert target.exists(), path
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [title.lower().replace(" ", "-") for title in titles], path


def test_its_python_runs(explora, tiny_base, tiny_data, capsys):
    done = explora(
        "train", "sentiment", "--model", str(tiny_base), "--data", str(tiny_data / "sentiment"),
        "--max-steps", "1", "-o", "runs/sentiment",
    )  # fmt: skip
    assert done.code == 0, done.err
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(code, {})
    assert 0 <= float(capsys.readouterr().out) <= 1
