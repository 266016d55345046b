"""What the scripts that make text from the corpora share: their arguments and how documents are written."""

from __future__ import annotations

import argparse
import lzma
from collections.abc import Iterable
from pathlib import Path


def arguments_parser(about: str | None) -> argparse.ArgumentParser:
    """Return a parser of `CORPORA FOLDER [--seed N]`."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=11711)
    return parser


def write_documents(path: Path, documents: Iterable[str]) -> None:
    """Write documents between blank lines, compressed; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(path, "wt", encoding="utf-8", preset=0) as out:
        out.writelines(document + "\n\n" for document in documents)
