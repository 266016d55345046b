"""Open the run or base of a request, with the data to score it on."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from explora.commands._scored_runs import Request

if TYPE_CHECKING:
    from explora.core.config.concerns import DataConfig
    from explora.core.runs.assemble import Session


def open_session(request: Request, source: str | None) -> Session:
    """Open a run, a model folder or a base to answer with the settings of a request."""
    from explora.core.runs.open import open_run

    session = open_run(
        request.task,
        source,
        model=request.model,
        tokenizer=request.tokenizer,
        runtime=request.runtime,
        encoding=request.encoding,
    )
    session.settle()
    return session


def open_for_rows(request: Request) -> tuple[Session, DataConfig, DataConfig]:
    """Open the run of a request that names at most one run.

    Returns the session, the data settings of the request, and those that the run was trained with.
    """
    from explora.core.runs.evaluate import recorded_data, with_recorded_columns

    session = open_session(request, request.names[0] if request.names else None)
    trained_on = recorded_data(session.source)
    if "data" in request.data:
        return session, with_recorded_columns(request.asked, trained_on), trained_on
    return session, dataclasses.replace(trained_on, **request.data), trained_on
