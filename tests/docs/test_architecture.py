"""docs/architecture.md describes the layers and the files that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.layers import layers_of, layers_svg

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_drawing_is_up_to_date():
    assert layers_svg() == (ROOT / "docs" / "layers.svg").read_text(encoding="utf-8"), "run: make reference"


@pytest.mark.parametrize("package", ["explora", "explora.core"])
def test_every_layer_is_described_in_order(package):
    names = [name for layer in layers_of(package) for name in layer]
    described = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`\w+`.*?) \|", PAGE, re.MULTILINE)))
    assert [name for name in described if name in names] == names


def test_every_file_on_the_path_exists():
    files = re.findall(r"`(explora/[\w/]+\.py)`", PAGE)
    assert len(files) > 20
    assert [file for file in files if not (ROOT / file).is_file()] == []
