"""From options with several values to cells: which there are, in which order, and what they are called."""

from __future__ import annotations

from typing import Any

import pytest

from explora.core.config.precedence import fit_learning_rate, resolve
from explora.core.config.run_config import settings_of
from explora.core.sweeps import cells
from explora.core.sweeps.cells import cross
from explora.core.sweeps.names import name_cells
from explora.core.sweeps.several import Several, split_values
from explora.errors import UsageError

LORA = {"method": "lora"}


def names(**options: Any) -> list[str]:
    return [cell.name for cell in cross("paraphrase", options).cells]


def test_every_combination_is_a_cell_and_the_seed_varies_slowest() -> None:
    found = names(**LORA, rank=Several((4, 8)), learning_rate=Several((1e-3, 3e-3)), seed=Several((1, 2)))
    assert found[:4] == [
        "lora-r4-lr0.001-s1",
        "lora-r4-lr0.003-s1",
        "lora-r8-lr0.001-s1",
        "lora-r8-lr0.003-s1",
    ]
    assert found[4:] == [name.replace("-s1", "-s2") for name in found[:4]]


def test_a_cell_is_the_run_that_its_options_alone_give() -> None:
    options = {"model": "gpt2", "learning_rate": Several((0.1, 0.2)), "method": Several(("ia3", "lora"))}
    found = cross("sentiment", options).cells
    expected = resolve("sentiment", {"model": "gpt2", "learning_rate": 0.2, "method": "lora"})[0]
    assert found[-1].run == expected


def test_each_method_has_its_own_default_learning_rate_for_the_width_of_the_base() -> None:
    for cell in cross("paraphrase", {"method": Several(("lora", "full", "ia3"))}).cells:
        alone = fit_learning_rate(*resolve("paraphrase", {"method": cell.name}), width=256)[0]
        assert cell.run.optimizer.learning_rate == alone.optimizer.learning_rate


def test_a_setting_that_a_method_lacks_is_dropped_and_equal_cells_count_once() -> None:
    crossing = cross("paraphrase", {"method": Several(("lora", "ia3")), "rank": Several((4, 8))})
    assert [cell.name for cell in crossing.cells] == ["lora-r4", "lora-r8", "ia3"]
    assert crossing.dropped == ("ia3 does not take --rank",)
    assert crossing.cells[2].varied == {"method": "ia3"}


@pytest.mark.parametrize("methods", ["ia3", Several(("ia3", "full"))])
def test_a_setting_that_no_method_has_is_an_error(methods: Any) -> None:
    with pytest.raises(UsageError, match="ia3 does not take --rank"):
        cross("paraphrase", {"method": methods, "rank": Several((4, 8))})


def test_an_impossible_cell_is_named_with_its_value() -> None:
    with pytest.raises(UsageError, match=r"^--rank -1: --rank must be at least 1"):
        cross("paraphrase", {**LORA, "rank": Several((4, -1))})


def test_too_many_combinations_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "MOST_CELLS", 5)
    with pytest.raises(UsageError, match="6 combinations"):
        names(rank=Several((1, 2, 3)), seed=Several((1, 2)))


def test_lists_are_named_by_their_items_and_files_by_their_names() -> None:
    targets = Several((("key", "value"), ("c_attn",)))
    assert names(targets=targets) == ["lora-targets=key_value", "lora-targets=c_attn"]
    assert names(data=Several(("a/x.csv", "b/y.csv"))) == ["lora-data=x.csv", "lora-data=y.csv"]


@pytest.mark.parametrize(
    "values", [("a/x.csv", "b/X.csv"), ("w" * 25, "v"), ("?", "!")], ids=["same", "long", "unsafe"]
)
def test_values_without_short_safe_names_are_numbered(values: tuple[str, str]) -> None:
    assert names(data=Several(values)) == ["lora-data=1", "lora-data=2"]


def test_names_differ_where_the_shown_digits_do_not() -> None:
    found = name_cells(["lora", "lora", "full"], [{"seed": "1"}, {"seed": "1"}, {"seed": "1"}])
    assert found == ["lora-s1-1", "lora-s1-2", "full-s1"]


def test_one_item_is_a_value_and_a_bad_item_is_named() -> None:
    assert split_values("--rank", "8", int, "a whole number") == 8
    assert split_values("--rank", "4, 8", int, "a whole number") == Several((4, 8))
    for text, item in [("4,x", "'x'"), ("4,,8", "''"), ("4.5", "'4.5'")]:
        with pytest.raises(UsageError, match=f"--rank {text}: {item} is not a whole number"):
            split_values("--rank", text, int, "a whole number")


def test_settings_keep_what_every_cell_shares() -> None:
    found = cross("paraphrase", {"method": "lora", "rank": Several((4, 8)), "warmup": 0.5}).cells
    assert {settings_of(cell.run)["warmup"] for cell in found} == {0.5}
