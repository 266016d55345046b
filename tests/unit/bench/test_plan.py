"""A matrix of settings: how many cells, about how long, and who is compared with whom."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from explora.core.bench import run as running
from explora.core.bench.measurements import BenchSetting, Contender, varying
from explora.core.bench.plan import MOST_CELLS, Plan
from explora.core.bench.run import open_bench
from explora.core.bench.shared_rows import sample
from explora.core.config.precedence import resolve
from explora.core.config.run_config import TrainRun
from explora.core.data.batching import epoch_batches
from explora.core.data.splits import Row as DataRow
from explora.core.tasks.contract import Example
from explora.errors import UsageError
from tests.cells_here import ask_here
from tests.tiny_models import tiny_run


def plan(count: int = 5, **changes: Any) -> Plan:
    run, _ = resolve("paraphrase", {})
    methods = [dataclasses.replace(run.method, rank=rank + 1) for rank in range(count)]
    contenders = tuple(Contender(run=dataclasses.replace(run, method=method)) for method in methods)
    return Plan(**{"contenders": contenders, "repeats": 3, "steps": None, **changes})


def test_the_default_is_expected_to_end_in_three_minutes():
    seconds = plan().expected_seconds
    assert seconds is not None
    assert 60 < seconds < 180
    assert plan().most_seconds < 180


def test_a_cell_of_a_large_matrix_still_trains_for_a_while():
    assert plan(50).cell_seconds == plan(5).cell_seconds < plan(1).cell_seconds
    assert plan(50).expected_seconds == pytest.approx(10 * plan(5).expected_seconds)


def test_learning_takes_its_time_and_a_number_of_steps_an_unknown_one():
    assert plan(learning=True).expected_seconds > plan().expected_seconds + 180
    assert plan(steps=3).expected_seconds is None
    assert plan(learning=True, lesson_steps=9).expected_seconds is None


def test_a_huge_matrix_is_refused_with_its_size():
    plan(MOST_CELLS // 3).check()
    with pytest.raises(UsageError, match=r"1,200 cells, at least 2.7 hours") as caught:
        plan(400).check()
    assert "--repeats 1" in caught.value.hint


def test_nothing_is_learned_from_filled_rows_or_random_weights():
    filled = dataclasses.replace(plan().contenders[0], length=64)
    with pytest.raises(UsageError, match="nothing can be learned"):
        plan(contenders=(filled,), learning=True).check()
    run = resolve("paraphrase", {"model": "random:gpt2"})[0]
    with pytest.raises(UsageError, match="random weights"):
        plan(contenders=(Contender(run=run),), learning=True).check()


def test_only_what_differs_is_named():
    one = BenchSetting(batch_size=4, length=None, amp="off", grad_checkpoint=False)
    other = dataclasses.replace(one, amp="bf16", length=64)
    assert varying([one, one]) == []
    assert other.described(varying([one, other])) == "length 64, precision bf16"


def test_each_setting_has_its_own_steps_rows_and_peer(tiny_base, tiny_data, monkeypatch, tmp_path):
    monkeypatch.setattr(running, "ask", ask_here)

    def contender(method: str, batch_size: int, length: int | None) -> Contender:
        run: TrainRun = tiny_run(tiny_base, tiny_data, "paraphrase", method=method, batch_size=batch_size)
        return Contender(run=run, length=length)

    settings = [(2, None), (4, None), (4, 40)]
    contenders = [contender(method, *setting) for setting in settings for method in ("full", "lora")]
    bench = open_bench(Plan(contenders=tuple(contenders), repeats=1, steps=2), tmp_path)
    names = [done.contender for done in bench.measure()]
    assert names[0] == "full, batch 2, length as it is"
    assert names[-1] == "lora r=8, batch 4, length 40"
    rows = bench.result().rows
    assert [row.error for row in rows] == [None] * 6
    assert [(row.batch_size, row.length) for row in rows[::2]] == settings
    digests = [group.own[0].found[0].rows for group in bench.groups]
    assert len(set(digests)) == 3


def test_the_sample_has_the_largest_batch_of_every_size(tiny_base, tiny_data):
    runs = [tiny_run(tiny_base, tiny_data, batch_size=size) for size in (1, 3)]
    rows = [DataRow(line=line, file="f", id="", values={}) for line in range(2000)]
    examples = [Example(row=row, ids=[0] * (5 + row.line % 50)) for row in rows]
    drawn = {row.line for row in sample(examples, runs)}
    for run in runs:
        lengths = [len(example.ids) for example in examples]
        first = epoch_batches(lengths, run.training.batch_size, run.training.seed, epoch=0)[0]
        assert set(first) <= drawn
    alone = {row.line for row in sample(examples, runs[:1])}
    assert alone < drawn
