"""A model is assembled from a base, a task and a method."""

from __future__ import annotations

from pathlib import Path

import pytest

from explora.core.runs.assemble import assemble_for_training
from explora.core.runs.train import start_run
from tests.tiny_models import finish, tiny_run


@pytest.mark.parametrize(("task", "classes"), [("paraphrase", None), ("entailment", 3), ("sentiment", 5)])
def test_a_classifier_as_a_base_gets_the_head_of_the_task(
    task: str, classes: int | None, tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    classifier = tmp_path / "classifier"
    finish(start_run(tiny_run(tiny_base, tiny_data, "sentiment", method="full", max_steps=1), classifier))
    session, _, _ = assemble_for_training(tiny_run(classifier, tiny_data, task))
    head = session.model.score
    assert (None if head is None else head.out_features) == classes
