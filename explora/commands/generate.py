"""`explora generate`: prompts in, continuations out, in order; streaming for one prompt on a terminal."""

from __future__ import annotations

import dataclasses
import json as jsonlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from explora import console
from explora.commands import _options as o
from explora.commands._environment import prepare_answers
from explora.commands._parsing import given
from explora.commands._precision import warn_if_emulated
from explora.core.config.precedence import resolve
from explora.core.config.run_config import DataConfig
from explora.core.data.text_files import name_of, what_is_wrong
from explora.errors import DataError, UsageError

if TYPE_CHECKING:
    from explora.core.generate.sampling import SamplingConfig
    from explora.core.runs.assemble import Session

AT_ONCE = 128  # prompts read before they are sorted by length and answered
SONNET_LINES = 14
DEFAULT_SEED = 11711
STDIN = name_of("-")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A prompt with where it came from."""

    text: str
    file: str
    line: int


def generate(
    task: o.Task,
    run: o.Run = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            metavar="TEXT|-",
            rich_help_panel="Prompts",
            help="With `-`, read one prompt a line, or JSON lines with `prompt`.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FILE",
            rich_help_panel="Prompts",
            help="A file of poems of which the first lines are given.",
        ),
    ] = None,
    model: o.Model = None,
    tokenizer: o.Tokenizer = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", "-t", rich_help_panel="Sampling", help="Default 1.")
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", metavar="K", rich_help_panel="Sampling", help="Keep the K likeliest tokens."),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            "--top-p",
            metavar="P",
            rich_help_panel="Sampling",
            help="Keep the likeliest tokens that hold P (default 0.9 for sonnet, else 1).",
        ),
    ] = None,
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            "--repetition-penalty", rich_help_panel="Sampling", help="Above 1: what was said is less likely."
        ),
    ] = None,
    greedy: Annotated[
        bool,
        typer.Option("--greedy", metavar="", rich_help_panel="Sampling", help="Always the likeliest token."),
    ] = False,
    max_new_tokens: Annotated[
        int,
        typer.Option(
            "--max-new-tokens", metavar="N", min=1, rich_help_panel="Sampling", help="At most so many."
        ),
    ] = 256,
    num: Annotated[
        int,
        typer.Option(
            "--num",
            "-n",
            metavar="N",
            min=1,
            rich_help_panel="Sampling",
            help="Continuations of each prompt.",
        ),
    ] = 1,
    seed: Annotated[
        int,
        typer.Option("--seed", min=0, rich_help_panel="Sampling", help="The same seed gives the same text."),
    ] = DEFAULT_SEED,
    batch_size: o.BatchSize = None,
    device: o.Device = None,
    amp: o.Amp = None,
    threads: o.Threads = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Continue prompts with a run: a sonnet stops after fourteen lines.

    RUN defaults to runs/TASK where it exists, else the base. Output keeps the order of the prompts; the
    text is the prompt with its continuation, with --json the continuation alone.

    Examples:

    `explora generate sonnet --prompt "Shall I compare thee to a winter's day"`

    `cat prompts.txt | explora generate sonnet --prompt - --json | jq -r .text`

    `explora generate sonnet runs/sonnet --data held_out.txt --top-p 0.9 --seed 7`
    """
    if (prompt is None) == (data is None):
        raise UsageError(
            "give --prompt TEXT, --prompt - or --data FILE", 'explora generate sonnet --prompt "..."'
        )

    prepare_answers()

    from explora.core.generate.sampling import SamplingConfig

    nucleus = top_p if top_p is not None else (0.9 if task == "sonnet" and not greedy else None)
    sampling = SamplingConfig(
        temperature=1.0 if temperature is None else temperature,
        top_k=top_k,
        top_p=nucleus,
        repetition_penalty=1.0 if repetition_penalty is None else repetition_penalty,
        greedy=greedy,
    )
    machine = given({"device": device, "amp": amp or "off", "threads": threads, "batch_size": batch_size})
    asked_for, _ = resolve(task, machine | {"seed": seed})

    from explora.core.runs.assemble import merge_in_memory
    from explora.core.runs.open import open_run
    from explora.core.runtime.resolve import DTYPES, resolve_for_answers

    warn_if_emulated(asked_for.runtime)
    runtime = resolve_for_answers(asked_for.runtime)
    in_full = dataclasses.replace(runtime, amp="off")
    session = open_run(task, run, model=model, tokenizer=tokenizer, runtime=in_full)
    if session.model.score is not None:
        raise UsageError(
            f"{session.label} classifies, it does not write",
            f"explora eval {task}, or choose a sonnet or text run",
        )
    merge_in_memory(session, DTYPES[runtime.amp])
    session.settle()
    session.model.pack_head()
    console.note(session.label)
    asked = _prompts(prompt, data, session)
    if prompt not in (None, "-") and num == 1 and not json and sys.stdout.isatty():
        _stream(session, next(asked), sampling, max_new_tokens, seed)
        return
    index = 0
    while portion := list(islice(asked, AT_ONCE)):
        _answer(session, portion, index, sampling, max_new_tokens, num, seed, batch_size or 32, json)
        index += len(portion)


