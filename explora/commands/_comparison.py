"""Examine one run with `explora eval`: --against, --errors and --forgetting."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explora import console
from explora.commands._reports import save_report, this_command
from explora.commands._scored_runs import Request, score_runs
from explora.commands._scores import show_scores
from explora.errors import ExploraError

if TYPE_CHECKING:
    from explora.core.ranking.comparison import Comparison
    from explora.core.ranking.mistakes import Mistake
    from explora.core.ranking.scoring import Entry

LONGEST_TEXT = 300  # characters of a column of a mistake, on a terminal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """A scored run with the results of the other options; None for an option that was not given."""

    entry: Entry
    against: Entry | None = None
    comparison: Comparison | None = None
    mistakes: Sequence[Mistake] | None = None


def inspect_run(
    request: Request, against: str | None, errors: int | None, *, json: bool, report: Path | None
) -> None:
    """Score a run and the run to compare it with, if any, and write the results."""
    from explora.core.config.registry import EMBEDDED
    from explora.core.runs.open import default_source

    own = (
        request.names[0] if request.names else str(default_source(request.task) or request.model or EMBEDDED)
    )
    names = [own] if against is None else [own, against]
    entries, left_out = score_runs(dataclasses.replace(request, names=names))
    if left_out:
        raise ExploraError(f"{left_out[0].name} cannot be compared: {left_out[0].reason}")
    found = find(entries[0], entries[1] if len(entries) > 1 else None, errors)
    if json:
        console.result_json(findings_to_json(found))
    else:
        show_findings(found)
    if report is not None:
        _report(report, found)


def _report(file: Path, found: Findings) -> None:
    from explora.core.reports.evaluation import Evaluated, evaluation_report

    entry = found.entry
    evaluated = Evaluated(
        task=entry.task,
        label=entry.label,
        metric=entry.metric,
        rows=entry.rows,
        evaluation=entry.evaluation,
        other=found.against.label if found.against else "",
        comparison=found.comparison,
        mistakes=found.mistakes,
        forgetting=entry.forgetting,
    )
    save_report(file, evaluation_report(this_command(), evaluated))


def find(entry: Entry, against: Entry | None, errors: int | None) -> Findings:
    """Compare a run with another if there is one, and find `errors` mistakes or differing rows."""
    from explora.core.ranking.comparison import compare_entries
    from explora.core.ranking.mistakes import differing_rows, worst_rows

    mistakes: Sequence[Mistake] | None = None
    if errors is not None:
        mistakes = differing_rows(entry, against, errors) if against else worst_rows(entry, errors)
    comparison = compare_entries(entry, against) if against else None
    return Findings(entry=entry, against=against, comparison=comparison, mistakes=mistakes)


def findings_to_json(found: Findings) -> dict[str, Any]:
    """Return the object of `eval --json` with --against, --errors or --forgetting."""
    entry, against, comparison = found.entry, found.against, found.comparison
    return {
        "task": entry.task,
        "run": entry.label,
        "against": against.label if against else None,
        "data": entry.rows.data,
        "split": entry.rows.split,
        "examples": entry.evaluation.examples,
        "skipped": len(entry.rows.found.skipped),
        **entry.evaluation.to_json(),
        "against_scores": dict(against.evaluation.scores or {}) if against else None,
        "differences": {
            name: {"value": each.value, "interval": [each.low, each.high], "p": each.p}
            for name, each in comparison.differences.items()
        }
        if comparison
        else None,
        "wins": comparison.wins if comparison else None,
        "losses": comparison.losses if comparison else None,
        "errors": None if found.mistakes is None else [dataclasses.asdict(each) for each in found.mistakes],
        "forgetting": dataclasses.asdict(entry.forgetting) if entry.forgetting else None,
    }


def show_findings(found: Findings) -> None:
    """Write the scores, then the results of the other options, each under its own heading."""
    entry = found.entry
    show_scores(f"{entry.rows.split} ({entry.evaluation.examples:,})", entry.evaluation)
    if found.against is not None and found.comparison is not None:
        _show_comparison(entry, found.against, found.comparison)
    for mistake in found.mistakes or ():
        _show_mistake(mistake)
    if entry.forgetting is not None:
        forgetting = entry.forgetting
        console.result("")
        header = ("general text", "before", "after", "change")
        change = f"{forgetting.increase:+.3f}"
        row = ("nats per token", f"{forgetting.before:.3f}", f"{forgetting.after:.3f}", change)
        console.result_table(header, [row])


def _show_comparison(entry: Entry, against: Entry, comparison: Comparison) -> None:
    other = against.evaluation.scores or {}
    rows = [
        (
            name,
            f"{(entry.evaluation.scores or {})[name]:.4g}",
            f"{other[name]:.4g}",
            f"{each.value:+.4g}",
            f"{each.low:+.4g} to {each.high:+.4g}",
            f"{each.p:.2g}",
        )
        for name, each in comparison.differences.items()
    ]
    console.result("")
    header = (f"against {against.candidate.name}", "run", "other", "difference", "95 % interval", "p")
    console.result_table(header, rows)
    even = entry.evaluation.examples - comparison.wins - comparison.losses
    console.result(
        f"by row: better on {comparison.wins:,}, worse on {comparison.losses:,}, equal on {max(0, even):,}"
    )
    console.note(
        "This compares two models. To compare their settings, train and rank several seeds (--seeds 3)."
    )


def _show_mistake(mistake: Mistake) -> None:
    label = "" if mistake.label is None else f"  label {mistake.label}"
    answers = ";  ".join(
        f"{each['nats_per_token']:.3f} nats per token"
        if "nats_per_token" in each
        else f"predicted {each['prediction']} (probability {each['probability']:.3f})"
        for each in mistake.answers
    )
    where = f"{mistake.file}:{mistake.line}" if mistake.line else f"{mistake.file} row {mistake.id}"
    console.result(f"\n{where}{label}  {answers}")
    for name, value in mistake.text.items():
        shown = value if len(value) <= LONGEST_TEXT else value[:LONGEST_TEXT] + "..."
        console.result(f"  {name}: {' '.join(shown.split())}")
