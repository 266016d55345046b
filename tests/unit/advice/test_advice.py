"""The advice: limits, what a task cannot be trained by, time on this machine, doubts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from explora.core.advice.advice import Advice, Request, advise
from explora.core.advice.choosing import Question
from explora.core.advice.study import Study
from explora.core.config.registry import Shape
from explora.errors import TrainingError
from tests.hand_made_study import SHAPE, make_study, trial

CELLS = {"quora": ("paraphrase", 4000), "sst": ("sentiment", 4000), "poems": ("sonnet", 4000)}
STUDY = make_study(
    CELLS,
    [
        trial(cell, contender, score)
        for cell, scores in {
            "quora": (0.80, 0.75, 0.60),
            "sst": (0.50, 0.45, 0.30),
            "poems": (50, 60),
        }.items()
        for contender, score in zip(("full", "lora", "last-linear"), scores, strict=False)
    ],
)
GPT2 = Shape(n_layer=12, n_head=12, n_embd=768)


def request(task: str = "paraphrase", examples: int = 4000, **changed) -> Request:
    usual = Request(
        question=Question(task=task, examples=examples, base="embedded"),
        settings={"amp": "off", "batch_size": 16, "epochs": 3},
        shape=Shape(**SHAPE),
        longest=100,
        classes=None,
        ram_bytes=10**10,
        minutes=None,
    )
    return replace(usual, **changed)


def ask(asked: Request, study: Study = STUDY, rows_per_second: float = 10.0) -> Advice:
    return advise(asked, study, lambda run: rows_per_second)


def exceeds(advice: Advice) -> dict[str, str | None]:
    return {each.contender: each.exceeds for each in advice.candidates}


def test_the_best_method_and_its_time_here():
    found = ask(request())
    assert found.chosen.contender == "full"
    assert found.chosen.seconds == pytest.approx(3 * 4000 / 10)
    seconds = {each.contender: each.seconds for each in found.candidates}
    assert seconds["lora"] == pytest.approx(0.6 * 1200)
    assert found.runner_up is not None and found.runner_up.contender == "lora"
    assert exceeds(found) == dict.fromkeys(("full", "lora", "last-linear"))


def test_the_leading_candidate_is_timed():
    timed = []
    advise(request(), STUDY, lambda run: timed.append(run.method.name) or 10.0)
    assert timed == ["full"]


def test_memory_excludes_what_does_not_fit():
    peaks = {each.contender: each.cost.peak_bytes for each in ask(request()).candidates}
    assert peaks["full"] > peaks["lora"] > peaks["last-linear"]
    found = ask(request(ram_bytes=peaks["lora"]))
    assert found.chosen.contender == "lora"
    assert exceeds(found) == {"full": "memory", "lora": None, "last-linear": None}
    with pytest.raises(TrainingError, match="last-linear needs the least memory") as error:
        ask(request(ram_bytes=100))
    assert "explora params paraphrase --budget" in error.value.hint


def test_time_excludes_what_is_too_slow():
    found = ask(request(minutes=15.0))  # full takes 20 minutes, LoRA 12
    assert found.chosen.contender == "lora"
    assert exceeds(found) == {"full": "time", "lora": None, "last-linear": None}
    assert found.share_of_steps == 1.0


def test_where_time_is_short_for_all_the_training_is_cut_and_the_confidence_falls():
    found = ask(request(minutes=1.0))
    assert (found.chosen.contender, found.share_of_steps) == ("full", pytest.approx(0.05))
    assert any("5 % of a whole training" in doubt.fact for doubt in found.doubts)
    assert len(found.doubts) == len(ask(request()).doubts) + 1


def test_a_task_without_rows_is_advised_from_the_nearest_kind_and_says_so():
    found = ask(request("text"))
    assert found.chosen.expected.outcomes[0].cell.task == "sonnet"
    assert found.doubts[0].fact == "the study has no rows of text; the nearest task is sonnet"
    assert "last-linear" not in exceeds(found)  # language modelling cannot be trained by it


def test_another_base_scales_the_learning_rate_and_counts_operations():
    asked = request(question=Question(task="paraphrase", examples=4000, base="gpt2"), shape=GPT2)
    found = ask(asked)
    assert found.chosen.run.optimizer.learning_rate == pytest.approx(1e-3 * 256 / 768, rel=0.02)
    pace = {each.contender: each.cost.pace for each in found.candidates}
    assert pace["lora"] == pytest.approx(2 / 3, abs=0.01)  # no gradients of the base's own weights
    assert any("trained embedded, not gpt2" in doubt.fact for doubt in found.doubts)


def test_a_study_without_rows_says_so():
    with pytest.raises(TrainingError, match="no rows yet") as error:
        ask(request(), make_study({}, []))
    assert "explora bench paraphrase --quality" in error.value.hint


@pytest.mark.parametrize(("seeds", "examples", "level"), [(3, 4000, "medium"), (1, 4000, "low")])
def test_each_doubt_lowers_the_confidence(seeds, examples, level):
    """Three tasks are few, whatever else is right."""
    study = make_study(
        CELLS,
        [
            trial(cell, contender, 50.0 if cell == "poems" else 0.5, seed=seed)
            for cell in CELLS
            for contender in ("full", "lora")
            for seed in range(1, seeds + 1)
        ],
    )
    found = ask(request(examples=examples), study)
    assert found.tested.reaches_target
    assert found.confidence == level, found.doubts
