"""Bases by name, strict reading of every layout, the digest, and folders that transformers opens."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
)
from transformers import GPT2Config as TheirConfig

from explora.core.base.configuration import read_shape
from explora.core.base.find import Base, base_tokenizer, open_base
from explora.core.base.model_folder import write_model
from explora.core.base.tokenizer import Tokenizer, train_tokenizer
from explora.core.base.weights import base_digest, head_classes, load_model, read_weights
from explora.core.config.registry import MODELS, Shape
from explora.core.model.gpt2 import GPT2
from explora.errors import WeightsError

SHAPE = Shape(n_layer=2, n_head=2, n_embd=16, n_positions=32, vocab_size=300)
CPU, FP32 = torch.device("cpu"), torch.float32
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="VmHWM is read from /proc")
IDS = torch.arange(40).view(2, 20) * 7 % 300

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(
        ["the question and the answer"] * 20 + ["another question, another answer"] * 9, 280
    )


def theirs(classes: int | None = None) -> GPT2LMHeadModel | GPT2ForSequenceClassification:
    torch.manual_seed(1)
    config = TheirConfig(
        n_layer=2, n_head=2, n_embd=16, n_positions=32, vocab_size=300, bos_token_id=299, eos_token_id=299,
        pad_token_id=299, num_labels=classes or 2,
    )  # fmt: skip
    return (GPT2LMHeadModel(config) if classes is None else GPT2ForSequenceClassification(config)).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny GPT2LMHeadModel as transformers saves it."""
    theirs().save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = folder / "model.safetensors"
    tensors = {name: value.clone() for name, value in load_file(file).items()}
    save_file(change(tensors), file, metadata={"format": "pt"})


def reconfigure(folder: Path, **settings: object) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text()) | settings
    file.write_text(json.dumps({key: value for key, value in config.items() if value != "absent"}))


