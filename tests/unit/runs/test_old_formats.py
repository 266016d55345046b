"""Run folders of format 1, written by commit 4007b66, open with today's code and compute the same.

tests/fixtures/4007b66/README.md says how the files were made. They hold paths relative to that folder, so
each test works in a copy of it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from explora.core.base.find import open_base
from explora.core.base.weights import load_model
from explora.core.config.method import Method
from explora.core.config.run_config import TrainRun
from explora.core.config.values import Blocks
from explora.core.methods.full import Full
from explora.core.methods.last_linear import LastLinear
from explora.core.methods.lora import ALL_TARGETS, LoRA
from explora.core.model.gpt2 import GPT2
from explora.core.runs.adapter import ADAPTER_FILE, FORMAT
from explora.core.runs.assemble import FULL_HEADER
from explora.core.runs.open import open_run
from explora.errors import AdapterError
from tests.tiny_adapters import IN_FP32, our_logits

FIXTURES = Path(__file__).parents[2] / "fixtures" / "4007b66"
# Other processors change the recorded logits by 7e-7 at most, a scale that is 1 % off by at least 2e-4.
TOLERANCE = 1e-5
MERGE_TOLERANCE = 1e-4  # merged weights are rounded once more; merge-lora itself allows this much
IDS = torch.arange(24).view(2, 12)
UPDATE = ("--max-steps", "1", "--batch-size", "4", "--device", "cpu", "--amp", "off", "--threads", "1")


@dataclass(frozen=True, kw_only=True)
class OldRun:
    """A run of the old commit: the options that made it, and what its method is today."""

    options: str
    method: Method

    @property
    def is_adapter(self) -> bool:
        return not self.method.trains_base


RUNS = {
    "paraphrase-lora": OldRun(options="--lora 2", method=LoRA(rank=2, targets=("key", "value"))),
    "paraphrase-last-linear": OldRun(options="--last-linear", method=LastLinear()),
    "sentiment-lora": OldRun(
        options="--lora 2 --layers 1-1 --targets c_attn,mlp-up --alpha 3",
        method=LoRA(rank=2, alpha=3.0, targets=("c_attn", "mlp-up"), layers=Blocks([1])),
    ),
    "sentiment-full": OldRun(options="--full", method=Full()),
    "sonnet-lora": OldRun(options="--lora 2", method=LoRA(rank=2, targets=ALL_TARGETS)),
    "text-full": OldRun(options="--full", method=Full()),
}
ADAPTERS = [name for name, run in RUNS.items() if run.is_adapter]
LORAS = [name for name in ADAPTERS if isinstance(RUNS[name].method, LoRA)]
WHOLE_MODELS = [name for name, run in RUNS.items() if not run.is_adapter]
# Wilson's intervals and the scores of trivial answers came later.
CHANGED = ("intervals", "floors", "trivial_answers", "higher_is_better")
Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a copy of the fixtures: `explora` runs in the same folder."""
    shutil.copytree(FIXTURES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def task_of(name: str) -> str:
    return name.partition("-")[0]


def logits_of(folder: str, task: str) -> Tensor:
    return our_logits(open_run(task, folder, model=None, tokenizer=None, runtime=IN_FP32).model, IDS)


def difference(name: str, found: Tensor) -> float:
    """Return how far logits are from those that the old code computed."""
    return float((found - load_file(f"{name}.logits.safetensors")["logits"]).abs().max())


def read_json(file: str) -> Any:
    return json.loads(Path(file).read_text(encoding="utf-8"))


def near(value: Any) -> Any:
    """Return a JSON value that equals one with nearly the same floats."""
    if isinstance(value, dict):
        return {key: near(item) for key, item in value.items()}
    if isinstance(value, list):
        return [near(item) for item in value]
    return pytest.approx(value, rel=1e-5) if isinstance(value, float) else value


def known_keys(found: Any, recorded: Any) -> Any:
    """Return `found` without the keys that later versions added to its objects."""
    if not isinstance(recorded, dict):
        return found
    return {key: known_keys(found[key], value) for key, value in recorded.items()}


def change_header(folder: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Rewrite the explora header of an adapter or a whole model."""
    whole = Path(folder, FULL_HEADER)
    if whole.is_file():
        whole.write_text(json.dumps(change(read_json(str(whole)))), encoding="utf-8")
        return
    file = Path(folder, ADAPTER_FILE)
    with safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()["explora"])
    save_file(load_file(file), file, metadata={"explora": json.dumps(change(header))})


def with_setting(name: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda header: header | {"method": header["method"] | {name: value}}


# --- what they compute ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_computes_the_recorded_logits(name: str) -> None:
    assert difference(name, logits_of(name, task_of(name))) <= TOLERANCE


@pytest.mark.parametrize("name", LORAS)
def test_the_logits_see_half_the_scale(name: str) -> None:
    """Planted bug: the same file with half of its alpha."""
    method = RUNS[name].method
    assert isinstance(method, LoRA)
    change_header(name, with_setting("alpha", method.scale * method.rank / 2))
    assert difference(name, logits_of(name, task_of(name))) > 10 * TOLERANCE


def test_layers_of_other_blocks_do_not_open() -> None:
    """Planted bug: the same file with adapters in another range of blocks."""
    change_header("sentiment-lora", with_setting("layers", [0, 1]))
    with pytest.raises(AdapterError, match=r"missing \S*h\.0\.attn\.c_attn\.lora_A"):
        logits_of("sentiment-lora", "sentiment")


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_scores_as_before(name: str, explora: Command) -> None:
    file = Path("new-predictions.jsonl")
    recorded = Path(f"{name}.predictions.jsonl")
    written = ("--predictions", str(file)) if recorded.exists() else ()
    outcome = explora("eval", task_of(name), name, "--threads", "1", "-q", "--json", *written)
    assert outcome.code == 0, outcome.err
    found, expected = outcome.objects[0], read_json(f"{name}.eval.json")
    for result in (found, expected):
        for part in CHANGED:
            result.pop(part, None)
    assert known_keys(found, expected) == near(expected)
    if written:
        found, expected = (
            [json.loads(line) for line in each.read_text().splitlines()] for each in (file, recorded)
        )
        assert found == near(expected)


@pytest.mark.parametrize("name", RUNS)
def test_parameters_are_counted_as_before(name: str, explora: Command) -> None:
    outcome = explora("params", task_of(name), "--model", "base", *RUNS[name].options.split(), "--json")
    assert outcome.code == 0, outcome.err
    found, expected = outcome.objects[0], read_json(f"{name}.params.json")
    for counted in (found, expected):
        del counted["adapter_bytes"]  # the file holds the header, and the header's format has changed
    if head := expected["parts"].get("score"):  # the old code left a linear head out of the total
        head["total"] = head["trainable"]
        expected["total"] += head["total"]
        expected["share"] = expected["trainable"] / expected["total"]
    assert found == expected


# --- their settings -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_the_record_resolves_to_the_same_settings(name: str, explora: Command) -> None:
    record = f"{name}/run.json"
    outcome = explora("train", task_of(name), "--config", record, "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    found, expected = outcome.objects[0]["config"], read_json(record)["config"]
    assert TrainRun.from_json(found).method == RUNS[name].method
    expected["data"] = {"encoding": "auto"} | expected["data"]  # a setting that came later
    expected["from_run"] = None  # and so did this
    assert found | {"method": None} == expected | {"method": None}


def test_old_layers_are_the_first_and_the_last_block(explora: Command) -> None:
    record = read_json("sentiment-lora/run.json")
    record["config"]["method"]["layers"] = [2, 5]
    Path("run.json").write_text(json.dumps(record), encoding="utf-8")
    words = ("--config", "run.json", "--model", "gpt2", "--dry-run", "--json")
    config = explora("train", "sentiment", *words).objects[0]["config"]
    assert config["method"]["layers"] == "2-5"


# --- what they are used for -----------------------------------------------------------------------


def load_base(folder: str) -> GPT2:
    return load_model(open_base(folder), dtype=torch.float32, device=torch.device("cpu"), with_head=True)


@pytest.mark.parametrize("name", WHOLE_MODELS)
def test_an_old_full_run_is_a_base(name: str, explora: Command) -> None:
    assert difference(name, our_logits(load_base(name), IDS)) <= TOLERANCE
    words = ("--model", name, "--data", "data/paraphrase", "--lora", "2", *UPDATE, "-o", "new", "--json")
    trained = explora("train", "paraphrase", *words)
    assert trained.code == 0, trained.err
    assert trained.objects[0]["model"] == name


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_old_adapter_is_merged(name: str, explora: Command) -> None:
    merged = explora("merge-lora", name, "-o", "merged", "--json")
    assert merged.code == 0, merged.err
    assert difference(name, logits_of("merged", task_of(name))) <= MERGE_TOLERANCE


@pytest.mark.parametrize("name", ["sonnet-lora", "text-full"])
def test_a_format_of_the_future_is_refused(name: str, explora: Command) -> None:
    change_header(name, lambda header: header | {"format": 99})
    outcome = explora("eval", task_of(name), name)
    assert (outcome.code, outcome.out) == (AdapterError.exit_code, "")
    assert f"has format 99, this explora reads up to {FORMAT}" in outcome.err
    assert "update explora" in outcome.err
