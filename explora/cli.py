"""The `explora` command: one line per subcommand; an error becomes one line on stderr and an exit code.

0 done, 1 an expected failure, 2 usage, 70 a bug, 130 Ctrl-C, 141 the pipe on stdout was closed, 143 SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer
from typer.core import TyperGroup, TyperOption

import explora
from explora import console, streams
from explora.commands._synonyms import normalise
from explora.commands.bench import bench
from explora.commands.eval import evaluate
from explora.commands.generate import generate
from explora.commands.merge_lora import merge_lora
from explora.commands.params import params
from explora.commands.train import train
from explora.core.machine.launch import world_size
from explora.errors import ExploraError, Interrupted, UsageError

FAILURE = 1
BUG = 70
READER_GONE = 141  # 128 + SIGPIPE, as a shell would report it

WRITES_RUNS = "explora.core.runs.running"  # no run writes anything before this module is loaded
HELP_OPTIONS = ["-h", "--help"]

app = typer.Typer(
    name="explora",
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": HELP_OPTIONS},
)
app.command("train")(train)
app.command("eval")(evaluate)
app.command("generate")(generate)
app.command("merge-lora")(merge_lora)
app.command("fuse", hidden=True)(merge_lora)
app.command("bench")(bench)
app.command("params")(params)


def _show_version(wanted: bool) -> None:
    if wanted:
        console.result(f"explora {explora.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Fine-tune GPT-2 on the machine you have, and measure whether LoRA is worth using there.

    Examples:

    `explora train paraphrase --lora 8`

    `explora eval paraphrase`

    `explora generate sonnet --prompt "Shall I compare"`
    """


def main(argv: list[str] | None = None) -> int:
    """Run one command (by default the process's own) and return its exit code; it never exits itself."""
    console.start()
    try:
        with _signals_raise():
            return _run(sys.argv[1:] if argv is None else argv)
    except Interrupted as interrupt:
        console.stopped(interrupt.message, interrupt.hint)
        return interrupt.exit_code
    except ExploraError as error:
        console.error(error.message, error.hint)
        return error.exit_code
    except typer.TyperException as error:
        console.error(_usage_message(error), _usage_hint(error))
        return error.exit_code
    except SystemExit as stop:
        return _code_of(stop)
    except BrokenPipeError:
        return _reader_gone()
    except OSError as error:  # no space, no permission, a folder where a file should be
        console.error(f"{error.strerror}: {error.filename}" if error.filename else str(error))
        return FAILURE
    except Exception:
        traceback.print_exc()
        console.error(
            f"this is a bug in explora {explora.__version__}",
            "please report it to the project's issue tracker, with the command and the lines above",
        )
        return BUG


def _run(argv: list[str]) -> int:
    command = typer.main.get_command(app)
    words = normalise(argv, _flags(command)) or ["--help"]
    if world_size() > 1 and words[0] != "train":
        raise UsageError(
            f"explora {words[0]} runs in one process, not in {world_size()}", "leave torchrun out"
        )
    code = command.main(words, prog_name="explora", standalone_mode=False)
    streams.flush_stdout()
    return code if isinstance(code, int) else 0


def _flags(group: object) -> set[str]:
    """Return every option of every command of `group` that takes no value."""
    assert isinstance(group, TyperGroup)
    parameters = [option for command in group.commands.values() for option in command.params]
    flags = [option for option in parameters if isinstance(option, TyperOption) and option.is_flag]
    return {name for option in flags for name in (*option.opts, *option.secondary_opts)} | {*HELP_OPTIONS}


def _usage_message(error: typer.TyperException) -> str:
    nearest = getattr(error, "possibilities", None)
    if not nearest:
        return error.format_message()
    return f"{error.message}; did you mean {' or '.join(nearest)}?"


def _usage_hint(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context else ""


def _code_of(stop: SystemExit) -> int:
    """Return the code with which a library exits: completion, or rich and typer on a closed pipe."""
    if isinstance(stop.__context__, BrokenPipeError):
        return _reader_gone()
    return stop.code if isinstance(stop.code, int) else FAILURE


def _reader_gone() -> int:
    streams.abandon_closed()
    return READER_GONE


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM raise Interrupted, unless whoever started us chose to ignore them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = [
        number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN
    ]
    before = {number: signal.signal(number, _interrupt) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    interrupt = Interrupted(signal_number)
    if _is_importing(frame):  # where an exception may be swallowed: torch would go on without numpy
        saved = "" if WRITES_RUNS in sys.modules else "; nothing was saved"
        console.stopped(f"{interrupt.message}{saved}", "give the same command again")
        os._exit(interrupt.exit_code)
    raise interrupt


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
