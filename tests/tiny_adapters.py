"""A tiny base that transformers wrote, and adapters on it that count: from explora and from peft."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from explora.core.base.find import open_base
from explora.core.base.tokenizer import train_tokenizer
from explora.core.base.weights import base_digest, load_model
from explora.core.config.concerns import EncodingConfig, RuntimeConfig
from explora.core.config.method import Method
from explora.core.config.precedence import resolve
from explora.core.config.registry import Shape
from explora.core.model.gpt2 import GPT2
from explora.core.runs.adapter import ADAPTER_FILE, CONFIG_FILE, Header, with_digest, write_adapter
from explora.core.training.checkpoint import trained_tensors

SHAPE = Shape(n_layer=3, n_head=2, n_embd=16, n_positions=64, vocab_size=300)
EOS = SHAPE.vocab_size - 1
IN_FP32 = RuntimeConfig(device="cpu", amp="off", threads=1)
SAMPLE_TEXT = Path(__file__).parents[1] / "explora" / "assets" / "samples" / "text" / "text-train.txt"
IDS = torch.randint(EOS, (3, 20), generator=torch.Generator().manual_seed(7))


def write_base(folder: Path, seed: int = 0) -> Path:
    """Save a base of random weights with transformers, and a tokenizer of 300 tokens."""
    settings = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), EOS)
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(**vars(SHAPE), **settings))
    with torch.no_grad():
        for value in model.parameters():  # biases too, so that a misplaced one shows
            value.add_(0.15 * torch.randn_like(value))
    model.save_pretrained(folder)
    documents = SAMPLE_TEXT.read_text(encoding="utf-8").split("\n\n")
    train_tokenizer(documents, SHAPE.vocab_size).save(folder)
    return folder


def causal(base: Path) -> Any:
    """The base in transformers, with its tied head."""
    return GPT2LMHeadModel.from_pretrained(base).eval()


def classifier(base: Path, classes: int) -> Any:
    """The base in transformers with a fresh `score` head, the way a model card tells people to load it."""
    return GPT2ForSequenceClassification.from_pretrained(base, num_labels=classes, pad_token_id=EOS).eval()


@torch.no_grad()
def our_logits(model: GPT2, ids: Tensor = IDS) -> Tensor:
    """The logits of every token, or of a model with a head those of the last."""
    hidden = model.eval()(ids)
    return model.logits(hidden) if model.score is None else model.classify(hidden[:, -1])


@torch.no_grad()
def their_logits(model: Any, ids: Tensor = IDS) -> Tensor:
    """The same from a model of transformers or peft."""
    logits: Tensor = model.eval()(input_ids=ids).logits
    return logits


def adapted(base: Path, method: Method, classes: int = 0) -> GPT2:
    """The base in explora with a method applied and numbers in all that the method trains."""
    model = load_model(open_base(str(base)), dtype=torch.float32, device=torch.device("cpu"))
    if classes:
        model.score = nn.Linear(SHAPE.n_embd, classes, bias=False)
    method.apply(model)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in trained_tensors(model).values():
            value.normal_(0, 0.3, generator=generator)
    return model


def header(base: Path, task: str, method: Method, labels: tuple[str, ...] = ()) -> Header:
    """The header that training would write."""
    encoding = resolve(task, {})[0].encoding if task == "paraphrase" else EncodingConfig()
    digest = base_digest(open_base(str(base)))
    return Header(
        task=task, method=method, base="", base_digest=digest, encoding=encoding, labels=labels, best_step=3
    )


def write_run(
    folder: Path, base: Path, method: Method, task: str = "text", labels: tuple[str, ...] = ()
) -> GPT2:
    """Write an adapter as a run does; returns the model that it belongs to."""
    classes = len(labels) if task == "sentiment" or method.needs_head else 0
    model = adapted(base, method, classes)
    write_adapter(folder, trained_tensors(model), header(base, task, method, labels), str(base))
    return model


def train_with_peft(folder: Path, base: Path, classes: int = 0, **settings: Any) -> Any:
    """Train a LoRA for three steps with peft and save it; returns peft's model."""
    torch.manual_seed(0)
    kind = "SEQ_CLS" if classes else "CAUSAL_LM"
    config = LoraConfig(task_type=kind, fan_in_fan_out=True, **settings)
    model = get_peft_model(classifier(base, classes) if classes else causal(base), config).train()
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=0.1)
    labels = torch.arange(len(IDS)) % classes if classes else IDS
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return model.eval()


def save_with_peft(folder: Path, base: Path, config: PeftConfig, classes: int = 0) -> Any:
    """Give every trained number of a PEFT adapter a random step and save it; returns peft's model."""
    model = get_peft_model(classifier(base, classes) if classes else causal(base), config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(torch.empty_like(value).normal_(0, 0.15, generator=generator))
    model.save_pretrained(folder)
    return model.eval()


def run_commands_in(hint: str) -> None:
    """Run the Python of every `python -c "..."` in a hint, in this process."""
    commands = re.findall(r'python -c "([^"]*)"', hint)
    assert commands, hint
    for command in commands:
        exec(command, {})


def change_config(folder: Path, **changes: Any) -> None:
    """Rewrite fields of adapter_config.json; None leaves a field out."""
    file = folder / CONFIG_FILE
    config = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}), encoding="utf-8")


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> None:
    """Rewrite the tensors of an adapter, under the same header with a digest that fits."""
    file = folder / ADAPTER_FILE
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    changed = {name: value.contiguous() for name, value in change(load_file(file)).items()}
    if "explora" in metadata:
        metadata["explora"] = with_digest(metadata["explora"], changed)
    save_file(changed, file, metadata=metadata)
