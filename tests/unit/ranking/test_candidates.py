"""Candidates without a folder of their own: bases, and settings that the machine chose."""

from __future__ import annotations

import dataclasses

import pytest

from explora.core.config.concerns import DataConfig
from explora.core.config.precedence import resolve
from explora.core.ranking.candidates import Candidate, choose_data, find_candidates
from explora.errors import UsageError


def test_names_that_are_no_paths_may_be_bases_and_count_once() -> None:
    candidates, left_out = find_candidates("text", ["embedded", "embedded", "gpt2"])
    assert [each.name for each in candidates] == ["embedded", "gpt2"]
    assert left_out == []
    assert candidates[0].method_label == "none"


def test_the_seed_and_what_the_machine_chose_are_no_settings() -> None:
    one, other = (
        Candidate(name="r", run=resolve("sentiment", {"seed": seed, "threads": seed})[0]) for seed in (1, 2)
    )
    assert one.settings() == other.settings()
    assert "learning-rate" in one.settings()


def test_the_data_of_the_command_counts_and_else_that_of_the_runs() -> None:
    def trained(name: str, data: str) -> Candidate:
        run = resolve("sentiment", {})[0]
        return Candidate(name=name, run=dataclasses.replace(run, data=DataConfig(data=data)))

    sst, own = trained("one", "sst"), trained("two", "own.csv")
    assert choose_data([sst], None) == (DataConfig(data="sst"), DataConfig(data="sst"))
    assert choose_data([Candidate(name="embedded")], None) == (DataConfig(), DataConfig())
    asked = DataConfig(data="own.csv", skip_bad=True)
    assert choose_data([sst, own], asked) == (asked, DataConfig(data="own.csv"))
    with pytest.raises(
        UsageError, match=r"one and two were trained on different data: data sst and own\.csv"
    ):
        choose_data([sst, own], None)
