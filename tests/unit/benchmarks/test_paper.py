"""The paper's tables: their plan, their commands and prices, and what is matched with the study."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks.paper.__main__ import END, PLAN, START, between_markers, read_counts
from benchmarks.paper.commands import list_commands
from benchmarks.paper.matching import studied, training_rows
from benchmarks.paper.prices import Count, price_of
from benchmarks.paper.published import read_published
from benchmarks.paper.tables import NOT_RUN, UNKNOWN, Material, chrf, costs, prices, scores
from benchmarks.study.plan import Cell, Plan, read_plan
from benchmarks.study.rows import Row
from explora.cli import app

SPEED = 1e12  # floating-point operations per second
COUNT = Count(rows=100, tokens=4000, predicted=100)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return read_plan(PLAN)


@pytest.fixture(scope="module")
def study() -> Plan:
    return read_plan()


def cost(method: str, speed: float, memory: int, rank: int | None = None) -> Row:
    return {
        "command": "explora bench paraphrase --model random:gpt2 --targets key,value",
        "method": method,
        "rank": rank,
        "error": None,
        "matrix_share": 0.5,
        "matrix_peak": 2 * SPEED,
        "tokens_per_second": speed,
        "peak_memory_bytes": memory,
    }


COSTS = [cost("full", 500, 3_000_000_000), cost("lora", 1000, 1_500_000_000, rank=8)]


def trained(stage: str, data: str, contender: str, score: float, **facts: Any) -> Row:
    rows = facts.pop("examples", 4000)
    return {
        "cell": f"{facts.get('base', 'embedded')}/{data}-{rows}-{stage}/{contender}/lr0.001-seed1",
        "stage": stage,
        "data": data,
        "base": "embedded",
        "contender": contender,
        "power": 0,
        "seed": 1,
        "dev": score,
        "score": score,
        "higher_is_better": True,
        "examples": rows,
        "settings": {"learning_rate": 0.001},
    } | facts


def cells_of(plan: Plan, name: str) -> list[Cell]:
    return plan.cells(plan.stage(name), [])


def material(plan: Plan, study: Plan, rows: list[Row], study_rows: list[Row]) -> Material:
    floor = {
        "floor": "untrained",
        "data": "sonnets",
        "base": "embedded",
        "trivial": {"course_chrf_sampled": 41.5, "chrf_sampled": 26.0},
        "trivial_answers": {"course_chrf_sampled": "another poem's end"},
        "scores": {"course_chrf_sampled": 40.0, "chrf_sampled": 24.0},
    }
    return Material(
        plan=plan,
        rows=rows,
        study=study,
        study_rows=study_rows,
        floors=[floor],
        costs=COSTS,
        counts=dict.fromkeys(plan.data, COUNT),
        published=read_published(),
    )


def lines_of(table: str) -> dict[tuple[str, ...], list[str]]:
    """Return the lines of a Markdown table by their first three cells."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    return {tuple(line[:3]): line for line in lines}


def test_table_1_has_every_method_and_batch_size_of_both_data_sets(plan: Plan):
    found = {
        (stage.data, contender, stage.batch_size)
        for stage in plan.stages
        if stage.data in ("sst", "cfimdb")
        for contender in stage.contenders
    }
    assert found == {
        (data, method, size)
        for data in ("sst", "cfimdb")
        for method in ("full", "last-linear")
        for size in (8, 16, 64)
    }


def test_learning_rates_are_those_of_the_width_of_the_base(plan: Plan):
    assert [cell.settings["learning_rate"] for cell in cells_of(plan, "sst-full-16")] == [
        1.1e-5, 3.3e-5, 1e-4, 3e-4,
    ]  # fmt: skip
    on_embedded = cells_of(plan.on("embedded"), "sst-full-16")
    assert [cell.settings["learning_rate"] for cell in on_embedded] == [3.3e-5, 1e-4, 3e-4, 9e-4]


def test_a_base_in_a_folder_leaves_the_runs_where_they_are(plan: Plan):
    cell = replace(cells_of(plan, "sonnets")[0], base="/models/gpt2")
    assert cell.name.startswith("gpt2/sonnets-all/full/")


def test_contenders_mean_what_they_mean_in_the_study(plan: Plan, study: Plan):
    assert plan.contenders.items() <= study.contenders.items()


def test_every_command_is_one_that_explora_takes(plan: Plan):
    lines = list(list_commands(plan, [], read_counts(), [], Path("splits")))
    train = typer.main.get_command(app).commands["train"]
    commands = [shlex.split(line) for line in lines if not line.startswith("#")]
    for words in commands:
        train.make_context("train", words[2:])
    assert len(commands) == sum(len(cells_of(plan, stage.name)) for stage in plan.stages)


