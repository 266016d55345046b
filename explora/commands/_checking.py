"""`explora bench --check`: check this installation, show one table, and explain what failed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from explora import console
from explora.commands._bench_options import parse_methods
from explora.core.config.registry import EMBEDDED, METHODS
from explora.core.config.setting import spelled
from explora.errors import SelfTestError, UsageError
from explora.quantities import counted

if TYPE_CHECKING:
    from explora.core.checking.check import Check, Finding

TAKEN = {"check", "methods", "model", "json", "quiet"}
SHARED = "shared"  # the column of what all methods share
REPORT = (
    "install explora and torch again; if it fails again, report the output of explora bench --check --json"
)


def check_here(context: typer.Context, *, json: bool) -> None:
    """Check the methods of --methods, or all.

    Raises UsageError for an option that belongs to measurements, and SelfTestError if a check fails.
    """
    _refuse_others(context)
    asked = context.params["methods"]
    methods = [*METHODS] if asked is None else parse_methods(asked)
    started = time.monotonic()
    findings = _follow(methods, context.params["model"] or EMBEDDED)
    seconds = time.monotonic() - started
    if json:
        console.result_json(_to_json(findings, seconds))
    else:
        _show(methods, findings, seconds)
    if failed := [each for each in findings if each.failed]:
        first = f"{failed[0].check} of {failed[0].method}" if failed[0].method else failed[0].check
        raise SelfTestError(f"{counted(len(failed), 'check')} failed, the first: {first}", REPORT)


def _refuse_others(context: typer.Context) -> None:
    for name in context.params.keys() - TAKEN:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            what = "TASK" if name == "task" else f"--{spelled(name)}"
            raise UsageError(f"--check takes no {what}", "it takes --methods, --model, --json and --quiet")


def _follow(methods: Sequence[str], model: str) -> list[Finding]:
    """Run the checks in a temporary folder, and show the progress."""
    from explora.core.checking.run import OF_METHODS, SHARED, check_installation

    findings: list[Finding] = []
    total = len(methods) * len(OF_METHODS) + len(SHARED)
    with (
        tempfile.TemporaryDirectory(prefix="explora-check-") as scratch,
        console.progress("check", total) as advance,
    ):
        for finding in check_installation(methods, model, Path(scratch)):
            findings.append(finding)
            advance(len(findings), finding.method or "")
    return findings


def _to_json(findings: Sequence[Finding], seconds: float) -> dict[str, Any]:
    from explora.core.checking.run import CHECKS

    return {
        "passed": not any(each.failed for each in findings),
        "seconds": round(seconds, 3),
        "checks": [each.to_json() for each in CHECKS],
        "findings": [each.to_json() for each in findings],
    }


def _show(methods: Sequence[str], findings: Sequence[Finding], seconds: float) -> None:
    """Show a line for each check and a column for each method, then what failed, then the total."""
    from explora.core.checking.run import CHECKS

    found = {(each.check, each.method or SHARED): each for each in findings}
    columns = (*methods, SHARED)
    lines = [[each.name, *(_cell(found.get((each.name, column))) for column in columns)] for each in CHECKS]
    console.result_table(("check", *columns), lines)
    console.result('\nEach number is a difference; 0 is best. "-": the check does not apply.\n')
    checks = {check.name: check for check in CHECKS}
    for finding in findings:
        if finding.failed:
            console.result("\n".join(_explained(checks[finding.check], finding)) + "\n")
    applied = [each for each in findings if each.applies]
    passed = sum(not each.failed for each in applied)
    console.result(f"{passed} of {counted(len(applied), 'check')} passed in {seconds:.0f} s")


def _cell(finding: Finding | None) -> str:
    if finding is None:
        return ""
    if not finding.applies:
        return "-"
    figure = "error" if finding.figure is None else f"{finding.figure:.2g}"
    return f"FAILED {figure}" if finding.failed else figure


def _explained(check: Check[Any], finding: Finding) -> Iterator[str]:
    """Yield lines about a failed check: what failed, what it means, and what to do."""
    where = f"{finding.method}, " if finding.method else ""
    figure = finding.error or f"{finding.figure:.2g}, at most {check.tolerance:g} is right"
    yield f"FAILED  {where}{check.name}: {figure}"
    yield f"claim   {check.claim}"
    yield f"means   {check.meaning}"
    yield f"do      {check.remedy}"
