"""The form of verse: Shakespeare has it, shuffled lines lose the rhymes, and shuffled words the metre."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from explora.core.tasks import verse_form
from explora.core.tasks.metrics import wilson_interval
from explora.core.tasks.verse_form import BY_SOUND, Poem, form_scores

SONNET_18 = """Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date;
Sometime too hot the eye of heaven shines,
And often is his gold complexion dimmed;
And every fair from fair sometime declines,
By chance, or nature's changing course, untrimmed;
But thy eternal summer shall not fade,
Nor lose possession of that fair thou ow'st;
Nor shall death brag thou wander'st in his shade,
When in eternal lines to time thou grow'st:
So long as men can breathe or eyes can see,
So long lives this, and this gives life to thee.""".splitlines()


def score(lines: Sequence[str], training: Sequence[str] = (), given: int = 3) -> dict[str, float]:
    scores = form_scores([Poem(lines=lines, given=given)], training)
    return {name: each.value for name, each in scores.items()}


def test_a_sonnet_has_the_form_of_a_sonnet() -> None:
    found = score(SONNET_18)
    assert found == {
        "lines": 1.0,
        "repeated": 0.0,
        "syllables": 1.0,
        "iambic": pytest.approx(10 / 11),  # today's "fair sometime" has two stresses side by side
        "rhyme": pytest.approx(5 / 6),  # temperate / date is none today
        "couplet": 1.0,
    }


def test_what_a_poem_lacks_is_counted_as_missing() -> None:
    found = score(SONNET_18[:12])
    assert (found["lines"], found["couplet"]) == (0.0, 0.0)
    assert found["rhyme"] == pytest.approx(4 / 6)
    assert score(SONNET_18[:3]) == {"lines": 0, "repeated": 0} | dict.fromkeys(BY_SOUND, 0.0)


def test_given_lines_do_not_count_as_written() -> None:
    written = ["a b c d", "the lamp", "A, b c d!", "the lamp"]
    assert score(written, given=2)["repeated"] == 1.0
    assert score(written, given=1)["repeated"] == pytest.approx(2 / 3)
    assert score([*["nought"] * 7, *SONNET_18[7:]], given=7)["iambic"] == 1.0
    assert score(SONNET_18, given=1)["rhyme"] == pytest.approx(6 / 7)  # day / May is written then


def test_a_line_scans_by_its_stresses() -> None:
    def iambic(line: str) -> bool:
        return score([line], given=0)["iambic"] == 1.0

    assert iambic("The summer comes and every garden sings")
    assert iambic("Summer is come and every garden sings")  # the first foot may be inverted
    assert not iambic("And thee to compare a summer my day the")
    assert not iambic("The lamp is lit")


def test_copies_are_found_inside_one_training_poem() -> None:
    training = ["one two three\nfour five", "six seven eight"]
    found = score(["One, two three four", "five six seven eight"], training, given=0)
    assert found["longest_copied"] == 5  # over the end of a line, not over the end of a poem
    assert found["copied"] == pytest.approx(2 / 5)
    assert score(["wone two three fourth"], training, given=0)["longest_copied"] == 2  # whole words
    assert score(["one two three four", "x"], training, given=1)["longest_copied"] == 0


def test_without_the_dictionary_only_sound_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verse_form, "has_dictionary", lambda: False)
    assert set(score(SONNET_18, ["x"])) == {"lines", "repeated", "copied", "longest_copied"}


def test_intervals_resample_whole_poems() -> None:
    poems = [Poem(lines=SONNET_18, given=3), Poem(lines=SONNET_18[::-1], given=3)]
    found = form_scores(poems, [])
    ends = sorted(score(poem.lines)["rhyme"] for poem in poems)
    assert found["rhyme"].interval() == pytest.approx(ends)
    assert found["couplet"].interval() == wilson_interval(1, 2)


@pytest.mark.data
def test_real_sonnets_rhyme_and_scan_until_they_are_shuffled(real_data: Path) -> None:
    """Planted bugs: the poems with their lines, or their words, in another order."""
    text = (real_data / "sonnets" / "TRUE_sonnets_held_out_dev.txt").read_text(encoding="utf-8")
    blocks = re.split(r"\n\s*\d+\s*\n", text)[1:]
    poems = [[line for line in block.split("\n") if line.strip()] for block in blocks]
    assert len(poems) == 12
    draw = random.Random(0)

    def mean(change) -> dict[str, float]:
        found = form_scores([Poem(lines=change(lines), given=3) for lines in poems], [])
        return {name: each.value for name, each in found.items()}

    def other_words(lines: list[str]) -> list[str]:
        return [" ".join(draw.sample(line.split(), len(line.split()))) for line in lines]

    real = mean(list)
    assert (real["rhyme"], real["iambic"]) == (pytest.approx(0.875), pytest.approx(0.811, abs=0.001))
    assert mean(lambda lines: draw.sample(lines, 14))["rhyme"] < 0.3
    assert mean(other_words)["iambic"] < 0.6