def test_commands_leave_out_trained_cells(plan: Plan):
    cell = cells_of(plan, "quora")[0]
    row = {"cell": cell.name, "stage": "quora", "contender": "full", "power": cell.power, "dev": None}
    before, after = (
        list(list_commands(plan, rows, read_counts(), [], Path("splits"))) for rows in ([], [row])
    )
    assert len(before) - len(after) == 2
    assert not any(cell.name in line for line in after)


def test_hours_are_operations_over_the_measured_speed(plan: Plan):
    cell = cells_of(plan, "quora")[0]
    price = price_of(cell, COUNT, COSTS)
    assert price.steps == 3 * 7
    assert price.tokens == 3 * COUNT.tokens
    assert price.hours == pytest.approx(price.flop / SPEED / 3600)
    assert price_of(cell, COUNT, []).hours is None


def test_a_frozen_model_reads_each_row_once(plan: Plan):
    price = price_of(cells_of(plan, "sst-last-linear-16")[0], COUNT, COSTS)
    assert price.steps == 10 * 7
    assert price.tokens == COUNT.tokens


def test_the_study_is_matched_by_batch_size_and_most_training_rows(study: Plan):
    rows = [
        trained("quora-rates", "quora", "full", 0.7),
        trained("quora-16000", "quora", "full", 0.8, examples=16000),
        trained("quora-convergence", "quora", "full", 0.9, examples=20000),
        trained("sst-batch-64", "sst", "full", 0.4),
    ]
    quora = studied(study, rows, "quora", "full", 16)
    assert quora is not None and (quora.score, training_rows(quora)) == (0.8, 16000)
    small, large = (studied(study, rows, "sst", "full", size) for size in (16, 64))
    assert small is None
    assert large is not None and large.score == 0.4


def test_scores_stand_beside_published_ones(plan: Plan, study: Plan):
    rows = [trained("sst-full-16", "sst", "full", 0.5, base="openai-community/gpt2")]
    on_embedded = [trained("sst-rates", "sst", "full", 0.425)]
    stages = [stage for stage in plan.stages if stage.data == "sst"]
    lines = lines_of(scores(stages, material(plan, study, rows, on_embedded)))
    assert lines["sst", "full", "16"][3:] == [
        UNKNOWN, "0.513 (handout)", "0.500", "0.425 (4,000 rows, 0.001, one seed)", "-0.088",
    ]  # fmt: skip
    assert lines["sst", "full", "8"][5:] == [NOT_RUN, NOT_RUN, ""]


def test_sonnets_have_both_scales_and_what_they_must_beat(plan: Plan, study: Plan):
    found = {"course_chrf_sampled": 41.0, "chrf_sampled": 25.0}
    row = trained("sonnets-rates", "sonnets", "full", 60.0, scores=found, higher_is_better=False)
    lines = [line.split(" | ") for line in chrf(material(plan, study, [], [row])).splitlines()]
    by_answer = {line[0].strip("| "): [cell.strip("| ") for cell in line[1:]] for line in lines}
    assert by_answer["another poem's end"][4:] == ["41.50", "", "26.00"]
    assert by_answer["full"][2:] == [NOT_RUN, NOT_RUN, "41.00", "-0.91", "25.00"]


def test_costs_are_over_full_fine_tuning_of_the_same_measurement(plan: Plan, study: Plan):
    lines = {line.split(" | ")[0]: line for line in costs(material(plan, study, [], [])).splitlines()}
    assert "| 294,912 (0.237 %) |" in lines["| lora-r8-kv"]
    assert lines["| lora-r8-kv"].endswith("| 1,000 | 0.50 | 1,500 MB | 0.50 |")
    assert "not measured" in lines["| lora-r4-kv"]


def test_an_unknown_speed_makes_the_sum_of_hours_unknown(plan: Plan, study: Plan):
    lines = {line.split(" | ")[0]: line for line in prices(material(plan, study, [], [])).splitlines()}
    assert lines["| sonnets"].endswith(f"| {UNKNOWN} |")
    assert not lines["| sst-full-16"].endswith(f"| {UNKNOWN} |")


def test_new_tables_replace_the_old_ones_and_nothing_else():
    page = f"before\n{START}old\n{END}after\n"
    assert between_markers(page, "new") == f"before\n{START}\nnew\n{END}after\n"
    assert between_markers(between_markers(page, "other"), "new") == between_markers(page, "new")
