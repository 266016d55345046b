"""`explora train`: every option reaches the configuration, and a run survives what befalls its process."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file

from explora import api, cli
from explora.core.config.registry import method_class
from explora.core.config.run_config import TrainRun, settings_of
from explora.core.runs.events import Completed
from explora.core.runs.ownership import owning
from explora.core.runs.record import read_record
from explora.core.runtime import resolve as runtime
from explora.core.runtime.probe import Probes
from explora.errors import InUseError

PARAMETERS = [
    option for option in typer.main.get_command(cli.app).commands["train"].params if option.name != "help"
]

# What says how the command goes about it rather than what the run is.
FLOW = {"task", "output", "resume", "overwrite", "config", "dry_run", "json", "quiet"}
FLOW |= {"seeds", "jobs", "shard", "report", "track"}
FLOW |= {"from_run"}  # needs a run: see "going on from trained weights"

SHAPE = "layers=1,heads=2,width=8,context=16,vocabulary=300"

# parameter: (the words, the settings they should give, other words that they need)
OPTIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "model": ("--model distilgpt2", {"model": "distilgpt2"}, "paraphrase --lr 1e-4"),
    "tokenizer": ("--tokenizer folder", {"tokenizer": "folder"}, ""),
    "from_scratch": (
        f"--from-scratch {SHAPE}",
        {"from_scratch": {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 16, "vocab_size": 300}},
        "text --full --lr 1e-4",
    ),
    "lora": ("--lora 5", {"rank": 5}, ""),
    "full": ("--full", {"method": "full"}, ""),
    "last_linear": ("--last-linear", {"method": "last-linear"}, ""),
    "alpha": ("--alpha 3", {"alpha": 3.0}, ""),
    "lora_dropout": ("--lora-dropout 0.2", {"lora_dropout": 0.2}, ""),
    # With a learning rate, because its default depends on the targets.
    "targets": ("--targets query,mlp_up", {"targets": ["query", "mlp-up"]}, "paraphrase --lr 1e-3"),
    "layers": ("--layers 2-5,7", {"layers": [2, 3, 4, 5, 7]}, ""),
    "method": ("--method full", {"method": "full"}, ""),
    "rank": ("--rank 6", {"rank": 6}, ""),
    "rank_pattern": ("--rank-pattern attn.c_attn=3", {"rank_pattern": {"attn.c_attn": 3}}, ""),
    "alpha_pattern": ("--alpha-pattern h.1.attn.c_attn=3", {"alpha_pattern": {"h.1.attn.c_attn": 3.0}}, ""),
    "bias": ("--bias lora-only", {"bias": "lora-only"}, ""),
    "lr_ratio": ("--lr-ratio 4", {"lr_ratio": 4.0}, "paraphrase --method lora-plus"),
    "blocks": ("--blocks 1", {"blocks": 1}, "paraphrase --method top"),
    "norm_bias": ("--no-norm-bias", {"norm_bias": False}, "paraphrase --method norm-tuning"),
    "data": ("--data pairs.csv", {"data": "pairs.csv"}, ""),
    "dev": ("--dev dev.csv", {"dev": "dev.csv"}, ""),
    "columns": ("--columns label=same", {"columns": {"label": "same"}}, ""),
    "format": ("--format msr", {"format": "msr"}, ""),
    "encoding": ("--encoding cp1252", {"encoding": "cp1252"}, ""),
    "skip_bad": ("--skip-bad", {"skip_bad": True}, ""),
    "template": ("--template {sentence1}{sentence2}", {"template": "{sentence1}{sentence2}"}, ""),
    "label_words": ("--label-words oui,non", {"label_words": ["oui", "non"]}, ""),
    "max_length": ("--max-length 77", {"max_length": 77}, ""),
    "learning_rate": ("--learning-rate 0.3", {"learning_rate": 0.3}, ""),
    "optimizer": ("--optimizer muon", {"optimizer": "muon"}, "paraphrase --full"),
    "weight_decay": ("--weight-decay 0.4", {"weight_decay": 0.4}, ""),
    "beta1": ("--beta1 0.5", {"beta1": 0.5}, ""),
    "beta2": ("--beta2 0.6", {"beta2": 0.6}, ""),
    "clip": ("--clip 0.7", {"clip": 0.7}, ""),
    "warmup": ("--warmup 0.8", {"warmup": 0.8}, ""),
    "schedule": ("--schedule cosine", {"schedule": "cosine"}, ""),
    "epochs": ("--epochs 17", {"epochs": 17}, ""),
    "max_steps": ("--max-steps 18", {"max_steps": 18}, ""),
    "max_minutes": ("--max-minutes 18.5", {"max_minutes": 18.5}, ""),
    "batch_size": ("--batch-size 19", {"batch_size": 19}, ""),
    "accumulate": ("--accumulate 20", {"accumulate": 20}, ""),
    "dropout": ("--dropout 0.21", {"dropout": 0.21}, ""),
    "seed": ("--seed 22", {"seed": 22}, ""),
    "eval_every": ("--eval-every 23", {"eval_every": 23}, ""),
    "save_every": ("--save-every 24", {"save_every": 24}, ""),
    "patience": ("--patience 25", {"patience": 25}, ""),
    "device": ("--device cpu", {"device": "cpu"}, ""),
    "amp": ("--amp fp16", {"amp": "fp16"}, ""),
    "grad_checkpoint": ("--grad-checkpoint", {"grad_checkpoint": True}, ""),
    "threads": ("--threads 27", {"threads": 27}, ""),
    "plain_attention": ("--plain-attention 32", {"plain_attention": 32}, ""),
    "feature_cache": ("--feature-cache 28.5kB", {"feature_cache": 28500}, ""),
}


@pytest.fixture
def plan(explora: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """The settings that a command line is resolved to, by field name; the data need not be there."""
    monkeypatch.setattr(sys.modules["explora.commands.train"], "check_data", lambda run: None)

    def of(words: str) -> dict[str, Any]:
        outcome = explora("train", *words.split(), "--dry-run", "--json")
        assert (outcome.code, outcome.err) == (0, "")
        run = TrainRun.from_json(outcome.objects[0]["config"])
        return json.loads(json.dumps(settings_of(run), default=vars))

    return of


# --- options --------------------------------------------------------------------------------------


def test_every_option_is_tried_below() -> None:
    assert OPTIONS.keys() == {option.name for option in PARAMETERS} - FLOW
    assert {option.name for option in PARAMETERS} >= FLOW


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_reaches_the_configuration(name: str, plan: Callable[[str], dict[str, Any]]) -> None:
    words, expected, others = OPTIONS[name]
    others = others or "paraphrase"
    others += "" if name == "model" else " --model gpt2"
    without, given = plan(others), plan(f"{others} {words}")
    changed = {key: value for key, value in given.items() if value != without[key]}
    # another method brings its own defaults along
    along = method_class(expected["method"]).defaults("paraphrase") if "method" in expected else {}
    assert {key: value for key, value in changed.items() if key not in along} == expected


@pytest.mark.parametrize("name", ["skip_bad", "grad_checkpoint"])
def test_a_recorded_flag_can_be_switched_off(
    name: str, plan: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    concern = "data" if name == "skip_bad" else "runtime"
    (tmp_path / "run.json").write_text(json.dumps({"task": "text", concern: {name: True}}))
    words = "text --model gpt2 --config run.json"
    assert plan(words)[name] is True
    assert plan(f"{words} --no-{name.replace('_', '-')}")[name] is False


def test_help_shows_the_default_of_each_method() -> None:
    shown = {option.name: option.help for option in PARAMETERS}
    assert "(default: 8, for " in shown["rank"] and "for miss 16" in shown["rank"]
    assert shown["blocks"].endswith("Only for top (default: 2).")


def test_the_learning_rate_is_told_with_its_origin(explora: Callable[..., Any]) -> None:
    told = explora("train", "text", "--full", "--model", "gpt2", "--dry-run").out
    lines = {line.split()[0]: line.split()[1:] for line in told.splitlines() if line.split()}
    assert lines["learning_rate"] == ["0.0001", "text", "with", "full"]
    assert lines["epochs"] == ["3", "text"]
    assert lines["method"] == ["full", "option"]
    assert "trainable parameters: 124,439,808" in told


def test_a_dry_run_shows_values_as_options_take_them(explora: Callable[..., Any], tmp_path: Path) -> None:
    long = "a" * 60 + ".csv"
    (tmp_path / long).write_text("sentence1,sentence2,is_dup\na,b,1\nc,d,0\n")
    words = [
        "--data",
        long,
        "--layers",
        "0-2",
        "--columns",
        "label=is_dup",
        "--feature-cache",
        "500MB",
        "--grad-checkpoint",
    ]
    shown = explora("train", "paraphrase", *words, "--dry-run").out.splitlines()
    table = {line.split()[0]: line.split()[1] for line in shown}
    values = {"layers": "0-2", "columns": "label=is_dup", "feature_cache": "500MB", "threads": "auto"}
    values |= {"alpha": "16", "data": "a" * 47 + "…"}
    values |= {"targets": "key,value", "clip": "1", "grad_checkpoint": "yes", "skip_bad": "no"}
    assert {name: table[name] for name in values} == values
    assert f"data: {long}" in shown
    (template,) = (line for line in shown if line.startswith("template: "))
    assert json.loads(template.removeprefix("template: ")).endswith('or "no": ')


def test_a_dry_run_writes_nothing(explora: Callable[..., Any], tiny_base: Path, tmp_path: Path) -> None:
    outcome = explora("train", "text", "--model", str(tiny_base), "--dry-run")
    assert outcome.code == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("task", "rows", "said"),
    [
        ("sentiment", None, "rows.csv: no such file"),
        ("sentiment", "sentence,label\na,1\nb,\n", "rows.csv:3: column label: the label is empty"),
        ("sentiment", "sentence\na\nb\n", "no row has a label"),
        ("paraphrase", "q1,q2,same\na,b,1\n", "rows.csv:1: no columns 'sentence1', 'sentence2'"),
        ("text", None, "rows.csv: no such file"),
    ],
)
def test_a_dry_run_meets_the_data_errors_of_the_run(
    task: str, rows: str | None, said: str, explora: Callable[..., Any], tmp_path: Path
) -> None:
    if rows is not None:
        (tmp_path / "rows.csv").write_text(rows)
    outcome = explora("train", task, "--data", "rows.csv", "--dry-run")
    assert (outcome.code, outcome.out) == (1, "")
    assert said in outcome.err


def test_a_dry_run_says_what_overwrite_would_replace(
    explora: Callable[..., Any], words: list[str], tmp_path: Path
) -> None:
    plan = [*words, "--overwrite", "--dry-run"]
    assert "runs/text is new or empty: there is nothing to replace" in explora(*plan).err
    assert explora(*words, "--max-steps", "1").code == 0
    assert "would replace a finished run of text in runs/text" in explora(*plan).err
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    refused = explora(*plan, "-o", "thesis")
    assert (refused.code, "thesis is not a run folder" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("text --full --alpha 3", "full does not take --alpha, an option of lora"),
        ("text --full --targets key", "full does not take --targets"),
        ("text --full --layers 0-1", "full does not take --layers"),
        ("sentiment --last-linear --lora-dropout 0.1", "last-linear does not take --lora-dropout"),
        ("text --method top --blocks 9", "--blocks 9: the base has 6 blocks"),
        ("text --method bitfit --blocks 2", "bitfit does not take --blocks, an option of top"),
        ("text --method lora-plus --lr-ratio 0.5", "--lr-ratio must be at least 1, not 0.5"),
        ("text --bias some", "--bias 'some' is not one of none, lora-only, all"),
        ("text --method dora --lr-ratio 4", "dora does not take --lr-ratio, an option of lora-plus"),
        ("text --method miss --rank 300", "rank 300 is larger than the weight matrices of this base allow"),
        ("sonnet --last-linear", "a sonnet is written by the tied language-model head"),
        ("text --last-linear", "cannot be trained by last-linear"),
        ("sentiment --template {sentence}", "sentiment does not take --template"),
        ("paraphrase --template {sentence1} --dry-run", "must have {sentence1} and {sentence2}, and nothing"),
        ("paraphrase --template {sentence1}{ --dry-run", "is malformed"),
        ("text --schedule cosin", "did you mean cosine?"),
        ("text --targets keys", "did you mean key?"),
        ("text --seed 99999999999999999999", "seed must be at least 0 and below 2^63"),
        ("text --lr nan", "learning-rate must be a positive number"),
        ("text --config nowhere.json", "no such file"),
        ("text --resume --overwrite", "--resume continues a run and --overwrite removes it"),
        ("sentiment --from-scratch layers=2", "lacks heads, width, context, vocabulary"),
        ("text --from-scratch layer=2", "did you mean layers?"),
        (
            "text --full --from-scratch layers=1,heads=3,width=8,context=9,vocabulary=300",
            "3 heads do not divide",
        ),
    ],
)
def test_what_cannot_be_is_2_and_writes_nothing(
    words: str, said: str, explora: Callable[..., Any], tmp_path: Path
) -> None:
    outcome = explora("train", *words.split())
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err
    assert list(tmp_path.iterdir()) == []


# --- one run --------------------------------------------------------------------------------------

TRAINED = "adapter_model.safetensors"


@pytest.fixture
def words(tiny_base: Path, tiny_data: Path) -> list[str]:
    """A run of twelve steps, with dropout so that the generators count."""
    line = (
        "train text --max-length 24 --batch-size 4 --epochs 2 --amp off --threads 1 --dropout 0.1 --lr 0.01"
    )
    return [*line.split(), "--model", str(tiny_base), "--data", str(tiny_data / "text")]


def losses(folder: Path) -> list[tuple[int, Any, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line.get("loss"), line.get("perplexity")) for line in lines]


def test_the_result_is_one_json_object_and_the_rest_is_stderr(
    explora: Callable[..., Any], words: list[str], check_schema: Callable[[str, Any], None]
) -> None:
    outcome = explora(*words, "--json")
    assert outcome.code == 0
    (result,) = outcome.objects
    check_schema("train", result)
    assert (result["run"], result["task"], result["method"], result["steps"]) == (
        "runs/text",
        "text",
        "lora",
        12,
    )
    assert result["share"] == result["trainable"] / result["total"]
    assert result["model"].endswith("base")
    record = read_record(Path("runs/text"))
    assert record is not None and record.result == result
    assert "learning rate 0.01 (option)" in outcome.err
    assert "train 12/12" in outcome.err
    assert "step 6: dev perplexity" in outcome.err


def test_a_run_is_told_in_a_table(explora: Callable[..., Any], words: list[str]) -> None:
    outcome = explora(*words, "--max-steps", "1", "-o", "here/run")
    assert outcome.out.startswith("loss ")
    assert "\nperplexity " in outcome.out
    assert "here/run: " in outcome.out and "best at step 1 of 1" in outcome.out


def test_quiet_leaves_the_result(explora: Callable[..., Any], words: list[str]) -> None:
    outcome = explora(*words, "--max-steps", "1", "--quiet", "--json")
    assert (outcome.code, outcome.err, len(outcome.objects)) == (0, "", 1)


def test_an_occupied_folder_is_refused_and_replaced_when_told(
    explora: Callable[..., Any], words: list[str]
) -> None:
    assert explora(*words, "--max-steps", "1").code == 0
    before = Path("runs/text", TRAINED).read_bytes()
    again = explora(*words, "--max-steps", "2")
    assert again.code == 2
    assert "runs/text is not empty" in again.err
    assert Path("runs/text", TRAINED).read_bytes() == before
    assert explora(*words, "--max-steps", "2", "--overwrite").code == 0
    assert Path("runs/text", TRAINED).read_bytes() != before


def test_a_run_with_a_damaged_record_is_replaced_when_told_and_a_stranger_is_not(
    explora: Callable[..., Any], words: list[str], tmp_path: Path
) -> None:
    assert explora(*words, "--max-steps", "1").code == 0
    Path("runs/text/run.json").write_text("{")
    damaged = explora(*words, "--max-steps", "1")
    assert (damaged.code, "damaged" in damaged.err) == (1, True)
    assert "would replace runs/text: the record" in explora(*words, "--overwrite", "--dry-run").err
    assert explora(*words, "--max-steps", "1", "--overwrite").code == 0
    assert json.loads(Path("runs/text/run.json").read_text())["result"]
    (tmp_path / "race").mkdir()
    (tmp_path / "race" / "run.json").write_text('{"runner": "me"}')
    assert explora(*words, "-o", "race", "--overwrite").code == 1
    assert (tmp_path / "race" / "run.json").read_text() == '{"runner": "me"}'


@pytest.mark.parametrize(("options", "again"), [([], " and --resume"), (["--overwrite"], "")])
def test_ctrl_c_before_the_first_step_says_what_is_saved_and_how_to_start_again(
    explora: Callable[..., Any],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    again: str,
) -> None:
    def press_ctrl_c(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("explora.core.runs.train.start_run", press_ctrl_c)
    outcome = explora(*words, *options)
    assert outcome.code == 130
    assert "interrupted before the first step; nothing was saved\n" in outcome.err
    assert outcome.err.endswith(f"hint: start again with the same command{again}\n")


def test_a_file_in_the_place_of_the_folder_is_called_so(
    explora: Callable[..., Any], words: list[str]
) -> None:
    Path("afile").write_text("kept")
    for options in ([], ["--overwrite"]):
        outcome = explora(*words, "-o", "afile", *options)
        assert (outcome.code, outcome.err.splitlines()[0]) == (2, "error: afile is a file")
    assert Path("afile").read_text() == "kept"


def test_rows_longer_than_the_base_reads_are_refused(explora: Callable[..., Any], words: list[str]) -> None:
    outcome = explora(*words, "--max-length", "9999")
    assert outcome.code == 2
    assert "--max-length 9999: the base reads at most" in outcome.err
    assert not Path("runs/text").exists()


def test_overwrite_spares_what_is_no_run(
    explora: Callable[..., Any], words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    outcome = explora(*words, "-o", "thesis", "--overwrite")
    assert outcome.code == 2
    assert (tmp_path / "thesis" / "thesis.tex").read_text() == "years of work"


def test_overwrite_keeps_the_old_run_when_the_new_one_cannot_start(
    explora: Callable[..., Any], words: list[str]
) -> None:
    assert explora(*words, "--max-steps", "1").code == 0
    before = Path("runs/text", TRAINED).read_bytes()
    assert explora(*words[:-1], "no-such-file.txt", "--overwrite").code == 1
    assert Path("runs/text", TRAINED).read_bytes() == before


def test_what_is_kept_of_frozen_blocks_is_said_before(
    explora: Callable[..., Any], tiny_base: Path, tiny_data: Path
) -> None:
    words = f"train sentiment --last-linear --amp off --threads 1 --data {tiny_data / 'sentiment'}"
    words += f" --model {tiny_base} --epochs 2 --overwrite"
    what = "the output of the frozen blocks for 27 examples (3.5 kB)"
    for options, said in (
        ("", f"runs/sentiment/checkpoint/features.bin stores {what}\n"),
        ("--feature-cache 3kB", f"{what} is not stored: --feature-cache allows 3.0 kB\n"),
    ):
        outcome = explora(*words.split(), *options.split())
        assert outcome.code == 0 and said in outcome.err
        assert outcome.err.index(said) < outcome.err.index("train 1/4")
        assert ("output of the frozen blocks: " in outcome.err) == (not options)
    assert "frozen" not in explora(*words.split(), "--feature-cache", "off").err


def test_a_learning_rate_that_is_too_high_is_1_with_a_hint(
    explora: Callable[..., Any], words: list[str]
) -> None:
    outcome = explora(*words, "--full", "--lr", "1e25")
    assert outcome.code == 1
    assert " at step 2\nhint: lower the learning rate (--lr 3e+24)\n" in outcome.err
    assert "Traceback" not in outcome.err


# --- repeating a run ------------------------------------------------------------------------------


def test_a_recorded_run_is_repeated_bit_for_bit_and_probes_nothing(
    explora: Callable[..., Any], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run finds bf16 faster; a machine that would find otherwise still repeats it in bf16."""
    probes = Probes(amp="bf16", threads=1, plain_bf16=64, plain_fp32=0)
    monkeypatch.setattr(runtime, "probe_once", lambda: probes)
    assert explora(*words, "--amp", "auto", "--seed", "5", "--alpha", "3").code == 0
    first = read_record(Path("runs/text"))
    assert first is not None and first.run.runtime.amp == "bf16" and first.run.runtime.device == "cpu"
    assert first.run.runtime.plain_attention == 64

    def never() -> Probes:
        raise AssertionError("probed again")

    monkeypatch.setattr(runtime, "probe_once", never)
    outcome = explora("train", "text", "--config", "runs/text/run.json", "-o", "again")
    assert outcome.code == 0
    second = read_record(Path("again"))
    assert second is not None and second.run == first.run
    assert Path("again", TRAINED).read_bytes() == Path("runs/text", TRAINED).read_bytes()
    assert losses(Path("again")) == losses(Path("runs/text"))


