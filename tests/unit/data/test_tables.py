"""Tables: every format, every way in which a row can be bad, and the real files, complete."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from explora.core.config.concerns import DataConfig
from explora.core.data import text_files
from explora.core.data.splits import Row, Table, read_table
from explora.errors import DataError, UsageError

REAL = Path(os.environ.get("EXPLORA_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="EXPLORA_DATA is not set")

PAIR = "id\tsentence1\tsentence2\tis_duplicate\n"


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


def read(source: str, task: str = "paraphrase", **config: object) -> Table:
    return read_table(source, task, DataConfig(**config))


def values(table: Table) -> list[dict[str, str]]:
    return [row.values for row in table.rows]


def fails(source: str, task: str = "paraphrase", **config: object) -> DataError:
    with pytest.raises(DataError) as caught:
        read(source, task, **config)
    return caught.value


# --- formats ---

MSR = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
ONE = {"sentence1": "How old is he?", "sentence2": "What is his age?", "label": "1"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "sentence1,sentence2,label\nHow old is he?,What is his age?,1\n"),
        ("a.csv", "sentence1\tsentence2\tlabel\nHow old is he?\tWhat is his age?\t1\n"),
        ("a.csv", "sentence1;sentence2;label\nHow old is he?;What is his age?;1\n"),
        ("a.tsv", "sentence1\tsentence2\tlabel\nHow old is he?\tWhat is his age?\t1"),
        ("a.txt", "question1\tquestion2\tis_duplicate\r\nHow old is he?\tWhat is his age?\t1\r\n"),
        ("a.csv", "\ufefflabel,more,Sentence2,Sentence1\n1,x,What is his age?,How old is he?\n\n"),
        ("a.jsonl", json.dumps(ONE | {"label": 1, "more": [2]}) + "\n\n"),
        ("a", "\n" + json.dumps(ONE) + "\n"),
        ("a.txt", f"\ufeff{MSR}\r\n1\t7\t8\tHow old is he?\tWhat is his age?\r\n"),
        ("a.csv", "sentence1|sentence2|label\nHow old is he?|What is his age?|1\n"),
        ("a.csv", "sep=;\r\nsentence1;sentence2;label\r\nHow old is he?;What is his age?;1\r\n"),
        ("a.csv", '"sep=|"\nsentence1|sentence2|label\nHow old is he?|What is his age?|1\n'),
        ("a.csv", "sentence1,sentence2,label\nHow old is he?,What is his age?,1,\n"),
        ("a.csv", "sentence1,sentence2,label,,\nHow old is he?,What is his age?,1\n"),
        ("a.csv", "sentence1,sentence2,label,,\nHow old is he?,What is his age?,1,a note\n"),
        ("a.csv", "sentence1;sentence2;label;a,b\nHow old is he?;What is his age?;1;x,y\n"),
        ("a.json", json.dumps([ONE])),
        ("a.json", "\ufeff" + json.dumps([ONE | {"label": 1}], indent=2).replace("\n", "\r\n")),
        ("a.jsonl", json.dumps([ONE], indent=1)),
        ("a", json.dumps([ONE])[:-1] + ",\n]\n"),
        ("a.csv", "sentence1,sentence2,label\nHow old is he?,What is his age?,1\n".encode("utf-16")),
        ("a.csv", "sentence1\tsentence2\tlabel\nHow old is he?\tWhat is his age?\t1\n".encode("utf-16-le")),
        ("a.json", json.dumps([ONE]).encode("utf-16-be")),
        ("a.tsv", "sentence1\tsentence2\tlabel\nHow old is he?\tWhat is his age?\t1\n".encode("utf-32")),
    ],
)
def test_every_format_gives_the_same_values(write, name: str, content: str | bytes) -> None:
    assert values(read(write(name, content))) == [ONE]


def test_a_row_knows_its_file_line_and_id(write) -> None:
    file = write("a.csv", 'id,sentence,label\nx1,"two\nlines",0\n\n,next,1\n')
    assert read(file, "sentiment").rows == [
        Row(file=file, line=2, id="x1", values={"sentence": "two\nlines", "label": "0"}),
        Row(file=file, line=5, id="5", values={"sentence": "next", "label": "1"}),
    ]


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(b"sentence\nfine, I think\n")

    monkeypatch.setattr("sys.stdin", Stdin)
    (row,) = read("-", "sentiment").rows
    assert (row.file, row.values) == ("<stdin>", {"sentence": "fine, I think"})


def test_without_a_label_column_rows_have_no_label(write) -> None:
    assert values(read(write("a.csv", "sentence\nfine\n"), "sentiment")) == [{"sentence": "fine"}]
    assert values(read(write("a.jsonl", '{"text": "fine"}\n'), "sentiment")) == [{"sentence": "fine"}]


@pytest.mark.parametrize("labelled", [True, False])
def test_cs224n_rows_without_a_header(write, labelled: bool) -> None:
    end, label = ("\t0.0", {"label": "0.0"}) if labelled else ("", {})
    first = f"68003\t18a4d1a93a812758ca0b98701\tWho?\tWhom?{end}\n"
    (row,) = read(write("a.csv", first)).rows
    assert (row.id, row.line) == ("18a4d1a93a812758ca0b98701", 1)
    assert row.values == {"sentence1": "Who?", "sentence2": "Whom?"} | label
    (row,) = read(write("b.csv", f"1\t18a4d1a93a812758ca0b98701\tFine{end}\n"), "sentiment").rows
    assert row.values == {"sentence": "Fine"} | label


def test_columns_are_renamed(write) -> None:
    file = write("a.csv", "Q1,q2,is_dup,label\na,b,yes,no\n")
    config = {"columns": {"sentence1": "q1", "sentence2": "q2", "label": "is_dup"}}
    assert values(read(file, **config)) == [{"sentence1": "a", "sentence2": "b", "label": "yes"}]


def test_a_canonical_name_goes_before_an_alias(write) -> None:
    file = write("a.csv", "text,sentence\nalias,canonical\n")
    assert values(read(file, "sentiment")) == [{"sentence": "canonical"}]


def test_huge_fields(write) -> None:
    long = "word " * 100_000
    (row,) = read(write("a.csv", f'sentence,label\n"{long}",1\n'), "sentiment").rows
    assert row.values["sentence"] == long.strip()


def test_msr_has_no_quoting(write) -> None:
    content = (
        'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\t"Yes" he said\t"No\n0\t1\t2\tThen "\tNow\n'
    )
    rows = values(read(write("a.txt", content)))
    assert [row["sentence1"] for row in rows] == ['"Yes" he said', 'Then "']
    unknown = (
        content.replace("Quality", "label")
        .replace("#1 String", "sentence1")
        .replace("#2 String", "sentence2")
    )
    assert values(read(write("b.txt", unknown), format="msr")) == rows
    assert "--format msr" in fails(write("b.txt", unknown)).hint


def test_a_quote_that_is_not_closed_is_told_with_its_line(write) -> None:
    error = fails(write("a.csv", 'sentence,label\ngood,1\n"bad,0\nfine,1\n'), "sentiment")
    assert (error.line, "a quote opens in this row and is not closed" in error.message) == (3, True)
    assert ("close the quote" in error.hint, "msr" in error.hint) == (True, False)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_csv_written_within_csv_is_undone(write, layers: int) -> None:
    """The oracle writes each text with csv again and again, as the files of CS224N were made."""
    texts = [
        'What is "Chajja" called?',
        '"A" or "B"',
        '"Quoted whole"',
        'An open " quote',
        "plain",
        '"',
        '"Who?" he',
    ]
    rng = random.Random(layers)
    texts += ["".join(rng.choices('ab "', k=12)).strip() or "x" for _ in range(200)]
    texts = [t for t in texts if not re.fullmatch(r'"(?:[^"]|"")*""(?:[^"]|"")*"', t)]  # csv by chance
    written = texts
    for _ in range(layers):
        written = [_as_csv(text) for text in written]
    file = write("a.csv", "sentence\tlabel\n" + "".join(f"{text}\t1\n" for text in written))
    assert [row["sentence"] for row in values(read(file, "sentiment"))] == texts


def _as_csv(text: str) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter="\t", lineterminator="").writerow([text])
    return out.getvalue()


# --- what can be wrong ---

GOOD = "7\tone\ttwo\t1\n"


@pytest.mark.parametrize(
    ("bad", "line", "column", "message"),
    [
        ("8\tone\ttwo\n", 3, "", "4 fields expected (id, sentence1, sentence2, is_duplicate), 3 found"),
        ("8\tone\ttwo\t1\tmore\n", 3, "", "5 found"),
        ("8\t \ttwo\t1\n", 3, "sentence1", "the value is empty"),
        ("8\tone\ttwo\t\n", 3, "label", "the label is empty"),
        ("8\tone\ttwo\tNaN\n", 3, "label", "'NaN' is a missing value"),
        ("8\tone\tt\0wo\t1\n", 3, "sentence2", "a NUL byte"),
        ('8\t"one" two\ttwo\t1\n', 3, "", "the quoting is broken"),
        ('8\t"one\ttwo\t1\n', 3, "", "the quoting is broken"),
        ('8\t"one\ttwo\t1\n' + GOOD + '9\t"one"\ttwo\t1\n', 3, "", "the quoting is broken"),
    ],
)
def test_a_bad_row_of_a_table(write, bad: str, line: int, column: str, message: str) -> None:
    file = write("a.csv", PAIR + GOOD + bad + GOOD)
    error = fails(file)
    assert (error.file, error.line, error.column) == (file, line, column)
    assert message in error.message
    assert "--skip-bad" in error.hint
    table = read(file, skip_bad=True)
    assert table.skipped == [error.message]
    assert error.message.startswith(f"{file}:{line}: ")
    assert [row.line for row in table.rows][:2] == [2, 4]


def test_a_bad_row_after_a_long_one_has_its_physical_line(write) -> None:
    file = write("a.csv", 'sentence,label\n"a\nb\nc",1\n,0\n')
    assert fails(file, "sentiment").line == 5


@pytest.mark.parametrize(
    ("bad", "column", "message"),
    [
        ('{"sentence": "x"', "", "invalid JSON"),
        ("[" * 100_000, "", "invalid JSON: lists or objects are nested too deeply"),
        ('["x", 1]', "", "an object {...} is expected, not a list"),
        ('{"sentence": 3, "label": 1}', "sentence", "a string is expected, not a number"),
        ('{"sentence": "x", "label": [1]}', "label", "a string is expected, not a list"),
        ('{"sentence": null, "label": 1}', "sentence", "the value is empty"),
        ('{"sentence": "x"}', "label", "the label is empty"),
        ('{"sentence": "x", "label": null}', "label", "the label is empty"),
        ('{"sentence": "x", "label": NaN}', "label", "'NaN' is a missing value"),
        ('{"sentence": "x", "label": -Infinity}', "label", "'-Infinity' is a missing value"),
        ('{"label": 1}', "sentence", "the value is empty"),
        ('{"sentence": "a\\u0000b", "label": 1}', "sentence", "a NUL byte"),
        ('{"sentence": "a\\ud800b", "label": 1}', "sentence", "half a surrogate pair"),
    ],
)
def test_a_bad_row_of_json_lines(write, bad: str, column: str, message: str) -> None:
    file = write("a.jsonl", '{"sentence": "x", "label": true}\n' + bad + "\n")
    error = fails(file, "sentiment")
    assert (error.file, error.line, error.column) == (file, 2, column)
    assert message in error.message
    table = read(file, "sentiment", skip_bad=True)
    assert values(table) == [{"sentence": "x", "label": "true"}]
    assert table.skipped == [error.message]


def test_an_object_that_is_cut_short_is_no_table(write) -> None:
    error = fails(write("rows", '{"sentence": "x"'), "sentiment")
    assert error.line == 1
    assert "invalid JSON" in error.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf \n", "the file is empty"),
        (b"sentence\tlabel\n", "no rows"),
        (b"PK\x03\x04....", "a zip file"),
        (b"\x1f\x8b....", "a gzip file"),
        (b"\x00\x01\x02\x00\x00\x00\x00\xff", "a binary file"),
        (bytes(range(256)), "a binary file"),
        (b"label\tlabel\tsentence\n1\t1\tx\n", "column label: 2 columns have this name"),
    ],
)
def test_a_file_that_cannot_be_read(write, content: bytes, message: str) -> None:
    file = write("a.csv", content)
    error = fails(file, "sentiment", skip_bad=True)
    assert message in error.message
    assert error.file == file


@pytest.mark.parametrize(
    ("line", "byte", "encoding"),
    [
        (b"caf\xe9,1", "0xE9", "cp1252"),
        (b"it\x92s \x80 5,1", "0x92", "cp1252"),
        ("Привет,1".encode("cp1251"), "0xCF", ""),
        ("映画は良い,1".encode("shift_jis"), "0x89", ""),
    ],
)
def test_another_encoding_is_found_with_its_line_and_read_when_it_is_named(
    write, line: bytes, byte: str, encoding: str
) -> None:
    file = write("a.csv", b"sentence,label\nfine,1\n" + line + b"\n")
    error = fails(file, "sentiment")
    assert error.line == 3
    assert f"byte {byte} is not UTF-8" in error.message
    assert (f"--encoding {encoding}" if encoding else "name its encoding") in error.hint
    if encoding:
        text = line.decode(encoding).split(",")[0]
        assert values(read(file, "sentiment", encoding=encoding))[1]["sentence"] == text


def test_an_encoding_that_does_not_fit_or_does_not_exist(write) -> None:
    file = write("a.csv", b"sentence,label\ncaf\x81,1\n")
    assert "a.csv:2: byte 0x81 is not CP1252" in fails(file, "sentiment", encoding="cp1252").message
    for unknown in ("cp12x", "base64"):
        with pytest.raises(UsageError, match=f"--encoding '{unknown}' is not a text encoding"):
            read(file, "sentiment", encoding=unknown)


def test_a_file_without_a_header_is_mapped_by_position(write) -> None:
    file = write("a.csv", "1;a good, long film\n0;bad\n")
    mapped = {"columns": {"sentence": "2", "label": "1"}}
    assert values(read(file, "sentiment", **mapped)) == [
        {"sentence": "a good, long film", "label": "1"},
        {"sentence": "bad", "label": "0"},
    ]
    assert "--columns sentence=1,label=2" in fails(file, "sentiment").hint
    with_header = write("b.csv", "label,text\n1,fine\n")
    assert values(read(with_header, "sentiment", **mapped)) == [{"sentence": "fine", "label": "1"}]


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (
            '[\n{"sentence": "x", "label": 1},\n{"sentence": }\n]',
            3,
            "invalid JSON in an array: Expecting value",
        ),
        ('[{"sentence": "x", "label": 1}\n\n{"sentence": "y"}]', 3, "a comma or ] is expected"),
        ('[{"sentence": "x", "label": 1}', 1, "a comma or ] is expected"),
        ('[\n{"sentence": "x", "label": 1},\n\n  3]', 4, "an object {...} is expected, not a number"),
        ('[{"sentence": "x", "label": 1}]\nmore', 1, "text after the end of the array"),
        ('[{"a": ' + "[" * 100_000, 1, "invalid JSON: lists or objects are nested too deeply"),
        ("[]", 1, "the objects have no keys"),
        ('{"data": [{"sentence": "x", "label": 1}]}', 0, "the rows are in the list 'data' of one object"),
    ],
)
def test_a_broken_array_is_told_with_its_line(write, content: str, line: int, message: str) -> None:
    error = fails(write("a.json", content), "sentiment")
    assert (error.line, message in error.message) == (line, True), error.message


def test_a_missing_file_and_a_folder(write, tmp_path: Path) -> None:
    write("near.csv", "x")
    write("script.py", "x")
    for folder, file in (("data", "train.tsv"), ("figures", "a.png"), ("run", "run.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).touch()
    missing = fails(str(tmp_path / "far.csv"))
    assert "no such file" in missing.message
    assert missing.hint == f"{tmp_path} has data, near.csv"
    assert "a folder" in fails(str(tmp_path)).message


def test_only_bad_rows_is_an_error_even_when_they_are_skipped(write) -> None:
    assert "no usable row" in fails(write("a.csv", PAIR + "1\t\t\t\n"), skip_bad=True).message


def test_a_missing_column_names_those_there_are(write) -> None:
    error = fails(write("a.csv", "sentense1,sentence2,label\na,b,1\n"))
    assert error.line == 1
    assert (
        "no column 'sentence1'; did you mean sentense1? (there are 'sentense1', 'sentence2', 'label')"
        in error.message
    )
    assert error.hint == "name it: --columns sentence1=sentense1"
    error = fails(write("b.csv", "sentence1,sentence2,is_dupe\na,b,1\n"), columns={"label": "is_dup"})
    assert "no column 'is_dup'; did you mean is_dupe?" in error.message


def test_a_column_that_the_task_does_not_have(write) -> None:
    with pytest.raises(UsageError, match="'lable'; did you mean label"):
        read(write("a.csv", "sentence1,sentence2\na,b\n"), columns={"lable": "x"})


def test_no_bytes_raise_anything_but_a_data_error(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(5)
    pieces = [
        b'"',
        b"\t",
        b"\n",
        b",",
        b"\r",
        b"a",
        b"\0",
        b"\xff",
        b"{",
        b'{"sentence":',
        b"1}",
        b"sentence",
        b";",
        b"|",
        b"[",
        b"]",
        b"[{",
        b"sep=",
        b"nan",
        b"\xff\xfe",
        b"\x92",
    ]
    for number in range(2000):
        content = b"".join(rng.choices(pieces, k=rng.randrange(25)))
        if number % 2:
            content = b"sentence\tlabel\n" + content
        monkeypatch.setattr(text_files, "read_bytes", lambda _, content=content: content)
        file = f"a.{rng.choice(['csv', 'tsv', 'txt', 'jsonl', 'json'])}"
        columns = rng.choice([{}, {"sentence": "1"}, {"sentence": "1", "label": "2"}])
        for skip_bad in (False, True):
            with contextlib.suppress(DataError):
                read(file, "sentiment", skip_bad=skip_bad, columns=columns)


# --- the real files ---


@needs_data
@pytest.mark.parametrize(
    ("file", "task", "count", "labels"),
    [
        ("quora/quora-raw-no-header.csv", "paraphrase", 8507, {"0.0": 5332, "1.0": 3175}),
        ("quora/quora-train.csv", "paraphrase", 31729, {"0.0": 20095, "1.0": 11634}),
        ("quora/quora-dev.csv", "paraphrase", 10000, {"0.0": 6303, "1.0": 3697}),
        ("cfimdb/ids-cfimdb-train.csv", "sentiment", 1707, {"0": 856, "1": 851}),
        ("cfimdb/ids-cfimdb-dev.csv", "sentiment", 245, {"0": 123, "1": 122}),
        ("cfimdb/ids-cfimdb-test-student.csv", "sentiment", 488, {None: 488}),
        ("sst/ids-sst-train.csv", "sentiment", 8544, {"3": 2322, "1": 2218, "2": 1624, "4": 1288, "0": 1092}),
        ("sst/ids-sst-dev.csv", "sentiment", 1101, {"1": 289, "3": 279, "2": 229, "4": 165, "0": 139}),
        ("sst/ids-sst-test-student.csv", "sentiment", 2210, {None: 2210}),
    ],
)
def test_the_course_files_are_read_completely(file: str, task: str, count: int, labels: dict) -> None:
    rows = read(str(REAL / file), task).rows
    assert len(rows) == count
    assert Counter(row.values.get("label") for row in rows) == labels
    assert all(re.fullmatch("[0-9a-f]{25}", row.id) for row in rows)
    assert len({row.id for row in rows}) == count
    # one row a physical line: no field has swallowed another row, and none was lost
    lines = [row.line for row in rows]
    assert lines == list(range(lines[0], lines[0] + count))
    assert not any("\t" in text or "\n" in text for row in rows for text in row.values.values())
    if task == "paraphrase":
        assert not any('""' in text for row in rows for text in row.values.values())


@needs_data
def test_mrpc_is_read_completely() -> None:
    rows = read(str(REAL / "mrpc/msr_paraphrase_train.txt"), format="msr").rows
    assert len(rows) == 4076
    assert Counter(row.values["label"] for row in rows) == {"1": 2753, "0": 1323}
    assert all(row.values["sentence1"].count('"') < 12 for row in rows)
