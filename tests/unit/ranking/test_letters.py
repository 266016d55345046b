"""The letters of results: two share one if and only if no test separates them."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from explora.core.ranking.letters import share_letters


def test_what_differs_from_nothing_has_one_letter() -> None:
    assert share_letters(3, []) == ["a", "a", "a"]
    assert share_letters(1, []) == ["a"]


def test_the_middle_may_belong_to_both_sides() -> None:
    assert share_letters(3, [(0, 2)]) == ["a", "ab", "b"]
    assert share_letters(3, [(0, 1), (0, 2), (1, 2)]) == ["a", "b", "c"]


def test_letters_say_which_pairs_differ_and_nothing_else() -> None:
    generator = np.random.default_rng(0)
    for count in range(2, 9):
        pairs = list(combinations(range(count), 2))
        different = {pair for pair in pairs if generator.random() < 0.4}
        letters = share_letters(count, sorted(different))
        for one, other in pairs:
            shared = set(letters[one]) & set(letters[other])
            assert bool(shared) == ((one, other) not in different)
