"""explora and the peers' scripts do the same work, here on a tiny base; planted differences are refused."""

from __future__ import annotations

import csv
import io
import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from explora.core.config.registry import PARAPHRASE_TEMPLATE, TASKS
from tests.cells_here import ask_here

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import kinds  # noqa: E402
import prepare  # noqa: E402
from kinds import KINDS, Refused, Repeat  # noqa: E402
from prepare import Scratch  # noqa: E402
from processes import Done, script  # noqa: E402

# peft 0.21 asks transformers 5.23 for a name that it is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def test_the_peer_spells_explora_s_cloze_out():
    peer = runpy.run_path(str(BENCHMARKS / "peers" / "eval.py"))
    assert peer["TEMPLATE"] == PARAPHRASE_TEMPLATE
    assert peer["LABEL_WORDS"] == TASKS["paraphrase"].defaults["label_words"][::-1]


@pytest.fixture
def here(monkeypatch, capsys):
    """Run in this process what the benchmarks would start; `edits` changes a script's source on its way."""
    edits: dict[str, str] = {}

    def run(command: list[str], given: str = "", environment: object = None) -> Done:
        words = command[1:]
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
            if words[:2] == ["-m", "explora"]:
                from explora.cli import main

                code = main(words[2:])
                captured = capsys.readouterr()
                assert code == 0, captured.err
            else:
                patch.setattr("sys.argv", words)
                source = Path(words[0]).read_text(encoding="utf-8")
                for old, new in edits.items():
                    source = source.replace(old, new)
                exec(compile(source, words[0], "exec"), {"__name__": "__main__"})
                captured = capsys.readouterr()
        return Done(out=captured.out, seconds=1.0, first_output_seconds=1.0, peak_memory_bytes=1)

    monkeypatch.setattr(kinds, "run", run)
    monkeypatch.setattr(prepare, "run", run)
    monkeypatch.setattr(kinds, "ask", ask_here)
    return edits


@pytest.fixture
def scratch(tmp_path, tiny_base, tiny_data) -> Scratch:
    """What prepare.py makes, tiny: the base, short pairs and sentences."""
    where = Scratch(tmp_path)
    shutil.copytree(tiny_base, where.base)
    for folder, task in ((where.pairs, "paraphrase"), (where.sentences, "sentiment")):
        for split, source in (("train", "train"), ("dev", "dev"), ("test", "dev")):
            with next((tiny_data / task).glob(f"{source}.*")).open(encoding="utf-8") as lines:
                prepare._write(folder / f"{split}.jsonl", list(csv.DictReader(lines)))
    where.text.mkdir()
    for split in ("train", "dev"):
        (where.text / f"{split}.txt").write_text("The sea is wide. " * 40, encoding="utf-8")
    return where


@pytest.fixture
def adapters(scratch, here) -> Scratch:
    prepare.make_adapters(scratch)
    return scratch


def repeat(scratch: Scratch, **settings: Any) -> Repeat:
    return Repeat(settings=settings, scratch=scratch, number=0, seed=1)


EVAL = {"rows": 5, "checked": 5, "batch_size": 2}
GENERATE = {"prompts": 3, "tokens": 12, "checked": 12, "peer_environment": {}}


def test_eval_gives_the_same_probabilities(adapters, here):
    own, peer = KINDS["eval"](repeat(adapters, **EVAL))
    assert peer.equality.startswith("bfloat16: ")
    assert "of 5 answers agree" in peer.equality
    assert own.figures["rows_per_second"] > 0


@pytest.mark.parametrize(
    "edit",
    [
        ("a paraphrase of", "a translation of"),
        ('"attention_mask"].sum(dim=1) - 1', '"attention_mask"].sum(dim=1) - 2'),
    ],
)
def test_another_eval_is_refused(adapters, here, edit):
    here.update([edit])
    with pytest.raises(Refused, match="in float32 a probability differs"):
        KINDS["eval"](repeat(adapters, **EVAL))


def test_generate_gives_the_same_texts(adapters, here):
    own, peer = KINDS["generate"](repeat(adapters, **GENERATE))
    assert peer.equality.endswith("of 3 greedy texts are the same; float32: all")
    assert own.figures["tokens_per_second"] > 0


@pytest.mark.parametrize(
    "edit",
    [
        ('padding_side = tokenizer.eos_token, "left"', 'padding_side = tokenizer.eos_token, "right"'),
        ("max_new_tokens=max_new_tokens", "max_new_tokens=max_new_tokens - 1"),
    ],
)
def test_another_generation_is_refused(adapters, here, edit):
    here.update([edit])
    with pytest.raises(Refused, match="in float32"):
        KINDS["generate"](repeat(adapters, **GENERATE))


def trained(scratch: Scratch, *options: str, **peer: Any) -> Repeat:
    arguments = ["paraphrase", "--model", "{base}", "--data", "{pairs}", "--max-length", "128", *options]
    settings = {"method": "lora", "precision": "fp32", "dropout": 0.1, "batch_size": 2} | peer
    return repeat(scratch, arguments=arguments, peer=settings, steps=2)


def test_the_defaults_of_each_start_from_the_same_loss_and_read_the_same_tokens(scratch, here):
    own, peer = KINDS["train"](trained(scratch, "--batch-size", "4"))
    assert peer.equality.endswith("tokens each")
    assert own.figures.keys() == {"seconds", "tokens_per_second", "peak_memory_bytes", "matrix_share"}
    assert peer.figures["tokens_per_second"] > 0


def test_full_fine_tuning_starts_from_the_same_loss(scratch, here):
    full = trained(scratch, "--full", "--batch-size", "4", method="full", precision="bf16", dropout=0.0)
    assert "fp32 loss" in KINDS["train"](full)[1].equality


def test_another_training_is_refused(scratch, here):
    here['candidates.index(row["ids"][-1])'] = '1 - candidates.index(row["ids"][-1])'
    with pytest.raises(Refused, match="starts elsewhere"):
        KINDS["train"](trained(scratch, "--batch-size", "4"))


def test_later_epochs_are_told_from_the_first(scratch, here):
    settings = {"model": "{base}", "data": "{sentences}", "method": "last-linear", "epochs": 3}
    later, first = KINDS["epochs"](repeat(scratch, task="sentiment", rows=22, settings=settings))
    assert [later.contender, first.contender] == ["later epochs", "first epoch"]
    assert later.figures["tokens_per_second"] > 0


def test_rows_are_read_from_the_course_s_files(tmp_path):
    quora, sst = tmp_path / "quora", tmp_path / "sst"
    quora.mkdir(), sst.mkdir()
    header, rows = "\tid\tsentence1\tsentence2\tis_duplicate\n", '0\ta\tOne?\t"Two?"\t1.0\n1\tb\t\tx\t0.0\n'
    for split in ("train", "dev"):
        (quora / f"quora-{split}.csv").write_text(header + rows, encoding="utf-8")
        (sst / f"ids-sst-{split}.csv").write_text(
            "\tid\tsentence\tsentiment\n0\ta\tFine .\t3\n", encoding="utf-8"
        )
    where = Scratch(tmp_path / "scratch")
    prepare.make_rows(where, tmp_path)
    read = [
        json.loads(line) for line in (where.pairs / "test.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert read == [{"sentence1": "One?", "sentence2": "Two?", "label": "1"}]
    assert json.loads((where.sentences / "dev.jsonl").read_text(encoding="utf-8"))["label"] == "3"


def test_a_script_is_one_of_this_folder():
    assert Path(script("peers/eval.py")[1]).is_file()