def load(folder: Path | str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return load_model(open_base(str(folder)), dtype=dtype, device=CPU).state_dict()


def canonical(model: torch.nn.Module) -> dict[str, Tensor]:
    state = {name.removeprefix("transformer."): value for name, value in model.state_dict().items()}
    return {name: value for name, value in state.items() if name != "lm_head.weight"}


def same(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return ours.keys() == expected.keys() and all(torch.equal(ours[name], expected[name]) for name in ours)


# Layouts


def test_a_folder_of_transformers_gives_the_same_tensors_and_logits(folder: Path) -> None:
    assert same(load(folder), canonical(theirs()))
    model = load_model(open_base(str(folder)), dtype=torch.float32, device=CPU).eval()
    with torch.no_grad():
        difference = model.logits(model(IDS)) - theirs()(IDS).logits
    assert difference.abs().max() < 1e-5


def test_the_comparison_sees_one_changed_number(folder: Path) -> None:
    def nudge(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors["transformer.h.1.mlp.c_fc.weight"][3, 4] += 1e-6
        return tensors

    rewrite(folder, nudge)
    assert not same(load(folder), canonical(theirs()))


def test_the_hubs_original_layout_has_no_prefix_and_carries_masks(folder: Path) -> None:
    def original(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        plain = {name.removeprefix("transformer."): value for name, value in tensors.items()}
        for layer in range(2):
            plain[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 32, 32).tril()
            plain[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
        return plain

    digest = base_digest(open_base(str(folder)))
    rewrite(folder, original)
    assert same(load(folder), canonical(theirs()))
    assert base_digest(open_base(str(folder))) == digest


@pytest.mark.parametrize("mark", ["_orig_mod.", "module.", "module._orig_mod."])
def test_a_compiled_or_distributed_model_is_the_same_base(folder: Path, mark: str) -> None:
    digest = base_digest(open_base(str(folder)))
    rewrite(folder, lambda tensors: {mark + name: value for name, value in tensors.items()})
    assert same(load(folder), canonical(theirs()))
    assert base_digest(open_base(str(folder))) == digest


def test_shards_are_read_through_their_index(folder: Path, tmp_path: Path) -> None:
    theirs().save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    files = list((tmp_path / "shards").glob("model-*.safetensors"))
    assert len(files) > 2
    assert same(load(tmp_path / "shards"), canonical(theirs()))
    assert base_digest(open_base(str(tmp_path / "shards"))) == base_digest(open_base(str(folder)))


def test_a_classifier_keeps_its_head_in_fp32(tmp_path: Path) -> None:
    theirs(classes=5).save_pretrained(tmp_path / "classifier")
    base = open_base(str(tmp_path / "classifier"))
    assert same(
        load_model(base, dtype=FP32, device=CPU, with_head=True).state_dict(), canonical(theirs(classes=5))
    )
    model = load_model(base, dtype=torch.bfloat16, device=CPU, with_head=True)
    assert model.score is not None
    assert torch.equal(model.score.weight, theirs(classes=5).score.weight)
    assert model.wte.weight.dtype is torch.bfloat16
    headless = load_model(base, dtype=FP32, device=CPU)
    read_weights(headless, base)
    assert headless.score is None
    assert head_classes(base) == 5


@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16, torch.float16])
def test_every_precision_is_cast_as_torch_casts(
    folder: Path, stored: torch.dtype, wanted: torch.dtype
) -> None:
    rewrite(folder, lambda tensors: {name: value.to(stored) for name, value in tensors.items()})
    expected = {name: value.to(stored).to(wanted) for name, value in canonical(theirs()).items()}
    assert same(load(folder, wanted), expected)
    assert load_model(open_base(str(folder)), dtype=wanted, device=CPU).compute_dtype is wanted


def test_weights_are_read_back_into_a_model_that_has_moved_on(folder: Path) -> None:
    model = load_model(open_base(str(folder)), dtype=FP32, device=CPU)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    read_weights(model, open_base(str(folder)))
    assert same(dict(model.named_parameters()), load(folder))
    with pytest.raises(WeightsError, match="does not fit"):
        read_weights(GPT2(replace(SHAPE, n_layer=3)), open_base(str(folder)))


def test_training_a_mapped_model_leaves_its_file_alone(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    model = load_model(open_base(str(folder)), dtype=torch.float32, device=CPU)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert (folder / "model.safetensors").read_bytes() == before


def test_every_parameter_is_real_and_trainable(folder: Path) -> None:
    model = load_model(open_base(str(folder)), dtype=torch.float32, device=CPU, dropout=0.25)
    assert all(p.device == CPU and p.requires_grad for p in model.parameters())
    assert model.drop.p == 0.25


# Strictness


def test_one_error_lists_all_that_does_not_fit(folder: Path) -> None:
    def break_it(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        del tensors["transformer.h.0.ln_1.bias"], tensors["transformer.wpe.weight"]
        tensors["transformer.h.1.attn.c_attn.weight"] = torch.zeros(48, 16)
        tensors["transformer.ln_f.weight"] = torch.zeros(16, dtype=torch.int32)
        tensors["transformer.h.2.ln_1.bias"] = torch.zeros(16)
        return tensors | {"adapter.lora_A": torch.zeros(2), "transformer.h.0.attn.biased": torch.zeros(2)}

    rewrite(folder, break_it)
    with pytest.raises(WeightsError) as caught:
        load(folder)
    for part in (
        "missing h.0.ln_1.bias",
        "missing wpe.weight",
        "h.1.attn.c_attn.weight is F32 (48, 16), not floating-point (16, 48)",
        "2 missing, 3 unexpected, 2 misfitting tensors",
        "unexpected adapter.lora_A",
        "unexpected transformer.h.0.attn.biased",
    ):
        assert part in caught.value.message


def test_a_wall_of_names_becomes_a_cause_and_five_names(folder: Path) -> None:
    rewrite(
        folder, lambda tensors: {n.replace("c_attn.", "c_attn.base_layer."): v for n, v in tensors.items()}
    )
    with pytest.raises(WeightsError, match="4 missing, 4 unexpected tensors") as caught:
        load(folder)
    assert caught.value.message.count("c_attn") == 5
    assert "merge_and_unload" in caught.value.hint


@pytest.mark.parametrize("head", [torch.zeros(3), torch.zeros(3, 15)])
def test_a_head_of_no_use_is_listed(folder: Path, head: Tensor) -> None:
    rewrite(folder, lambda tensors: tensors | {"score.weight": head})
    with pytest.raises(WeightsError, match=r"score\.weight"):
        load_model(open_base(str(folder)), dtype=FP32, device=CPU, with_head=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 7e4])
@pytest.mark.parametrize("dtype", [FP32, torch.bfloat16, torch.float16])
def test_a_weight_that_is_not_finite_is_named(folder: Path, value: float, dtype: torch.dtype) -> None:
    """Also one that only fp16 cannot hold; elsewhere, 70,000 is a weight like any other."""

    def spoil(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors["transformer.h.1.attn.c_proj.weight"][2, 3] = value
        return tensors

    rewrite(folder, spoil)
    if value == 7e4 and dtype is not torch.float16:
        assert load(folder, dtype)["h.1.attn.c_proj.weight"].max() > 6e4
        return
    with pytest.raises(WeightsError, match=r"h\.1\.attn\.c_proj\.weight has NaN or infinity"):
        load(folder, dtype)


def test_a_configuration_of_another_size_does_not_fit(folder: Path) -> None:
    reconfigure(folder, n_layer=3)
    with pytest.raises(WeightsError, match=r"missing h\.2\.attn"):
        load(folder)


def test_a_tied_head_is_accepted_only_where_it_is_the_embedding(folder: Path) -> None:
    digest = base_digest(open_base(str(folder)))
    rewrite(folder, lambda tensors: tensors | {"lm_head.weight": tensors["transformer.wte.weight"].clone()})
    assert same(load(folder), canonical(theirs()))
    assert base_digest(open_base(str(folder))) == digest


@pytest.mark.parametrize("change", ["value", "shape", "dtype"])
def test_a_head_of_its_own_is_refused(folder: Path, change: str) -> None:
    def untie(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        head = tensors["transformer.wte.weight"].clone()
        if change == "value":
            head[17, 3] += 1e-3
        tensors["lm_head.weight"] = {"value": head, "shape": head[1:].clone(), "dtype": head.half()}[change]
        return tensors

    rewrite(folder, untie)
    with pytest.raises(WeightsError, match=r"lm_head\.weight that differs from wte\.weight"):
        load(folder)


def test_one_tensor_under_two_names_is_refused(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors | {"ln_f.bias": torch.zeros(16)})
    with pytest.raises(WeightsError, match=r"has ln_f\.bias twice"):
        load(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
def test_a_file_cut_short_is_named(folder: Path, keep: float) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    length = int(len(whole) * keep) if isinstance(keep, float) else keep
    file.write_bytes(whole[:length])
    for use in (load, lambda name: base_digest(open_base(str(name)))):
        with pytest.raises(WeightsError, match=r"model\.safetensors: damaged or cut short"):
            use(folder)


def _lie(header: bytes, body: bytes = b"\0" * 64) -> bytes:
    return len(header).to_bytes(8, "little") + header + body


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 64,
        _lie(b"not json"),
        _lie(b'{"wte.weight": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 6400]}}'),
        _lie(b'{"wte.weight": {"dtype": "F32", "shape": [4, 5], "data_offsets": [0, 64]}}'),
        _lie(b'{"wte.weight": {"dtype": "F32", "shape": [4, 4], "data_offsets": [-64, 0]}}'),
        _lie(b'{"a": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}', b"\0" * 128),
        (10**15).to_bytes(8, "little") + b"{}",
    ],
)
def test_a_lying_header_is_an_error(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="damaged or cut short"):
        load(folder)


@pytest.mark.parametrize(
    "name",
    ["../theirs/model.safetensors", "/etc/passwd", "..", "a/b.safetensors", "a\\b.safetensors", "x.bin", ""],
)
def test_an_index_cannot_lead_out_of_its_folder(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"transformer.wte.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="not a safetensors file in its own folder"):
        open_base(str(folder))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_a_damaged_index_is_named(folder: Path, content: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json"):
        open_base(str(folder))


def test_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    theirs().save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    lost = sorted((tmp_path / "shards").glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(WeightsError, match=f"lacks {lost.name}"):
        open_base(str(tmp_path / "shards"))


def test_pickled_weights_are_refused_with_the_command_that_converts_them(
    folder: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    tokenizer.save(folder)
    torch.save(theirs().state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"has no model\.safetensors") as caught:
        open_base(str(folder))
    command = caught.value.hint[caught.value.hint.index("python -c") :].replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, capture_output=True)
    assert same(load(tmp_path / "converted"), canonical(theirs()))
    assert base_tokenizer(open_base(str(tmp_path / "converted"))).encode("the") == tokenizer.encode("the")


# Configuration


def test_a_configuration_gives_the_shape(folder: Path) -> None:
    assert open_base(str(folder)).shape == SHAPE
    assert read_shape(theirs().config.to_dict()) == SHAPE


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("model_type", "gpt_neo"),
        ("model_type", "absent"),
        ("activation_function", "gelu"),
        ("activation_function", "relu"),
        ("layer_norm_epsilon", 1e-6),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
        ("tie_word_embeddings", False),
        ("quantization_config", {"bits": 4}),
        ("n_inner", 100),
        ("n_head", 3),
        ("n_head", 0),
        ("n_layer", "2"),
        ("n_layer", True),
        ("n_embd", 16.0),
        ("n_positions", None),
    ],
)
def test_a_configuration_that_the_model_cannot_represent_is_refused(
    folder: Path, setting: str, value: object
) -> None:
    reconfigure(folder, **{setting: value})
    with pytest.raises(WeightsError, match=setting) as caught:
        open_base(str(folder))
    assert str(folder) in caught.value.message


SIZES = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")


@pytest.mark.parametrize(
    "config",
    [
        {},
        *({name: 24} for name in SIZES),
        {"hidden_size": 24, "n_embd": 12, "num_attention_heads": 2},
        {"num_hidden_layers": 3, "max_position_embeddings": 7, "n_ctx": 9},
        {"n_ctx": 9},
    ],
    ids=str,
)
def test_absent_sizes_are_those_of_transformers(config: dict[str, int]) -> None:
    expected = TheirConfig.from_dict(dict(config))
    shape = read_shape({"model_type": "gpt2", **config})
    assert vars(shape) == {name: getattr(expected, name) for name in SIZES}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("activation_function", "absent"),
        ("activation_function", "gelu_pytorch_tanh"),
        ("n_inner", 64),
        ("n_inner", "absent"),
        ("resid_pdrop", 0.3),
        ("reorder_and_upcast_attn", True),
    ],
)
def test_what_computes_the_same_is_accepted(folder: Path, setting: str, value: object) -> None:
    reconfigure(folder, **{setting: value})
    assert open_base(str(folder)).shape == SHAPE


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_damaged_configuration_is_named(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"config\.json"):
        open_base(str(folder))


# Names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gtp2", "did you mean gpt2"),
        ("embeded", "did you mean embedded"),
        ("./nowhere", "no model is called './nowhere'"),
        ("a/b/c", "no model is called 'a/b/c'"),
        ("org/..", "no model is called 'org/..'"),
        ("random:gpt3", "did you mean gpt2"),
    ],
)
def test_an_unknown_name_is_an_error_with_a_suggestion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError) as caught:
        open_base(name)
    assert message in caught.value.message


def test_what_is_not_a_model_folder_is_told_apart(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is a file"):
        open_base(str(folder / "model.safetensors"))
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        open_base(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(WeightsError, match="is an adapter") as caught:
        open_base(str(tmp_path))
    assert "merge-lora" in caught.value.hint


# Random weights


def test_random_weights_say_so_and_have_the_shape() -> None:
    base = open_base("random:distilgpt2")
    assert base.label == "random:distilgpt2 (random weights, for timing only)"
    assert (base.folder, base.shape) == (None, MODELS["distilgpt2"].shape)


def random_base(name: str = "random:tiny") -> Base:
    return Base(
        name=name, folder=None, shape=Shape(n_layer=2, n_head=2, n_embd=64, vocab_size=500), label=name
    )


def test_random_weights_are_initialised_as_gpt2s() -> None:
    state = load_model(random_base(), dtype=torch.float32, device=CPU).state_dict()
    expected = canonical(GPT2LMHeadModel(TheirConfig(n_layer=2, n_head=2, n_embd=64, vocab_size=500)))
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert state[name].shape == value.shape
        assert state[name].mean().item() == pytest.approx(value.mean().item(), abs=2e-3)
        assert state[name].std().item() == pytest.approx(value.std().item(), rel=0.1)


def test_random_weights_depend_on_the_seed_alone() -> None:
    def draw(dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
        torch.rand(3)
        return load_model(random_base(), dtype=dtype, device=CPU, seed=seed).state_dict()

    assert same(draw(torch.float32), draw(torch.float32))
    assert same(draw(torch.bfloat16), {name: value.bfloat16() for name, value in draw(torch.float32).items()})
    assert not same(draw(torch.float32), draw(torch.float32, seed=1))


def test_loading_draws_nothing_from_the_global_generator(folder: Path) -> None:
    state = torch.get_rng_state()
    load(folder)
    load_model(random_base(), dtype=torch.float32, device=CPU)
    assert torch.equal(state, torch.get_rng_state())


# Digest


def expected_digest() -> str:
    total = hashlib.sha256()
    for name, value in sorted(canonical(theirs()).items()):
        total.update(f"{name} F32 {list(value.shape)}\n".encode() + value.numpy().tobytes())
    return total.hexdigest()


def test_the_digest_is_that_of_names_types_shapes_and_bytes(folder: Path) -> None:
    assert base_digest(open_base(str(folder))) == expected_digest()


def test_the_digest_is_remembered_until_the_file_changes(folder: Path, own_cache: Path) -> None:
    base = open_base(str(folder))
    digest = base_digest(base)
    (remembered,) = (own_cache / "explora" / "digests").iterdir()
    remembered.write_text("0" * 64)
    assert base_digest(base) == "0" * 64
    rewrite(folder, lambda tensors: tensors | {"transformer.ln_f.bias": torch.ones(16)})
    assert base_digest(base) not in (digest, "0" * 64)


@pytest.mark.parametrize("content", [b"", b"z" * 64, b"\xff\xfe"])
def test_a_damaged_memory_is_not_believed(folder: Path, own_cache: Path, content: bytes) -> None:
    base = open_base(str(folder))
    digest = base_digest(base)
    (remembered,) = (own_cache / "explora" / "digests").iterdir()
    remembered.write_bytes(content)
    assert base_digest(base) == digest
    assert remembered.read_text() == digest


def test_a_cache_that_cannot_be_written_only_costs_time(folder: Path, own_cache: Path) -> None:
    own_cache.write_text("a file where the folder should be")
    assert base_digest(open_base(str(folder))) == expected_digest()


def test_random_bases_differ_by_name() -> None:
    assert base_digest(random_base("random:a")) == hashlib.sha256(b"random:a").hexdigest()


# Writing


def make(
    folder: Path, tokenizer: Tokenizer, classes: int | None = None, dtype: torch.dtype = torch.float32
) -> None:
    tensors = {name: value.to(dtype) for name, value in canonical(theirs(classes)).items()}
    labels = [f"class {index}" for index in range(classes)] if classes else None
    write_model(folder, tensors, SHAPE, tokenizer, labels=labels)


def test_a_written_language_model_opens_in_transformers(tmp_path: Path, tokenizer: Tokenizer) -> None:
    make(tmp_path / "deep" / "model", tokenizer)
    opened, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "deep" / "model", output_loading_info=True
    )
    assert isinstance(opened, GPT2LMHeadModel)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(opened.eval()(IDS).logits, theirs()(IDS).logits)
    assert opened.generation_config.eos_token_id == tokenizer.eos
    assert opened.config.eos_token_id == opened.config.pad_token_id == tokenizer.eos
    assert opened.config.n_ctx == opened.config.n_positions
    written = AutoTokenizer.from_pretrained(tmp_path / "deep" / "model")
    assert written("the answer").input_ids == tokenizer.encode("the answer")


def test_a_written_classifier_opens_in_transformers(tmp_path: Path, tokenizer: Tokenizer) -> None:
    make(tmp_path / "model", tokenizer, classes=3)
    opened, report = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert isinstance(opened, GPT2ForSequenceClassification)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert opened.config.num_labels == 3
    assert opened.config.id2label == {0: "class 0", 1: "class 1", 2: "class 2"}
    assert opened.config.label2id == {"class 0": 0, "class 1": 1, "class 2": 2}
    assert opened.config.pad_token_id == tokenizer.eos
    assert torch.equal(opened.eval()(IDS).logits, theirs(classes=3)(IDS).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_written_reads_back_bit_for_bit(
    tmp_path: Path, tokenizer: Tokenizer, dtype: torch.dtype
) -> None:
    make(tmp_path / "model", tokenizer, dtype=dtype)
    expected = {name: value.to(dtype) for name, value in canonical(theirs()).items()}
    assert same(load(tmp_path / "model", dtype), expected)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto").dtype is dtype


def test_a_mapped_model_can_be_written_over_itself(tmp_path: Path, tokenizer: Tokenizer) -> None:
    make(tmp_path / "model", tokenizer)
    model = load_model(open_base(str(tmp_path / "model")), dtype=torch.float32, device=CPU)
    (tmp_path / "model" / "notes.txt").write_text("kept")
    write_model(tmp_path / "model", model.state_dict(), SHAPE, tokenizer)
    assert same(load(tmp_path / "model"), canonical(theirs()))
    assert same(model.state_dict(), canonical(theirs()))
    assert (tmp_path / "model" / "notes.txt").read_text() == "kept"


def test_the_same_model_gives_the_same_bytes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for name in ("a", "b"):
        make(tmp_path / name, tokenizer)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_failure_leaves_nothing_behind(tmp_path: Path, tokenizer: Tokenizer) -> None:
    shared = canonical(theirs())
    shared["h.0.ln_1.bias"] = shared["h.1.ln_1.bias"]  # safetensors refuses tensors that share memory
    with pytest.raises(RuntimeError, match="share memory"):
        write_model(tmp_path / "models" / "new", shared, SHAPE, tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_every_file_can_be_read_by_those_who_may_read_the_folder(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    make(tmp_path / "model", tokenizer)
    modes = {file.stat().st_mode for file in (tmp_path / "model").iterdir()}
    (tmp_path / "plain").touch()
    assert modes == {(tmp_path / "plain").stat().st_mode}


# Tokenizer of a base


def test_a_base_brings_its_tokenizer_unless_another_is_named(
    folder: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    with pytest.raises(WeightsError, match="has no tokenizer"):
        base_tokenizer(open_base(str(folder)))
    tokenizer.save(tmp_path / "other")
    assert base_tokenizer(open_base(str(folder)), str(tmp_path / "other")).digest == tokenizer.digest
    tokenizer.save(folder)
    assert base_tokenizer(open_base(str(folder))).digest == tokenizer.digest


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(folder: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(folder)
    reconfigure(folder, vocab_size=279)
    with pytest.raises(WeightsError, match=r"has 280 tokens, .* only 279 embeddings"):
        base_tokenizer(open_base(str(folder)))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed package that has no assets yet."""
    monkeypatch.setattr("explora.core.base.find.resources.files", lambda name: tmp_path / "package")
    return tmp_path / "package"


def test_the_embedded_base_is_found_in_the_package(folder: Path, package: Path) -> None:
    with pytest.raises(WeightsError, match="no embedded base"):
        open_base("embedded")
    shutil.copytree(folder, package / "assets" / "base")
    assert (open_base("embedded").shape, open_base("embedded").label) == (SHAPE, "embedded")


def test_random_weights_borrow_the_tokenizer_of_the_embedded_base(
    folder: Path, package: Path, tokenizer: Tokenizer
) -> None:
    shutil.copytree(folder, package / "assets" / "base")
    tokenizer.save(package / "assets" / "base")
    assert base_tokenizer(open_base("random:gpt2")).digest == tokenizer.digest


# Memory


@pytest.fixture
def middling(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """A model of 21 million parameters."""
    shape = Shape(n_layer=6, n_head=8, n_embd=512, n_positions=512, vocab_size=4096)
    model = load_model(Base(name="random:mid", folder=None, shape=shape, label=""), dtype=FP32, device=CPU)
    write_model(tmp_path / "model", model.state_dict(), shape, tokenizer)
    return tmp_path / "model"


@needs_proc
def test_a_bf16_base_never_holds_its_twin(middling: Path) -> None:
    weights = (middling / "model.safetensors").stat().st_size / 2
    ready = "with torch.device('meta'): GPT2(base.shape)"
    assert (
        peak_growth(middling, ready, "kept = load_model(base, dtype=torch.bfloat16, device=cpu)")
        < 1.3 * weights
    )
    twin = "kept = {name: value.bfloat16() for name, value in load_file(file).items()}"
    assert peak_growth(middling, ready, twin) > 1.9 * weights


@needs_proc
def test_reading_weights_back_never_holds_them_twice(middling: Path) -> None:
    weights = (middling / "model.safetensors").stat().st_size
    ready = "model = load_model(base, dtype=torch.float32, device=cpu)\n"
    ready += "with torch.no_grad():\n    for each in model.parameters(): each.add_(1)"
    assert peak_growth(middling, ready, "read_weights(model, base)") < 0.3 * weights
    twin = "model.load_state_dict(load_model(base, dtype=torch.float32, device=cpu).state_dict())"
    assert peak_growth(middling, ready, twin) > 0.8 * weights


def peak_growth(folder: Path, ready: str, work: str) -> int:
    """Return by how many bytes `work`, done after `ready`, raised the peak memory of a fresh process."""
    code = f"""
import sys, torch
from pathlib import Path
from safetensors.torch import load_file
from explora.core.model.gpt2 import GPT2
from explora.core.base.find import open_base
from explora.core.base.weights import load_model, read_weights

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

file, cpu = Path(sys.argv[1]) / "model.safetensors", torch.device("cpu")
base = open_base(sys.argv[1])
{ready}
before = peak()
{work}
print(peak() - before)
"""
    command = [sys.executable, "-c", code, str(folder)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_nothing_is_written_beside_a_base(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    load(copy)
    base_digest(open_base(str(copy)))
    assert sorted(f.name for f in copy.iterdir()) == sorted(f.name for f in folder.iterdir())
