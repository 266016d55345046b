"""Adapters that peft wrote, however they say it: we compute peft's logits, and planted bugs are seen."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import GPT2Model

from explora.core.runs.adapter import CONFIG_FILE, write_adapter
from explora.core.runs.assemble import Session
from explora.core.runs.merge import merge_run
from explora.core.runs.open import open_run
from explora.core.training.checkpoint import trained_tensors
from explora.errors import AdapterError
from tests.tiny_adapters import (
    IDS,
    IN_FP32,
    SHAPE,
    causal,
    change_config,
    change_tensors,
    header,
    our_logits,
    save_with_peft,
    their_logits,
    write_base,
)

TOLERANCE = 1e-5
SEEN = 1e-3  # a planted bug moves a logit by more
LABELS = ("0", "1", "2")
SHORT = ["c_attn", "c_proj", "c_fc", "attn.c_proj", "mlp.c_proj"]
FULL = [
    f"transformer.h.{block}.{module}"
    for block in range(SHAPE.n_layer)
    for module in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
]

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning"),
]


def lora(**settings: Any) -> LoraConfig:
    # With peft's default alpha of 8 the attention scores grow so large that fp32 is 1e-5 off fp64, in peft as
    # in explora: the comparison would measure rounding, which depends on the width of the CPU's vectors.
    usual = {"r": 2, "lora_alpha": 2, "task_type": "CAUSAL_LM", "fan_in_fan_out": True}
    return LoraConfig(**(usual | settings))


def ia3(**settings: Any) -> IA3Config:
    return IA3Config(**({"task_type": "CAUSAL_LM", "fan_in_fan_out": True} | settings))


CONFIGS: dict[str, LoraConfig | IA3Config] = {
    "a short name": lora(r=4, target_modules=["c_attn"]),
    "short names": lora(r=3, lora_alpha=5, target_modules=["c_attn", "c_proj", "c_fc"]),
    "half a name": lora(target_modules=["attn.c_proj"], lora_dropout=0.1),
    "peft's choice": lora(),
    "all-linear": lora(target_modules="all-linear"),
    "full names": lora(target_modules=FULL[::2]),
    "one full name": lora(target_modules=["transformer.h.1.mlp.c_fc"]),
    "short and full names": lora(target_modules=["c_fc", "transformer.h.0.attn.c_attn"]),
    "a regular expression": lora(target_modules=r".*\.c_(attn|fc)"),
    "a regular expression for blocks": lora(target_modules=r".*\.h\.(0\.attn|2\.mlp)\.c_\w+"),
    "a name that GPT-2 lacks": lora(target_modules=["c_attn", "q_proj"]),
    "blocks": lora(target_modules=["c_attn", "c_fc"], layers_to_transform=[1, 2]),
    "blocks and a full name": lora(
        target_modules=["c_attn", "transformer.h.2.mlp.c_fc"], layers_to_transform=[0]
    ),
    "one block": lora(target_modules=["c_attn"], layers_to_transform=1, layers_pattern="h"),
    "a gap": lora(target_modules=["c_attn"], layers_to_transform=[0, 2], layers_pattern=["x", "h"]),
    "no blocks are all": lora(target_modules=["c_attn"], layers_to_transform=[], layers_pattern=[]),
    "blocks beyond the base": lora(target_modules=["c_attn"], layers_to_transform=[1, 7]),
    "excluded names": lora(target_modules="all-linear", exclude_modules=["mlp.c_proj", "lm_head"]),
    "an excluded expression": lora(target_modules=["c_attn", "c_fc"], exclude_modules=r".*\.1\..*"),
    "nothing saved": lora(target_modules=["c_attn"], modules_to_save=[]),
    "a revision": lora(target_modules=["c_attn"], revision="main"),
    "patterns": lora(
        target_modules=SHORT,
        rank_pattern={"attn.c_attn": 4, r"h\.1\.mlp\.c_fc": 3},
        alpha_pattern={"c_proj": 5, "h.0.attn.c_attn": 1},
    ),
    "patterns of full names": lora(
        target_modules=["c_attn", "transformer.h.0.mlp.c_proj"],
        rank_pattern={"transformer.h.0.mlp.c_proj": 5, "^transformer.h.2.attn.c_attn": 1},
        alpha_pattern={r"h\.[12]\..*": 1},
    ),
    "rslora": lora(r=4, target_modules=["c_attn"], use_rslora=True),
    "patterns of rslora": lora(
        target_modules=["c_attn", "c_fc"],
        use_rslora=True,
        rank_pattern={r"h\.[02]\.attn\.c_attn": 5},
        alpha_pattern={"c_fc": 3, "c_attn": 4},
    ),
    "biases of modules": lora(target_modules=["c_attn", "mlp.c_proj"], bias="lora_only"),
    "biases of scattered modules": lora(target_modules=FULL[::5], bias="lora_only"),
    "all biases": lora(target_modules=["c_fc"], layers_to_transform=[1], bias="all"),
    "all biases, scattered modules": lora(target_modules=FULL[1::5], bias="all"),
    "dora": lora(r=4, target_modules=["c_attn"], use_dora=True),
    "dora, scattered": lora(target_modules=FULL[::5], use_dora=True),
    "dora and rslora": lora(
        target_modules=["c_attn", "c_fc"],
        use_dora=True,
        use_rslora=True,
        rank_pattern={"c_fc": 3},
        bias="all",
    ),
    "gaussian": lora(target_modules=["c_attn"], init_lora_weights="gaussian"),
    "orthogonal": lora(target_modules=["c_attn"], init_lora_weights="orthogonal"),
    "mica": lora(target_modules=["c_attn"], init_lora_weights="mica"),
    "ia3": ia3(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"]),
    "ia3, peft's choice": ia3(),
    "ia3, all-linear": ia3(target_modules="all-linear", feedforward_modules=None),
    "ia3, attention alone": ia3(target_modules=["c_attn", "attn.c_proj"], feedforward_modules=[]),
    "ia3, full names": ia3(target_modules=FULL[::3], feedforward_modules=[FULL[3]]),
    "ia3, expressions": ia3(target_modules=r".*\.[02]\.mlp\.c_.*", feedforward_modules=r".*mlp\.c_proj"),
    "ia3, excluded": ia3(
        target_modules=["c_attn", "mlp.c_proj"],
        feedforward_modules=["mlp.c_proj"],
        exclude_modules=["transformer.h.1.mlp.c_proj"],
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def open_adapter(folder: Path, base: Path, task: str = "text") -> Session:
    return open_run(task, str(folder), model=str(base), tokenizer=str(base), runtime=IN_FP32)


def difference(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_we_compute_peft_s_logits(base: Path, tmp_path: Path, config: Any) -> None:
    theirs = their_logits(save_with_peft(tmp_path, base, config))
    session = open_adapter(tmp_path, base)
    assert session.header is None
    assert difference(our_logits(session.model), theirs) < TOLERANCE
    assert difference(their_logits(causal(base)), theirs) > SEEN


def drawn(seed: int) -> LoraConfig:
    """A configuration of any mixture of what the grid has one by one."""
    draw = random.Random(seed)
    patterns = [{}, {"c_attn": 3}, {r"h\.\d\.mlp\..*": 1}, {"h.0.attn.c_attn": 4, "mlp.c_proj": 3}, {".*": 3}]
    modules = [*draw.sample(SHORT, draw.randint(0, 2)), *draw.sample(FULL, draw.randint(1, 5))]
    return lora(
        target_modules=draw.choice([modules, modules, r".*\.h\.[02]\..*c_(fc|proj)", "all-linear"]),
        exclude_modules=draw.choice([None, None, [draw.choice(FULL)], r".*\.2\.mlp.*"]),
        r=draw.choice([1, 2, 4]),
        lora_alpha=draw.choice([1, 2, 3]),
        rank_pattern=draw.choice(patterns),
        alpha_pattern=draw.choice(patterns),
        use_rslora=draw.random() < 0.3,
        use_dora=draw.random() < 0.3,
        bias=draw.choice(["none", "lora_only", "all"]),
    )


@pytest.mark.parametrize("seed", range(8))
def test_we_compute_peft_s_logits_of_drawn_configurations(base: Path, tmp_path: Path, seed: int) -> None:
    theirs = their_logits(save_with_peft(tmp_path, base, drawn(seed)))
    assert difference(our_logits(open_adapter(tmp_path, base).model), theirs) < TOLERANCE


@pytest.mark.parametrize("settings", [{}, {"r": 3, "target_modules": "all-linear", "use_rslora": True}])
def test_we_compute_peft_s_class_logits(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    theirs = their_logits(
        save_with_peft(tmp_path, base, lora(**settings, task_type="SEQ_CLS"), classes=len(LABELS))
    )
    session = open_adapter(tmp_path, base, "sentiment")
    assert session.task.labels == LABELS
    assert difference(our_logits(session.model), theirs) < TOLERANCE


SCATTERED = ("short and full names", "dora, scattered", "all biases, scattered modules", "ia3, full names")


@pytest.mark.parametrize("name", SCATTERED)
def test_what_was_read_is_written_and_merged_again(base: Path, tmp_path: Path, name: str) -> None:
    theirs = their_logits(save_with_peft(tmp_path / "theirs", base, CONFIGS[name]))
    session = open_adapter(tmp_path / "theirs", base)
    (tmp_path / "ours").mkdir()
    written = header(base, "text", session.method)
    write_adapter(tmp_path / "ours", trained_tensors(session.model), written, str(base))
    again = PeftModel.from_pretrained(causal(base), tmp_path / "ours")
    assert difference(their_logits(again), theirs) < TOLERANCE
    merge_run(tmp_path / "theirs", tmp_path / "merged", task="text", model=str(base), tokenizer=str(base))
    assert difference(their_logits(causal(tmp_path / "merged")), theirs) < TOLERANCE


# Spellings

SPELLINGS: dict[str, Callable[[str], str]] = {
    "no prefix": lambda name: name.removeprefix("base_model.model."),
    "the adapter's name": lambda name: name.replace(".weight", ".default.weight"),
    "compiled before": lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
    "compiled after": lambda name: f"_orig_mod.{name}",
    "compiled blocks": lambda name: name.replace("mlp.", "_orig_mod.mlp."),
    "distributed": lambda name: f"module.{name}",
    "biases of peft 0.6": lambda name: name.replace(".base_layer.bias", ".bias"),
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
def test_names_of_tensors_may_be_spelled_in_many_ways(
    base: Path, tmp_path: Path, spell: Callable[[str], str]
) -> None:
    config = lora(target_modules=FULL[::3], bias="lora_only")
    theirs = their_logits(save_with_peft(tmp_path, base, config))
    change_tensors(tmp_path, lambda tensors: {spell(name): value for name, value in tensors.items()})
    assert difference(our_logits(open_adapter(tmp_path, base).model), theirs) < TOLERANCE


def test_a_compiled_model_s_names_are_in_the_configuration_too(base: Path, tmp_path: Path) -> None:
    """peft writes them for a compiled model and all-linear, as here by hand: compiling takes seconds."""
    theirs = their_logits(save_with_peft(tmp_path, base, lora(target_modules=FULL[::3])))
    change_config(tmp_path, target_modules=[f"_orig_mod.{name}" for name in FULL[::3]])
    change_tensors(
        tmp_path, lambda t: {name.replace("model.tr", "model._orig_mod.tr"): v for name, v in t.items()}
    )
    assert difference(our_logits(open_adapter(tmp_path, base).model), theirs) < TOLERANCE
    change_config(tmp_path, target_modules=r"_orig_mod\.transformer\.h\.\d\.(attn|mlp)\.c_(attn|proj)")
    with pytest.raises(AdapterError, match="missing"):  # other modules, but it is a regular expression
        open_adapter(tmp_path, base)


OLD = {"peft_type", "r", "lora_alpha", "target_modules", "fan_in_fan_out", "bias", "lora_dropout"}  # peft 0.2


@pytest.mark.parametrize(
    "change",
    [
        lambda config: {name: config[name] for name in OLD},
        lambda config: config | {"use_magic": False, "magic_config": None, "magic_list": []},
    ],
    ids=["old", "to come"],
)
def test_fields_may_be_missing_or_new(base: Path, tmp_path: Path, change: Callable[[Any], Any]) -> None:
    theirs = their_logits(save_with_peft(tmp_path, base, lora(target_modules=["c_attn", "c_fc"])))
    file = tmp_path / CONFIG_FILE
    file.write_text(json.dumps(change(json.loads(file.read_text(encoding="utf-8")))), encoding="utf-8")
    assert difference(our_logits(open_adapter(tmp_path, base).model), theirs) < TOLERANCE


def test_an_adapter_of_the_headless_model_is_read(base: Path, tmp_path: Path) -> None:
    model = get_peft_model(GPT2Model.from_pretrained(base), lora(task_type=None, target_modules=r"h\..*c_fc"))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.15)
        model.save_pretrained(tmp_path)
        hidden = model.eval()(input_ids=IDS).last_hidden_state
    theirs = hidden @ causal(base).lm_head.weight.detach().T
    assert difference(our_logits(open_adapter(tmp_path, base).model), theirs) < TOLERANCE


# Planted bugs

TWO_BLOCKS = lora(
    r=4,
    target_modules=["c_attn", "transformer.h.1.mlp.c_fc"],
    use_rslora=True,
    bias="lora_only",
    alpha_pattern={"h.1.attn.c_attn": 1},
)


def turn_a(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.flip(0) if "lora_A" in name else value for name, value in tensors.items()}


def zero_biases(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: torch.zeros_like(v) if n.endswith("bias") else v for n, v in tensors.items()}


BUGS: dict[str, Callable[[Path], None]] = {
    "rsLoRA is overlooked": lambda run: change_config(run, use_rslora=False),
    "alpha is overlooked": lambda run: change_config(run, lora_alpha=8),
    "a pattern is overlooked": lambda run: change_config(run, alpha_pattern={}),
    "a pattern fits the wrong block": lambda run: change_config(run, alpha_pattern={"h.2.attn.c_attn": 1}),
    "biases are overlooked": lambda run: change_tensors(run, zero_biases),
    "A is turned around": lambda run: change_tensors(run, turn_a),
}


@pytest.mark.parametrize("plant", BUGS.values(), ids=BUGS)
def test_the_comparison_sees_a_planted_bug(base: Path, tmp_path: Path, plant: Callable[[Path], None]) -> None:
    theirs = their_logits(save_with_peft(tmp_path, base, TWO_BLOCKS))
    assert difference(our_logits(open_adapter(tmp_path, base).model), theirs) < TOLERANCE
    plant(tmp_path)
    assert difference(our_logits(open_adapter(tmp_path, base).model), theirs) > SEEN
