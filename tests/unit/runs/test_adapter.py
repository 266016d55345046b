"""The adapter folder: exact round trips, the same bytes, and one error for all that does not fit."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from explora.core.config.concerns import EncodingConfig
from explora.core.config.method import Method
from explora.core.config.registry import METHODS, TASKS
from explora.core.config.values import Blocks
from explora.core.methods.last_linear import LastLinear
from explora.core.methods.lora import LoRA
from explora.core.runs.adapter import (
    ADAPTER_FILE,
    CONFIG_FILE,
    FORMAT,
    Header,
    from_peft_tensors,
    read_adapter,
    read_header,
    to_peft_tensors,
    write_adapter,
)
from explora.core.runs.assemble import Session
from explora.core.runs.open import open_run
from explora.core.training.checkpoint import trained_tensors
from explora.errors import AdapterError
from tests.tiny_adapters import (
    IN_FP32,
    SHAPE,
    adapted,
    change_tensors,
    header,
    our_logits,
    run_commands_in,
    train_with_peft,
    write_base,
    write_run,
)
from tests.tiny_models import make_method

KEY_VALUE = LoRA(rank=2, targets=("key", "value"))
ALL_SEPARATE = LoRA(rank=2, targets=("query", "key", "value", "attn-out", "mlp-up", "mlp-down"))
SMALL = LoRA(rank=1, targets=("c_attn",), layers=Blocks([0]))
FIRST_A = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"
FIRST_B = "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def read_header_text(folder: Path) -> str:
    with safe_open(folder / ADAPTER_FILE, framework="pt") as opened:
        return str(opened.metadata()["explora"])


def open_adapter(folder: Path, base: Path, task: str = "text") -> Session:
    return open_run(task, str(folder), model=str(base), tokenizer=str(base), runtime=IN_FP32)


# Written and read again


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_a_header_survives_json_exactly(task: str, method: str) -> None:
    chosen = make_method(method, alpha=3.5, layers=Blocks.parse("1-2"), targets=("query", "mlp-up"))
    read = [name for name in TASKS[task].columns if name != TASKS[task].label]
    template = " ü ☃ ".join(f"{{{name}}}" for name in read)
    encoding = EncodingConfig(template=template, label_words=("ja", "nein"))
    plain = Header(task=task, method=LoRA(), base="gpt2", base_digest="d", encoding=EncodingConfig())
    full = dataclasses.replace(
        plain, method=chosen, encoding=encoding, labels=("0", "a b"), best_step=7, base=""
    )
    for one in (plain, full):
        text = one.to_json()
        assert Header.from_json(text, "here") == one
        assert text == json.dumps(json.loads(text), sort_keys=True)


@pytest.mark.parametrize("method", [KEY_VALUE, ALL_SEPARATE, LoRA(rank=3, targets=("c_attn",))])
def test_tensors_survive_the_folder_exactly(base: Path, tmp_path: Path, method: Method) -> None:
    model = write_run(tmp_path, base, method, "sentiment", ("a", "b", "c"))
    own = trained_tensors(model)
    tensors, read = read_adapter(tmp_path)
    found = from_peft_tensors(tensors, own, method, "here")
    assert read == header(base, "sentiment", method, ("a", "b", "c"))
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], own[name]) for name in own)


def test_separate_parts_are_blocks_with_zeros_around(base: Path) -> None:
    own = trained_tensors(adapted(base, KEY_VALUE))
    fused = to_peft_tensors(own, KEY_VALUE)[FIRST_B]
    width, rank = SHAPE.n_embd, KEY_VALUE.rank
    expected = torch.zeros(3 * width, 2 * rank)
    expected[width : 2 * width, :rank] = own["h.0.attn.c_attn.lora_B"][0]
    expected[2 * width :, rank:] = own["h.0.attn.c_attn.lora_B"][1]
    assert torch.equal(fused, expected)


def test_last_linear_has_no_peft_configuration(base: Path, tmp_path: Path) -> None:
    method = LastLinear()
    model = write_run(tmp_path, base, method, "sentiment", ("a", "b", "c"))
    assert {file.name for file in tmp_path.iterdir()} == {ADAPTER_FILE}
    assert load_file(tmp_path / ADAPTER_FILE).keys() == {"base_model.model.score.weight"}
    session = open_adapter(tmp_path, base, "sentiment")
    assert session.task.labels == ("a", "b", "c")
    assert torch.equal(our_logits(session.model), our_logits(model))


WRITE = """
import sys, json
from pathlib import Path
from safetensors import safe_open
from safetensors.torch import load_file
from explora.core.runs.adapter import Header, write_adapter
folder, header, base = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
trained = load_file(folder / "trained.safetensors")
trained = dict(reversed(trained.items()))
write_adapter(folder, trained, Header.from_json(header, ""), base)
"""


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_the_same_run_gives_the_same_bytes_in_any_process(base: Path, tmp_path: Path, hash_seed: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    model = write_run(here, base, ALL_SEPARATE)
    written = {name: (here / name).read_bytes() for name in (ADAPTER_FILE, CONFIG_FILE)}
    own = header(base, "text", ALL_SEPARATE)
    write_adapter(here, trained_tensors(model), own, str(base))
    there.mkdir()
    save_file(dict(trained_tensors(model)), there / "trained.safetensors")
    arguments = [str(there), own.to_json(), str(base)]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    subprocess.run([sys.executable, "-c", WRITE, *arguments], env=environment, check=True)
    for name, content in written.items():
        assert (here / name).read_bytes() == content
        assert (there / name).read_bytes() == content
    assert not list(tmp_path.rglob("*.partial"))


READ = """
import sys
from pathlib import Path
from explora.core.runs.adapter import read_header
print(read_header(Path(sys.argv[1])).to_json())
assert not {"torch", "numpy", "safetensors", "transformers"} & sys.modules.keys()
"""


def test_the_header_is_read_without_torch(base: Path, tmp_path: Path) -> None:
    write_run(tmp_path, base, KEY_VALUE)
    done = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Header.from_json(done.stdout, "") == header(base, "text", KEY_VALUE) == read_header(tmp_path)


# Tensors that do not fit

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]
NAN, INF = float("nan"), float("inf")


def with_number(name: str, value: float) -> Change:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors[name].view(-1)[-1] = value
        return tensors

    return change


def a_number_for_the_query(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors[FIRST_B][0, 0] = 1e-30
    return tensors


FAULTS: dict[str, tuple[Change, list[str]]] = {
    "missing": (lambda t: {n: v for n, v in t.items() if n != FIRST_A}, [f"missing {FIRST_A}"]),
    "unexpected": (lambda t: t | {"other.weight": torch.ones(2)}, ["unexpected other.weight"]),
    "misshapen": (
        lambda t: t | {FIRST_A: t[FIRST_A][:, :3]},
        [f"{FIRST_A} has shape (4, 3), not (4, {SHAPE.n_embd})"],
    ),
    "another rank": (
        lambda t: t | {FIRST_A: t[FIRST_A][:2], FIRST_B: t[FIRST_B][:, :2]},
        [f"{FIRST_A} has shape (2, 16), not (4, 16)", f"{FIRST_B} has shape (48, 2), not (48, 4)"],
    ),
    "another dimension": (lambda t: t | {FIRST_A: t[FIRST_A][None]}, [f"{FIRST_A} has shape (1, 4, 16)"]),
    "NaN": (with_number(FIRST_A, NAN), [f"{FIRST_A} has a number that is not finite"]),
    "infinity": (with_number(FIRST_B, -INF), [f"{FIRST_B} has a number that is not finite"]),
    "integers": (lambda t: t | {FIRST_A: t[FIRST_A].long()}, [f"{FIRST_A} has type torch.int64"]),
    "outside the blocks": (
        a_number_for_the_query,
        [f"{FIRST_B} has nonzero numbers outside the adapters lora r=2 (scale 2) on key, value"],
    ),
    "wrong prefix": (
        lambda t: {name.replace("transformer.", ""): value for name, value in t.items()},
        [f"missing {FIRST_A}", "unexpected base_model.model.h.0.attn.c_attn.lora_A.weight"],
    ),
    "nothing": (lambda t: {}, [f"missing {FIRST_A}", f"missing {FIRST_B}"]),
    "several": (
        lambda t: (
            {n: v for n, v in with_number(FIRST_B, NAN)(t).items() if n != FIRST_A} | {"x": torch.ones(1)}
        ),
        [f"missing {FIRST_A}", f"{FIRST_B} has a number that is not finite", "unexpected x"],
    ),
}


@pytest.mark.parametrize(("change", "listed"), FAULTS.values(), ids=FAULTS)
def test_what_does_not_fit_is_named(base: Path, tmp_path: Path, change: Change, listed: list[str]) -> None:
    write_run(tmp_path, base, KEY_VALUE)
    change_tensors(tmp_path, change)
    with pytest.raises(AdapterError) as caught:
        open_adapter(tmp_path, base)
    assert str(tmp_path) in caught.value.message
    assert all(fault in caught.value.message for fault in listed), caught.value.message


def test_all_faults_are_in_one_error(base: Path, tmp_path: Path) -> None:
    write_run(tmp_path, base, ALL_SEPARATE)
    change_tensors(tmp_path, lambda tensors: {f"x.{name}": value for name, value in tensors.items()})
    with pytest.raises(AdapterError) as caught:
        open_adapter(tmp_path, base)
    count = SHAPE.n_layer * 4 * 2
    assert f"{count} missing, {count} unexpected tensors" in caught.value.message
    assert caught.value.message.count("lora_") == 5


def test_half_precision_tensors_are_read(base: Path, tmp_path: Path) -> None:
    write_run(tmp_path, base, KEY_VALUE)
    change_tensors(tmp_path, lambda tensors: {name: value.bfloat16() for name, value in tensors.items()})
    read = trained_tensors(open_adapter(tmp_path, base).model)
    expected = trained_tensors(adapted(base, KEY_VALUE))
    assert all(torch.equal(read[name], value.bfloat16().float()) for name, value in expected.items())


# Files that are damaged


def rewrite_size(content: bytes, size: int) -> bytes:
    return size.to_bytes(8, "little") + content[8:]


def rewrite_header(content: bytes, change: Callable[[Any], Any]) -> bytes:
    size = int.from_bytes(content[:8], "little")
    changed = json.dumps(change(json.loads(content[8 : 8 + size]))).encode()
    return len(changed).to_bytes(8, "little") + changed + content[8 + size :]


def lie_about_offsets(described: Any) -> Any:
    begin, end = described[FIRST_A]["data_offsets"]
    return described | {FIRST_A: described[FIRST_A] | {"data_offsets": [begin, end + 400]}}


def lie_about_shape(described: Any) -> Any:
    return described | {FIRST_A: described[FIRST_A] | {"shape": [4, 1000]}}


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut in the size": lambda content: content[:5],
    "cut in the header": lambda content: content[:100],
    "cut in the numbers": lambda content: content[:-1],
    "too long": lambda content: content + b"\0" * 8,
    "a huge header": lambda content: rewrite_size(content, 1 << 62),
    "a header beyond the end": lambda content: rewrite_size(content, len(content)),
    "no header": lambda content: rewrite_size(content, 0),
    "not JSON": lambda content: content[:8] + b"?" + content[9:],
    "a list": lambda content: rewrite_header(content, lambda described: [described]),
    "offsets that lie": lambda content: rewrite_header(content, lie_about_offsets),
    "a shape that lies": lambda content: rewrite_header(content, lie_about_shape),
    "another type": lambda content: content.replace(b'"F32"', b'"F99"'),
    "text": lambda content: b"version https://git-lfs.github.com/spec/v1\n",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_one_error(base: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    write_run(tmp_path, base, KEY_VALUE)
    file = tmp_path / ADAPTER_FILE
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(AdapterError, match="is not a readable safetensors file") as caught:
        read_adapter(tmp_path)
    assert str(file) in caught.value.message


def test_no_damage_is_another_exception(base: Path, tmp_path: Path) -> None:
    write_run(tmp_path, base, LoRA(rank=1, targets=("query",), layers=Blocks.parse("0-0")))
    file = tmp_path / ADAPTER_FILE
    content = file.read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    draw = random.Random(0)
    refused = 0
    for number in range(600):
        damaged = bytearray(content)
        if number % 3 == 0:
            del damaged[draw.randrange(len(content)) :]
        else:
            damaged[draw.randrange(size)] = draw.randrange(256)
        file.write_bytes(damaged)
        for read in (read_adapter, read_header):
            try:
                read(tmp_path)
            except AdapterError:
                refused += 1
    assert refused > 400


def test_one_flipped_bit_is_never_used(base: Path, tmp_path: Path) -> None:
    """Whatever bit of the file flips: it is refused, or what is read is what was written."""
    written = header(base, "text", SMALL)
    tensors = trained_tensors(write_run(tmp_path, base, SMALL))
    expected = to_peft_tensors(tensors, SMALL)
    file = tmp_path / ADAPTER_FILE
    content = file.read_bytes()
    draw, refused = random.Random(0), 0
    for _ in range(400):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        try:
            found, read = read_adapter(tmp_path)
        except AdapterError:
            refused += 1
            continue
        assert read == written
        assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert refused > 380


def test_tensors_that_changed_are_damage_where_there_is_a_digest(base: Path, tmp_path: Path) -> None:
    write_run(tmp_path, base, SMALL)
    text, tensors = read_header_text(tmp_path), load_file(tmp_path / ADAPTER_FILE)
    tensors[FIRST_A][0, 0] += 1
    save_file(tensors, tmp_path / ADAPTER_FILE, metadata={"explora": text})
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors is damaged"):
        open_adapter(tmp_path, base)


def test_an_adapter_of_format_2_has_no_digest_and_opens(base: Path, tmp_path: Path) -> None:
    write_run(tmp_path, base, SMALL)
    plain = header(base, "text", SMALL).to_json()
    for text in (edited(header(base, "text", SMALL), format=2), plain):
        save_file(load_file(tmp_path / ADAPTER_FILE), tmp_path / ADAPTER_FILE, metadata={"explora": text})
        if text != plain:
            assert open_adapter(tmp_path, base).header == header(base, "text", SMALL)
    with pytest.raises(AdapterError, match="is damaged"):  # of format 3, a digest is never missing
        open_adapter(tmp_path, base)


def test_without_the_file_the_hint_says_what_there_is(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text("{}", encoding="utf-8")
    for read in (read_adapter, read_header):
        with pytest.raises(AdapterError, match=f"has no {re.escape(ADAPTER_FILE)}"):
            read(tmp_path)


def test_pickled_tensors_are_refused_with_the_command_that_converts_them(base: Path, tmp_path: Path) -> None:
    train_with_peft(tmp_path, base, r=2, target_modules=["c_attn"])
    tensors = load_file(tmp_path / ADAPTER_FILE)
    (tmp_path / ADAPTER_FILE).unlink()
    torch.save(tensors, tmp_path / "adapter_model.bin")
    for read in (read_adapter, read_header):
        with pytest.raises(AdapterError, match="has no") as caught:
            read(tmp_path)
    run_commands_in(caught.value.hint)
    assert all(torch.equal(value, tensors[name]) for name, value in read_adapter(tmp_path)[0].items())


# Headers that are not for this


def edited(original: Header, **changes: Any) -> str:
    return json.dumps(json.loads(original.to_json()) | changes)


HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "newer": ({"format": FORMAT + 1}, f"has format {FORMAT + 1}, this explora reads up to {FORMAT}"),
    "a format that is no number": ({"format": "1"}, "damaged"),
    "an unknown field": ({"colour": "red"}, "colour"),
    "an unknown task": ({"task": "paraphrases"}, "no task 'paraphrases'; did you mean paraphrase?"),
    "an unknown method": ({"method": {"method": "vera"}}, "method 'vera' is not one of"),
    "an unknown setting": (
        {"method": {"method": "lora", "ranks": 2}},
        "no setting 'ranks'; did you mean rank",
    ),
    "an unknown target": ({"method": {"targets": ["keys"]}}, "no target 'keys'; did you mean key"),
    "text for a number": ({"method": {"rank": "8"}}, "rank should be of type int, not '8'"),
    "no rank": ({"method": {"rank": 0}}, "rank must be at least 1"),
    "one label word": ({"encoding": {"label_words": ["yes"]}}, "label_words should be a list of 2"),
    "labels that are none": ({"labels": None}, "damaged"),
    "no encoding": ({"encoding": None}, "encoding should be an object"),
}


@pytest.mark.parametrize(("changes", "expected"), HEADERS.values(), ids=HEADERS)
def test_a_wrong_header_is_one_error(
    base: Path, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    text = edited(header(base, "text", KEY_VALUE), **changes)
    tensors = to_peft_tensors(trained_tensors(adapted(base, KEY_VALUE)), KEY_VALUE)
    (tmp_path / ADAPTER_FILE).write_bytes(save(tensors, metadata={"explora": text}))
    for read in (read_adapter, read_header):
        with pytest.raises(AdapterError) as caught:
            read(tmp_path)
        assert expected in caught.value.message
        assert str(tmp_path) in caught.value.message


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"format": 1}', "null"])
def test_what_is_no_header_is_one_error(text: str) -> None:
    with pytest.raises(AdapterError, match="here: the explora header is damaged"):
        Header.from_json(text, "here")


def test_another_task_is_refused(base: Path, tmp_path: Path) -> None:
    write_run(tmp_path, base, KEY_VALUE, "sonnet")
    with pytest.raises(AdapterError, match="was trained for sonnet, not for text") as caught:
        open_adapter(tmp_path, base)
    assert caught.value.hint == f"explora eval sonnet {tmp_path}"


def test_another_base_of_the_same_shape_is_refused(base: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", base, KEY_VALUE)
    other = write_base(tmp_path / "other", seed=1)
    with pytest.raises(AdapterError, match="was trained on another base than"):
        open_adapter(tmp_path / "run", other)


@pytest.mark.parametrize(
    ("name", "value"), [("template", "{sentence1}? {sentence2}? "), ("label_words", ("no", "yes"))]
)
def test_another_template_is_refused(base: Path, tmp_path: Path, name: str, value: Any) -> None:
    write_run(tmp_path, base, KEY_VALUE, "paraphrase", ("0", "1"))
    with pytest.raises(AdapterError, match=f"was trained with the {name.replace('_', ' ')}"):
        open_run(
            "paraphrase",
            str(tmp_path),
            model=str(base),
            tokenizer=None,
            runtime=IN_FP32,
            encoding={name: value},
        )
