"""Read the prompts of `explora generate`: from the command line, standard input, or a file of poems."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from explora import console
from explora.core.data.text_files import STDIN, likely_encoding, name_of, standard_input
from explora.errors import DataError

if TYPE_CHECKING:
    from explora.core.runs.assemble import Session

STDIN_NAME = name_of(STDIN)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A prompt with its source; only a row of a file has an `id`."""

    text: str
    file: str
    line: int
    id: str | None = None


def read_prompts(prompt: str | None, data: str | None, session: Session) -> Iterator[Asked]:
    """Yield the prompts of the source that the command names."""
    if data is not None:
        for row, text in session.task.prompts(data):
            yield Asked(text=text, file=row.file, line=row.line, id=row.id)
        return
    if prompt != "-":
        _warn_if_file(prompt or "")
        yield Asked(text=prompt or "", file="--prompt", line=0)
        return
    for number, line in enumerate(_stdin_lines(), start=1):
        if line.strip():
            yield Asked(text=_text_of(line, number), file=STDIN_NAME, line=number)


def _warn_if_file(prompt: str) -> None:
    """Warn if a prompt is the name of a file: its content is probably meant."""
    try:
        is_file = Path(prompt).is_file()
    except (OSError, ValueError):  # too long for a name
        return
    if is_file:
        console.warn(
            f"--prompt continues the text {prompt!r}, not the file of this name. To continue its lines: "
            f"--prompt - < {shlex.quote(prompt)}"
        )


def _stdin_lines() -> Iterator[str]:
    stream = standard_input()
    if stream.isatty():
        console.note("reading prompts, one per line; end with Ctrl-D")
    for number, raw in enumerate(stream, start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")  # a mark at the start is no prompt
        except UnicodeDecodeError as error:
            raise DataError(
                f"byte 0x{error.object[error.start]:02X} is not UTF-8",
                f"convert it: iconv -f {likely_encoding(raw).upper() or 'ENCODING'} -t UTF-8",
                file=STDIN_NAME,
                line=number,
            ) from None
        yield line.rstrip("\r\n")


def _text_of(line: str, number: int) -> str:
    """Return the prompt of a line: the line itself, or `prompt` of a JSON object."""
    if not line.lstrip().startswith("{"):
        return line
    try:
        value = json.loads(line)
        text = value["prompt"]
    except (ValueError, KeyError, RecursionError):
        raise DataError(
            "a line that starts with { should be a JSON object with `prompt`",
            '{"prompt": "first line\\nsecond line\\n"}',
            file=STDIN_NAME,
            line=number,
        ) from None
    if not isinstance(text, str):
        raise DataError(
            f"prompt should be a string, not {text!r}", file=STDIN_NAME, line=number, column="prompt"
        )
    return text
