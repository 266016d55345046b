"""Closed forms against numbers worked out by hand and published ones."""

import pytest

from explora.core.config.method import Method
from explora.core.config.registry import MODELS, Shape
from explora.core.config.values import Blocks
from explora.core.estimate.parameters import base_tensors, count, file_bytes, file_tensors
from explora.core.methods.full import Full
from explora.core.methods.last_linear import LastLinear
from explora.core.methods.lora import LoRA
from explora.errors import UsageError

GPT2 = MODELS["gpt2"].shape
ALL = ("query", "key", "value", "attn-out", "mlp-up", "mlp-down")
FULL = Full()
LAST_LINEAR = LastLinear()


def lora(rank: int, *targets: str, layers: Blocks | None = None) -> Method:
    return LoRA(rank=rank, targets=targets, layers=layers)


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("distilgpt2", 81_912_576),
    ],
)
def test_totals_of_the_published_models(name: str, total: int) -> None:
    assert count(MODELS[name].shape, FULL).total == total


@pytest.mark.parametrize(
    ("method", "trainable"),
    [
        (lora(8, "c_attn"), 294_912),
        (lora(8, "key", "value"), 294_912),
        (lora(4, "query", "value"), 147_456),
        (lora(1, *ALL), 165_888),
        (lora(8, *ALL), 1_327_104),
        (lora(8, "c_attn", "attn-out"), 442_368),
        (lora(8, "c_attn", "attn-out", "mlp-down"), 811_008),
        (lora(8, "c_attn", "attn-out", "mlp-up", "mlp-down"), 1_179_648),
        (lora(8, "key", "value", layers=Blocks.parse("6-11")), 294_912 // 2),
        (lora(8, "key", "value", layers=Blocks.parse("11-11")), 294_912 // 12),
        (FULL, 124_439_808),
        (LAST_LINEAR, 0),
    ],
)
def test_what_methods_train_on_gpt2(method: Method, trainable: int) -> None:
    counted = count(GPT2, method)
    assert counted.trainable == trainable
    assert counted.total == 124_439_808
    assert counted.share == trainable / 124_439_808


@pytest.mark.parametrize("method", [lora(8, "c_attn"), FULL, LAST_LINEAR], ids=lambda m: m.name)
def test_a_head_adds_a_row_for_each_class_to_what_is_trained(method: Method) -> None:
    without, with_head = count(GPT2, method), count(GPT2, method, classes=5)
    assert with_head.trainable - without.trainable == 5 * 768
    assert with_head.total - without.total == 5 * 768
    assert (with_head.parts["score"].total, with_head.parts["score"].trainable) == (5 * 768, 5 * 768)


def test_parts_of_a_tiny_base_by_hand() -> None:
    tiny = Shape(n_layer=2, n_head=1, n_embd=4, n_positions=8, vocab_size=10)
    parts = count(tiny, lora(3, "query", "value", "mlp-down", layers=Blocks.parse("1-1"))).parts
    assert {name: (part.total, part.trainable) for name, part in parts.items()} == {
        "wte": (10 * 4, 0),
        "wpe": (8 * 4, 0),
        "ln_1": (2 * 8, 0),
        "attn.c_attn": (2 * (4 * 12 + 12), 2 * 3 * (4 + 4)),
        "attn.c_proj": (2 * (4 * 4 + 4), 0),
        "ln_2": (2 * 8, 0),
        "mlp.c_fc": (2 * (4 * 16 + 16), 0),
        "mlp.c_proj": (2 * (16 * 4 + 4), 3 * (16 + 4)),
        "ln_f": (8, 0),
    }


def test_separate_adapters_are_stored_as_one_of_their_joint_rank() -> None:
    tensors = file_tensors(GPT2, lora(8, "query", "value", "attn-out"))
    prefix = "base_model.model.transformer.h.11.attn"
    assert tensors[f"{prefix}.c_attn.lora_A.weight"] == (16, 768)
    assert tensors[f"{prefix}.c_attn.lora_B.weight"] == (2304, 16)
    assert tensors[f"{prefix}.c_proj.lora_A.weight"] == (8, 768)
    assert tensors[f"{prefix}.c_proj.lora_B.weight"] == (768, 8)
    assert len(tensors) == 12 * 4


def test_the_file_of_294912_numbers_takes_1_2_megabytes() -> None:
    assert count(GPT2, lora(8, "c_attn")).adapter_bytes == pytest.approx(294_912 * 4, rel=0.003)


def test_a_full_fine_tune_keeps_the_whole_model() -> None:
    assert file_tensors(GPT2, FULL, classes=2) == {
        **{f"transformer.{name}": size for name, size in base_tensors(GPT2).items()},
        "score.weight": (2, 768),
    }


def test_the_header_is_part_of_the_file() -> None:
    without, with_header = (count(GPT2, lora(8, "key"), header=text).adapter_bytes for text in ("", "x" * 80))
    assert with_header - without == 80
    assert file_bytes({}, {}) == 8 + 24  # the length, then {"__metadata__":{}} padded to a multiple of eight


@pytest.mark.parametrize("layers", ["6-12", "12"])
def test_blocks_that_the_base_lacks_are_a_usage_error(layers: str) -> None:
    with pytest.raises(UsageError, match=f"--layers {layers}: the base has only blocks 0-11") as caught:
        count(GPT2, lora(8, "key", layers=Blocks.parse(layers)))
    assert "--layers 0-11" in caught.value.hint


def test_a_rank_that_no_matrix_has_is_refused() -> None:
    shape = MODELS["gpt2"].shape
    LoRA(rank=768).check_use(shape)
    with pytest.raises(UsageError, match="rank 769 is larger than the weight matrices of this base allow"):
        LoRA(rank=769).check_use(shape)
    with pytest.raises(UsageError, match="rank 800"):
        LoRA(rank_pattern={"attn.c_attn": 800}).check_use(shape)


@pytest.mark.parametrize("layers", [None, Blocks([0, 2])])
def test_a_pattern_of_a_block_without_adapters_is_refused(layers: Blocks | None) -> None:
    shape = MODELS["distilgpt2"].shape
    LoRA(rank_pattern={"h.2.attn.c_attn": 4}, layers=layers).check_use(shape)
    with pytest.raises(UsageError, match=r"rank-pattern: no adapter on 'h\.9\.attn\.c_attn'") as caught:
        LoRA(rank_pattern={"h.9.attn.c_attn": 4}, layers=layers).check_use(shape)
    assert caught.value.hint == f"blocks with adapters: {layers or '0-5'}"
    with pytest.raises(UsageError, match=r"alpha-pattern: no adapter on 'h\.1\.attn\.c_attn'"):
        LoRA(alpha_pattern={"h.1.attn.c_attn": 4}, layers=Blocks([0, 2])).check_use(shape)


def test_the_hint_gives_a_module_its_adapter() -> None:
    with pytest.raises(UsageError, match=r"no adapter on 'mlp\.c_fc'") as caught:
        LoRA(rank_pattern={"mlp.c_fc": 4}).validate()
    assert caught.value.hint == "give it one: --targets key,value,mlp-up"


def test_ranks_by_module_are_counted() -> None:
    """key and value of c_attn at rank 4 in block 3, at rank 8 elsewhere; mlp.c_fc at rank 2."""
    method = LoRA(
        rank=8,
        targets=("key", "value", "mlp-up"),
        rank_pattern={"h.3.attn.c_attn": 4, "mlp.c_fc": 2},
    )
    assert count(GPT2, method).trainable == (11 * 8 + 4) * 2 * (768 + 768) + 12 * 2 * (768 + 4 * 768)
    assert file_tensors(GPT2, method)["base_model.model.transformer.h.3.attn.c_attn.lora_A.weight"] == (
        8,
        768,
    )