def _prompts(prompt: str | None, data: str | None, session: Session) -> Iterator[Asked]:
    """Yield the prompts of whichever source was named."""
    if data is not None:
        from explora.core.data.splits import read_table
        from explora.core.tasks.sonnet import PROMPT_LINES

        column = "text" if session.task_name in ("sonnet", "text") else None
        if column is None:
            raise UsageError(f"--data holds poems; {session.task_name} takes --prompt")
        for row in read_table(data, session.task_name, DataConfig(data=data)).rows:
            given = row.values[column].split("\n")[:PROMPT_LINES]
            yield Asked(text="\n".join(given) + "\n", file=row.file, line=row.line)
        return
    if prompt != "-":
        yield Asked(text=prompt or "", file="--prompt", line=0)
        return
    for number, line in enumerate(_stdin_lines(), start=1):
        if line.strip():
            yield Asked(text=_text_of(line, number), file=STDIN, line=number)


def _stdin_lines() -> Iterator[str]:
    if sys.stdin.isatty():
        console.note("reading prompts, one a line; end with Ctrl-D")
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")  # a mark at the start is no prompt
        except UnicodeDecodeError as error:
            raise DataError(
                f"byte 0x{error.object[error.start]:02X} is not UTF-8",
                "convert it: iconv -f LATIN1 -t UTF-8",
                file=STDIN,
                line=number,
            ) from None
        yield line.rstrip("\r\n")


def _text_of(line: str, number: int) -> str:
    """Return the prompt of a line: the line itself, or `prompt` of a JSON object."""
    if not line.lstrip().startswith("{"):
        return line
    try:
        value = jsonlib.loads(line)
        text = value["prompt"]
    except (ValueError, KeyError, RecursionError):
        raise DataError(
            "a line that starts with { should be a JSON object with `prompt`",
            '{"prompt": "first line\\nsecond line\\n"}',
            file=STDIN,
            line=number,
        ) from None
    if not isinstance(text, str):
        raise DataError(f"prompt should be a string, not {text!r}", file=STDIN, line=number, column="prompt")
    return text


def _make_prompt(session: Session, asked: Asked, seed: int) -> Any:
    from explora.core.generate.decode import Prompt, check_prompt

    if not asked.text.strip():
        raise DataError("the prompt is empty", "give at least a word", file=asked.file, line=asked.line)
    if wrong := what_is_wrong(asked.text):
        raise DataError(wrong, file=asked.file, line=asked.line)
    ids = session.task.prompt_ids(asked.text)
    check_prompt(ids, session.model.shape.n_positions, asked.file, asked.line)
    if session.task_name != "sonnet":
        return Prompt(ids=ids, seed=seed)
    return Prompt(ids=ids, seed=seed, lines=max(1, SONNET_LINES - asked.text.count("\n")))


def _stream(session: Session, asked: Asked, sampling: SamplingConfig, max_new_tokens: int, seed: int) -> None:
    """Write one continuation as it comes; bytes of an unfinished character wait for the rest."""
    from explora.core.generate.decode import LineCounter, stream

    tokenizer = session.tokenizer
    made = _make_prompt(session, asked, seed)
    console.result(asked.text, end="")
    ids: list[int] = []
    shown = ""
    steps = stream(session.model, [made], sampling, max_new_tokens, tokenizer.eos, LineCounter(tokenizer))
    for step in steps:
        ids += [token for _, token in step]
        text = tokenizer.decode(ids)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            console.result(text[len(shown) :], end="")
            shown = text
    rest = tokenizer.decode(ids)[len(shown) :]
    if rest or not shown.endswith("\n"):
        console.result(rest)


def _answer(
    session: Session,
    portion: list[Asked],
    index: int,
    sampling: SamplingConfig,
    max_new_tokens: int,
    num: int,
    seed: int,
    batch_size: int,
    json: bool,
) -> None:
    """Answer a portion of the prompts; the seed of a sample is the first one plus its number."""
    from explora.core.generate.decode import generate as continue_all

    started = time.perf_counter()
    asked = [(item, seed + (index + i) * num + n) for i, item in enumerate(portion) for n in range(num)]
    prompts = [_make_prompt(session, item, own_seed) for item, own_seed in asked]
    found = continue_all(session.model, prompts, sampling, max_new_tokens, session.tokenizer, batch_size)
    tokens = sum(len(item.ids) for item in found)
    speed = tokens / max(time.perf_counter() - started, 1e-9)
    for (item, own_seed), continuation in zip(asked, found, strict=True):
        text = session.tokenizer.decode(continuation.ids)
        if json:
            console.result_json(
                {
                    "prompt": item.text,
                    "text": text,
                    "tokens": len(continuation.ids),
                    "tokens_per_second": round(speed, 1),
                    "seed": own_seed,
                }
            )
            continue
        console.result(item.text + text.rstrip("\n"))
        if len(asked) > 1 or index:
            console.result("")
