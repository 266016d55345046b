"""Scores of continuations: the poet's own text has the best likeness, another poem's end the best form."""

from __future__ import annotations

import pytest

from explora.core.tasks import continuations
from explora.core.tasks.continuations import ContinuationScoring, scoring_notes
from tests.unit.tasks.test_verse_form import SONNET_18

PROMPT, TAIL = "\n".join(SONNET_18[:3]) + "\n", "\n".join(SONNET_18[3:])
OTHER = "\n".join(f"and so the keeper sang of lamp and tide {n}" for n in range(11))


@pytest.fixture(scope="module")
def scoring() -> ContinuationScoring:
    training = [PROMPT + TAIL]
    return ContinuationScoring(
        prompts=[PROMPT, PROMPT], references=[TAIL, OTHER], training=training, tails=[TAIL]
    )


def test_the_poets_own_text_has_the_best_likeness(scoring: ContinuationScoring) -> None:
    own = {name: score.value for name, score in scoring.likeness([TAIL, OTHER]).items()}
    assert own == pytest.approx(dict.fromkeys(("bleu", "chrf", "course_bleu", "course_chrf"), 100.0))
    swapped = scoring.likeness([OTHER, TAIL])
    assert swapped["chrf"].value < 50
    assert swapped["course_chrf"].value > swapped["chrf"].value  # the given lines are alike


def test_another_poems_end_has_form_and_is_copied(scoring: ContinuationScoring) -> None:
    trivial = scoring.trivial(seed=1)
    end, again = trivial["another poem's end"], trivial["given lines again"]
    assert (end["lines"], end["copied"], end["couplet"]) == (1.0, 1.0, 1.0)
    assert (again["lines"], again["repeated"]) == (1.0, 1.0)
    assert end.keys() == again.keys() == scoring.scores([TAIL, OTHER]).keys()


def test_blank_lines_are_no_lines(scoring: ContinuationScoring) -> None:
    with_gaps = TAIL.replace("\n", "\n\n")
    assert scoring.form([with_gaps, TAIL])["lines"].value == 1.0
    assert scoring.form([with_gaps[: len(with_gaps) // 2], TAIL])["lines"].value == 0.5


def test_notes_name_signatures_and_what_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    bleu, chrf = scoring_notes()
    assert "nrefs:1" in bleu
    assert "nc:6" in chrf
    monkeypatch.setattr(continuations, "has_dictionary", lambda: False)
    assert scoring_notes()[-1] == (
        "left out: syllables, iambic, rhyme, couplet (they need pip install 'explora[verse]')"
    )
