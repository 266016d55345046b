"""`explora eval`: rows in, scores with intervals and floors out, and one line for what cannot be."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from explora.commands._scores import show_scores
from explora.core.config.registry import TASKS
from explora.core.runs.train import start_run
from explora.core.tasks.contract import Evaluation
from tests.tiny_models import finish, tiny_run

Stdin = Callable[[str | bytes], None]
OPTIONS = {"paraphrase": {"max_steps": 3}, "sentiment": {"max_steps": 3}, "sonnet": {"max_steps": 1}}


@pytest.fixture(scope="module")
def runs(tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of every task, each of a few steps."""
    folder = tmp_path_factory.mktemp("trained") / "runs"
    for task in TASKS:
        finish(start_run(tiny_run(tiny_base, tiny_data, task, **OPTIONS.get(task, {})), folder / task))
    return folder


@pytest.fixture
def here(runs: Path, tmp_path: Path) -> None:
    """The runs as runs/TASK of the folder that commands run in."""
    (tmp_path / "runs").symlink_to(runs)


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Stdin:
    def feed(content: str | bytes) -> None:
        data = content.encode() if isinstance(content, str) else content
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))

    return feed


def recorded(runs: Path, task: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((runs / task / "run.json").read_text(encoding="utf-8"))["result"]
    return result


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_a_run_scores_what_its_record_says(explora, check_schema, runs: Path, here: None, task: str) -> None:
    arguments = ["--max-length", "24"] if task == "text" else []  # else on windows of the whole context
    done = explora("eval", task, "--json", *arguments)
    assert done.code == 0
    (value,) = done.objects
    check_schema("eval", value)
    record = recorded(runs, task)
    assert value["scores"] == pytest.approx(record["scores"], rel=1e-4)
    assert value["floors"] == pytest.approx(record["floors"])
    assert (value["task"], value["split"], value["skipped"]) == (task, "dev", 0)
    assert value["run"].startswith(f"runs/{task} on ")
    (note,) = done.err.splitlines()
    assert note == f"{value['run']}, on the {value['examples']} dev rows of {value['data']}"


def test_a_run_with_a_dev_file_scores_that_file(
    explora, tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    train, dev = (str(tiny_data / "sentiment" / f"{split}.csv") for split in ("train", "dev"))
    run = tiny_run(tiny_base, tiny_data, "sentiment", max_steps=1)
    run = replace(run, data=replace(run.data, data=train, dev=dev))
    finish(start_run(run, tmp_path / "run"))
    (value,) = explora("eval", "sentiment", "run", "--json").objects
    assert (value["split"], value["data"], value["examples"]) == ("dev", dev, 5)


def test_plain_text_is_scored_on_windows_of_the_whole_context(explora, here: None) -> None:
    whole, short = (
        explora("eval", "text", "--json", *length).objects[0] for length in ([], ["--max-length", "24"])
    )
    assert whole["scores"]["perplexity"] != short["scores"]["perplexity"]
    assert whole["examples"] < short["examples"]


def test_the_table_has_value_interval_direction_and_trivial_answer(explora, here: None) -> None:
    done = explora("eval", "sentiment")
    assert "5 rows are weak evidence" in done.err
    (value,) = explora("eval", "sentiment", "--json").objects
    header, *rows = done.out.splitlines()
    assert header.split("  ")[0] == "dev (5)"
    assert [row.split()[0] for row in rows] == list(value["scores"])
    for row, (name, score) in zip(rows, value["scores"].items(), strict=True):
        low, high = value["intervals"][name]
        ends = ["unknown"] if low is None else [f"{low:.4g}", "to", f"{high:.4g}"]
        shown = [f"{score:.4g}", f"{value['floors'][name]:.4g}", "higher", *ends]
        assert row.split() == [name, *shown, *value["trivial_answers"][name].split()]


def test_many_scores_are_shown_in_groups(capsys) -> None:
    names = (
        "perplexity",
        "course_bleu_greedy",
        "bleu_greedy",
        "bleu_sampled",
        "rhyme_sampled",
        "rhyme_human",
    )
    scores = dict.fromkeys(names, 0.5)
    show_scores("dev", Evaluation(examples=1000, scores=scores, intervals=dict.fromkeys(names, (0.4, 0.6))))
    groups = [block.splitlines() for block in capsys.readouterr().out.split("\n\n")]
    assert [[line.split("  ")[0] for line in lines] for lines in groups] == [
        ["dev", "perplexity"],
        ["greedy continuations", "bleu_greedy"],
        ["sampled continuations", "bleu_sampled", "rhyme_sampled"],
        ["the poets' own text", "rhyme_human"],
        ["as in CS224N, with the given lines", "course_bleu_greedy"],
    ]


def test_quiet_leaves_the_result_alone(explora, here: None) -> None:
    loud, quiet = explora("eval", "text", "--json"), explora("eval", "text", "--json", "--quiet")
    assert (loud.out, quiet.err) == (quiet.out, "")
    assert loud.err != ""


def test_a_base_without_a_run(explora, check_schema, tiny_base: Path, tiny_data: Path) -> None:
    data = str(tiny_data / "paraphrase")
    done = explora("eval", "paraphrase", "--model", str(tiny_base), "--data", data, "--json")
    (value,) = done.objects
    check_schema("eval", value)
    assert (value["run"], value["examples"], value["split"]) == (str(tiny_base), 5, "dev")
    assert explora("eval", "paraphrase", str(tiny_base), "--data", data, "--json").objects == [value]


def test_without_data_a_base_is_scored_on_the_samples(explora, tiny_base: Path) -> None:
    done = explora("eval", "text", "--model", str(tiny_base), "--json")
    assert done.objects[0]["data"] == "samples"
    assert done.err == f"{tiny_base}, on the {done.objects[0]['examples']} dev rows of the sample data\n"


# --- rows -----------------------------------------------------------------------------------------


PAIRS = [("a b", "a c", 1), ("d", "e f", 0), ("g h i", "j", 1)]


def jsonl(rows: list[tuple[str, str, int]], label: str | None = "label") -> str:
    named = [{"sentence1": a, "sentence2": b} | ({label: y} if label else {}) for a, b, y in rows]
    return "\n".join(json.dumps(row) for row in named) + "\n"


def test_rows_come_from_standard_input(
    explora, check_schema, here: None, stdin: Stdin, tmp_path: Path
) -> None:
    (tmp_path / "pairs.jsonl").write_text(jsonl(PAIRS), encoding="utf-8")
    from_file = explora("eval", "paraphrase", "--data", "pairs.jsonl", "--json").objects[0]
    stdin(jsonl(PAIRS))
    (value,) = explora("eval", "paraphrase", "--data", "-", "--json").objects
    check_schema("eval", value)
    assert (value["split"], value["examples"], value["data"]) == ("all", 3, "-")
    assert value["scores"] == from_file["scores"]
    stdin(jsonl(PAIRS, "is_dup"))
    renamed = explora("eval", "paraphrase", "--data", "-", "--columns", "label=is_dup", "--json")
    assert renamed.objects == [value]
    stdin(jsonl(PAIRS))
    split = explora("eval", "paraphrase", "--data", "-", "--split", "dev")
    assert (split.code, split.out) == (2, "")
    assert "standard input has no splits" in split.err


def test_plain_text_comes_from_standard_input_too(explora, here: None, stdin: Stdin, tiny_data: Path) -> None:
    file = tiny_data / "text" / "dev.txt"
    stdin(file.read_bytes())
    (value,) = explora("eval", "text", "--data", "-", "--json").objects
    assert value["scores"] == explora("eval", "text", "--data", str(file), "--json").objects[0]["scores"]


def test_rows_without_labels_give_predictions_in_order(
    explora, check_schema, here: None, stdin: Stdin
) -> None:
    rows = jsonl([(f"number {i} " * (7 - i), "another", 0) for i in range(7)], label=None)
    stdin(rows)
    done = explora("eval", "paraphrase", "--data", "-", "--batch-size", "2")
    assert done.code == 0
    assert [item["id"] for item in done.objects] == [str(line) for line in range(1, 8)]
    assert {item["prediction"] for item in done.objects} <= {"0", "1"}
    assert "the rows have no labels: no scores" in done.err
    stdin(rows)
    (value,) = explora("eval", "paraphrase", "--data", "-", "--json").objects
    check_schema("eval", value)
    assert (value["scores"], value["intervals"], value["floors"], value["examples"]) == (None, {}, {}, 7)


def test_poems_of_which_only_the_given_lines_are_there(explora, here: None, tmp_path: Path) -> None:
    (tmp_path / "given.txt").write_text(
        "1\n\none,\ntwo,\nthree\n\n2\n\nfour,\nfive,\nsix\n", encoding="utf-8"
    )
    done = explora("eval", "sonnet", "--data", "given.txt", "--predictions", "out.txt")
    assert (done.code, done.out) == (0, "")
    written = (tmp_path / "out.txt").read_text(encoding="utf-8")
    assert written.startswith("--Generated Sonnets-- \n\n\n1\none,\ntwo,\nthree\n")
    assert "\n\n2\nfour,\nfive,\nsix\n" in written


def test_bad_rows_stop_or_are_counted(explora, here: None, tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("sentence1,sentence2,label\na,b,1\nc,,0\nd,e,perhaps\nf,g,0\n", encoding="utf-8")
    stopped = explora("eval", "paraphrase", "--data", "pairs.csv", "--json")
    assert (stopped.code, stopped.out) == (1, "")
    assert "error: pairs.csv:3: column sentence2: the value is empty" in stopped.err
    done = explora("eval", "paraphrase", "--data", "pairs.csv", "--json", "--skip-bad")
    assert (done.objects[0]["examples"], done.objects[0]["skipped"]) == (2, 2)
    assert "warning: skipped: pairs.csv:4: column label: 'perhaps': use yes/no, true/false or 1/0" in done.err
    assert "pairs.csv:3" in done.err
    assert "2 of 4 rows skipped" in done.err


# --- files of predictions -------------------------------------------------------------------------


def test_predictions_in_the_format_of_the_course(explora, here: None, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,sentence\nx1,one text\nx2,another\n", encoding="utf-8")
    done = explora("eval", "sentiment", "--data", "rows.csv", "--predictions", "out.csv")
    assert (done.code, done.out) == (0, "")
    assert "2 predictions in out.csv" in done.err
    header, first, second = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()
    assert header == "id \t Predicted_Sentiment "
    for line, name in ((first, "x1"), (second, "x2")):
        identity, _, label = line.partition(", ")
        assert (identity, label[-1:]) == (name, " ")
        assert label.strip() in {"0", "1", "2", "3", "4"}


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("folder", "folder is a folder"),
        ("afile/out.csv", "nothing can be written to"),
        ("nodir/out.csv", "there is no folder nodir"),
    ],
)
def test_where_predictions_cannot_go_is_said_before_the_scores(
    explora, here: None, file: str, said: str
) -> None:
    Path("folder").mkdir()
    Path("afile").touch()
    done = explora("eval", "sentiment", "--predictions", file)
    assert (done.code, done.out) == (2, "")
    assert f"--predictions: {said}" in done.err


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("rows.csv", "rows.csv holds data that this command reads"),
        ("link.csv", "link.csv holds data that this command reads"),
        ("run/adapter_model.safetensors", "is a file of the run or model in run"),
        ("run/run.json", "is a file of the run or model in run"),
        ("run/README.md", "is a file of the run or model in run"),
        ("settings.json", "its name is that of settings or weights"),
    ],
)
def test_predictions_replace_neither_data_nor_a_part_of_a_run(
    explora, tmp_path: Path, file: str, told: str
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link.csv").symlink_to("rows.csv")
    own = ("rows.csv", "settings.json", "run/adapter_model.safetensors", "run/run.json", "run/README.md")
    for name in own:
        (tmp_path / name).write_text(name, encoding="utf-8")
    done = explora("eval", "sentiment", "run", "--data", "rows.csv", "--predictions", file)
    assert (done.code, done.out) == (2, "")
    assert f"--predictions: {file}" in done.err
    assert told in done.err
    assert [(tmp_path / name).read_text(encoding="utf-8") for name in own] == list(own)


def test_predictions_do_not_replace_the_recorded_data(explora, tmp_path: Path, tiny_base: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text("sentence,label\n" + "a text,1\nanother,0\n" * 10, encoding="utf-8")
    run = tiny_run(tiny_base, tmp_path, "sentiment")
    finish(start_run(replace(run, data=replace(run.data, data=str(file))), tmp_path / "run"))
    before = file.read_bytes()
    done = explora("eval", "sentiment", "run", "--predictions", "train.csv")
    assert done.code == 2
    assert "train.csv holds data that this command reads" in done.err
    assert file.read_bytes() == before


def test_a_damaged_record_is_told_with_a_way_out(
    explora, runs: Path, tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs / "sentiment", tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("{", encoding="utf-8")
    for command in (("eval", "sentiment", "run"), ("train", "sentiment", "-o", "run", "--resume")):
        done = explora(*command)
        assert done.code == 1
        assert "the record of the run is damaged: run/run.json is not JSON" in done.err
        assert "-o run-2" in done.err
    (tmp_path / "run" / "run.json").unlink()
    rest = ("--model", str(tiny_base), "--data", str(tiny_data / "sentiment"))
    assert explora("eval", "sentiment", "run", *rest).code == 0


def test_a_damaged_record_without_weights_is_no_stopped_run(explora, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{", encoding="utf-8")
    done = explora("eval", "sentiment", "run")
    assert done.code == 1
    assert "the record of the run is damaged" in done.err


def test_predictions_as_json_lines_beside_the_scores(explora, here: None, tmp_path: Path) -> None:
    done = explora("eval", "sentiment", "--predictions", "out.jsonl", "--json")
    (value,) = done.objects
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    right = sum(line["prediction"] == line["label"] for line in lines)
    assert value["scores"]["accuracy"] == pytest.approx(right / len(lines))


def test_text_has_no_predictions_and_the_scores_are_not_lost(explora, here: None) -> None:
    done = explora("eval", "text", "--predictions", "out.csv", "--json")
    assert done.code == 2
    assert "text has no predictions" in done.err
    assert done.objects[0]["scores"]["perplexity"] > 1


# --- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ("paraphrases", 2, "did you mean paraphrase?"),
        ("sentiment --split development", 2, "no split 'development'"),
        ("sentiment --split deb", 2, "did you mean dev?"),
        ("sentiment runs/paraphrase", 1, "runs/paraphrase was trained for paraphrase, not for sentiment"),
        ("sentiment --template x", 2, "sentiment does not take --template"),
        ("sentiment --label-words a,b", 2, "sentiment does not take --label-words"),
        ("paraphrase --label-words no,yes", 1, "was trained with the label words ('yes', 'no')"),
        ("paraphrase --label-words yes", 2, "is not two different words"),
        ("sentiment --batch-size 0", 2, "--batch-size must be at least 1"),
        ("sentiment --batch-size -3", 2, "--batch-size must be at least 1"),
        ("sentiment --max-length 0", 2, "max-length must be at least 8"),
        ("sentiment --threads -1", 2, "--threads must be at least 1"),
        ("sentiment --amp fp8", 2, "amp 'fp8' is not one of"),
        ("sentiment --format foo", 2, "format 'foo' is not one of"),
        ("sentiment --device gpu9", 2, "no device is called 'gpu9'"),
        ("sentiment runs/none", 1, "runs/none"),
        ("sentiment --data none.csv", 1, "none.csv: no such file"),
        ("sentiment --model gpt3", 1, "gpt3"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    explora, here: None, arguments: str, code: int, told: str
) -> None:
    done = explora("eval", *arguments.split())
    assert (done.code, done.out) == (code, "")
    assert told in done.err
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) <= 3


def test_another_template_than_the_trained_one_is_refused(explora, here: None) -> None:
    template = "{sentence1} and {sentence2}? "
    done = explora("eval", "paraphrase", "--template", template)
    assert (done.code, done.out) == (1, "")
    assert "was trained with the template" in done.err


def test_the_trained_template_may_be_said_again(explora, here: None) -> None:
    template = TASKS["paraphrase"].defaults["template"]
    again = explora("eval", "paraphrase", "--template", template, "--label-words", "yes,no", "--json")
    assert again.objects == explora("eval", "paraphrase", "--json").objects


def test_a_base_has_no_classes_of_its_own(explora, tiny_base: Path) -> None:
    done = explora("eval", "sentiment", "--model", str(tiny_base))
    assert (done.code, done.out) == (1, "")
    assert "no classification head, which sentiment needs" in done.err
    assert "explora train sentiment" in done.err


def test_label_words_of_a_base_are_single_tokens(explora, tiny_base: Path) -> None:
    done = explora("eval", "paraphrase", "--model", str(tiny_base), "--label-words", "certainly,no")
    assert (done.code, done.out) == (2, "")
    assert "the label word 'certainly' is" in done.err


def test_bf16_is_for_whoever_asks(explora, here: None) -> None:
    exact, rounded = (
        explora("eval", "text", "--json", *amp).objects[0]["scores"] for amp in ([], ["--amp", "bf16"])
    )
    assert exact["perplexity"] == pytest.approx(rounded["perplexity"], rel=0.02)
    assert exact["perplexity"] != rounded["perplexity"]
