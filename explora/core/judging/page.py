"""The comparison as one HTML page, which works offline, keeps votes in the browser, and saves them as a file.

The page contains the texts and no information about their writers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from explora.core.files import write_atomically
from explora.core.judging.pairs import Pair

PLACE_OF_PAIRS = "/* pairs */ []"


def write_page(file: Path, pairs: Sequence[Pair]) -> None:
    """Write the page atomically; an existing file is replaced."""
    shown = [
        {"pair": pair.key, "prompt": pair.prompt, "first": pair.first, "second": pair.second}
        for pair in pairs
    ]
    template = files("explora").joinpath("assets", "judging", "blind.html").read_text(encoding="utf-8")
    assert template.count(PLACE_OF_PAIRS) == 1
    # A text with < could end the script element, so < never appears in the data.
    data = json.dumps(shown, ensure_ascii=False).replace("<", "\\u003c")
    write_atomically(file, template.replace(PLACE_OF_PAIRS, data))
