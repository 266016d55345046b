"""What becomes of the figures: medians, ranges, shares, comparisons, and a verdict in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from explora.core.bench.comparisons import compare_rows
from explora.core.bench.lessons import Learned
from explora.core.bench.measurements import Contender, Measurement
from explora.core.bench.rows import BenchRow, Outcome, summarise
from explora.core.bench.verdict import verdict
from explora.core.config.run_config import TrainRun
from explora.core.tasks.metrics import Score, perplexity
from tests.cells_here import found, learned, right
from tests.tiny_models import make_method


def contender(
    method: str = "lora",
    rank: int = 8,
    stack: str = "explora",
    amp: str = "bf16",
    length: int | None = None,
) -> Contender:
    run = TrainRun(task="paraphrase", method=make_method(method, rank=rank))
    runtime = dataclasses.replace(run.runtime, amp=amp, threads=2)
    return Contender(run=dataclasses.replace(run, runtime=runtime), stack=stack, length=length)


def rows_of(**speeds: tuple[Contender, list[Measurement]]) -> list[BenchRow]:
    outcomes = [Outcome(contender=who, found=tuple(what), error=None) for who, what in speeds.values()]
    return summarise(outcomes, "tiny")


def test_a_row_has_medians_and_ends():
    (row,) = rows_of(lora=(contender(), [found(300, 5), found(100, 7), found(110, 6)]))
    assert row.tokens_per_second == 110
    assert row.examples_per_second == pytest.approx(8 / (200 / 110), abs=1e-3)
    assert row.peak_memory_bytes == 6
    assert row.spread is not None
    assert row.spread.tokens_per_second == (100, 300)
    assert row.spread.peak_memory_bytes == (5, 7)
    assert row.seconds is not None
    assert (row.seconds.forward, row.seconds.backward, row.seconds.optimizer) == (0.25, 0.375, 0.125)
    assert row.share == 0.01
    assert row.reference_loss is None


def test_the_matrix_peak_is_the_best_of_all_cells_in_that_dtype():
    fast, slow = found(matrix_peak=4e10), found(matrix_peak=1e10)
    own, other, fp32 = rows_of(
        a=(contender(), [slow]), b=(contender(rank=4), [fast]), c=(contender(amp="off"), [slow])
    )
    assert own.matrix_peak == other.matrix_peak == 4e10
    assert fp32.matrix_peak == 1e10
    assert own.matrix_share == pytest.approx(1e9 / 2.0 / 4e10, abs=1e-4)


def test_a_contender_that_failed_has_no_figures():
    outcome = Outcome(contender=contender(), found=(found(),), error="out of memory")
    (row,) = summarise([outcome], "tiny")
    assert row.error == "out of memory"
    assert row.tokens_per_second is None
    assert row.trainable is None


QUIET = {"cores": 2, "processors": 2, "busy_elsewhere": 0.0}
Found = tuple[Contender, list[Measurement]]
FULL: Found = (contender("full"), [found(50, 2000), found(52, 2000)])
LORA: Found = (contender(), [found(100, 1000), found(104, 1000)])


def sentences(rows: list[BenchRow], machine: Mapping[str, Any] = QUIET) -> list[str]:
    return verdict(rows, compare_rows(rows), machine)


def said(machine: Mapping[str, Any] = QUIET, **speeds: Found) -> str:
    return " ".join(sentences(rows_of(**speeds), machine))


def test_the_headline_is_two_sentences_about_full_fine_tuning():
    last = (contender("last-linear"), [found(300, 900), found(310, 900)])
    rows = rows_of(full=FULL, last=last, lora=LORA)
    assert sentences(rows) == [
        "Compared with full fine-tuning, lora r=8 is faster (2.00 times) and needs less memory (0.50 times) "
        "(2 threads on 2 cores, bf16, paraphrase, batch 16).",
        "What they learn was not measured: add --quality.",
    ]
    against = {each.other.name: each for each in compare_rows(rows)}
    assert against["last-linear"].speed.median == pytest.approx(102 / 305)
    assert (against["full"].speed.low, against["full"].speed.high) == (100 / 52, 104 / 50)


@pytest.mark.parametrize(
    ("speed", "memory", "words"),
    [
        (100, 3000, "is faster (1.97 times) and needs more memory (1.50 times)"),
        (50, 1000, "is neither faster nor slower (0.99 times) and needs less memory (0.50 times)"),
        (20, 2000, "is slower (0.40 times) and needs neither more nor less memory (1.00 times)"),
    ],
)
def test_ranges_that_overlap_are_no_difference(speed, memory, words):
    assert words in said(full=FULL, lora=(contender(), [found(speed, memory), found(speed + 1, memory)]))


def test_one_repeat_gives_figures_and_no_verdict():
    text = said(full=(contender("full"), [found(50)]), lora=(contender(), [found(100)]))
    assert text.startswith("No verdict: one repeat shows no spread (2 threads on 2 cores")
    assert "lora r=8 had 2.00 times the speed and 1.00 times the peak memory" in text
    assert "--repeats 3" in text
    assert "faster" not in text


def test_what_is_missing_is_named():
    assert said(lora=LORA).startswith("No verdict on LoRA: full fine-tuning was not measured.")
    ia3 = contender("ia3"), [found(), found()]
    assert said(ia3=ia3).startswith("No verdict on ia3: full fine-tuning was not measured.")
    assert said(full=FULL).startswith("No verdict: full fine-tuning was measured alone.")
    assert said(full=FULL, ia3=ia3).startswith("Compared with full fine-tuning, ia3 is faster")


def test_the_middle_rank_speaks_for_lora_and_is_compared_with_the_others():
    slow, fast = [found(80), found(81)], [found(100), found(101)]
    rows = rows_of(
        full=(contender("full"), slow),
        a=(contender(rank=4), fast),
        b=(contender(rank=8), fast),
        c=(contender(rank=16), slow),
    )
    assert {each.row.name for each in compare_rows(rows)} == {"lora r=8"}
    assert [each.other.name for each in compare_rows(rows)] == ["full", "lora r=4", "lora r=16"]


def test_methods_are_compared_within_their_setting_only():
    fast, slow = [found(100), found(101)], [found(50), found(51)]
    rows = rows_of(
        a=(contender("full", length=64), slow),
        b=(contender(length=64), fast),
        c=(contender("full", length=128), fast),
        d=(contender(length=128), slow),
    )
    short, _, long, _ = sentences(rows)
    assert short.startswith("With length 64: Compared with full fine-tuning, lora r=8 is faster (1.99 times)")
    assert long.startswith("With length 128: Compared with full fine-tuning, lora r=8 is slower")
    assert len(compare_rows(rows)) == 2


def scored(lora: Learned, full: Learned) -> list[BenchRow]:
    rows = rows_of(full=FULL, lora=LORA)
    return [dataclasses.replace(row, quality=score) for row, score in zip(rows, (full, lora), strict=True)]


@pytest.mark.parametrize(
    ("lora", "clause", "figures"),
    [
        (
            right(150),
            ", but its accuracy after equal time is worse here (",
            "0.750 and full fine-tuning 0.850",
        ),
        (
            right(190),
            ", and its accuracy after equal time is better here (",
            "0.950 and full",
        ),
        (
            right(168, first=20),
            ", and no difference in accuracy after equal time was found (",
            "0.840 and full",
        ),
    ],
)
def test_scores_are_compared_row_by_row(lora, clause, figures):
    headline, scores, *doubts = sentences(scored(learned(lora), learned(right(170))))
    assert clause in headline
    assert figures in scores
    assert "rows); after 40 steps each 0." in scores
    assert scores.startswith("After 8.0 s of training each")
    assert scores.endswith('the untrained model has 0.500, the trivial answer "always yes" 0.550.')
    assert doubts == ["Each method was trained once, with one seed; the intervals are over the dev rows."]


def test_methods_with_the_same_answers_have_no_interval_of_zeros():
    same = sentences(scored(learned(right(170)), learned(right(170))))[1]
    assert "(the same on every row, 200 rows)" in same
    assert "interval" not in same


def test_a_difference_that_intervals_hide_is_found_by_pairing():
    """150 and 170 of 200 right: the intervals of the two scores overlap. Unpaired rows would hide it."""
    better, worse = right(170), right(158)
    low, high = better.interval()[0], worse.interval()[1]
    assert low < high
    assert (
        "its accuracy after equal time is worse here" in sentences(scored(learned(worse), learned(better)))[0]
    )
    shuffled = dataclasses.replace(worse, order=np.random.default_rng(0).permutation(worse.order))
    assert "no difference in accuracy" in sentences(scored(learned(shuffled), learned(better)))[0]


@pytest.mark.parametrize(
    ("trained", "untrained"),
    [
        (right(112), right(60)),  # 0.56 is not distinguishable from the trivial 0.55
        (right(160), right(160)),  # nothing better than before training
    ],
)
def test_without_learning_there_is_no_verdict_on_learning(trained, untrained):
    got = learned(trained, untrained)
    headline, scores, *_ = sentences(scored(got, got))
    assert "accuracy" not in headline
    assert scores.startswith("No verdict on learning: after 8.0 s each, neither lora r=8 nor full")
    assert "--quality-steps 160" in scores
    assert "accuracy" in sentences(scored(got, learned(right(190), untrained)))[0]  # one of them is enough


def test_a_training_that_failed_leaves_no_verdict_on_learning():
    full, lora = scored(learned(right(150)), learned(right(150)))
    assert sentences([full, dataclasses.replace(lora, quality=None)])[1] == (
        "No verdict on learning: lora r=8 has no score."
    )


def test_a_lower_perplexity_is_better():
    def of(nats: float) -> Score:
        return perplexity(np.linspace(nats - 1, nats + 1, 200), np.ones(200))

    changes = {"metric": "perplexity", "higher_is_better": False, "trivial": None}
    text = sentences(scored(learned(of(2.0), of(5.0), **changes), learned(of(2.5), of(5.0), **changes)))
    assert "its perplexity after equal time is better here" in text[0]
    assert "trivial" not in text[1]


def test_doubts_are_said():
    busy = said({**QUIET, "busy_elsewhere": 1.2}, lora=(contender(), [found(), found()]))
    assert "1.2 of 2 processors" in busy
    few = learned(right(40, rows=50), right(20, rows=50))
    assert "50 dev rows are weak evidence" in " ".join(sentences(scored(few, few)))
