"""Merged weights are those of each method's formula, to the last place, and a wrong merge is noticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from explora.core.base.find import open_base
from explora.core.base.weights import load_model
from explora.core.config.method import Method
from explora.core.config.registry import METHODS
from explora.core.methods.dora_layers import DoRALinear
from explora.core.methods.ia3_layers import IA3Input, IA3Linear
from explora.core.methods.lora import ALL_TARGETS
from explora.core.methods.lora_layers import LoRALinear
from explora.core.methods.miss_layers import MiSSLinear
from explora.core.model.gpt2 import Conv1D
from explora.core.runs import merge as merging
from explora.core.runs.merge import merge_run
from explora.core.runs.weight_check import units_apart
from explora.errors import AdapterError
from tests.tiny_adapters import causal, write_base, write_run
from tests.tiny_models import make_method

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

MERGEABLE = [name for name in METHODS if not make_method(name).trains_base]
SETTINGS = {"rank": 3, "blocks": 1, "layers": None, "targets": ALL_TARGETS}
PATTERNS = {"targets": ("c_attn", "mlp-up"), "alpha": 5.0, "bias": "all"} | {
    "rank_pattern": {"mlp.c_fc": 5}, "alpha_pattern": {"h.1.attn.c_attn": 7.0}
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "tiny")


def method_of(name: str, **settings: Any) -> Method:
    return make_method(name, **(SETTINGS | settings))


def merge(base: Path, folder: Path, method: Method, dtype: str = "fp32") -> None:
    """Write a run whose tensors all count, and merge it."""
    labels = ("a", "b", "c")
    write_run(folder / "run", base, method, "sentiment" if method.needs_head else "text", labels)
    merge_run(folder / "run", folder / "merged", model=str(base), dtype=dtype)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", MERGEABLE)
def test_every_method_merges_by_its_formula(base: Path, tmp_path: Path, name: str, dtype: str) -> None:
    merge(base, tmp_path, method_of(name), dtype)


@pytest.mark.parametrize("name", ["lora", "rslora", "dora"])
def test_patterns_and_biases_too(base: Path, tmp_path: Path, name: str) -> None:
    merge(base, tmp_path, method_of(name, **PATTERNS))


@pytest.mark.parametrize("name", ["lora", "rslora", "dora", "ia3", "miss"])
def test_the_formula_is_that_of_peft(base: Path, tmp_path: Path, name: str) -> None:
    method = method_of(name, targets=("c_attn", "attn-out", "mlp-up", "mlp-down"))
    merge(base, tmp_path, method)
    theirs = PeftModel.from_pretrained(causal(base), tmp_path / "run").merge_and_unload().transformer
    ours = load_model(open_base(str(tmp_path / "merged")), dtype=torch.float32, device=torch.device("cpu"))
    expected = dict(theirs.named_parameters())
    assert all((value - expected[name]).abs().max() < 1e-5 for name, value in ours.named_parameters())


# Planted bugs. The check of the logits is off: it would see some of them too.

Spoil = Callable[[Any, Conv1D], None]


def forget_the_scale(layer: LoRALinear, merged: Conv1D) -> None:
    layer.scale = 1.0
    merged.weight = nn.Parameter(layer.adapted_weight().float())


def transpose_a(layer: LoRALinear, merged: Conv1D) -> None:
    layer.lora_A.data = layer.lora_A.data.t().reshape(layer.lora_A.shape)
    merged.weight = nn.Parameter(layer.adapted_weight().float())


def forget_the_magnitudes(layer: DoRALinear, merged: Conv1D) -> None:
    merged.weight = nn.Parameter(LoRALinear.adapted_weight(layer).float())


def forget_the_bias(layer: IA3Linear, merged: Conv1D) -> None:
    merged.bias.data = merged.bias / layer.ia3_l.detach().flatten()


def scale_the_output(layer: IA3Input, merged: Conv1D) -> None:
    merged.weight.data = merged.weight.flip(0)


def shift_the_shards(layer: MiSSLinear, merged: Conv1D) -> None:
    merged.weight.data = merged.weight.roll(1, dims=0)


def move_two_units(layer: Any, merged: Conv1D) -> None:
    """No logit shows it."""
    first = merged.weight.data[0, 0]
    for _ in range(2):
        first.copy_(torch.nextafter(first, torch.tensor(torch.inf)))


BUGS: list[tuple[str, type[nn.Module], Spoil]] = [
    ("lora", LoRALinear, forget_the_scale),
    ("lora", LoRALinear, transpose_a),
    ("lora", LoRALinear, move_two_units),
    ("rslora", LoRALinear, forget_the_scale),
    ("lora-plus", LoRALinear, forget_the_scale),
    ("dora", DoRALinear, forget_the_magnitudes),
    ("dora", DoRALinear, move_two_units),
    ("ia3", IA3Linear, forget_the_bias),
    ("ia3", IA3Input, scale_the_output),
    ("ia3", IA3Linear, move_two_units),
    ("miss", MiSSLinear, shift_the_shards),
    ("miss", MiSSLinear, move_two_units),
]


@pytest.mark.parametrize(("name", "layer", "spoil"), BUGS)
def test_a_wrong_merge_is_noticed(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    layer: Any,
    spoil: Spoil,
) -> None:
    right = layer.merged

    def wrong(own: Any) -> Conv1D:
        merged = right(own)
        spoil(own, merged)
        return merged  # type: ignore[no-any-return]

    monkeypatch.setattr(merging, "require_equal", lambda *_: None)
    monkeypatch.setattr(layer, "merged", wrong)
    with pytest.raises(AdapterError, match=rf"differs from the formula of {name} by [\d,]+ units"):
        merge(base, tmp_path, method_of(name, targets=("c_attn", "mlp-down")))
    assert not (tmp_path / "merged").exists()


def near(value: float, dtype: torch.dtype, steps: int) -> Tensor:
    """The number that is this many steps above a value."""
    number = torch.tensor([value], dtype=dtype)
    for _ in range(steps):
        number = torch.nextafter(number, torch.tensor([torch.inf], dtype=dtype))
    return number


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [1.0, -1.0, 0.0, -1e-40, 3.14, -65504.0])
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_units_are_counted_as_nextafter_counts_them(value: float, dtype: torch.dtype, steps: int) -> None:
    exact = torch.tensor([value], dtype=dtype).double()
    assert units_apart(near(value, dtype, steps), exact) == steps
    assert units_apart(near(value, dtype, steps), near(value, dtype, steps).double()) == 0
