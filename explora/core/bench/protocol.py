"""How a cell's process is asked and answers: one JSON object on stdin, one on stdout. Light: no torch."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from explora.errors import ExploraError, TrainingError

PR_SET_PDEATHSIG = 1  # linux/prctl.h
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "MemoryError")


def answer(respond: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """Be the asked process: read the request, write what `respond` makes of it, or why it could not."""
    _end_with(int(sys.argv[1]))
    request = json.load(sys.stdin)
    try:
        reply: Mapping[str, Any] = {"result": respond(request)}
    except ExploraError as error:
        reply = {"error": error.message}
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()


def _end_with(asker: int) -> None:
    """Let Linux end this process as soon as the one that asked has ended, in whatever way."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != asker:
        sys.exit(f"the process {asker} that asked has ended")


def ask(
    module: str, request: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run `module` in a fresh process and return its result.

    `environment` is added to this process's own, which wins. Whatever interrupts the wait ends the process
    too. Raises TrainingError when it failed.
    """
    command = [sys.executable, "-P", "-m", module, str(os.getpid())]
    pipe = subprocess.PIPE
    # A process group of its own: Ctrl-C in a terminal reaches us alone, and we end the process. Not a
    # session: Linux lets sessions compete as wholes, and the priority that we were given would be lost.
    with subprocess.Popen(
        command,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        process_group=0,
        env={**(environment or {}), **os.environ},
    ) as process:
        try:
            out, err = process.communicate(json.dumps(request))
        finally:
            process.kill()
    if process.returncode != 0:
        raise TrainingError(reason_of(process.returncode, err))
    reply = json.loads(out.splitlines()[-1])
    if "error" in reply:
        raise TrainingError(reply["error"])
    result: dict[str, Any] = reply["result"]
    return result


def reason_of(code: int, err: str) -> str:
    """Say in one line why a process with this exit code and stderr failed."""
    if code == -signal.SIGKILL:
        return "out of memory: the system killed the process"
    if code < 0:
        return f"the process died of {signal.Signals(-code).name}"
    last = err.strip().splitlines()[-1] if err.strip() else f"the process ended with exit code {code}"
    return f"out of memory: {last}" if any(words in last for words in OUT_OF_MEMORY) else last
