"""Fresh processes with a clock beside them: whole time, time to the first output, peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from errors import BenchmarkError

HERE = Path(__file__).resolve().parent
EXPLORA = (sys.executable, "-m", "explora")
LAST_LINES = 3  # of stderr: what went wrong, and a hint


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a process wrote, the seconds until it ended and until it wrote, its peak memory."""

    out: str
    seconds: float
    first_output_seconds: float
    peak_memory_bytes: int


def script(name: str, *arguments: str) -> list[str]:
    """Return the command that runs a script of this folder."""
    return [sys.executable, str(HERE / name), *arguments]


def run(command: Sequence[str], given: str = "", environment: Mapping[str, str] | None = None) -> Done:
    """Run a command with `given` on its stdin and wait for it. Raises BenchmarkError when it failed.

    The peak is that of wait4, which equals VmHWM here: of an exec'ed process it counts the parent too, and
    this one is small, because it imports no torch.
    """
    with tempfile.TemporaryFile("w+") as asked, tempfile.TemporaryFile("w+") as errors:
        asked.write(given)
        asked.seek(0)
        started = time.perf_counter()
        with subprocess.Popen(
            command,
            stdin=asked,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})},
        ) as process:
            assert process.stdout is not None
            try:
                first = process.stdout.read(1)
                first_output = time.perf_counter() - started
                out = first + process.stdout.read()
                _, status, usage = os.wait4(process.pid, 0)
                seconds = time.perf_counter() - started
                process.returncode = os.waitstatus_to_exitcode(status)
            except BaseException:
                process.kill()
                raise
        errors.seek(0)
        if process.returncode != 0:
            raise BenchmarkError(_reason(command, process.returncode, errors.read()))
    return Done(
        out=out.decode(),
        seconds=seconds,
        first_output_seconds=first_output,
        peak_memory_bytes=usage.ru_maxrss * 1024,
    )


def _reason(command: Sequence[str], code: int, errors: str) -> str:
    last = [line.strip() for line in errors.strip().splitlines()[-LAST_LINES:]] or ["it said nothing"]
    return f"{' '.join(command)[:300]}: exit code {code}: {'; '.join(last)}"
