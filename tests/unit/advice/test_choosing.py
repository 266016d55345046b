"""Outcomes of the study, what they let expect of a method, and the choice among equals."""

from __future__ import annotations

import pytest

from explora.core.advice.choosing import Expectation, Question, choose, expect
from explora.core.advice.outcomes import Outcome, find_outcomes
from tests.hand_made_study import make_study, trial

QUORA = {"quora": ("paraphrase", 4000)}
SENTIMENT = Question(task="sentiment", examples=4000, base="embedded")


def outcome(study, contender: str) -> Outcome:
    return next(each for each in find_outcomes(study) if each.contender == contender)


def test_dev_scores_choose_the_learning_rate_and_the_other_rows_report():
    study = make_study(
        QUORA,
        [
            trial("quora", "full", 0.70, learning_rate=1e-4, dev=0.80),
            trial("quora", "full", 0.90, learning_rate=3e-4, dev=0.60),  # luck on the rows that report
            trial("quora", "full", 0.72, learning_rate=1e-4, dev=0.10, seed=2),
            trial("quora", "lora", 0.75),
        ],
    )
    found = outcome(study, "full")
    assert (found.learning_rate, found.score, found.seeds) == (1e-4, pytest.approx(0.71), 2)
    assert (found.best, found.shortfall) == ("lora", pytest.approx(4.0))
    assert outcome(study, "lora").pace == pytest.approx(0.6)


def test_two_percent_of_perplexity_is_a_point():
    study = make_study(
        {"poems": ("sonnet", 100)}, [trial("poems", "full", 50.0), trial("poems", "lora", 51.0)]
    )
    assert outcome(study, "lora").shortfall == pytest.approx(1.0)
    assert outcome(study, "full").shortfall == 0.0


TWO_TASKS = {"quora": ("paraphrase", 4000), "poems": ("sonnet", 4000)}
OPPOSITE = [
    trial("quora", "full", 0.80),
    trial("quora", "lora", 0.77),
    trial("poems", "full", 56.0),
    trial("poems", "lora", 50.0),
]


def test_a_nearer_cell_counts_more():
    study = make_study(TWO_TASKS, OPPOSITE)
    question = Question(task="paraphrase", examples=4000, base="embedded")
    expected = {each.contender: each for each in expect(question, find_outcomes(study))}
    # weight 1 for the task itself, 1/4 for another kind of task: (4 x 3 + 0) / 5 and (0 + 6) / 5
    assert expected["lora"].shortfall == pytest.approx(2.4)
    assert expected["full"].shortfall == pytest.approx(1.2)
    assert [each.cell.name for each in expected["lora"].outcomes] == ["quora", "poems"]


def test_for_a_new_task_the_worst_cell_counts():
    study = make_study(TWO_TASKS, OPPOSITE)
    expected = {each.contender: each for each in expect(SENTIMENT, find_outcomes(study))}
    assert expected["lora"].shortfall == pytest.approx(3.0)
    assert expected["full"].shortfall == pytest.approx(6.0)


def test_tenfold_rows_halve_the_weight_and_the_learning_rate_is_the_weighted_median():
    study = make_study(
        {"few": ("sentiment", 400), "same": ("sentiment", 4000), "many": ("sentiment", 40_000)},
        [
            trial("few", "full", 0.5, learning_rate=1e-3),
            trial("same", "full", 0.5, learning_rate=1e-4),
            trial("many", "full", 0.5, learning_rate=3e-5),
        ],
    )
    (found,) = expect(SENTIMENT, find_outcomes(study))
    assert found.learning_rate == 1e-4
    (found,) = expect(Question(task="sentiment", examples=400, base="embedded"), find_outcomes(study))
    assert found.learning_rate == 1e-3 or found.learning_rate == 1e-4
    assert found.outcomes[0].cell.name == "few"


def test_a_method_that_was_trained_in_an_easy_cell_alone_is_no_better_for_it():
    study = make_study(
        {"easy": ("sentiment", 4000), "hard": ("paraphrase", 4000)},
        [
            trial("easy", "full", 0.5),
            trial("easy", "lora", 0.5),
            trial("hard", "full", 0.80),
            trial("hard", "last-linear", 0.72),
        ],
    )
    expected = {each.contender: each.shortfall for each in expect(SENTIMENT, find_outcomes(study))}
    assert (expected["full"], expected["lora"]) == (0.0, 0.0)
    assert expected["last-linear"] == pytest.approx(8.0)  # in the easy cell, too


def test_cells_of_close_rivals_do_not_hide_how_weak_a_method_is():
    """Where only good methods were trained, a weak one once counted as the median of those."""
    rivals = {f"rivals-{number}": ("sentiment", 4000) for number in range(9)}
    study = make_study(
        {"hard": ("sentiment", 4000), **rivals},
        [
            trial("hard", "full", 0.42),
            trial("hard", "last-linear", 0.37),
            *(trial(cell, name, 0.42) for cell in rivals for name in ("full", "lora")),
        ],
    )
    expected = {each.contender: each.shortfall for each in expect(SENTIMENT, find_outcomes(study))}
    assert expected["last-linear"] == pytest.approx(5.0)
    assert expected["lora"] == pytest.approx(0.0)


def test_a_method_that_is_known_from_far_cells_alone_is_left_out():
    study = make_study(
        {"sst": ("sentiment", 4000), "poems": ("sonnet", 4000)},
        [trial("sst", "full", 0.5), trial("poems", "full", 50.0), trial("poems", "lora", 50.0)],
    )
    assert [each.contender for each in expect(SENTIMENT, find_outcomes(study))] == ["full"]


def expectation(contender: str, shortfall: float, error: float = 0.0) -> Expectation:
    return Expectation(
        contender=contender, shortfall=shortfall, error=error, learning_rate=1e-3, pace=1.0, outcomes=()
    )


@pytest.mark.parametrize(
    ("shortfall", "error", "advised"),
    [(0.9, 0.0, "cheap"), (1.1, 0.0, "dear"), (1.9, 2.0, "cheap"), (2.1, 2.0, "dear")],
)
def test_the_cheapest_of_equals_is_chosen(shortfall, error, advised):
    expected = [expectation("dear", 0.1), expectation("cheap", 0.1 + shortfall, error)]
    assert choose(expected, {"dear": 2.0, "cheap": 1.0}).contender == advised


def test_the_pace_comes_from_runs_on_a_cpu_alone():
    """A run on a GPU has no processor time that could be compared."""
    on_gpu = [*trial("quora", "lora", 0.79)[:-1], None]
    study = make_study(QUORA, [trial("quora", "full", 0.8), on_gpu])
    full, lora = find_outcomes(study)
    assert (full.pace, lora.pace) == (1.0, None)
    study = make_study(QUORA, [trial("quora", "full", 0.8), on_gpu, trial("quora", "lora", 0.79, seed=2)])
    assert find_outcomes(study)[1].pace == pytest.approx(0.6)
