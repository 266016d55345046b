"""`explora bench --advise`: which method and learning rate to use here, why, and how sure that is."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer

from explora import console
from explora.commands._settings import SETTINGS
from explora.core.advice.choosing import TIE, Question
from explora.core.config.precedence import resolve
from explora.core.config.setting import spelled
from explora.core.config.values import parse_size
from explora.errors import UsageError
from explora.quantities import counted, duration, size

if TYPE_CHECKING:
    from explora.core.advice.advice import Advice, Candidate, Request
    from explora.core.advice.leave_one_out import Verdict
    from explora.core.advice.probing import Survey

OPTIONS = ("ram", "minutes", "examples")
OF_TRAINING = ("model", "tokenizer", "data", "columns", "format", "encoding", "skip_bad")
TAKEN = {"task", "advise", *OPTIONS, *OF_TRAINING, "seed", "device", "threads", "json", "quiet"}
SHOWN = 6  # cells of the study


def advise_here(context: typer.Context, task: str, settings: Mapping[str, Any], *, json: bool) -> None:
    """Show the advice. Raises UsageError for an option that belongs to measurements."""
    _refuse_others(context)
    from explora.core.advice.advice import advise
    from explora.core.advice.probing import survey, time_rows
    from explora.core.advice.study import read_study
    from explora.core.runtime.resolve import resolve_runtime

    run = resolve(task, settings)[0]
    runtime = resolve_runtime(run.runtime)
    found = survey(run)
    resolved = {"device": runtime.device, "amp": runtime.amp, "threads": runtime.threads}
    request = _request(context, task, {**settings, **resolved}, found)
    console.note(f"{task}: {found.base}, {counted(found.examples, 'row')}; times a few steps here")
    advice = advise(request, read_study(), lambda leader: time_rows(leader, found.rows))
    command = _command(advice, settings)
    if json:
        console.result_json({"command": command, **advice.to_json()})
    else:
        _show(advice, command)


def refuse_without_advise(context: typer.Context) -> None:
    """Raise UsageError for an option that --advise alone has."""
    for name in OPTIONS:
        if context.params[name] is not None:
            raise UsageError(f"--{name} belongs to --advise", f"add --advise, or leave --{name} out")


def _refuse_others(context: typer.Context) -> None:
    for name in context.params.keys() - TAKEN:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                f"--advise takes no --{spelled(name)}",
                "leave it out, or measure it: explora bench without --advise",
            )


def _request(context: typer.Context, task: str, settings: Mapping[str, Any], found: Survey) -> Request:
    from explora.core.advice.advice import Request
    from explora.core.machine.facts import available_memory_bytes

    asked = context.params
    return Request(
        question=Question(
            task=task,
            examples=asked["examples"] or found.examples,
            base=resolve(task, settings)[0].model,
        ),
        settings=settings,
        shape=found.shape,
        longest=found.longest,
        classes=found.classes,
        ram_bytes=available_memory_bytes() if asked["ram"] is None else _positive_size(asked["ram"]),
        minutes=asked["minutes"],
    )


def _positive_size(text: str) -> int:
    if found := parse_size(text):
        return found
    raise UsageError(f"--ram {text} leaves nothing", "--ram 4GB")


def _command(advice: Advice, settings: Mapping[str, Any]) -> str:
    """Return the command that trains as advised."""
    run = advice.chosen.run
    words = ["explora", "train", run.task]
    for name, value in settings.items():
        words += _option(name, value)
    for name, value in advice.chosen.settings.items():
        words += [f"--{spelled(name)}", str(value)]
    words += ["--learning-rate", f"{run.optimizer.learning_rate:g}"]
    if advice.share_of_steps < 1:
        words += ["--max-minutes", f"{advice.request.minutes:g}"]
    return shlex.join(words)


def _option(name: str, value: Any) -> list[str]:
    """Return a setting as the words of a command line."""
    if isinstance(value, bool):
        return [f"--{'' if value else 'no-'}{spelled(name)}"]
    return [f"--{spelled(name)}", SETTINGS[name][0].show(value)]


def _show(advice: Advice, command: str) -> None:
    console.result(f"{command}\n")
    console.result("\n".join(_why(advice)) + "\n")
    header = ("method", "points below best", "error", "learning rate", "time", "peak MB", "")
    console.result_table(header, [_line(each, advice) for each in advice.candidates])
    source = advice.source
    console.result(f"\nCells of the study that count most ({source.rows} rows, {source.file}):\n")
    header = ("cell", advice.chosen.contender, "best", "which", "trivial", "seeds", "weight")
    console.result_table(header, list(_evidence(advice)))
    console.result("")
    console.result("\n".join([*_runner_up(advice), *_how_sure(advice)]))


def _why(advice: Advice) -> Iterator[str]:
    chosen, expected = advice.chosen, advice.chosen.expected
    cells = counted(len(expected.outcomes), "cell")
    yield (
        f"Expected score of {chosen.contender}: {expected.shortfall:.1f} points below the best method, from "
        f"{cells} of the study. A point is 0.01 of accuracy or 2 % of perplexity."
    )
    limit = max(TIE, expected.error)
    equal = f"Methods within {limit:.1f} points count as equal."
    yield f"{equal} Of those that fit, this one needs the least time x memory."
    epochs = counted(chosen.run.training.epochs, "epoch")
    yield (
        f"Expected here: {duration(chosen.seconds or 0.0)} for {epochs} without evaluations, and a "
        f"peak memory of {size(chosen.cost.peak_bytes)}."
    )


def _line(each: Candidate, advice: Advice) -> tuple[str, ...]:
    over = {"memory": "too much memory", "time": "too slow"}
    remark = over[each.exceeds] if each.exceeds else ""
    return (
        each.contender,
        f"{each.expected.shortfall:.1f}",
        f"{each.expected.error:.1f}",
        f"{each.run.optimizer.learning_rate:g}",
        duration(each.seconds or 0.0),
        f"{each.cost.peak_bytes / 1e6:,.0f}",
        "advised" if each is advice.chosen else remark,
    )


def _evidence(advice: Advice) -> Iterator[tuple[str, ...]]:
    for each in advice.to_json()["evidence"][:SHOWN]:
        yield (
            each["cell"],
            f"{each['score']:.4g}",
            f"{each['best_score']:.4g}",
            each["best"],
            "" if each["trivial"] is None else f"{each['trivial']:.4g}",
            str(each["seeds"]),
            f"{each['weight']:.2f}",
        )


def _runner_up(advice: Advice) -> Iterator[str]:
    chosen, other = advice.chosen, advice.runner_up
    if other is None:
        yield "Runner-up: none of the other methods fits."
        return
    gain = chosen.expected.shortfall - other.expected.shortfall
    pace, memory = other.cost.pace / chosen.cost.pace, other.cost.peak_bytes / chosen.cost.peak_bytes
    score = f"{abs(gain):.1f} points {'above' if gain > 0 else 'below'}" if abs(gain) >= 0.05 else "equal to"
    yield (
        f"Runner-up: {other.contender}, expected {score} {chosen.contender}, with {pace:.2f} times the time "
        f"and {memory:.2f} times the memory."
    )
    if gain >= 0.05:
        yield "The gain may be chance: use it if time and memory are plentiful."
    elif pace < 1 or memory < 1:
        yield f"Use it if {'time' if pace < 1 else 'memory'} is short."


def _how_sure(advice: Advice) -> Iterator[str]:
    yield f"Confidence: {advice.confidence}."
    for doubt in advice.doubts:
        yield f"- {doubt.fact[0].upper()}{doubt.fact[1:]}. {doubt.remedy[0].upper()}{doubt.remedy[1:]}."
    tested = advice.tested
    if tested.advice is None or tested.constant is None:
        return
    yield "Test of the advice without rows of the same task (docs/advice.md):"
    yield from map(_tested, (tested.advice, tested.constant))
    if not tested.beats_constant:
        yield f"The advice is no better than {tested.constant.rule!r} here."


def _tested(verdict: Verdict) -> str:
    pace = "" if verdict.pace is None else f" at {verdict.pace:.2f} of full fine-tuning's time"
    return f"- {verdict.rule}: within a point of the best in {verdict.near} of {verdict.cells} cells{pace}"
