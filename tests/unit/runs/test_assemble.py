"""A model is assembled from a base, a task and a method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from explora.core.base.find import open_base
from explora.core.base.weights import load_model
from explora.core.runs.assemble import assemble_for_training
from explora.core.runs.train import start_run
from explora.core.training.checkpoint import trained_tensors
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


@pytest.mark.parametrize("method", ["bitfit", "top", "full", "lora"])
def test_what_is_trained_of_the_base_starts_from_its_exact_weights(
    method: str, tiny_base: Path, tiny_data: Path
) -> None:
    """In bf16 too, where frozen weights are rounded."""
    base = load_model(open_base(str(tiny_base)), dtype=torch.float32, device=torch.device("cpu")).state_dict()
    options = {"blocks": 1} if method == "top" else {}
    run = tiny_run(tiny_base, tiny_data, "paraphrase", method=method, amp="bf16", **options)
    session, _, _ = assemble_for_training(run)
    trained = trained_tensors(session.model)
    assert all(value.dtype is torch.float32 for value in trained.values())
    assert all(torch.equal(value, base[name]) for name, value in trained.items() if name in base)
    frozen = {name: value for name, value in session.model.named_parameters() if name not in trained}
    assert {value.dtype for value in frozen.values()} <= {torch.bfloat16}