def test_an_option_wins_over_a_recorded_run(explora: Callable[..., Any], words: list[str]) -> None:
    assert explora(*words, "--max-steps", "1").code == 0
    assert explora("train", "text", "--config", "runs/text", "--seed", "5", "-o", "again").code == 0
    record = read_record(Path("again"))
    assert record is not None and record.run.training.seed == 5 and record.run.training.max_steps == 1


def test_a_recorded_run_of_another_task_is_refused(explora: Callable[..., Any], words: list[str]) -> None:
    assert explora(*words, "--max-steps", "1").code == 0
    outcome = explora("train", "sonnet", "--config", "runs/text/run.json")
    assert outcome.code == 2
    assert "is a run of text, not of sonnet" in outcome.err


# --- stopping and going on ------------------------------------------------------------------------


def stop_after_four_steps(
    explora: Callable[..., Any], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Train, press Ctrl-C after the fourth step, and return the outcome."""
    from explora.core.training.loop import Training

    step = Training.take_step

    def interrupted(training: Training, rows: list[int], epoch: int) -> Any:
        done = step(training, rows, epoch)
        if done.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return done

    with monkeypatch.context() as patch:
        patch.setattr(Training, "take_step", interrupted)
        outcome = explora(*words)
    assert outcome.code == 130
    return outcome


@pytest.fixture
def stopped(explora: Callable[..., Any], words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """runs/text: a run that Ctrl-C stopped after its fourth step."""
    outcome = stop_after_four_steps(explora, words, monkeypatch)
    assert outcome.out == ""
    assert "\nstopped after step 4 of 12; the state is saved\n" in outcome.err
    assert outcome.err.endswith("hint: explora train text -o runs/text --resume\n")


@pytest.mark.usefixtures("stopped")
def test_a_stopped_run_needs_no_options_to_go_on(explora: Callable[..., Any], words: list[str]) -> None:
    outcome = explora("train", "text", "--resume")
    assert outcome.code == 0
    assert "resumed after step 4" in outcome.err
    assert explora(*words, "-o", "whole").code == 0
    assert Path("runs/text", TRAINED).read_bytes() == Path("whole", TRAINED).read_bytes()
    assert losses(Path("runs/text")) == losses(Path("whole"))


@pytest.mark.usefixtures("stopped")
def test_going_on_uses_the_recorded_threads(
    explora: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another number of threads may round otherwise; whoever wants one says so."""
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert explora("train", "text", "--resume", "--max-steps", "3").code == 2
    assert explora("train", "text", "--resume").code == 0
    assert asked == [1]


@pytest.mark.usefixtures("stopped")
def test_other_threads_may_be_asked_for(explora: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert explora("train", "text", "--resume", "--threads", "2").code == 0
    assert asked == [2]


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("text --epochs 3", "--resume continues with epochs 2, not with 3"),
        ("text --lr 0.5", "--resume continues with learning-rate 0.01, not with 0.5"),
        ("text --full", "--resume continues with method lora, not with full"),
        ("text --max-minutes 2", "--resume continues without max-minutes, not with 2"),
        ("sonnet", "the run in runs/text is of text, not of sonnet"),
    ],
)
def test_going_on_with_something_else_is_refused(
    arguments: str, said: str, explora: Callable[..., Any]
) -> None:
    outcome = explora("train", *arguments.split(), "-o", "runs/text", "--resume")
    assert outcome.code == 2
    assert said in outcome.err


