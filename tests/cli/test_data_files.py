"""Data files through the commands: what `train` tells about them, what `eval` reuses, closed streams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Explora = Callable[..., Any]


@pytest.fixture
def fit(explora: Explora, tiny_base: Path, tmp_path: Path) -> Explora:
    """Train one step on the rows of a file, which is dev set too: `fit("sentiment", "a.csv", content)`."""

    def train(task: str, name: str, content: str | bytes, *arguments: str) -> Any:
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(data)
        options = ["--model", str(tiny_base), "--data", name, "--dev", name, "--last-linear", "--overwrite"]
        machine = ["--device", "cpu", "--amp", "off", "--threads", "1"]
        return explora("train", task, *options, *machine, *arguments)

    return train


def test_training_shows_the_labels_and_warns_of_few_steps(fit: Explora) -> None:
    done = fit("sentiment", "a.csv", "sentence,label\n" + "good,1\n" * 3 + "bad,007\n", "--epochs", "1")
    assert done.code == 0
    assert "training labels: '1': 3, '007': 1\n" in done.err
    assert (
        "this run has 1 optimizer step, which may be too few to learn much: raise --epochs (now 1)"
        in done.err
    )
    assert "always answering" not in done.err


def test_one_class_that_has_nearly_all_rows_is_warned_of(fit: Explora) -> None:
    rows = "good,1\n" * 39 + "bad,0\n"
    done = fit("sentiment", "a.csv", "sentence,label\n" + rows, "--max-steps", "1")
    assert "97.5% of the training rows have the label '1'" in done.err
    assert "optimizer step" not in done.err, "the number was asked for"
    told = 'dev accuracy: no better than the best trivial answer, "always '
    assert told in done.err and "--learning-rate" in done.err
    assert fit("sentiment", "b.csv", "sentence,label\ngood,1\nbad,1\n").code == 1


def test_a_high_rank_for_few_rows_is_warned_of(explora: Explora, tiny_base: Path, tiny_data: Path) -> None:
    words = ["train", "sentiment", "--model", str(tiny_base), "--data", str(tiny_data / "sentiment")]
    words += ["--max-steps", "1", "--overwrite", "--device", "cpu", "--amp", "off", "--threads", "1"]
    warning = "rank 16 is high for 22 training rows"
    assert warning in explora(*words, "--lora", "16").err
    assert warning not in explora(*words, "--lora", "8").err


def test_a_table_read_as_plain_text_is_warned_of(explora: Explora, tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n" + "a line of words\n" * 20)
    (tmp_path / "a.txt").write_text("a line of words\n" * 20)
    for name, warned in (("a.csv", True), ("a.txt", False)):
        done = explora("eval", "text", str(tiny_base), "--data", name)
        assert done.code == 0, done.err
        assert (f"{name} is read as plain text" in done.err) == warned


def test_eval_reuses_the_mapping_of_the_run(fit: Explora, explora: Explora, tmp_path: Path) -> None:
    rows = "1|a good film\n0|a bad film\n"
    assert fit("sentiment", "a.csv", rows, "--columns", "sentence=2,label=1", "--max-steps", "1").code == 0
    (tmp_path / "b.csv").write_text(rows * 2)
    (tmp_path / "c.csv").write_text("sentence,label\nfine,1\n")
    for file, count in (("b.csv", 4), ("c.csv", 1)):
        done = explora("eval", "sentiment", "--data", file, "--json")
        assert done.code == 0, done.err
        assert done.objects[0]["examples"] == count
    wrong = explora("eval", "sentiment", "--data", "c.csv", "--columns", "sentence=review")
    assert "c.csv:1: no column 'review'" in wrong.err


def test_the_labels_of_a_run_are_read_in_any_spelling(fit: Explora, explora: Explora, tmp_path: Path) -> None:
    content = '[{"sentence": "good", "label": true}, {"sentence": "bad", "label": false}]'
    assert fit("sentiment", "a.json", content, "--max-steps", "1").code == 0
    (tmp_path / "b.csv").write_text("sentence,label\ngood,True\nbad,FALSE\n")
    done = explora("eval", "sentiment", "--data", "b.csv", "--json")
    assert done.objects[0]["scores"] is not None


def test_the_course_s_token_ids_are_read_and_written(
    explora: Explora, tiny_base: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("id,sentence1,sentence2,label\nq1,a,b,8505\nq2,c,d,3919\n")
    arguments = ["paraphrase", "--model", str(tiny_base), "--data", "a.csv", "--predictions"]
    assert explora("eval", *arguments, "digits.csv").code == 0
    assert explora("eval", *arguments, "ids.csv", "--course-labels", "ids").code == 0
    digits = (tmp_path / "digits.csv").read_text()
    ids = (tmp_path / "ids.csv").read_text()
    assert set(digits.split()[-1]) <= {"0", "1"}
    assert ids == digits.replace(", 1 ", ", 8505 ").replace(", 0 ", ", 3919 ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sentiment --predictions a.csv --course-labels ids", "sentiment has no labels that are token ids"),
        ("paraphrase --course-labels ids", "needs a file in the course's format"),
        ("paraphrase --predictions a.jsonl --course-labels ids", "needs a file in the course's format"),
        ("paraphrase --predictions a.csv --course-labels words", "is not one of digits, ids"),
    ],
)
def test_course_labels_that_make_no_sense(explora: Explora, arguments: str, message: str) -> None:
    done = explora("eval", *arguments.split())
    assert (done.code, message in done.err) == (2, True)


def test_a_closed_standard_input_is_told(
    explora: Explora, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    for arguments in ("eval paraphrase --data -", "generate text --prompt -"):
        done = explora(*arguments.split(), "--model", str(tiny_base))
        assert (done.code, "error: <stdin>: standard input is closed" in done.err) == (1, True)


def test_a_cache_that_cannot_be_written_is_one_warning(
    explora: Explora, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("A text of a few words.\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a.txt"))
    done = explora("eval", "text", "--model", str(tiny_base), "--data", "a.txt", "--json")
    assert done.code == 0
    assert done.err.count("warning:") == 1 and "set XDG_CACHE_HOME" in done.err


def test_a_bad_row_of_a_file_with_both_splits_is_told_and_counted_once(
    explora: Explora, tiny_base: Path, tmp_path: Path
) -> None:
    rows = "".join(f"row {number},{number % 2}\n" for number in range(18))
    (tmp_path / "a.csv").write_text(f"sentence,label\n{rows},1\n,0\n")
    options = [
        "--model",
        str(tiny_base),
        "--data",
        "a.csv",
        "--last-linear",
        "--max-steps",
        "1",
        "--skip-bad",
    ]
    done = explora("train", "sentiment", *options, "--json")
    assert (done.code, done.objects[0]["skipped"]) == (0, 2)
    assert (done.err.count("warning: skipped: a.csv:20"), done.err.count("warning: skipped:")) == (1, 2)
    assert "2 of 20 rows skipped" in done.err
