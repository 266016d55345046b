"""Closed forms against models that exist: transformers, peft, safetensors and explora's own methods."""

import json
import warnings

import peft
import pytest
import safetensors.torch
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from explora.core.config.method import Method
from explora.core.config.registry import METHODS, MODELS, TARGETS, Shape, method_class
from explora.core.config.values import Blocks
from explora.core.estimate import parameters as counting
from explora.core.estimate.parameters import base_tensors, count, file_bytes, file_tensors
from explora.core.methods.lora import LoRA
from explora.core.model.gpt2 import GPT2
from tests.tiny_models import make_method

# Older versions of peft (0.18, 0.19) look for the configuration of a base that has no folder here.
pytestmark = pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning")

TINY = Shape(n_layer=3, n_head=2, n_embd=8, n_positions=16, vocab_size=50)
ELEVEN = Shape(n_layer=11, n_head=1, n_embd=4, n_positions=4, vocab_size=9)  # h.10 sorts before h.2
SHAPES = [TINY, ELEVEN, MODELS["gpt2"].shape]

# Our names and, for one adapter on each whole module, peft's.
FUSED = [
    (("c_attn",), ["c_attn"]),
    (("attn-out",), ["attn.c_proj"]),
    (("c_attn", "mlp-up"), ["c_attn", "c_fc"]),
    (("c_attn", "attn-out", "mlp-down"), ["c_attn", "c_proj"]),
    (("c_attn", "attn-out", "mlp-up", "mlp-down"), ["c_attn", "c_proj", "c_fc"]),
]
SEPARATE = [
    ("query",),
    ("key", "value"),
    ("query", "value", "mlp-up"),
    ("query", "key", "value", "attn-out", "mlp-up", "mlp-down"),
]


def hugging_face(shape: Shape, classes: int = 0) -> torch.nn.Module:
    """A transformers model of this shape on the meta device: shapes without memory."""
    config = GPT2Config(**vars(shape), num_labels=classes or 2, pad_token_id=0)
    kind = GPT2ForSequenceClassification if classes else GPT2LMHeadModel
    with torch.device("meta"):
        return kind(config)


def with_peft(shape: Shape, method: Method, names: list[str], classes: int = 0) -> torch.nn.Module:
    config = peft.LoraConfig(
        task_type="SEQ_CLS" if classes else "CAUSAL_LM",
        r=method.rank,
        target_modules=names,
        fan_in_fan_out=True,
        layers_to_transform=list(range(method.layers[0], method.layers[1] + 1)) if method.layers else None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft remarks on the meta device
        return peft.get_peft_model(hugging_face(shape, classes), config, low_cpu_mem_usage=True)


def trainable(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("shape", SHAPES)
def test_base_tensors_are_those_of_transformers(shape: Shape) -> None:
    theirs = {
        name.removeprefix("transformer."): tuple(weight.shape)
        for name, weight in hugging_face(shape).named_parameters()  # the tied head is listed once
    }
    assert base_tensors(shape) == theirs


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.parametrize(("targets", "names"), FUSED)
def test_lora_counts_are_pefts(
    shape: Shape, classes: int, targets: tuple[str, ...], names: list[str]
) -> None:
    method = LoRA(rank=3, targets=targets, layers=Blocks.parse("1-2"))
    assert count(shape, method, classes).trainable == trainable(with_peft(shape, method, names, classes))


@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.parametrize(("targets", "names"), FUSED)
def test_the_file_holds_what_peft_would_save(
    classes: int, targets: tuple[str, ...], names: list[str]
) -> None:
    method = LoRA(rank=3, targets=targets)
    theirs = peft.get_peft_model_state_dict(with_peft(TINY, method, names, classes))
    assert file_tensors(TINY, method, classes) == {n: tuple(t.shape) for n, t in theirs.items()}


def own_model(shape: Shape, method: Method, classes: int) -> GPT2:
    with torch.device("meta"):
        model = GPT2(shape)
        if classes:
            model.score = torch.nn.Linear(shape.n_embd, classes, bias=False)
    method.apply(model)
    return model


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("targets", [*SEPARATE, *(targets for targets, _ in FUSED)], ids=",".join)
def test_separate_adapters_count_as_the_ones_that_are_trained(
    shape: Shape, classes: int, targets: tuple[str, ...]
) -> None:
    for layers in (None, (1, 2)):
        method = LoRA(rank=2, targets=targets, layers=layers)
        assert count(shape, method, classes).trainable == trainable(own_model(shape, method, classes))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_registry_is_counted(name: str) -> None:
    method = make_method(name)
    assert count(TINY, method, classes=2).trainable == trainable(own_model(TINY, method, 2))


@pytest.mark.parametrize("shape", [TINY, ELEVEN])
@pytest.mark.parametrize("name", METHODS)
def test_file_bytes_are_those_that_safetensors_writes(shape: Shape, name: str) -> None:
    method = make_method(name, targets=("key", "value", "mlp-up"))
    header = json.dumps({"task": "paraphrase", "template": 'Is "{sentence1}" caf\u00e9\n?', "best_step": 12})
    metadata = {"format": "pt"} if method_class(name).trains_base else {"explora": header}
    tensors = file_tensors(shape, method, classes=2)
    written = safetensors.torch.save({n: torch.zeros(size) for n, size in tensors.items()}, metadata)
    assert count(shape, method, classes=2, header=header).adapter_bytes == len(written)


def test_the_comparisons_catch_planted_bugs(monkeypatch: pytest.MonkeyPatch) -> None:
    separate = LoRA(rank=2, targets=("key", "value"))
    expected = trainable(own_model(TINY, separate, 0))
    assert count(TINY, separate).trainable == expected
    with monkeypatch.context() as patch:  # each part takes the width of the whole c_attn
        patch.setitem(TARGETS, "key", ("attn.c_attn", None))
        assert count(TINY, separate).trainable != expected
    with monkeypatch.context() as patch:  # the file's header is not padded
        metadata = {"format": "pt"}
        written = len(safetensors.torch.save({"a": torch.zeros(1)}, metadata))
        assert file_bytes({"a": (1,)}, metadata) == written
        patch.setattr(counting, "HEADER_ALIGNMENT", 1)
        assert file_bytes({"a": (1,)}, metadata) != written
