"""`explora params`: the published numbers, the table, the JSON, and the files that it predicts."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from explora.commands.params import params
from explora.core.config.precedence import resolve
from explora.core.config.registry import METHODS, Shape
from explora.core.model.gpt2 import GPT2
from explora.core.runs.adapter import ADAPTER_FILE, Header, write_adapter
from explora.core.training.checkpoint import trained_tensors

TINY = Shape(n_layer=2, n_head=2, n_embd=8, n_positions=16, vocab_size=30)


def write_base(folder: Path, **changes: object) -> Path:
    """A local model folder as far as params looks: its configuration."""
    folder.mkdir()
    config = {"model_type": "gpt2", **vars(TINY), **changes}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("arguments", "trainable", "head"),
    [
        ("--lora 8 --targets c_attn", 294_912, 0),
        ("--lora 8 --targets key,value", 294_912, 0),
        ("--lora 4 --targets query,value", 147_456, 0),
        ("paraphrase", 294_912, 0),
        ("sonnet", 1_327_104, 0),
        ("sonnet --layers 6-11", 1_327_104 // 2, 0),
        ("sentiment --classes 2", 1_327_104 + 2 * 768, 2 * 768),
        ("sentiment --last-linear", 5 * 768, 5 * 768),
        ("paraphrase --last-linear", 2 * 768, 2 * 768),
        ("--full", 124_439_808, 0),
        ("sonnet --lora-rank 16", 2 * 1_327_104, 0),
    ],
)
def test_json_has_the_exact_counts(explora, check_schema, arguments: str, trainable: int, head: int) -> None:
    done = explora("params", *arguments.split(), "--model", "gpt2", "--json")
    assert (done.code, done.err) == (0, "")
    (counts,) = done.objects
    check_schema("params", counts)
    assert (counts["total"], counts["trainable"]) == (124_439_808 + head, trainable)
    assert counts["share"] == trainable / counts["total"]
    assert sum(part["total"] for part in counts["parts"].values()) == counts["total"]
    assert sum(part["trainable"] for part in counts["parts"].values()) == trainable


def test_without_a_method_the_methods_are_compared(explora) -> None:
    lines = explora("params", "--model", "gpt2").out.splitlines()
    assert lines[0] == "gpt2, paraphrase: lora r=8 (scale 2) on key, value"
    assert [line.split() for line in lines if line.startswith(("attn.c_attn", "all"))] == [
        ["attn.c_attn", "21,261,312", "294,912"],
        ["all", "124,439,808", "294,912"],
    ]
    assert [line.split()[0] for line in lines[-len(METHODS) :]] == [*METHODS]
    assert [line.split()[:2] for line in lines[-len(METHODS) :]][:3] == [
        ["lora", "294,912"],
        ["full", "124,439,808"],
        ["last-linear", "1,536"],
    ]


def test_a_method_that_the_task_refuses_is_not_compared(explora) -> None:
    assert "last-linear" not in explora("params", "sonnet", "--model", "gpt2").out


def test_with_a_method_its_file_is_told(explora) -> None:
    done = explora("params", "--model", "gpt2", "--lora", "8", "--targets", "c_attn", "--layers", "3")
    assert done.out.startswith("gpt2, paraphrase: lora r=8 (scale 2) on c_attn, blocks 3\n")
    assert done.out.endswith("adapter file: about 99.2 kB\n")
    assert explora("params", "--model", "gpt2", "--full").out.endswith("model file: about 497.8 MB\n")


def test_random_weights_are_labelled(explora) -> None:
    done = explora("params", "--model", "random:distilgpt2")
    assert done.out.startswith("random:distilgpt2 (random weights, for timing only), ")


def test_a_local_folder_needs_its_configuration_only(explora, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    done = explora("params", "--model", str(base), "--full", "--json")
    assert done.objects[0]["total"] == sum(p.numel() for p in GPT2(TINY).parameters())


@pytest.mark.parametrize("method", ["lora", "last-linear"])
def test_adapter_bytes_are_those_of_the_file_as_written(explora, tmp_path: Path, method: str) -> None:
    base = write_base(tmp_path / "base")
    arguments = ["--lora", "4"] if method == "lora" else ["--last-linear"]
    told = explora("params", "sentiment", "--model", str(base), *arguments, "--classes", "3", "--json")

    run, _ = resolve("sentiment", {"method": method, **({"rank": 4} if method == "lora" else {})})
    model = GPT2(TINY)
    model.score = torch.nn.Linear(TINY.n_embd, 3, bias=False)
    run.method.apply(model)
    header = Header(
        task="sentiment",
        method=run.method,
        base=str(base),
        base_digest="f" * 64,
        encoding=run.encoding,
        labels=("0", "1", "2"),
        best_step=7,
    )
    write_adapter(tmp_path / "run", trained_tensors(model), header, str(base))
    assert told.objects[0]["adapter_bytes"] == (tmp_path / "run" / ADAPTER_FILE).stat().st_size


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ("sonnet --last-linear", 2, "sonnet cannot be trained by last-linear"),
        ("--lora 8 --full", 2, "one method at a time"),
        ("--lora 0", 2, "rank must be at least 1"),
        ("--targets queries", 2, "did you mean query?"),
        ("--layers 6-12", 2, "the base has only blocks 0-11"),
        ("--classes 3", 2, "--classes belongs to sentiment"),
        ("sentiment --classes 1", 2, "--classes"),
        ("paraphrases", 2, "did you mean paraphrase?"),
        ("--model gpt3", 1, "did you mean gpt2?"),
        ("--batch-size 8", 2, "--batch-size changes no number of parameters"),
        ("--length 8", 2, "--length changes no number"),
        ("--memory --length 2000", 2, "at most 1024 tokens"),
        ("--memory --amp auto", 2, "--amp bf16 or --amp off"),
        ("--budget 2gibberish", 2, "'2gibberish' is not a size"),
        ("--budget off", 2, "leaves nothing"),
        ("--full --budget 2.6GB", 1, "256 tokens per optimizer step needs at least 2.7 GB, including 10 %"),
        (
            "--full --budget 2.6GB",
            1,
            "this fits: explora train paraphrase --full --model gpt2 --optimizer muon",
        ),
        (
            "--full --budget 2GB --length 64",
            1,
            "this fits: explora train paraphrase --full --model distilgpt2",
        ),
        ("--full --budget 1GB --length 64", 1, "this fits: explora train paraphrase --lora 8 --model gpt2"),
        ("--budget 100MB", 1, "no batch size fits: lora with rows of 256 tokens needs at least "),
        ("--budget 100MB", 1, "a smaller base"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(explora, arguments: str, code: int, told: str) -> None:
    words = arguments.split()
    if "--model" not in words:
        words += ["--model", "gpt2"]
    done = explora("params", *words)
    assert (done.code, done.out) == (code, "")
    assert told in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("example", re.findall(r"`explora (params .+)`", params.__doc__ or ""))
def test_an_example_of_the_help_works(explora, example: str) -> None:
    done = explora(*shlex.split(example))
    assert (done.code, done.err) == (0, "")


def test_memory_by_part(explora, check_schema) -> None:
    options = "--memory --batch-size 8 --length 256 --amp bf16"
    arguments = ["params", "--model", "gpt2", "--lora", "8", *options.split()]
    told = explora(*arguments, "--json")
    check_schema("params", told.objects[0])
    memory = told.objects[0]["memory"]
    assert memory["peak_bytes"] == sum(memory["parts"].values())
    assert (memory["batch_size"], memory["length"], memory["amp"]) == (8, 256, "bf16")
    assert memory["options"] is None
    lines = explora(*arguments).out.splitlines()
    assert lines[0] == "gpt2, paraphrase: lora r=8 (scale 2) on key, value"
    assert [line.split()[0] for line in lines[3:-3]] == [*memory["parts"], "all"]
    assert lines[-2] == "predicted for batch 8, rows of 256 tokens, bf16"
    assert lines[-1] == "fragmentation: freed memory that the allocator cannot reuse"


def test_counts_alone_tell_no_memory(explora) -> None:
    assert explora("params", "--model", "gpt2", "--json").objects[0]["memory"] is None


def test_rows_are_as_long_as_the_task_and_the_base_allow(explora, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    for arguments, length in ((["--model", "gpt2"], 256), (["--model", str(base)], 16)):
        told = explora("params", *arguments, "--memory", "--json").objects[0]["memory"]
        assert (told["length"], told["batch_size"], told["amp"]) == (length, 16, "off")


@pytest.mark.parametrize("budget", ["1.2GB", "1200 MB", "1144.4MiB"])
def test_a_budget_chooses_options_to_paste(explora, check_schema, budget: str) -> None:
    arguments = ["params", "--model", "gpt2", "--dropout", "0.1", "--budget", budget]
    told = explora(*arguments, "--json").objects[0]
    check_schema("params", told)
    memory = told["memory"]
    assert memory["peak_bytes"] <= 1_200_000_000
    assert memory["batch_size"] * memory["accumulate"] == 16
    shown = explora(*arguments).out
    command = next(line for line in shown.splitlines() if line.startswith("explora train "))
    assert command.endswith(memory["options"])
    pasted = explora(*shlex.split(command)[1:], "--dry-run", "--json").objects[0]["config"]
    assert pasted["model"] == "gpt2"
    assert pasted["training"]["dropout"] == 0.1
    assert pasted["training"]["batch_size"] == memory["batch_size"]
    assert pasted["runtime"]["amp"] == memory["amp"]


def test_a_budget_names_the_largest_batch(explora) -> None:
    words = ["params", "--model", "gpt2", "--length", "64"]
    shown = explora(*words, "--budget", "1.5GB").out
    found = re.search(r"largest batch: (\d+) with 10 % of the memory kept free, (\d+) without", shown)
    assert found is not None
    free, full = map(int, found.groups())
    assert 1 <= free < full

    def peak(rows: int) -> int:
        memory = explora(*words, "--memory", "--batch-size", str(rows), "--json").objects[0]["memory"]
        return int(memory["peak_bytes"])

    assert 1.1 * peak(free) <= 1.5e9 < 1.1 * peak(free + 1)
    assert peak(full) <= 1.5e9 < peak(full + 1)


WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "peft", "numpy"):
    sys.modules[name] = None  # importing it raises ImportError
import typer
from explora.commands.params import params
app = typer.Typer()
app.command()(params)
app(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "arguments", ["--model gpt2", "sentiment --model random:gpt2 --full", "--model base"]
)
def test_torch_is_never_imported(tmp_path: Path, arguments: str) -> None:
    write_base(tmp_path / "base")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "trained: " in done.stdout


def test_memory_needs_no_torch_either(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "--model", "gpt2", "--budget", "2GB"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "explora train paraphrase --lora 8 --model gpt2" in done.stdout


def test_a_folder_that_is_not_a_gpt2_is_refused(explora, tmp_path: Path) -> None:
    done = explora("params", "--model", str(write_base(tmp_path / "base", model_type="llama")))
    assert (done.code, done.out) == (1, "")
    assert "llama" in done.err
