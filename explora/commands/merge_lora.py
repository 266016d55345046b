"""`explora merge-lora`: merge an adapter into its base, as one Hugging Face folder that is checked first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from explora import console
from explora.commands import _options as o
from explora.commands._settings import with_settings
from explora.core.runs.adapter import adapters_in
from explora.errors import UsageError


def _check_task(task: str | None) -> str | None:
    return task if task is None else o.check_task(task)


Run = Annotated[
    Path | None,
    typer.Argument(metavar="RUN", show_default=False, help="Run folder or PEFT adapter (required)."),
]
Task = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="TASK",
        rich_help_panel="Model",
        callback=_check_task,
        help="Task of an adapter that PEFT wrote (default: the task that the run folder records).",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        rich_help_panel="Output",
        show_default=False,
        help="Folder for the merged model (required).",
    ),
]
Dtype = Annotated[
    Literal["fp32", "bf16", "fp16"],
    typer.Option(
        "--dtype",
        rich_help_panel="Output",
        show_default=False,
        help="Number format of the weights. bf16 and fp16 halve the file and round every weight; the result "
        "reports the difference (default: fp32).",
    ),
]


@with_settings("model", "tokenizer", defaults={"model": "that of the run"})
def merge_lora(
    run: Run = None,
    *,
    output: Output = None,
    dtype: Dtype = "fp32",
    overwrite: o.Overwrite = False,
    task: Task = None,
    settings: dict[str, Any],
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Merge an adapter into its base, and write a Hugging Face model folder.

    The folder needs neither explora nor peft. It is checked before it appears: its weights against the
    method's formula in fp64, and its logits, computed by transformers, against those of base and adapter. In
    fp32 the logits must agree within 1e-4, or nothing is written.

    Examples:

    `explora merge-lora runs/sonnet -o merged/`

    `explora merge-lora runs/paraphrase -o merged/ --dtype bf16`

    `explora merge-lora some-peft-adapter --task sentiment --model gpt2 -o merged/`
    """
    if run is None:
        raise UsageError("merge-lora needs a RUN", _runs_here())
    if not run.is_dir():
        raise UsageError(f"no run folder is called {run}", _runs_here())
    if output is None:
        raise UsageError("merge-lora needs a folder for the model", f"explora merge-lora {run} -o merged")

    from explora.core.runs.merge import merge_run

    console.note(f"merging {run}")
    merged = merge_run(
        run,
        output,
        dtype=dtype,
        task=task,
        model=settings.get("model"),
        tokenizer=settings.get("tokenizer"),
        overwrite=overwrite,
    )
    if json:
        console.result_json(merged.to_json())
        return
    console.result(
        f"{merged.folder}: {dtype}; the logits that transformers computes differ by at most "
        f"{merged.max_difference:.2g}, and the most likely answer changed in {merged.argmax_flips} of "
        f"{merged.compared}"
    )


def _runs_here() -> str:
    found = [f"explora merge-lora {folder} -o merged" for folder in adapters_in(Path("runs"))]
    return "; ".join(found) or "train one first: explora train sonnet --lora 8"
