"""Write README.md of a run folder: a model card of measured facts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from explora.core.base.find import RANDOM
from explora.core.config.run_config import TrainRun
from explora.core.config.setting import settings_of_class
from explora.core.files import write_atomically
from explora.core.runs.example_code import example_code, quoted

_OWN_FORMAT = """\
This folder is in explora's own format, and peft cannot open it. A model that transformers opens:

    explora merge-lora {folder} -o {folder}-merged
"""


def write_card(folder: Path, run: TrainRun, result: Mapping[str, Any], labels: Sequence[str]) -> None:
    """Write the card. Text from the user is quoted as code.

    `labels` are those of the linear head in its order; there are none if the tied head answers.
    """
    method = run.method
    lines = [
        "---",
        f"library_name: {'explora' if method.peft_config() is None else 'peft'}",
        f"tags: [gpt2, {run.task}, {method.name}, explora]",
        "---",
        "",
        f"# {run.task}, {method.name}",
        "",
        f"Trained by explora on {_code(str(result['model']))} ({method.description}).",
        "",
        "| | |",
        "|---|---|",
        *([f"| starts from | {_code(run.from_run)} |"] if run.from_run else []),
        f"| data | {_code(run.data.data or 'the sample data of the package')} |",
        f"| examples | {result['examples']:,} |",
        f"| trained parameters | {result['trainable']:,} of {result['total']:,} ({result['share']:.2%}) |",
        f"| steps (best) | {result['steps']:,} ({result['best_step']:,}) |",
        *_method_rows(run),
        f"| learning rate | {run.optimizer.learning_rate:g} |",
        f"| batch | {run.training.batch_size} x {run.training.accumulate} |",
        f"| precision | {'fp32' if run.runtime.amp == 'off' else run.runtime.amp} |",
        f"| seed | {run.training.seed} |",
        f"| training time | {result['seconds']:.0f} s, {result['tokens_per_second']:,.0f} tokens/s |",
        f"| peak memory | {result['peak_memory_bytes'] / 1e6:,.0f} MB |",
        "",
        "## Scores on dev",
        "",
        "| score | better | value | 95 % interval | best trivial answer |",
        "|---|---|---|---|---|",
    ]
    for name, value in (result["scores"] or {}).items():
        low, high = result["intervals"].get(name, (None, None))
        interval = "unknown" if low is None or math.isnan(low) else f"{low:.4g} to {high:.4g}"
        better = "higher" if result["higher_is_better"][name] else "lower"
        floor = result["floors"].get(name)
        trivial = "" if floor is None else f"{floor:.4g} ({_code(result['trivial_answers'][name])})"
        lines.append(f"| {name} | {better} | {value:.4g} | {interval} | {trivial} |")
    if run.encoding.template and not method.needs_head:
        words = ", ".join(map(quoted, run.encoding.label_words or ()))
        lines += [
            "",
            "## Prompt",
            "",
            f"    {quoted(run.encoding.template)}",
            "",
            f"Label words: {_code(words)}",
        ]
    lines += [
        "",
        "## Use",
        "",
        f"    explora eval {run.task} {folder}",
        "",
        *_loading(run, folder, labels),
        "",
    ]
    write_atomically(folder / "README.md", "\n".join(lines))


def _method_rows(run: TrainRun) -> list[str]:
    """Return a row of the table for each setting of the method that has a value."""
    values = [(item, getattr(run.method, item.name)) for item in settings_of_class(type(run.method))]
    return [f"| {item.spelled} | {_code(item.show(value))} |" for item, value in values if value]


def _loading(run: TrainRun, folder: Path, labels: Sequence[str]) -> list[str]:
    """Return how transformers and peft open the run: code that runs as it stands, or the way to a model."""
    if run.method.trains_base:
        code = example_code(str(folder), None, run.encoding, labels, None)
    elif run.method.peft_config() is None or run.model.startswith(RANDOM):
        return [_OWN_FORMAT.format(folder=folder)]
    else:
        code = example_code(run.model, str(folder), run.encoding, labels, run.tokenizer)
    return ["```python", code, "```"]


def _code(text: str) -> str:
    """Quote text from the user as code, so that it cannot become Markdown or HTML."""
    return "`" + " ".join(text.replace("`", "'").split()) + "`"
