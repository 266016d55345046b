"""Protocol between a bench and the process of a cell: one JSON object on stdin, one on stdout.

Importing this module does not load torch.
"""

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
    """Read the request from stdin, and write the result of `respond` or its error to stdout."""
    _end_with(int(sys.argv[1]))
    request = json.load(sys.stdin)
    try:
        reply: Mapping[str, Any] = {"result": respond(request)}
    except ExploraError as error:
        reply = {"error": error.message}
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()


def _end_with(asker: int) -> None:
    """Make Linux kill this process as soon as the process `asker` has ended, in whatever way."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != asker:
        sys.exit(f"the parent process {asker} has ended")


def ask(
    module: str, request: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run `module` in a new process and return its result.

    `environment` is added to this process's own, which takes precedence. If the wait is interrupted, the
    process is killed, too. Raises TrainingError if it failed.
    """
    command = [sys.executable, "-P", "-m", module, str(os.getpid())]
    pipe = subprocess.PIPE
    # With its own process group, Ctrl-C in a terminal reaches only this process, which ends the other one.
    # A session of its own would lose this process's priority, because Linux schedules sessions as a whole.
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
    """Return, in one line, why a process with this exit code and stderr failed."""
    if code == -signal.SIGKILL:
        return "out of memory: the system killed the process"
    if code < 0:
        return f"the process died of {signal.Signals(-code).name}"
    last = err.strip().splitlines()[-1] if err.strip() else f"the process ended with exit code {code}"
    return f"out of memory: {last}" if any(words in last for words in OUT_OF_MEMORY) else last
