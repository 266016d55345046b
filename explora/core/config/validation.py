"""Validation of a run: first the range of each setting, then combinations of settings."""

from __future__ import annotations

import dataclasses
import string

from explora.core.config.registry import Shape, task_row
from explora.core.config.run_config import CONCERNS, TrainRun
from explora.core.config.setting import check_settings
from explora.errors import UsageError


def validate(run: TrainRun) -> None:
    """Raise UsageError, naming the setting, for values out of range or settings that exclude each other."""
    for part in (run.method, *(getattr(run, concern) for concern in CONCERNS)):
        check_settings(part)
    run.method.validate()
    if run.encoding.label_words is not None and len(set(run.encoding.label_words)) != 2:
        raise UsageError("label words must be two different words: --label-words yes,no")
    if run.encoding.template is not None:
        _validate_template(run.encoding.template, set(task_row(run.task).columns))
    if run.from_scratch is None:
        return
    if run.from_run is not None:
        raise UsageError("--from-scratch and --from exclude each other", "leave one of them out")
    _validate_shape(run.from_scratch)
    if not task_row(run.task).stream or not run.method.trains_base:
        raise UsageError(
            "--from-scratch trains every weight on plain text: train text --full --from-scratch ..."
        )


def _validate_template(template: str, columns: set[str]) -> None:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UsageError(f"the template {template!r} is malformed: {error}", "write {{ for a brace") from None
    fields = {name for _, name, _, _ in parts if name is not None}
    if fields != columns or any(form or conversion for _, _, form, conversion in parts):
        wanted = " and ".join(f"{{{name}}}" for name in sorted(columns))
        raise UsageError(f"--template {template!r} must have {wanted}, and nothing else in braces")


def _validate_shape(shape: Shape) -> None:
    wrong = [name for name, size in dataclasses.asdict(shape).items() if size < 1]
    if wrong:
        raise UsageError(f"--from-scratch: {', '.join(wrong)} must be at least 1")
    if shape.n_embd % shape.n_head:
        raise UsageError(f"--from-scratch: {shape.n_head} heads do not divide a width of {shape.n_embd}")
