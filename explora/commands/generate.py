"""`explora generate`: continue prompts in their order; a terminal sees one prompt's text as it comes."""

from __future__ import annotations

import dataclasses
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explora import console
from explora.commands import _options as o
from explora.commands import _sampling_options as g
from explora.commands._environment import prepare_answers
from explora.commands._output_files import Predictions, check_writable
from explora.commands._precision import warn_if_emulated
from explora.commands._prompts import Asked, read_prompts
from explora.commands._settings import with_settings
from explora.core.config.precedence import resolve
from explora.core.config.registry import TASKS
from explora.core.data.known_datasets import SOURCES
from explora.core.data.text_files import what_is_wrong
from explora.errors import DataError, UsageError

if TYPE_CHECKING:
    from explora.core.generate.decode import Prompt
    from explora.core.generate.sampling import SamplingConfig
    from explora.core.runs.assemble import Session

AT_ONCE = 128  # prompts read before they are sorted by length and answered
BATCH_SIZE = 32
WRITERS = [name for name, row in TASKS.items() if row.classes is None]


@with_settings(
    *("model", "tokenizer", "batch_size", "device", "amp", "threads"),
    defaults={"batch_size": str(BATCH_SIZE), "amp": "off", "threads": "torch's choice"},
    panels={"batch_size": "Machine"},
)
def generate(
    task: o.Task,
    run: o.Run = None,
    *,
    prompt: g.PromptText = None,
    data: g.Poems = None,
    settings: dict[str, Any],
    temperature: g.Temperature = None,
    top_k: g.TopK = None,
    top_p: g.TopP = None,
    repetition_penalty: g.RepetitionPenalty = None,
    greedy: g.Greedy = False,
    max_new_tokens: g.MaxNewTokens = g.MAX_NEW_TOKENS,
    num: g.Num = 1,
    seed: o.Seed = o.SEED,
    predictions: Predictions = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Continue prompts with a run. A sonnet stops after fourteen lines.

    Output keeps the order of the prompts. Plain output is the prompt with its continuation; with `--json`,
    `text` is the continuation alone and `prompt` is the prompt.

    Examples:

    `explora generate sonnet --prompt "Shall I compare thee to a winter's day"`

    `cat prompts.txt | explora generate sonnet --prompt - --json | jq -r .text`

    `explora generate sonnet runs/sonnet --data held_out.txt --top-p 0.9 --seed 7 --predictions out.txt`
    """
    if (prompt is None) == (data is None):
        raise UsageError(
            "give --prompt TEXT, --prompt - or --data FILE", f'explora generate {task} --prompt "..."'
        )

    if data in SOURCES and not Path(data).exists():
        raise UsageError(
            f"--data {data}: generate reads a file, not a data set by its name",
            "give the path of one of its files",
        )
    if predictions is not None:
        check_writable("--predictions", predictions, reads=[data])
    if predictions is not None and (data is None or num > 1):
        raise UsageError(
            "--predictions writes one continuation for each poem of --data FILE", "leave --num out"
        )

    prepare_answers()

    from explora.core.generate.sampling import SamplingConfig

    given = {"temperature": temperature, "top_p": top_p, "repetition_penalty": repetition_penalty}
    chosen = {name: value for name, value in given.items() if value is not None}
    defaults = {} if greedy else TASKS[task].sampling
    sampling = SamplingConfig(**{**defaults, **chosen}, top_k=top_k, greedy=greedy)
    asked_for, _ = resolve(task, {"amp": "off"} | settings | {"seed": seed})

    from explora.core.runs.assemble import merge_in_memory
    from explora.core.runs.open import open_run
    from explora.core.runtime.resolve import DTYPES, resolve_for_answers

    warn_if_emulated(asked_for.runtime)
    runtime = resolve_for_answers(asked_for.runtime)
    in_full = dataclasses.replace(runtime, amp="off")
    model, tokenizer = settings.get("model"), settings.get("tokenizer")
    session = open_run(task, run, model=model, tokenizer=tokenizer, runtime=in_full)
    if session.model.score is not None:
        raise UsageError(
            f"{session.label} is a classifier and cannot continue a text",
            f"explora eval {task}, or choose a {' or '.join(WRITERS)} run",
        )
    merge_in_memory(session, DTYPES[runtime.amp])
    session.settle()
    session.model.pack_head()
    console.note(session.label)
    asked = read_prompts(prompt, data, session)
    if prompt not in (None, "-") and num == 1 and not json and sys.stdout.isatty():
        _stream(session, next(asked), sampling, max_new_tokens, seed)
        return
    plan = _Plan(
        sampling=sampling,
        max_new_tokens=max_new_tokens,
        num=num,
        seed=seed,
        batch_size=settings.get("batch_size", BATCH_SIZE),
    )
    index, written = 0, list[Answer]()
    while portion := list(islice(asked, AT_ONCE)):
        answers = _answer(session, portion, index, plan)
        for answer in answers:
            if json or predictions is None:
                _show(answer, json, is_only=len(answers) == 1 and index == 0)
        index += len(portion)
        written += answers
    if data is not None and (lines := TASKS[task].lines):
        _note_short(written, lines)
    if predictions is not None:
        _write(predictions, session, written)


def _make_prompt(session: Session, asked: Asked, seed: int) -> Prompt:
    from explora.core.generate.decode import check_prompt

    if asked.text and (wrong := what_is_wrong(asked.text)):
        raise DataError(wrong, file=asked.file, line=asked.line)
    prompt = session.prompt(asked.text, seed)
    check_prompt(prompt.ids, session.model.shape.n_positions, asked.file, asked.line)
    return prompt


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


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Settings for continuing prompts; the seed of a sample is `seed` plus the number of the sample."""

    sampling: SamplingConfig
    max_new_tokens: int
    num: int
    seed: int
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A continuation: the object that `--json` prints."""

    id: str | None
    prompt: str
    text: str
    tokens: int
    tokens_per_second: float
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return dataclasses.asdict(self)


def _answer(session: Session, portion: list[Asked], index: int, plan: _Plan) -> list[Answer]:
    """Continue a portion of the prompts; `index` is the number of its first prompt."""
    from explora.core.generate.decode import generate as continue_all

    started = time.perf_counter()
    numbered = [(item, n) for item in range(len(portion)) for n in range(plan.num)]
    seeds = [plan.seed + (index + item) * plan.num + n for item, n in numbered]
    prompts = [
        _make_prompt(session, portion[item], seed) for (item, _), seed in zip(numbered, seeds, strict=True)
    ]
    found = continue_all(
        session.model, prompts, plan.sampling, plan.max_new_tokens, session.tokenizer, plan.batch_size
    )
    tokens = sum(len(item.ids) for item in found)
    speed = tokens / max(time.perf_counter() - started, 1e-9)
    return [
        Answer(
            id=portion[item].id,
            prompt=portion[item].text,
            text=session.tokenizer.decode(continuation.ids),
            tokens=len(continuation.ids),
            tokens_per_second=round(speed, 1),
            seed=seed,
        )
        for (item, _), seed, continuation in zip(numbered, seeds, found, strict=True)
    ]


def _show(answer: Answer, json: bool, *, is_only: bool) -> None:
    if json:
        console.result_json(answer.to_json())
        return
    if answer.id is not None:  # tells where a poem begins, even if there are blank lines inside
        console.result(f"{answer.id}\n")
    console.result(answer.prompt + answer.text.rstrip("\n"))
    if not is_only:
        console.result("")


def _note_short(answers: list[Answer], wanted: int) -> None:
    """Note how many texts have fewer lines than are wanted; blank lines do not count."""
    lines = [sum(bool(line.strip()) for line in f"{it.prompt}{it.text}".split("\n")) for it in answers]
    if short := sum(count < wanted for count in lines):
        console.note(f"{short:,} of {len(answers):,} texts have fewer than {wanted} lines")


def _write(file: Path, session: Session, answers: list[Answer]) -> None:
    from explora.core.runs.evaluate import write_predictions
    from explora.core.tasks.contract import Evaluation

    items = [{"id": it.id, "prompt": it.prompt, "sampled": it.text.rstrip("\n")} for it in answers]
    write_predictions(file, session, Evaluation(examples=len(items), scores=None, predictions=items))
    console.note(f"{len(items):,} predictions in {file}")