@pytest.mark.usefixtures("stopped")
def test_a_plan_of_a_resumed_run_is_the_recorded_run(explora: Callable[..., Any], words: list[str]) -> None:
    recorded = json.loads(Path("runs/text/run.json").read_text())["config"]
    outcome = explora("train", "text", "--resume", "--dry-run", "--json")
    assert (outcome.code, outcome.objects[0]["config"]) == (0, recorded)
    refused = explora("train", "text", "--resume", "--config", "runs/text/run.json")
    assert (refused.code, "--resume continues with the recorded settings" in refused.err) == (2, True)


def test_options_of_the_recorded_method_are_checked_against_it(
    explora: Callable[..., Any], tiny_base: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ["--model", str(tiny_base), "--data", str(tiny_data / "text"), "--max-length", "24"]
    words = ["train", "text", *data, "--method", "top", "--blocks", "1", "--batch-size", "4"]
    stop_after_four_steps(explora, words, monkeypatch)
    plan = explora("train", "text", "--resume", "--blocks", "1", "--dry-run", "--json")
    assert plan.objects[0]["config"]["method"] == {"method": "top", "blocks": 1}
    other = explora("train", "text", "--resume", "--blocks", "2")
    assert "--resume continues with blocks 1, not with 2" in other.err


@pytest.mark.usefixtures("stopped")
def test_options_that_agree_are_no_obstacle(explora: Callable[..., Any], words: list[str]) -> None:
    assert explora(*words, "--resume").code == 0


# --- requeued jobs --------------------------------------------------------------------------------


def test_resuming_starts_where_there_is_nothing_and_repeats_what_is_finished(
    explora: Callable[..., Any], words: list[str]
) -> None:
    """A job that is started again and again needs one command."""
    job = [*words, "--max-steps", "2", "-o", "job", "--resume"]
    first = explora(*job)
    assert first.code == 0
    assert "job has no run yet: starting one" in first.err
    kept = Path("job", TRAINED).read_bytes()
    second, third = explora(*job), explora(*job, "--json")
    assert (second.code, second.out) == (0, first.out)
    assert "the run in job has finished; this is its recorded result" in second.err
    record = read_record(Path("job"))
    assert record is not None and third.objects == [record.result]
    assert Path("job", TRAINED).read_bytes() == kept
    refused = explora(*job, "--lr", "0.5")
    assert (refused.code, "not with 0.5" in refused.err) == (2, True)


def test_resuming_in_a_folder_of_something_else_is_refused(
    explora: Callable[..., Any], words: list[str]
) -> None:
    Path("thesis").mkdir()
    Path("thesis", "thesis.tex").write_text("years of work")
    outcome = explora(*words, "-o", "thesis", "--resume")
    assert (outcome.code, "thesis is not a run folder: it has other files" in outcome.err) == (2, True)


# --- going on from trained weights ----------------------------------------------------------------


def test_a_finished_run_goes_on_with_more_epochs(explora: Callable[..., Any], words: list[str]) -> None:
    assert explora(*words).code == 0
    plan = explora("train", "text", "--resume", "--epochs", "3", "--dry-run", "--json")
    assert plan.objects[0]["config"]["training"]["epochs"] == 3
    longer = explora("train", "text", "--resume", "--epochs", "3", "--json")
    assert (longer.code, longer.objects[0]["steps"]) == (0, 18)
    assert "resumed after step 12" in longer.err
    for epochs in ("3", "2"):
        again = explora("train", "text", "--resume", "--epochs", epochs, "--json")
        assert again.objects == longer.objects
        assert "the run in runs/text has finished; this is its recorded result" in again.err
    assert explora("train", "text", "--resume", "--epochs", "2", "--dry-run").code == 0
    refused = explora("train", "text", "--resume", "--epochs", "4", "--lr", "0.5")
    assert (refused.code, "not with 0.5" in refused.err) == (2, True)


def test_a_new_run_starts_from_another_one(explora: Callable[..., Any], words: list[str]) -> None:
    first = [*words, "--lora", "3", "--max-steps", "2", "--seed", "5", "-o", "first"]
    assert explora(*first).code == 0
    start = ["train", "text", "--from", "first", "--max-steps", "2", "--amp", "off"]
    plan = explora(*start, "--dry-run", "--json").objects[0]
    names = ("model", "rank", "max_length", "data", "seed", "epochs")
    assert [plan["origins"][name] for name in names] == ["--from"] * 5 + ["text"]
    recorded = read_record(Path("first"))
    assert recorded is not None and plan["config"]["data"]["data"] == recorded.run.data.data
    outcome = explora(*start)
    assert outcome.code == 0 and "step 0: dev perplexity" in outcome.err
    again = explora("train", "text", "--config", "runs/text/run.json", "-o", "again")
    assert again.code == 0
    for length, is_told in (("--epochs", True), ("--max-steps", False)):
        longer = explora("train", "text", "--resume", length, "9", "--dry-run")
        assert ("the new length replaces the earlier limit of 2 steps" in longer.err) is is_told
    assert Path("again", TRAINED).read_bytes() == Path("runs/text", TRAINED).read_bytes()
    cells = explora(*start, "--lr", "1e-3,1e-2", "--dry-run", "--json")
    assert (cells.code, cells.out.count('"rank":3')) == (0, 2), cells.out


def test_dev_rows_that_the_start_was_trained_on_are_told(
    explora: Callable[..., Any], own_words: list[str]
) -> None:
    """The seed divides a single file; with a file for dev scores, a run is trained on the whole other one."""
    for file in DATA_FILES:
        write_rows(file, 40)
    assert explora(*own_words, "--max-steps", "1", "-o", "whole").code == 0
    part = [word for word in own_words if word not in ("--dev", "dev.csv")]
    assert explora(*part, "--max-steps", "1", "-o", "part").code == 0
    told = {
        words: "rows that are dev rows now" in explora("train", "sentiment", "--dry-run", *words.split()).err
        for words in (
            "--from part",
            "--from part --seed 6",
            "--from part --seed 6 --dev dev.csv",
            "--from part --data dev.csv --seed 6",
            "--from whole --seed 6",
            "--from whole --data train.csv",
        )
    }
    assert list(told.values()) == [False, True, False, False, False, True]
    Path("train.csv").unlink()
    assert explora("train", "sentiment", "--dry-run", "--from", "part", "--data", "dev.csv").code == 0


def test_what_contradicts_the_start_is_refused(explora: Callable[..., Any], words: list[str]) -> None:
    assert explora(*words, "--lora", "3", "--max-steps", "1", "-o", "first").code == 0
    for options, code, said in (
        ("--from first --lora 4", 2, "--from first: it has rank 3, not 4"),
        ("--from first --full", 2, "--from first: it has method lora, not full"),
        ("--from nothing", 1, "--from nothing: this folder has no trained weights"),
        ("--from first --model embedded", 1, "it was trained on another base than "),
        ("--from first -o first --overwrite", 2, "first, which the new run reads"),
        ("--from first --from-scratch layers=1,heads=1,width=8,context=16,vocabulary=300", 2, "leave one"),
    ):
        outcome = explora("train", "text", *options.split())
        assert (outcome.code, said in outcome.err) == (code, True), outcome.err
    assert not Path("runs/text").exists()


# --- identity -------------------------------------------------------------------------------------


def write_rows(file: str, rows: int, labels: str = "01") -> None:
    lines = [f"a film that is number {row} of many,{labels[row % 2]}" for row in range(rows)]
    Path(file).write_text("\n".join(["sentence,label", *lines]) + "\n")


@pytest.fixture
def own_words(tiny_base: Path, tmp_path: Path) -> list[str]:
    """A run on a base and on data of its own, which may be changed, all given by relative paths."""
    shutil.copytree(tiny_base, tmp_path / "base")
    line = "train sentiment --model base --data train.csv --dev dev.csv --batch-size 4 --amp off --threads 1"
    return line.split()


CHANGES: dict[str, tuple[str, Callable[[], None]]] = {
    "fewer rows": ("train.csv changed: 40 rows then, 20 now", lambda: write_rows("train.csv", 20)),
    "other classes": ("(0, 1) then, (n, p) now", lambda: [write_rows(f, 40, "np") for f in DATA_FILES]),
    "other labels": ("but other labels", lambda: write_rows("dev.csv", 40, "10")),
    "another base": ("the weights of the base", lambda: change_weights(Path("base/model.safetensors"))),
}
DATA_FILES = ("train.csv", "dev.csv")


def change_weights(file: Path) -> None:
    tensors = load_file(file)
    save_file({name: value + 0.01 for name, value in tensors.items()}, file, metadata={"format": "pt"})


@pytest.mark.parametrize("change", CHANGES)
def test_a_resumed_run_is_trained_on_the_same_base_and_data(
    change: str, explora: Callable[..., Any], own_words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said, apply = CHANGES[change]
    for file in DATA_FILES:
        write_rows(file, 40)
    stop_after_four_steps(explora, own_words, monkeypatch)
    state = Path("runs/sentiment/run.json").read_bytes()
    apply()
    outcome = explora("train", "sentiment", "--resume")
    assert (outcome.code, outcome.out) == (1, "")
    assert "error: runs/sentiment was trained with other inputs: " in outcome.err and said in outcome.err
    assert "hint: put it back as it was, or start again with --overwrite" in outcome.err
    assert Path("runs/sentiment/run.json").read_bytes() == state
    assert explora(*own_words, "--max-steps", "1", "--overwrite").code == 0


def test_a_repeated_run_is_trained_on_the_same_data_unless_an_option_names_other(
    explora: Callable[..., Any], own_words: list[str]
) -> None:
    for file in DATA_FILES:
        write_rows(file, 12)
    assert explora(*own_words, "--max-steps", "1").code == 0
    repeat = ["train", "sentiment", "--config", "runs/sentiment/run.json", "--overwrite", "-o", "again"]
    assert explora(*repeat).code == 0
    write_rows("train.csv", 11)
    refused = explora(*repeat)
    assert (refused.code, "the run of --config was trained with other inputs" in refused.err) == (1, True)
    assert explora(*repeat, "--data", "train.csv").code == 0


def test_a_run_is_used_and_resumed_from_another_directory(
    explora: Callable[..., Any], own_words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for file in DATA_FILES:
        write_rows(file, 40)
    stop_after_four_steps(explora, own_words, monkeypatch)
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert explora("train", "sentiment", "--resume", "-o", "../runs/sentiment").code == 0
    scored = explora("eval", "sentiment", "../runs/sentiment", "--json")
    assert (scored.code, scored.objects[0]["data"]) == (0, str(tmp_path / "dev.csv"))
    (tmp_path / "base").rename(tmp_path / "moved")
    shutil.copytree("../runs/sentiment", "copy")
    record = json.loads(Path("copy/run.json").read_text())
    Path("copy/run.json").write_text(json.dumps(record | {"result": {}}))
    unfinished = explora("train", "sentiment", "--resume", "-o", "copy")
    assert unfinished.code == 1
    assert f"copy is trained on the base {tmp_path / 'base'}, which cannot be opened" in unfinished.err
    lost = explora("eval", "sentiment", "../runs/sentiment")
    assert (lost.code, "hint: name the base: --model NAME|FOLDER" in lost.err) == (1, True)
    assert (
        f"../runs/sentiment was trained on the base {tmp_path / 'base'}, which cannot be opened" in lost.err
    )
    assert explora("eval", "sentiment", "../runs/sentiment", "--model", "../moved").code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
@pytest.mark.parametrize("option", ["-o", "--data"])
def test_a_path_that_is_not_utf8_is_refused_before_training(
    option: str, explora: Callable[..., Any], words: list[str], tiny_data: Path
) -> None:
    name = os.fsdecode(b"caf\xe9")
    shutil.copytree(tiny_data / "text", name)
    del words[words.index("--data") :]
    data = name if option == "--data" else str(tiny_data / "text")
    outcome = explora(*words, "--data", data, *(["-o", f"{name}/run"] if option == "-o" else []))
    assert (outcome.code, r"caf\udce9" in outcome.err and "is not UTF-8" in outcome.err) == (2, True)


# --- replacing a run ------------------------------------------------------------------------------


def test_the_old_run_stays_until_the_new_one_has_weights(
    explora: Callable[..., Any], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert explora(*words, "--max-steps", "1").code == 0
    old = {file.name: file.read_bytes() for file in Path("runs/text").iterdir()}
    stopped = stop_after_four_steps(explora, [*words, "--seed", "5", "--overwrite"], monkeypatch)
    assert stopped.err.endswith("hint: explora train text -o runs/text --resume\n")
    assert {file.name: file.read_bytes() for file in Path("runs/text").iterdir()} == old
    assert explora("eval", "text").code == 0
    resumed = explora("train", "text", "--resume")
    assert (resumed.code, "resumed after step 4" in resumed.err) == (0, True)
    assert explora(*words, "--seed", "5", "-o", "whole").code == 0
    assert Path("runs/text", TRAINED).read_bytes() == Path("whole", TRAINED).read_bytes()
    assert losses(Path("runs/text")) == losses(Path("whole"))
    assert [item.name for item in Path("runs").iterdir()] == ["text"]


def test_too_little_time_for_the_new_run_leaves_the_old_one_alone(
    explora: Callable[..., Any], words: list[str]
) -> None:
    assert explora(*words, "--max-steps", "1").code == 0
    kept = Path("runs/text", TRAINED).read_bytes()
    words = [word for word in words if word not in ("--epochs", "2")]
    refused = explora(*words, "--max-minutes", "0.0001", "--overwrite")
    assert (refused.code, "too short" in refused.err) == (1, True)
    assert Path("runs/text", TRAINED).read_bytes() == kept
    assert [item.name for item in Path("runs").iterdir()] == ["text"]


def test_a_linked_folder_is_the_one_that_it_points_to(
    explora: Callable[..., Any], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("real").mkdir()
    Path("link").symlink_to("real")
    stop_after_four_steps(explora, [*words, "-o", "link"], monkeypatch)
    outcome = explora(*words, "--seed", "5", "-o", "link", "--overwrite")
    assert (outcome.code, "going on" in outcome.err) == (0, False)
    assert Path("link").is_symlink()
    record = read_record(Path("real"))
    assert record is not None and record.finished and record.run.training.seed == 5


def test_a_run_is_not_replaced_by_one_that_reads_it(explora: Callable[..., Any], words: list[str]) -> None:
    assert explora(*words, "--full", "--lr", "1e-4", "--max-steps", "1").code == 0
    words[words.index("--model") + 1] = "runs/text"
    outcome = explora(*words, "--overwrite")
    assert outcome.code == 2
    assert "runs/text contains " in outcome.err and "which the new run reads" in outcome.err
    assert Path("runs/text/model.safetensors").exists()


def test_a_folder_in_use_is_left_alone(
    explora: Callable[..., Any], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("explora.core.runs.ownership.PATIENCE", 0.1)
    assert explora(*words, "--max-steps", "1").code == 0
    kept = Path("runs/text", TRAINED).read_bytes()
    with owning(Path("runs/text")):
        for command in (words, [*words, "--overwrite"], ["train", "text", "--resume"]):
            outcome = explora(*command)
            assert outcome.code == 1
            assert f"error: runs/text is in use by process {os.getpid()} on host " in outcome.err
        merge = explora("merge-lora", "runs/text", "-o", "merged")
        assert (merge.code, "runs/text is in use by process" in merge.err) == (1, True)
        run = TrainRun.from_json(json.loads(Path("runs/text/run.json").read_text())["config"])
        with pytest.raises(InUseError):
            api.train(run, Path("runs/text"), overwrite=True)
        assert explora("eval", "text").code == 0
    assert Path("runs/text", TRAINED).read_bytes() == kept
    events = api.train(run, Path("runs/text"), overwrite=True)
    next(events)
    assert "is in use" in explora("train", "text", "--resume").err
    assert isinstance(list(events)[-1], Completed)
    assert explora("train", "text", "--resume").code == 0


# --- signals --------------------------------------------------------------------------------------


# Ctrl-C reaches the process even where whoever started the tests ignores it.
LISTENING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    code = f"{LISTENING}; from explora.__main__ import entry; entry()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words, "-o", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def lines_of(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def wait_for_lines(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    """Wait until the process has logged so many lines of metrics."""
    deadline = time.monotonic() + 60
    while lines_of(folder) < count:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.002)


CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
MISHAPS = [signal.SIGKILL, signal.SIGINT, signal.SIGTERM]


def test_a_run_survives_signals_and_kills(
    explora: Callable[..., Any], words: list[str], tmp_path: Path
) -> None:
    """Kill -9, Ctrl-C and SIGTERM at random moments, each time another process goes on: the same bytes."""
    words = [*words, "--epochs", "40", "--eval-every", "11", "--save-every", "4"]
    assert explora(*words, "-o", "whole").code == 0
    folder, moment = tmp_path / "run", random.Random()
    for number, mishap in enumerate(MISHAPS):
        beyond = lines_of(folder) + 30
        process = start([*words, "--resume"] if number else words, folder)
        wait_for_lines(process, folder, beyond)
        time.sleep(moment.uniform(0, 0.05))
        process.send_signal(mishap)
        told = process.communicate(timeout=60)[1]
        assert process.returncode == CODES[mishap], told
        assert ("the state is saved" in told) == (mishap != signal.SIGKILL)
    assert explora(*words, "-o", str(folder), "--resume").code == 0
    assert losses(folder) == losses(tmp_path / "whole")
    assert (folder / TRAINED).read_bytes() == (tmp_path / "whole" / TRAINED).read_bytes()
