"""The best trivial answer for each metric, and token frequencies, against values worked out by hand."""

import math

import numpy as np
import pytest

from explora.core.tasks.metrics import Score, accuracy, macro_f1, perplexity
from explora.core.tasks.trivial import Trivial, best_trivial, uniform_losses, unigram_losses

SCORES: dict[str, Score] = {
    "accuracy": accuracy([0, 1], [1, 1]),
    "macro_f1": macro_f1([0, 1], [1, 1]),
    "perplexity": perplexity([2.0], [1]),
}


def test_the_best_answer_is_the_highest_or_the_lowest_as_the_metric_wants() -> None:
    answers = {"always no": {"accuracy": 0.4, "perplexity": 9.0}, "always yes": {"accuracy": 0.6}}
    answers |= {"a guess": {"accuracy": 0.6, "perplexity": 5.0}}
    assert best_trivial(SCORES, answers) == {
        "accuracy": Trivial(0.6, "always yes"),  # of equals the first
        "perplexity": Trivial(5.0, "a guess"),
    }


def test_unigram_losses_are_those_of_witten_and_bell() -> None:
    losses = unigram_losses([[3, 3, 1], np.array([3], dtype=np.uint16)], 5)
    frequent, once, unseen = -math.log(3.4 / 6), -math.log(1.4 / 6), -math.log(0.4 / 6)
    assert losses == pytest.approx([unseen, once, unseen, frequent, unseen])
    assert np.exp(-losses).sum() == pytest.approx(1)
    assert np.exp(-uniform_losses(5)) == pytest.approx([0.2] * 5)


def test_frequencies_beat_the_uniform_guess_on_like_text_alone() -> None:
    """A planted bug, counts of other tokens, loses to the uniform guess."""
    generator = np.random.default_rng(0)
    text, likely = generator.zipf(1.5, 4000) % 50, uniform_losses(50)[0]
    losses = unigram_losses([text[:2000]], 50)
    assert losses[text[2000:]].mean() < likely < losses[49 - text[2000:]].mean()
