"""MiSS against peft: peft's own on the base with linear layers, and the equal LoRA on the base as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import MissConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from explora.core.base.find import open_base
from explora.core.base.weights import load_model
from explora.core.config.registry import MODELS
from explora.core.config.values import Blocks
from explora.core.estimate.parameters import count
from explora.core.methods import miss_layers
from explora.core.methods.miss import MiSS
from explora.core.model.gpt2 import GPT2
from explora.core.runs.adapter import ADAPTER_FILE
from explora.core.runs.merge import merge_run
from explora.core.runs.open import open_run
from explora.errors import AdapterError, UsageError
from tests.loss_curves import CLOSE, our_curve, their_curve
from tests.tiny_adapters import (
    IN_FP32,
    SHAPE,
    causal,
    change_tensors,
    our_logits,
    their_logits,
    write_base,
    write_run,
)

TOLERANCE, SEEN = 1e-5, 1e-2
# peft asks transformers 5 by an old name; nothing that an adapter could change.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

MODULES = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
WHOLE = ("c_attn", "attn-out", "mlp-up", "mlp-down")
SEPARATE = ("query", "key", "value", "attn-out", "mlp-up", "mlp-down")
METHODS = {
    "the default": MiSS(rank=4),
    "key alone": MiSS(rank=4, targets=("key",)),
    "c_attn": MiSS(rank=8, targets=("c_attn",)),
    "all": MiSS(rank=4, targets=SEPARATE),
    "shards that do not fit": MiSS(rank=5, targets=WHOLE),
    "one shard": MiSS(rank=16, targets=("c_attn", "mlp-up")),
    "a gap": MiSS(rank=4, layers=Blocks([0, 2])),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "tiny")


def difference(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())


def prepared(base: Path, method: MiSS) -> GPT2:
    model = load_model(open_base(str(base)), dtype=torch.float32, device=torch.device("cpu"))
    method.apply(model)
    return model


def with_linear_layers(base: Path) -> Any:
    """The base in transformers with nn.Linear in place of Conv1D, which peft's MiSS refuses."""
    model = causal(base)
    for block in model.transformer.h:
        for module in MODULES:
            owner, name = block.get_submodule(module.rpartition(".")[0]), module.rpartition(".")[2]
            old = getattr(owner, name)
            linear = nn.Linear(*old.weight.shape)
            linear.weight.data, linear.bias.data = old.weight.data.t().contiguous(), old.bias.data
            setattr(owner, name, linear)
    return model


def pefts(base: Path, method: MiSS) -> tuple[Any, list[nn.Parameter]]:
    """The same MiSS in peft, and what it trains; a part of c_attn without a D gets no gradient."""
    layers = None if method.layers is None else list(method.layers)
    config = MissConfig(
        task_type="CAUSAL_LM",
        r=method.rank,
        target_modules=list(method.modules()),
        layers_to_transform=layers,
        layers_pattern="h" if layers else None,
    )
    model = get_peft_model(with_linear_layers(base), config)
    blocks = {name: value for name, value in model.named_parameters() if "miss_block" in name}
    parts = method.modules().get("attn.c_attn")
    for name, value in blocks.items():
        if parts is not None and "c_attn" in name:
            mask = torch.zeros(3, SHAPE.n_embd).index_fill_(0, torch.tensor(parts), 1.0).flatten()
            value.requires_grad_(True).register_hook(mask.mul)
    return model, list(blocks.values())


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_twenty_steps_are_those_of_peft(base: Path, method: MiSS) -> None:
    ours, (theirs, blocks) = prepared(base, method), pefts(base, method)
    assert our_curve(ours, method) == pytest.approx(their_curve(theirs, blocks), rel=CLOSE)
    assert difference(our_logits(ours), their_logits(theirs)) < TOLERANCE
    assert difference(our_logits(ours), their_logits(causal(base))) > SEEN


def neighbours_share(x: Tensor, rank: int) -> Tensor:
    """Neighbouring columns are added, instead of columns that are r apart."""
    return x.unflatten(1, (rank, -1)).sum(dim=2)


