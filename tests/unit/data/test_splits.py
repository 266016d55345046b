"""Splits: a tenth of a file, the files of a folder, the samples, the named data sets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from explora.core.config.concerns import DataConfig
from explora.core.data.splits import SplitFile, dev_indices, find_split, load_split, read_table
from explora.errors import DataError, UsageError

REAL = Path(os.environ.get("EXPLORA_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="EXPLORA_DATA is not set")


def sentences(path: Path, count: int = 30, header: str = "sentence\tlabel") -> Path:
    path.write_text(header + "\n" + "".join(f"text {i}\t{i % 2}\n" for i in range(count)))
    return path


def texts(config: DataConfig, split: str, seed: int = 1, task: str = "sentiment") -> list[str]:
    return [row.values["sentence"] for row in load_split(task, config, split, seed).rows]


@pytest.mark.parametrize("count", [2, 3, 14, 30, 101])
def test_a_tenth_of_a_file_is_dev(tmp_path: Path, count: int) -> None:
    config = DataConfig(data=str(sentences(tmp_path / "a.tsv", count)))
    train, dev = texts(config, "train"), texts(config, "dev")
    everything = [f"text {i}" for i in range(count)]
    assert len(dev) == max(1, round(count / 10))
    assert sorted(train + dev, key=everything.index) == everything
    assert [t for t in everything if t in set(train)] == train
    assert [t for t in everything if t in set(dev)] == dev
    assert texts(config, "dev") == dev


def test_the_dev_rows_depend_on_the_seed_alone() -> None:
    assert dev_indices(40, 11711) == {4, 5, 29, 30}  # written down: it must never change
    assert len({dev_indices(1000, seed) for seed in range(20)}) == 20
    counts = [sum(index in dev_indices(50, seed) for seed in range(400)) for index in range(50)]
    assert min(counts) > 15 and max(counts) < 70  # each row about as often as any other


def test_a_dev_file_leaves_the_data_whole(tmp_path: Path) -> None:
    data, dev = sentences(tmp_path / "a.tsv"), sentences(tmp_path / "b.tsv", 3)
    config = DataConfig(data=str(data), dev=str(dev))
    assert len(texts(config, "train")) == 30
    assert len(texts(config, "dev")) == 3
    assert find_split("sentiment", config, "train") == SplitFile(file=str(data), whole=True)


def test_one_row_cannot_be_both(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one row cannot be both") as caught:
        texts(DataConfig(data=str(sentences(tmp_path / "a.tsv", 1))), "train")
    assert "--dev FILE" in caught.value.hint


def test_one_file_has_no_test_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no test split"):
        texts(DataConfig(data=str(sentences(tmp_path / "a.tsv"))), "test")


def test_stdin_has_no_splits() -> None:
    with pytest.raises(UsageError):
        load_split("sentiment", DataConfig(data="-"), "dev", 1)


def test_train_rows_are_labelled_and_test_rows_need_not_be(tmp_path: Path) -> None:
    sentences(tmp_path / "train.tsv", header="sentence\tclass")
    sentences(tmp_path / "test.tsv", header="sentence\tclass")
    config = DataConfig(data=str(tmp_path))
    assert len(texts(config, "test")) == 30
    with pytest.raises(DataError, match="nothing to learn") as caught:
        texts(config, "train")
    assert "--columns label=NAME" in caught.value.hint
    assert len(texts(DataConfig(data=str(tmp_path), columns={"label": "class"}), "train")) == 30


def test_a_folder_has_one_file_for_each_split(tmp_path: Path) -> None:
    names = [
        "ids-sst-train.csv",
        "greatest-dev.csv",
        "ids-test-student.csv",
        "README.md",
        ".test.csv.swp",
        ".dev.csv",
    ]
    for number, name in enumerate(names, 3):
        sentences(tmp_path / name, number)
    config = DataConfig(data=str(tmp_path))
    assert [len(texts(config, split)) for split in ("train", "dev", "test")] == [3, 4, 5]


def test_a_split_within_a_word_is_found_when_no_word_is_it(tmp_path: Path) -> None:
    sentences(tmp_path / "Training.CSV")
    assert find_split("sentiment", DataConfig(data=str(tmp_path)), "train").file == str(
        tmp_path / "Training.CSV"
    )


def test_several_files_or_none_are_listed(tmp_path: Path) -> None:
    sentences(tmp_path / "a-train.csv")
    sentences(tmp_path / "b-train.csv")
    config = DataConfig(data=str(tmp_path))
    with pytest.raises(
        DataError, match=r"'train' in its name is expected, 2 found; there are: a-train.csv, b-train.csv"
    ):
        texts(config, "train")
    with pytest.raises(
        DataError, match=r"'dev' in its name is expected, 0 found; there are: a-train.csv, b-train.csv"
    ):
        texts(config, "dev")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no data file"):
        texts(DataConfig(data=str(tmp_path / "empty")), "train")


def test_a_missing_path(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        with pytest.raises(DataError, match="no such file"):
            texts(DataConfig(data=str(tmp_path / "nowhere")), split)


def test_sonnets_of_the_course_give_whole_poems_for_dev(tmp_path: Path) -> None:
    for name in (
        "sonnets.txt",
        "sonnets_held_out.txt",
        "sonnets_held_out_dev.txt",
        "TRUE_sonnets_held_out_dev.txt",
    ):
        (tmp_path / name).write_text(f"1\n\nFirst line of {name}\n")
    found = [
        find_split("sonnet", DataConfig(data=str(tmp_path)), split).file for split in ("train", "dev", "test")
    ]
    assert [Path(file).name for file in found] == [
        "sonnets.txt",
        "TRUE_sonnets_held_out_dev.txt",
        "sonnets_held_out.txt",
    ]


@pytest.mark.parametrize("task", ["paraphrase", "sentiment", "sonnet", "text"])
@pytest.mark.parametrize("split", ["train", "dev"])
def test_the_samples_of_the_package(task: str, split: str) -> None:
    table = load_split(task, DataConfig(), split, 1)
    assert len(table.rows) > 1
    assert table.skipped == []


def test_text_is_split_by_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(f"document {i}\nmore" for i in range(20)))
    config = DataConfig(data=str(path))
    train, dev = (load_split("text", config, split, 1).rows for split in ("train", "dev"))
    assert (len(train), len(dev)) == (18, 2)
    assert sorted(row.line for row in train + dev) == list(range(1, 60, 3))


@needs_data
@pytest.mark.parametrize(
    ("name", "task", "counts"),
    [
        ("quora", "paraphrase", {"train": 31729, "dev": 10000}),
        ("sst", "sentiment", {"train": 8544, "dev": 1101, "test": 2210}),
        ("cfimdb", "sentiment", {"train": 1707, "dev": 245, "test": 488}),
        ("sonnets", "sonnet", {"train": 131, "dev": 12, "test": 12}),
    ],
)
def test_the_course_folders_work_as_they_are(
    name: str, task: str, counts: dict[str, int], monkeypatch, tmp_path
) -> None:
    for split, count in counts.items():
        assert len(load_split(task, DataConfig(data=str(REAL / name)), split, 1).rows) == count
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()  # a bare known name is the data set, even where a folder is called so
    assert len(load_split(task, DataConfig(data=name), "dev", 1).rows) == counts["dev"]
    with pytest.raises(DataError, match="no data file"):
        load_split(task, DataConfig(data=f"./{name}"), "dev", 1)


@needs_data
def test_a_file_and_its_parts_on_real_rows() -> None:
    path = str(REAL / "quora" / "quora-raw-no-header.csv")
    everything = read_table(path, "paraphrase", DataConfig()).rows
    train, dev = (
        load_split("paraphrase", DataConfig(data=path), split, 7).rows for split in ("train", "dev")
    )
    assert (len(train), len(dev)) == (7656, 851)
    assert sorted(train + dev, key=lambda row: row.line) == everything


def test_a_word_that_is_no_data_set_names_those_that_are() -> None:
    with pytest.raises(
        DataError, match="no data set, file or folder is called 'quorra'; did you mean quora"
    ) as caught:
        find_split("paraphrase", DataConfig(data="quorra"), "train")
    assert "sst, " in caught.value.hint or "quora, " in caught.value.hint
    with pytest.raises(DataError, match="no such file"):
        find_split("paraphrase", DataConfig(data="quorra.csv"), "train")
