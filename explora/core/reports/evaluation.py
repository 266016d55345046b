"""The report of `eval` for one model: its scores, its errors, and a comparison with another run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from explora.core.reports.document import Block, Listing, Remarks, Report, Section, Table
from explora.core.reports.scores import score_blocks

if TYPE_CHECKING:
    from explora.core.ranking.comparison import Comparison
    from explora.core.ranking.forgetting import Forgetting
    from explora.core.ranking.mistakes import Mistake
    from explora.core.runs.evaluate import Rows
    from explora.core.tasks.contract import Evaluation


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A scored model with its optional analyses; None for those that were not requested."""

    task: str
    label: str
    metric: str
    rows: Rows
    evaluation: Evaluation
    other: str = ""
    comparison: Comparison | None = None
    mistakes: Sequence[Mistake] | None = None
    forgetting: Forgetting | None = None


def evaluation_report(command: str, found: Evaluated) -> Report:
    """Return the report of a model that was scored on rows with labels."""
    evaluation = found.evaluation
    sections = [
        Section(
            heading="Scores",
            blocks=score_blocks(f"Scores on {found.rows.described}", found.metric, evaluation.to_json()),
        )
    ]
    if found.comparison is not None:
        sections.append(Section(heading=f"Compared with {found.other}", blocks=_comparison(found)))
    if found.mistakes is not None:
        sections.append(Section(heading="Errors", blocks=_mistakes(found.mistakes)))
    if found.forgetting is not None:
        sections.append(Section(heading="Forgetting", blocks=(_forgetting(found.forgetting),)))
    sections.append(Section(heading="How it was made", blocks=(Listing(title="The command", text=command),)))
    lead = [f"{found.label}, scored on {found.rows.described}."]
    if evaluation.doubt:
        lead.append(evaluation.doubt)
    return Report(title=f"{found.task}: {found.label}", lead=tuple(lead), sections=tuple(sections))


def _comparison(found: Evaluated) -> tuple[Block, ...]:
    assert found.comparison is not None
    lines = [
        (name, f"{each.value:+.4g}", f"{each.low:+.4g}", f"{each.high:+.4g}", f"{each.p:.2g}")
        for name, each in found.comparison.differences.items()
    ]
    title = f"{found.label} minus {found.other}, paired by row"
    table = Table(title=title, header=("score", "difference", "95 % from", "to", "p"), lines=tuple(lines))
    wins, losses = found.comparison.wins, found.comparison.losses
    return table, Remarks(lines=(f"By row: better on {wins:,}, worse on {losses:,}.",))


def _mistakes(mistakes: Sequence[Mistake]) -> tuple[Block, ...]:
    if not mistakes:
        return (Remarks(lines=("There are none.",)),)
    return tuple(Listing(title=_where(each), text=_text(each)) for each in mistakes)


def _where(mistake: Mistake) -> str:
    label = "" if mistake.label is None else f", label {mistake.label}"
    place = f"line {mistake.line}" if mistake.line else f"row {mistake.id}"
    answers = "; ".join(
        f"{each['nats_per_token']:.3f} nats per token"
        if "nats_per_token" in each
        else f"predicted {each['prediction']} (probability {each['probability']:.3f})"
        for each in mistake.answers
    )
    return f"{Path(mistake.file).name}, {place}{label}: {answers}"


def _text(mistake: Mistake) -> str:
    return "\n".join(f"{name}: {value}" for name, value in mistake.text.items())


def _forgetting(forgetting: Forgetting) -> Table:
    figures = (forgetting.before, forgetting.after, forgetting.increase)
    return Table(
        title="Loss on a general English text, in nats per token",
        header=("", "before training", "after", "change"),
        lines=(("general text", *(f"{each:.3f}" for each in figures)),),
    )
