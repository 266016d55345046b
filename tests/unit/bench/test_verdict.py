"""What becomes of the figures: medians, ranges, shares, and a verdict in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from explora.core.bench.measurements import Contender, Measurement
from explora.core.bench.rows import BenchRow, Outcome, summarise
from explora.core.bench.verdict import verdict
from explora.core.config.run_config import TrainRun
from tests.cells_here import found, learned
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


def said(machine: Mapping[str, Any] = QUIET, **speeds: tuple[Contender, list[Measurement]]) -> str:
    return " ".join(verdict(rows_of(**speeds), machine))


def test_a_verdict_in_favour():
    text = said(
        full=(contender("full"), [found(50, 2000), found(52, 2000)]),
        last=(contender("last-linear"), [found(300, 900), found(310, 900)]),
        lora=(contender(), [found(100, 1000), found(104, 1000)]),
    )
    assert text.startswith("LoRA pays off here, in time and in memory")
    assert (
        "lora r=8 against full fine-tuning: 2.00 (1.92 to 2.08) times as fast, 0.50 (0.50 to 0.50) times"
        in text
    )
    assert "against last-linear: 0.33" in text


@pytest.mark.parametrize(
    ("speed", "memory", "opening"),
    [
        (100, 3000, "LoRA pays off here in time, not in memory"),
        (50, 1000, "LoRA pays off here in memory, not in time"),
        (20, 3000, "LoRA does not pay off here"),
    ],
)
def test_other_verdicts(speed, memory, opening):
    text = said(
        full=(contender("full"), [found(50, 2000), found(52, 2000)]),
        lora=(contender(), [found(speed, memory), found(speed + 1, memory)]),
    )
    assert text.startswith(opening)


def test_ranges_that_overlap_are_not_distinguishable():
    text = said(
        full=(contender("full"), [found(50, 900), found(70, 1100)]),
        lora=(contender(), [found(60, 1000), found(61, 1000)]),
    )
    assert "speed not distinguishable, memory not distinguishable" in text
    assert text.startswith("LoRA does not pay off here")


def test_ranks_are_compared_and_the_middle_one_speaks_for_lora():
    slow, fast = [found(80), found(81)], [found(100), found(101)]
    text = said(
        full=(contender("full"), slow),
        a=(contender(rank=4), fast),
        b=(contender(rank=8), fast),
        c=(contender(rank=16), slow),
    )
    assert "lora r=8 against full" in text
    assert "Rank 4 against 16: 1.25" in text


def test_files_are_compared_exactly():
    full = [found(50, checkpoint_bytes=27_876_672), found(52, checkpoint_bytes=27_876_672)]
    lora = [found(100, checkpoint_bytes=198_648), found(101, checkpoint_bytes=198_648)]
    text = said(full=(contender("full"), full), lora=(contender(), lora))
    assert "a file of 0.2 MB instead of 28 MB" in text


def test_methods_are_compared_within_their_setting_only():
    fast, slow = [found(100), found(101)], [found(50), found(51)]
    lines = verdict(
        rows_of(
            a=(contender("full", length=64), slow),
            b=(contender(length=64), fast),
            c=(contender("full", length=128), fast),
            d=(contender(length=128), slow),
        ),
        QUIET,
    )
    short, long = (next(n for n, line in enumerate(lines) if f"length {t}:" in line) for t in (64, 128))
    assert "With length 64: LoRA pays off here in time" in lines[short]
    assert "With length 128: LoRA does not pay off" in lines[long]
    assert sum("against full fine-tuning" in line for line in lines) == 2
    assert "full fine-tuning: 1.99 (1.96 to 2.02) times as fast" in lines[short + 1]


def with_scores(lora: float, full: float, **changes: Any) -> str:
    rows = rows_of(
        full=(contender("full"), [found(50, 2000), found(52, 2000)]),
        lora=(contender(), [found(100, 1000), found(104, 1000)]),
    )
    scores = [learned(full, **changes), learned(lora, **changes)]
    scored = [dataclasses.replace(row, quality=score) for row, score in zip(rows, scores, strict=True)]
    return " ".join(verdict(scored, QUIET))


@pytest.mark.parametrize(
    ("lora", "full", "word", "ending"),
    [
        (0.80, 0.70, "better", "learns more than full"),
        (0.70, 0.80, "worse", "learns less than full"),
        (0.80, 0.79, "not distinguishable", "learns as much as full fine-tuning, as far as 100 rows"),
    ],
)
def test_scores_count_with_their_intervals(lora, full, word, ending):
    text = with_scores(lora, full)
    low, high = f"{lora - 0.01:.3f}", f"{lora + 0.01:.3f}"
    assert f"accuracy after 40 steps each {lora:.3f} [{low}, {high}] against" in text
    assert text.count(f"({word})") == 2
    assert ending in text
    assert "one seed" in text


def test_a_lower_perplexity_is_better():
    text = with_scores(20.0, 30.0, metric="perplexity", higher_is_better=False)
    assert text.count("(better)") == 2


def test_what_was_not_learned_is_not_judged():
    text = said(full=(contender("full"), [found(50)] * 2), lora=(contender(), [found(100)] * 2))
    assert "what it learns was not measured" in text
    assert "seed" not in text


def test_doubts_are_said():
    once = said(full=(contender("full"), [found(50)]), lora=(contender(), [found(100)]))
    assert "Measured once" in once
    assert "By one measurement: LoRA pays off here" in once
    busy = said({**QUIET, "busy_elsewhere": 1.2}, lora=(contender(), [found(), found()]))
    assert "1.2 of 2 processors" in busy
    assert "no verdict on LoRA" in busy
    assert "not measured" in said(full=(contender("full"), [found()]))
