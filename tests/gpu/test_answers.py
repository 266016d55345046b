"""What follows a training: greedy and sampled text, merging, evaluation and the bench."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

from explora.core.base.find import open_base
from explora.core.base.weights import load_model
from explora.core.bench import run as bench_run
from explora.core.bench.measurements import Contender
from explora.core.bench.plan import Plan
from explora.core.config.concerns import RuntimeConfig
from explora.core.generate.decode import Prompt, stream
from explora.core.generate.sampling import SamplingConfig
from explora.core.model.gpt2 import GPT2
from explora.core.runs.merge import merge_run
from explora.core.runs.open import open_run
from explora.core.runs.train import start_run
from tests.cells_here import ask_here
from tests.conftest import Outcome
from tests.gpu.conftest import Prepare
from tests.tiny_models import VOCABULARY, finish

EOS = 0
NEW = 12
PROMPTS = [[5, 9, 200, 31], [17, 40], [101, 7, 7, 250, 3, 88]]

# peft asks transformers 5 by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def continued(model: GPT2, sampling: SamplingConfig, lines: int | None = None) -> list[list[int]]:
    prompts = [Prompt(ids=ids, seed=row, lines=lines) for row, ids in enumerate(PROMPTS)]
    found: list[list[int]] = [[] for _ in prompts]
    for step in stream(model, prompts, sampling, NEW, EOS, lambda token: int(token % 50 == 0)):
        for row, token in step:
            found[row].append(token)
    return found


def opened(base: Path, device: torch.device) -> GPT2:
    return load_model(open_base(str(base)), dtype=torch.float32, device=device).eval()


def test_greedy_text_is_that_of_transformers(base: Path, device: torch.device) -> None:
    theirs = GPT2LMHeadModel.from_pretrained(base).to(device).eval()
    expected = []
    for ids in PROMPTS:
        given = torch.tensor([ids], device=device)
        whole = theirs.generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=EOS,
            pad_token_id=EOS,
        )
        expected.append([token for token in whole[0, len(ids) :].tolist() if token != EOS])
    assert continued(opened(base, device), SamplingConfig(greedy=True)) == expected


@pytest.mark.parametrize("lines", [None, 1])
def test_sampled_text_follows_from_the_seed(base: Path, device: torch.device, lines: int | None) -> None:
    model = opened(base, device)
    first = continued(model, SamplingConfig(top_p=0.9), lines)
    assert first == continued(model, SamplingConfig(top_p=0.9), lines)
    assert len({tuple(tokens) for tokens in first}) == len(PROMPTS)
    assert all(0 <= token < VOCABULARY for tokens in first for token in tokens)


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_a_merged_run_computes_the_same(
    prepare: Prepare, base: Path, device: torch.device, method: str, tmp_path: Path
) -> None:
    running = start_run(prepare("text", method=method, max_steps=4, learning_rate=0.01), tmp_path / "run")
    finish(running)
    ids = torch.tensor([PROMPTS[2]])
    session = open_run(
        "text",
        str(tmp_path / "run"),
        model=str(base),
        tokenizer=None,
        runtime=RuntimeConfig(device=str(device), amp="off", threads=1),
    )
    with torch.no_grad():
        ours = session.model.logits(session.model.eval()(ids.to(device))).cpu()
        merge_run(tmp_path / "run", tmp_path / "merged", model=str(base))
        theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "merged").eval()(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("task", ["paraphrase", "sentiment", "text"])
def test_an_evaluation_agrees_with_the_cpu_s(
    prepare: Prepare, device: torch.device, task: str, tmp_path: Path, explora: Callable[..., Outcome]
) -> None:
    finish(start_run(prepare(task, max_steps=4), tmp_path / "run"))
    found = [
        explora("eval", task, str(tmp_path / "run"), "--device", name, "--amp", "off", "--json").objects[0]
        for name in (str(device), "cpu")
    ]
    assert found[0]["scores"] == pytest.approx(found[1]["scores"], rel=1e-3)


def test_the_bench_measures_beside_peft(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_run, "ask", ask_here)
    contender = Contender(run=prepare("paraphrase", amp="bf16"))
    bench = bench_run.open_bench(Plan(contenders=(contender,), repeats=1, steps=2, peer=True), tmp_path)
    list(bench.measure())
    rows = bench.result().rows
    assert [row.error for row in rows] == [None] * len(rows)
    assert all(row.tokens_per_second > 0 and row.peak_memory_bytes > 0 for row in rows)
