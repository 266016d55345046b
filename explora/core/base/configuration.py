"""Read a GPT-2's `config.json` of transformers. A missing key has the default of `GPT2Config`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from explora.core.config.registry import Shape
from explora.errors import WeightsError

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"

# The fields of a shape with their second names, which take precedence, and the defaults of GPT2Config.
SHAPE_FIELDS = {
    "n_layer": ("num_hidden_layers", 12),
    "n_head": ("num_attention_heads", 12),
    "n_embd": ("hidden_size", 768),
    "n_positions": ("max_position_embeddings", 1024),
    "vocab_size": ("vocab_size", 50257),
}
START_TOKEN = 50256  # GPT2Config's default of bos_token_id

# Settings of a GPT-2 configuration that change the values that the model computes, and why only these values
# are supported. The first value is GPT-2's default, for a missing setting.
FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "activation_function": (("gelu_new", "gelu_pytorch_tanh"), "GPT-2's GELU is the tanh approximation"),
    "layer_norm_epsilon": ((1e-5,), "GPT-2's layer norms use 1e-5"),
    "scale_attn_weights": ((True,), "attention is scaled by 1/sqrt(head width)"),
    "scale_attn_by_inverse_layer_idx": ((False,), "attention is scaled alike in every layer"),
    "add_cross_attention": ((False,), "there is no encoder to attend to"),
    "tie_word_embeddings": ((True,), "the head is the embedding"),
    "quantization_config": ((None,), "weights are read as fp32, fp16 or bf16"),
}


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object, such as `config.json` or an index. Raises WeightsError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: unreadable: {error}", "fetch or write the file again") from None
    if not isinstance(value, dict):
        raise WeightsError(f"{path} should be a JSON object, not a {type(value).__name__}")
    return value


def read_shape(config: Mapping[str, Any], source: str = CONFIG) -> Shape:
    """Return the shape that a `config.json` of transformers describes.

    Raises WeightsError, naming `source`, for a model that is not a GPT-2 or computes another function.
    """
    model_type = config.get("model_type")
    if model_type != "gpt2":
        raise WeightsError(
            f"{source} is not a GPT-2: its model_type is {model_type!r}",
            "explora trains the GPT-2 family only",
        )
    for setting, (allowed, reason) in FIXED.items():
        if (value := config.get(setting, allowed[0])) not in allowed:
            raise WeightsError(f"{source} has {setting} {value!r}, which explora does not support", reason)
    sizes = {
        name: config.get(second, config.get(name, default))
        for name, (second, default) in SHAPE_FIELDS.items()
    }
    wrong = [f"{key} {value!r}" for key, value in sizes.items() if type(value) is not int or value < 1]
    if wrong:
        raise WeightsError(f"{source}: not a positive whole number: {', '.join(wrong)}")
    shape = Shape(**sizes)
    if shape.n_embd % shape.n_head:
        raise WeightsError(f"{source}: n_embd {shape.n_embd} is not a multiple of n_head {shape.n_head}")
    if config.get("n_inner") not in (None, 4 * shape.n_embd):
        raise WeightsError(
            f"{source} has n_inner {config['n_inner']!r}", "GPT-2's feed-forward layer is 4 x n_embd wide"
        )
    return shape


def class_names(config: Mapping[str, Any], classes: int, source: str = CONFIG) -> tuple[str, ...]:
    """Return the labels of a classification head with `classes` outputs: id2label, else 0, 1, ...

    Raises WeightsError, naming `source`, for a regression head and for names that do not fit the head.
    """
    if classes == 1:
        raise WeightsError(
            f"the head of {source} has one output: it is a regression, and explora classifies",
            "use a model whose head has at least two classes",
        )
    numbers = [str(index) for index in range(classes)]
    names = config.get("id2label") or {number: number for number in numbers}
    if not isinstance(names, dict) or sorted(names) != sorted(numbers):
        raise WeightsError(
            f"the head of {source} has {classes} classes, but id2label in its {CONFIG} names others",
            "id2label needs a name for each class: 0, 1, ...",
        )
    return tuple(str(names[number]) for number in numbers)


def start_token(
    config: Mapping[str, Any], generation_config: Mapping[str, Any], vocab_size: int
) -> int | None:
    """Return the token from which a base generates without a prompt, its bos_token_id, or None."""
    token = generation_config.get("bos_token_id")
    if token is None:
        token = config.get("bos_token_id", START_TOKEN)
    return token if isinstance(token, int) and 0 <= token < vocab_size else None