def the_last_is_left_out(x: Tensor, rank: int) -> Tensor:
    return x[:, : x.shape[1] // rank * rank].unflatten(1, (-1, rank)).sum(dim=1)


def the_mean(x: Tensor, rank: int) -> Tensor:
    return miss_layers.tile(torch.eye(rank), x.shape[1]).mul(rank / x.shape[1]).matmul(x.t()).t()


BUGS = {
    "neighbours share": (neighbours_share, MiSS(rank=4)),
    "the mean": (the_mean, MiSS(rank=4)),
    "the last shard is left out": (the_last_is_left_out, MiSS(rank=5)),
}


@pytest.mark.parametrize(("sums", "method"), BUGS.values(), ids=BUGS)
def test_the_curves_differ_for_a_planted_bug(
    base: Path, monkeypatch: pytest.MonkeyPatch, sums: Callable[[Tensor, int], Tensor], method: MiSS
) -> None:
    monkeypatch.setattr(miss_layers, "sum_shards", sums)
    ours, (theirs, blocks) = prepared(base, method), pefts(base, method)
    assert our_curve(ours, method) != pytest.approx(their_curve(theirs, blocks), rel=CLOSE)


@pytest.mark.parametrize("rank", [2, 3])
def test_backward_in_double_precision_is_the_derivative(rank: int) -> None:
    """Against finite differences, for the first and the last part, with and without a shorter last shard."""
    y, x, d = (
        torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in ((5, 6), (5, 4), (2, rank, 2))
    )
    assert torch.autograd.gradcheck(
        lambda y, x, d: miss_layers._AddShards.apply(y.clone(), x, d, (0, 2)), (y, x, d)
    )


# As a LoRA


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_peft_opens_it_as_a_lora_with_our_logits(base: Path, tmp_path: Path, method: MiSS) -> None:
    ours = our_logits(write_run(tmp_path, base, method))
    theirs = PeftModel.from_pretrained(causal(base), tmp_path)
    assert theirs.peft_config["default"].peft_type == "LORA"
    assert difference(ours, their_logits(theirs)) < TOLERANCE
    assert difference(ours, their_logits(causal(base))) > SEEN


EXPORTS_BUGS: dict[str, Callable[[str, Tensor], Tensor]] = {
    "A is not tiled": lambda name, value: value.roll(1, 1) if "lora_A" in name else value,
    "parts change places": lambda name, value: value.roll(SHAPE.n_embd, 0) if "lora_B" in name else value,
}


@pytest.mark.parametrize("bug", EXPORTS_BUGS.values(), ids=EXPORTS_BUGS)
def test_the_comparison_sees_a_planted_bug(
    base: Path, tmp_path: Path, bug: Callable[[str, Tensor], Tensor]
) -> None:
    ours = our_logits(write_run(tmp_path, base, METHODS["the default"]))
    change_tensors(tmp_path, lambda tensors: {name: bug(name, value) for name, value in tensors.items()})
    assert difference(ours, their_logits(PeftModel.from_pretrained(causal(base), tmp_path))) > SEEN
    with pytest.raises(AdapterError, match="has nonzero numbers outside the adapters miss r=4 on key, value"):
        open_run("text", str(tmp_path), model=str(base), tokenizer=None, runtime=IN_FP32)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_our_own_is_read_back(base: Path, tmp_path: Path, method: MiSS) -> None:
    model = write_run(tmp_path, base, method)
    session = open_run("text", str(tmp_path), model=str(base), tokenizer=None, runtime=IN_FP32)
    assert session.method == method
    assert torch.equal(our_logits(session.model), our_logits(model))


def test_without_our_header_it_is_a_lora(base: Path, tmp_path: Path) -> None:
    """Which a foreign LoRA is, whatever its numbers."""
    ours = our_logits(write_run(tmp_path, base, METHODS["all"]))
    file = tmp_path / ADAPTER_FILE
    save_file(load_file(file), file)
    session = open_run("text", str(tmp_path), model=str(base), tokenizer=str(base), runtime=IN_FP32)
    assert session.method.name == "lora"
    assert difference(our_logits(session.model), ours) < TOLERANCE


@pytest.mark.parametrize("method", [METHODS["all"], METHODS["shards that do not fit"]])
def test_transformers_computes_what_adapter_and_base_did(base: Path, tmp_path: Path, method: MiSS) -> None:
    ours = our_logits(write_run(tmp_path / "run", base, method))
    merged = merge_run(tmp_path / "run", tmp_path / "merged", model=str(base))
    theirs = their_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    assert difference(ours, theirs) < TOLERANCE
    assert merged.argmax_flips == 0
    by_peft = PeftModel.from_pretrained(causal(base), tmp_path / "run").merge_and_unload()
    assert difference(their_logits(by_peft), theirs) < TOLERANCE


def test_as_much_is_trained_as_peft_trains(base: Path) -> None:
    _, blocks = pefts(base, MiSS(rank=4, targets=WHOLE))
    assert count(SHAPE, MiSS(rank=4, targets=WHOLE)).trainable == sum(value.numel() for value in blocks)
    gpt2 = MODELS["gpt2"].shape
    assert count(gpt2, MiSS()).trainable == gpt2.n_layer * 16 * 2 * gpt2.n_embd


def test_a_rank_above_the_width_is_refused() -> None:
    with pytest.raises(UsageError, match="rank 17 is larger than the weight matrices of this base allow"):
        MiSS(rank=17).check_use(SHAPE)
